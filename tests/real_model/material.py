"""Prompts of every kind that people send, and the tools of an agent."""

import argparse
import inspect
import json
import textwrap
from typing import Any

from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.gateway.prompts.chat import ChatPrompts
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.gateway.prompts.fim import ContextFile, Infill, encode_infill
from nimble_coder.gateway.requests.reading import decode
from nimble_coder.gateway.requests.schemas.chat import ChatRequest
from nimble_coder.text.tokenizer import TextTokenizer

WEATHER, TIME = (
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "The city's name"}},
                "required": ["city"],
            },
        },
    }
    for name, description in (
        ("get_weather", "The weather in a city now: temperature in degrees Celsius, and sky"),
        ("get_time", "The time of day in a city now"),
    )
)

HOLES = {
    "C": Infill(
        "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; ",
        '++) {\n        printf("%d\\n", i);\n    }\n    return 0;\n}\n',
    ),
    "JavaScript": Infill(
        "let total = 0;\nfor (let i = 0; i < 10; ",
        "++) {\n  total += i;\n}\nconsole.log(total);\n",
    ),
}
REPOSITORY_HOLE = Infill(
    prefix="from library import Book, Library\n\ndef main():\n    library = Library()\n"
    '    library.add_book(Book("1984", "Orwell"))\n    book = library.',
    suffix='("1984")\n    print(book.title)\n\nif __name__ == "__main__":\n    main()\n',
    context=[
        ContextFile(
            "class Book:\n    def __init__(self, title, author):\n        self.title = title\n"
            "        self.author = author\n\nclass Library:\n    def __init__(self):\n        self.books = []\n"
            "    def add_book(self, book):\n        self.books.append(book)\n"
            "    def find_book(self, title):\n        for book in self.books:\n"
            "            if book.title == title:\n                return book\n",
            "library.py",
        )
    ],
    repository="library-system",
    filename="main.py",
)
"""Only the other file says `find_book`."""

QUESTIONS = (
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences what a hash table is.",
    "Rewrite this with a list comprehension:\n"
    "```python\nout = []\nfor x in xs:\n    if x > 3:\n        out.append(x * 2)\n```",
)


def chat(messages: list[dict[str, Any]], **fields: Any) -> ChatRequest:
    """A chat as a client sends it."""
    return decode(ChatRequest, json.dumps({"messages": messages, **fields}).encode())


def user(text: str) -> list[dict[str, Any]]:
    """A chat's only message."""
    return [{"role": "user", "content": text}]


def prompts_of_every_kind(encoder: PromptEncoder, chats: ChatPrompts) -> dict[str, list[int]]:
    """Ids by name: chat, completion, infill, and tools."""
    found = {f"chat {i}": chats.encode(chat(user(text))) for i, text in enumerate(QUESTIONS)}
    texts = coding_prompts()
    found |= {name: encoder.plain(texts[name]) for name in ("stack_class", "generator", "unit_tests")}
    found |= {f"infill {name}": encode_infill(encoder, hole, 4096)[0] for name, hole in HOLES.items()}
    found |= {"infill of a repository": encode_infill(encoder, REPOSITORY_HOLE, 4096)[0]}
    for city in ("Paris", "Kyoto"):
        asked = user(f"What is the weather in {city}?")
        found[f"tools {city}"] = chats.encode(chat(asked, tools=[WEATHER, TIME]))
    return found


def sources(tokenizer: TextTokenizer, tokens: int) -> str:
    """So many tokens of the standard library's own text."""
    ids = tokenizer.encode("\n".join(map(inspect.getsource, (argparse, inspect, textwrap))))
    assert len(ids) > tokens
    return tokenizer.decode(ids[:tokens])


def agent_tools(count: int = 10) -> list[dict[str, Any]]:
    """Tools with the long descriptions that agents give them."""
    verbs = ("read", "write", "list", "search", "run", "test", "format", "commit", "review", "fetch")
    parameters = {
        "type": "object",
        "properties": {
            "path": {"type": "string", "description": "Path relative to the workspace's root"},
            "options": {"type": "array", "items": {"type": "string"}, "description": "What to do differently"},
        },
        "required": ["path"],
    }
    about = textwrap.dedent("""\
        Does one thing to a file of the workspace and says what came of it. Use it as soon as you know the path; ask
        for nothing twice, and never guess what a file holds.""")
    return [
        {
            "type": "function",
            "function": {"name": f"{verb}_file", "description": f"{verb}: {about}", "parameters": parameters},
        }
        for verb in verbs[:count]
    ]
