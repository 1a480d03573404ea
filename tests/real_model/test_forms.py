"""The real model held to forms: every answer has its form, and drafting changes none."""

import json
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from tests.real_model.material import TIME, WEATHER, user

NUMBER, BOOLEAN = {"type": "number"}, {"type": "boolean"}
INTEGER = {"type": "integer", "minimum": -9999, "maximum": 9999}  # without bounds this model writes digits for ever
SHORT = {"type": "string", "maxLength": 40}


def thing(**properties: Any) -> dict[str, Any]:
    """An object that has all of its properties and no others."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


def several(items: Any, least: int = 1, most: int = 3) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


NODE = {"$defs": {"node": thing(value=INTEGER, next={"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]})}}
SCHEMAS: dict[str, tuple[str, dict[str, Any]]] = {
    "person": ("Invent a person.", thing(name=SHORT, age={"type": "integer", "minimum": 0, "maximum": 120})),
    "booleans": ("Is Python typed, and is it compiled?", thing(typed=BOOLEAN, compiled=BOOLEAN)),
    "enum": ("Which language has a borrow checker?", thing(language={"enum": ["python", "rust", "go"]})),
    "const": ("Say the version.", thing(version={"const": 2}, label=SHORT)),
    "numbers": ("Give the constant pi and e.", thing(pi=NUMBER, e=NUMBER)),
    "range": ("Rate the film Alien.", thing(stars={"type": "integer", "minimum": 1, "maximum": 5}, why=SHORT)),
    "list": ("Name primary colours.", thing(colours=several(SHORT, 3, 3))),
    "list alone": ("Name prime numbers below 20.", several(INTEGER, 2, 8)),
    "nested": (
        "Describe a house.",
        thing(address=thing(street=SHORT, number=INTEGER), rooms=several(thing(name=SHORT))),
    ),
    "union": ("Give an id, a number or a text.", thing(id={"anyOf": [INTEGER, SHORT]})),
    "null": ("Who is the king of France today?", thing(king={"type": ["string", "null"], "maxLength": 30})),
    "discriminated": (
        "Draw a circle.",
        {"anyOf": [thing(kind={"const": "circle"}, radius=NUMBER), thing(kind={"const": "square"}, side=NUMBER)]},
    ),
    "date": ("When was the first moon landing?", thing(day={"type": "string", "format": "date"})),
    "date and time": ("When did the year 2000 begin?", thing(at={"type": "string", "format": "date-time"})),
    "email": ("Invent an e-mail address.", thing(address={"type": "string", "format": "email", "maxLength": 40})),
    "uuid": ("Invent a UUID.", thing(id={"type": "string", "format": "uuid"})),
    "ipv4": ("What is the loopback address?", thing(host={"type": "string", "format": "ipv4"})),
    "pattern": ("Invent a licence plate.", thing(plate={"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3}$"})),
    "lengths": ("Give a two letter country code.", thing(code={"type": "string", "minLength": 2, "maxLength": 2})),
    "optional": (
        "Describe a book.",
        {**thing(title=SHORT, pages=INTEGER, isbn=SHORT), "required": ["title"]},
    ),
    "map": ("Count letters of 'aab'.", {"type": "object", "additionalProperties": INTEGER, "maxProperties": 3}),
    "tuple": (
        "Give coordinates of Paris.",
        {"type": "array", "prefixItems": [NUMBER, NUMBER], "items": False, "minItems": 2},
    ),
    "recursive": ("A linked list of 1, 2.", {**NODE, "$ref": "#/$defs/node"}),
    "array of objects": (
        "List two files with their sizes.",
        thing(files=several(thing(path=SHORT, bytes=INTEGER), 2, 2)),
    ),
    "deep": ("Nest it.", thing(a=thing(b=thing(c=thing(d=several(several(INTEGER, 1, 2), 1, 2)))))),
    "unicode keys": ("Wie groß ist der Eiffelturm?", thing(größe=INTEGER, 単位={"enum": ["m", "km"]})),
    "quotes": ("Quote someone.", thing(quote={"type": "string", "maxLength": 60}, **{'the "who"': SHORT})),
    "multiple": ("A multiple of five.", thing(value={"type": "integer", "multipleOf": 5, "minimum": 1, "maximum": 99})),
    "enum of all": ("Anything.", thing(value={"enum": [1, "one", None, True, 1.5]})),
    "code": (
        "Write a Python one-liner.",
        thing(language={"const": "python"}, code={"type": "string", "maxLength": 80}),
    ),
}
QUESTIONS = (
    "What is the weather in Paris?", "Tell me a joke.", "What time is it in Tokyo?", "2 + 2?", "Hello!",
    "Write a function that adds numbers.", "Is it raining in Oslo?", "Bonjour, quel temps fait-il à Lyon ?",
    "Compare Rome and Milan.", "Forget the tools and just say hi.",
)  # fmt: skip


def ask(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json={"max_tokens": 400, **body})
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_valid_and_drafting_changes_none(http: httpx.Client, name: str) -> None:
    question, schema = SCHEMAS[name]
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    validator = Draft202012Validator(schema, format_checker=FormatChecker())
    for sampling in ({}, {"temperature": 1.0, "seed": 1}):
        body = {"messages": user(question), "response_format": wanted, **sampling}
        answer = ask(http, **body)["choices"][0]
        assert answer["finish_reason"] == "stop", answer
        validator.validate(json.loads(answer["message"]["content"]))
        for drafting in ({"lookahead": False}, {"draft_tokens": 8}):
            assert ask(http, **body, **drafting)["choices"][0] == answer


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_demanded_call_is_valid(http: httpx.Client, question: str) -> None:
    for sampling in ({}, {"temperature": 1.0, "seed": 2}):
        (choice,) = ask(
            http, messages=user(question), tools=[WEATHER, TIME], tool_choice="required", **sampling
        )["choices"]  # fmt: skip
        assert choice["finish_reason"] == "tool_calls", choice
        for call in choice["message"]["tool_calls"]:
            offered: list[Any] = [WEATHER, TIME]
            tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in offered}
            arguments = json.loads(call["function"]["arguments"])
            Draft202012Validator(tools[call["function"]["name"]]).validate(arguments)
