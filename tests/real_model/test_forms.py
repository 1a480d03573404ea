"""The real model held to forms: every answer has its form, and drafting changes none."""

import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from statistics import median
from typing import Any

import httpx
import numpy as np
import pytest
from jsonschema import Draft202012Validator, FormatChecker

from build_engine.checkpoint import Checkpoint
from nimble_coder.contract.request import Guide, GuideType
from nimble_coder.engine.form import Forms
from nimble_coder.text.added_tokens import added_tokens
from tests.real_model.material import TIME, WEATHER, user

FORMATS = FormatChecker()


@FORMATS.checks("time", raises=ValueError)  # type: ignore[untyped-decorator]
def is_time(value: str) -> bool:
    """jsonschema's own check of it is an older draft's, without an offset."""
    return bool(datetime.fromisoformat(f"2000-01-01T{value}"))


@FORMATS.checks("date-time", raises=ValueError)  # type: ignore[untyped-decorator]
def is_date_time(value: str) -> bool:
    """jsonschema's own check of it is an optional package."""
    return bool(datetime.fromisoformat(value))


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
    "time": ("When does the shop open?", thing(opens={"type": "string", "format": "time"})),
    "duration": (
        "How long is a football match?",
        thing(length={"type": "string", "format": "duration", "maxLength": 12}),
    ),
    "ipv6": ("What is the IPv6 loopback address?", thing(host={"type": "string", "format": "ipv6"})),
    "hostname": ("Invent a host's name.", thing(host={"type": "string", "format": "hostname", "maxLength": 30})),
    "list of enums": ("Which colours has the flag of France?", several({"enum": ["blue", "white", "red", "green"]})),
    "list of unions": ("Give numbers and words.", several({"anyOf": [INTEGER, SHORT, {"type": "null"}]}, 2, 4)),
    "exclusive": (
        "A probability.",
        thing(p={"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}),
    ),
    "all of": (
        "Describe a cat.",
        {
            "allOf": [
                {"type": "object", "properties": {"name": SHORT}, "required": ["name"]},
                {
                    "type": "object",
                    "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 30}},
                    "required": ["age"],
                },
            ]
        },
    ),
    "shared definition": (
        "Two points of a line.",
        {
            "$defs": {"point": thing(x=INTEGER, y=INTEGER)},
            **thing(start={"$ref": "#/$defs/point"}, end={"$ref": "#/$defs/point"}),
        },
    ),
    "nullable object": (
        "Describe a user without an address.",
        thing(name=SHORT, address={"anyOf": [thing(city=SHORT), {"type": "null"}]}),
    ),
}
assert len(SCHEMAS) == 40
QUESTIONS = (
    "What is the weather in Paris?", "Tell me a joke.", "What time is it in Tokyo?", "2 + 2?", "Hello!",
    "Write a function that adds numbers.", "Is it raining in Oslo?", "Bonjour, quel temps fait-il à Lyon ?",
    "Compare Rome and Milan.", "Forget the tools and just say hi.", "How warm is it in Cairo?", "Hi, who are you?",
    "When does the sun rise in Lima?", "Should I take an umbrella in London?", "Translate 'cat' into French.",
    "What's the sky like over Sydney?", "Is it late in Berlin?", "Is it night in New York?", "Sort 3, 1, 2.",
    "Explain recursion.", "Wie ist das Wetter in Köln?", "¿Qué hora es en Madrid?", "東京の天気は?", "Погода в Москве?",
    "What is the time and the weather in Rome?", "Give me a haiku.", "def add(a, b):", "SELECT * FROM users;",
    "Will it snow in Reykjavik?", "What day is it?", "Name a city.", "Weather.", "Time, please!", "Is Nairobi hot?",
    "Call no function.", "Call both functions for Athens.", "What is the capital of Australia?", "Fix it: x = = 1",
    "Compare the time in Delhi with that in Perth.", "Thanks!",
)  # fmt: skip
assert len(QUESTIONS) == 40


def ask(http: httpx.Client, **body: Any) -> dict[str, Any]:
    answer = http.post("/v1/chat/completions", json={"max_tokens": 400, **body})
    assert answer.status_code == 200, answer.text
    whole: dict[str, Any] = answer.json()
    return whole


def at_once(http: httpx.Client, bodies: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers to several chats in one batch of the engine, which takes it little longer than one."""
    with ThreadPoolExecutor(len(bodies)) as pool:
        return list(pool.map(lambda body: ask(http, **body), bodies))


@pytest.mark.parametrize("name", SCHEMAS)
def test_every_answer_is_valid_and_drafting_changes_none(http: httpx.Client, name: str) -> None:
    """Five answers each: the greedy one and four that are sampled."""
    question, schema = SCHEMAS[name]
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    validator = Draft202012Validator(schema, format_checker=FORMATS)
    plain: dict[str, Any] = {"lookahead": False}
    greedily: dict[str, Any] = {}
    by_seed = {"temperature": 1.0, "seed": 1, "n": 4}
    for sampling, draftings in ((greedily, [{}, plain, {"draft_tokens": 8}]), (by_seed, [{}, plain])):
        body = {"messages": user(question), "response_format": wanted, **sampling}
        choices, *others = (each["choices"] for each in at_once(http, [{**body, **way} for way in draftings]))
        for choice in choices:
            assert choice["finish_reason"] == "stop", choice
            validator.validate(json.loads(choice["message"]["content"]))
        assert others == [choices] * len(others)


def test_a_form_takes_no_time_before_the_first_token(checkpoint: Checkpoint) -> None:
    """CPU time of the engine: a new form at most 100 ms at the median, one that it has at most 5 ms."""
    control = added_tokens(checkpoint.directory)
    forms = Forms(checkpoint.directory, checkpoint.shape.vocab_size, control)
    taken: dict[str, list[float]] = {"new": [], "cached": []}
    for _, schema in SCHEMAS.values():
        guide = Guide(GuideType.JSON_SCHEMA, json.dumps(schema))
        for times in taken.values():
            started = time.process_time()
            form = forms.open(guide, {151645})
            form.hold(np.zeros(checkpoint.shape.vocab_size, np.float32))
            times.append(1000 * (time.process_time() - started))
    print({name: f"median {median(times):.1f} ms, most {max(times):.1f} ms" for name, times in taken.items()})
    assert median(taken["new"]) < 100
    assert median(taken["cached"]) < 5


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_demanded_call_is_valid(http: httpx.Client, question: str) -> None:
    body = {"messages": user(question), "tools": [WEATHER, TIME], "tool_choice": "required"}
    for answer in at_once(http, [body, {**body, "temperature": 1.0, "seed": 2}]):
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "tool_calls", choice
        for call in choice["message"]["tool_calls"]:
            offered: list[Any] = [WEATHER, TIME]
            tools = {tool["function"]["name"]: tool["function"]["parameters"] for tool in offered}
            arguments = json.loads(call["function"]["arguments"])
            Draft202012Validator(tools[call["function"]["name"]]).validate(arguments)


@pytest.mark.parametrize("question", QUESTIONS)
def test_an_offered_call_is_well_formed_and_drafting_changes_nothing(http: httpx.Client, question: str) -> None:
    body = {"messages": user(question), "tools": [WEATHER, TIME], "max_tokens": 100}
    seen = []
    for answer in at_once(http, [body, {**body, "lookahead": False}]):
        (choice,) = answer["choices"]
        calls = [call["function"] for call in choice["message"].get("tool_calls", [])]
        seen.append((choice["message"]["content"], calls, choice["finish_reason"]))
        for call in calls if choice["finish_reason"] != "length" else []:
            assert call["name"] in ("get_weather", "get_time")
            assert isinstance(json.loads(call["arguments"]), dict)
    assert seen[0] == seen[1]
