"""Chats become the prompts of the checkpoint's own template."""

import json
from itertools import product
from typing import Any

import pytest
import transformers

from build_engine.checkpoint import Checkpoint
from nimble_coder.gateway.prompts.chat import ChatPrompts
from tests.real_model.material import TIME, WEATHER, chat, user

SYSTEMS: tuple[str | None, ...] = (None, "You are terse.", "Réponds en français. 漢字 ☂\n", "")
TOOLS: tuple[list[dict[str, Any]], ...] = ([], [WEATHER, TIME])


def call(name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


def answer(content: str | None, *calls: dict[str, Any]) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **({"tool_calls": list(calls)} if calls else {})}


PARIS, KYOTO = call("get_weather", city="Paris"), call("get_time", city="京都", options=[1, None, {"a": "é"}])
RESULT = {"role": "tool", "content": '{"celsius": 21}'}
TURNS: tuple[list[dict[str, Any]], ...] = (
    user("Hello"),
    [*user("  blanks \n\n"), answer("\nyes\n"), *user("and \ttabs 😀")],
    [*user("Weather in Paris?"), answer(None, PARIS), RESULT],
    [*user("Weather?"), answer("One moment.", PARIS, KYOTO), RESULT, RESULT, answer("21 °C"), *user("Thanks")],
    [*user("a"), answer("b"), *user("c"), answer("", PARIS), RESULT, *user("ᚠᚢᚦ"), answer("", KYOTO), RESULT],
)
CONVERSATIONS = [
    ([*([{"role": "system", "content": system}] if system is not None else []), *turns], tools)
    for system, tools, turns in product(SYSTEMS, TOOLS, TURNS)
]


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Any:
    return transformers.AutoTokenizer.from_pretrained(checkpoint.directory)


def as_sent(message: dict[str, Any]) -> dict[str, Any]:
    """OpenAI's clients send arguments as a string; the template wants the object."""
    calls = []
    for each in message.get("tool_calls", []):
        name, arguments = each["function"]["name"], json.dumps(each["function"]["arguments"], ensure_ascii=False)
        calls.append({"type": "function", "function": {"name": name, "arguments": arguments}})
    return {**message, **({"tool_calls": calls} if calls else {})}


def test_there_are_forty() -> None:
    assert len(CONVERSATIONS) == 40


@pytest.mark.parametrize("number", range(len(CONVERSATIONS)))
def test_a_conversation_has_the_ids_of_the_template(number: int, reference: Any, chats: ChatPrompts) -> None:
    messages, tools = CONVERSATIONS[number]
    text = reference.apply_chat_template(messages, tools=tools or None, tokenize=False, add_generation_prompt=True)
    fields = {"tools": tools} if tools else {}
    assert chats.encode(chat([*map(as_sent, messages)], **fields)) == reference.encode(text, add_special_tokens=False)
