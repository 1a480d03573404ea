"""What an OpenAI client sees of an answer that calls tools, whole and streamed; the engine says a set text."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import BadRequestError, OpenAI

from build_engine.artifact import Artifact
from nimble_coder.text.tokenizer import TextTokenizer
from tests.gateway.conftest import stand_in_gateway

CALLS = [("read_file", {"path": "a.py"}), ("list_files", {"glob": "*.py", "deep": True})]
SAID = "I look at the files.\n"
TEXT = SAID + "\n".join(
    f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>" for name, arguments in CALLS
)
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}} for name, _ in CALLS]


@contextmanager
def client_of(artifact: Artifact, work: Path, text: str) -> Iterator[OpenAI]:
    with (
        stand_in_gateway(artifact, work, tokens_per_step=3, interval=0.001, text=text) as (_, gateways),
        OpenAI(base_url=f"{gateways.addresses.http}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    with client_of(artifact, tmp_path_factory.mktemp("tools"), TEXT) as client:
        yield client


def request_for(text: str, tokenizer: TextTokenizer) -> dict[str, Any]:
    """A request for exactly the text."""
    messages = [{"role": "user", "content": "What is here?"}]
    return {"model": "demo", "messages": messages, "tools": TOOLS, "max_tokens": len(tokenizer.encode(text))}


@pytest.fixture
def asked(tokenizer: TextTokenizer) -> dict[str, Any]:
    return request_for(TEXT, tokenizer)


def test_a_whole_answer_has_the_calls_beside_its_text(client: OpenAI, asked: dict[str, Any]) -> None:
    choice = client.chat.completions.create(**asked).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == SAID
    assert [(c.function.name, json.loads(c.function.arguments)) for c in choice.message.tool_calls] == CALLS
    assert len({call.id for call in choice.message.tool_calls}) == len(CALLS)


def streamed(client: OpenAI, asked: dict[str, Any]) -> tuple[str, list[str], list[Any]]:
    """The text, the reasons to finish, and the calls."""
    text, reasons, calls = "", [], dict[int, Any]()
    for chunk in client.chat.completions.create(**asked, stream=True):
        choice = chunk.choices[0]
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for call in choice.delta.tool_calls or []:
            if call.index not in calls:
                assert (call.type, bool(call.id)) == ("function", True)
                calls[call.index] = (call.function.name, "")
            else:
                assert (call.type, call.id, call.function.name) == (None, None, None)
            name, arguments = calls[call.index]
            calls[call.index] = (name, arguments + call.function.arguments)
    return text, reasons, [(calls[index][0], json.loads(calls[index][1])) for index in sorted(calls)]


def test_a_streamed_answer_has_the_same_and_no_markup_in_its_text(client: OpenAI, asked: dict[str, Any]) -> None:
    assert streamed(client, asked) == (SAID, ["tool_calls"], CALLS)


def test_without_tools_or_with_others_it_is_text(client: OpenAI, asked: dict[str, Any]) -> None:
    others = [{"type": "function", "function": {"name": "other"}}]
    changes: list[dict[str, Any]] = [{"tools": []}, {"tool_choice": "none"}, {"tools": others}]
    for changed in changes:
        choice = client.chat.completions.create(**{**asked, **changed}).choices[0]
        assert choice.finish_reason == "length"
        assert choice.message.content == TEXT
        assert not choice.message.tool_calls


READ = {"type": "function", "function": {"name": "read_file"}}


@pytest.mark.parametrize(
    ("choice", "text", "reason"),
    [
        (READ, ' {"path": "a.py"}}\n</tool_call>', "stop"),
        ("required", ' "read_file", "arguments": {"path": "a.py"}}\n</tool_call>', "tool_calls"),
    ],
)
def test_a_demanded_call_goes_on_from_its_opening(
    artifact: Artifact, tmp_path: Path, tokenizer: TextTokenizer, choice: Any, text: str, reason: str
) -> None:
    asked = {**request_for(text, tokenizer), "tool_choice": choice}
    with client_of(artifact, tmp_path, text) as client:
        whole = client.chat.completions.create(**asked).choices[0]
        assert streamed(client, asked) == ("", [reason], CALLS[:1])
        cut = client.chat.completions.create(**{**asked, "max_tokens": 3}).choices[0]
    assert (whole.finish_reason, whole.message.content) == (reason, None)
    assert [(c.function.name, json.loads(c.function.arguments)) for c in whole.message.tool_calls or []] == CALLS[:1]
    assert cut.finish_reason == "length"
    assert "<tool_call>" not in (cut.message.content or "")
    assert cut.message.tool_calls if choice == READ else cut.message.content == ""


def test_a_turn_cut_in_its_second_call_ends_by_length(client: OpenAI, asked: dict[str, Any]) -> None:
    cut = {**asked, "max_tokens": asked["max_tokens"] - 18}
    choice = client.chat.completions.create(**cut).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("length", SAID)
    assert [c.function.name for c in choice.message.tool_calls or []] == ["read_file"]
    assert streamed(client, cut) == (SAID, ["length"], CALLS[:1])


def test_calls_come_one_by_one_where_that_is_asked_for(client: OpenAI, asked: dict[str, Any]) -> None:
    single = {**asked, "parallel_tool_calls": False}
    choice = client.chat.completions.create(**single).choices[0]
    assert (choice.finish_reason, len(choice.message.tool_calls or [])) == ("tool_calls", 1)
    assert streamed(client, single) == (SAID, ["tool_calls"], CALLS[:1])


def test_functions_are_answered_as_they_were_asked_for(client: OpenAI, asked: dict[str, Any]) -> None:
    legacy = {**asked, "tools": None, "functions": [tool["function"] for tool in TOOLS]}
    choice = client.chat.completions.create(**legacy).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
    assert choice.message.function_call
    assert (choice.message.function_call.name, json.loads(choice.message.function_call.arguments)) == CALLS[0]
    chunks = [chunk.choices[0] for chunk in client.chat.completions.create(**legacy, stream=True)]
    calls = [chunk.delta.function_call for chunk in chunks if chunk.delta.function_call]
    assert [call.name for call in calls if call.name] == [CALLS[0][0]]
    assert json.loads("".join(call.arguments or "" for call in calls)) == CALLS[0][1]
    assert chunks[-1].finish_reason == "function_call"


def test_a_fenced_call_of_a_strict_function_has_its_schema_or_is_text(
    artifact: Artifact, tmp_path: Path, tokenizer: TextTokenizer
) -> None:
    said = "```json\n" + json.dumps({"name": "read_file", "arguments": {"path": "a.py"}}) + "\n```"
    with client_of(artifact, tmp_path, said) as client:
        for kind, is_strict, is_call in (("string", True, True), ("integer", True, False), ("integer", False, True)):
            schema = {"type": "object", "properties": {"path": {"type": kind}}, "required": ["path"]}
            function = {"name": "read_file", "parameters": schema, "strict": is_strict}
            asked = {**request_for(said, tokenizer), "tools": [{"type": "function", "function": function}]}
            choice = client.chat.completions.create(**asked).choices[0]
            assert choice.message.content == (None if is_call else said)
            assert bool(choice.message.tool_calls) is is_call
            assert streamed(client, asked) == ("", ["tool_calls"], CALLS[:1]) if is_call else (said, ["length"], [])


def test_a_choice_that_cannot_be_kept_is_refused(client: OpenAI, asked: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError, match="'write_file', and there is no such tool"):
        client.chat.completions.create(
            **asked, tool_choice={"type": "function", "function": {"name": "write_file"}}, stream=True
        )
