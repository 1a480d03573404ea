"""What a real model does for people: one chat, one infill, one tool call, asked over HTTP and shown."""

import json
import urllib.request
from collections.abc import Iterator
from typing import Any

from nimble_coder.client.http import HttpClient

CHAT = "Write a Python one-liner that says whether a year is a leap year. Only the code."
PREFIX, SUFFIX = "let total = 0;\nfor (let i = 0; i < 10; ", "++) {\n  total += i;\n}\nconsole.log(total);\n"
QUESTION = "What is the weather in Paris now?"
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city now",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def chat(url: str) -> Iterator[str]:
    """The answer to `CHAT` as it comes."""
    return HttpClient(url).chat(CHAT, max_tokens=160)


def infill(url: str) -> Iterator[str]:
    """What belongs between `PREFIX` and `SUFFIX` as it comes."""
    return HttpClient(url).complete(PREFIX, SUFFIX, max_tokens=32)


def tool_call(url: str) -> str:
    """The call that answers `QUESTION`, as code; or what the model says instead."""
    asked = {"messages": [{"role": "user", "content": QUESTION}], "tools": [TOOL], "max_tokens": 96, "temperature": 0}
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(asked).encode(), headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        message: dict[str, Any] = json.load(answer)["choices"][0]["message"]
    calls = [call["function"] for call in message.get("tool_calls") or []]
    return "\n".join(f"{call['name']}({call['arguments']})" for call in calls) or str(message["content"])
