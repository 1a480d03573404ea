"""Of two things in a request that cannot both be had, none is dropped in silence."""

from typing import Any

import httpx
import pytest

from tests.gateway.completing import BODIES

NOW, LATER = ({"name": name, "parameters": {"type": "object", "properties": {}}} for name in ("now", "later"))
TOOLS, FUNCTIONS = [{"type": "function", "function": NOW}], [LATER]
CALL, OTHER = {"name": "now", "arguments": "{}"}, {"name": "later", "arguments": "{}"}
EXTRA = [{"text": "x = 1\n", "filename": "a.py"}]
TEMPLATED = "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
COMPLETIONS, CHAT, FIM, INFILL, COMPLETION = BODIES


def calling(role: str, *calls: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A chat with a message that has calls."""
    message = {"role": role, "content": "x", "tool_calls": [{"function": call} for call in calls], **more}
    return {"messages": [{"role": "user", "content": "x"}, message], "max_tokens": 1}


SCHEMA = {"type": "object", "properties": {"a": {"const": 1}}}
IGNORED: list[tuple[str, dict[str, Any], str]] = [
    (CHAT, {"max_completion_tokens": 2, "max_tokens": 1}, "max_tokens"),
    (CHAT, {"max_completion_tokens": 1, "max_tokens": 1, "n_predict": 3}, "n_predict"),
    (COMPLETIONS, {"max_tokens": 1, "n_predict": 2}, "n_predict"),
    (COMPLETIONS, {"max_tokens": 1, "options": {"num_predict": 2, "temperature": 0}}, "options.num_predict"),
    (COMPLETIONS, {"options": {"num_predict": 1}, "n_predict": 2}, "n_predict"),
    (COMPLETIONS, {"max_tokens": 1, "temperature": 0, "options": {"temperature": 1}}, "options.temperature"),
    (COMPLETIONS, {"max_tokens": 1, "stop": ["a"], "options": {"stop": ["b"]}}, "options.stop"),
    (COMPLETIONS, {"max_tokens": 1, "input_extra": EXTRA, "repo_name": "r"}, "input_extra, repo_name"),
    (COMPLETIONS, {"max_tokens": 1, "prompt": [TEMPLATED], "suffix": "", "input_extra": EXTRA}, "input_extra"),
    (COMPLETIONS, {"max_tokens": 1, "suffix": "x", "filename": "a.py"}, "filename"),
    (FIM, {"max_tokens": 1, "seed": 1, "random_seed": 2}, "seed"),
    (INFILL, {"n_predict": 1, "max_tokens": 2, "input_extra": [], "repo_name": "r"}, "max_tokens, repo_name"),
    (COMPLETION, {"n_predict": 1, "repeat_penalty": 1.1, "repetition_penalty": 1.2}, "repeat_penalty"),
    (COMPLETION, {"n_predict": 1, "input_suffix": "x", "input_extra": EXTRA}, "input_suffix, input_extra"),
    (COMPLETION, {"n_predict": 1, "drafting": "lookahead", "draft_tokens": 2}, "draft_tokens"),
    (COMPLETION, {"n_predict": 1, "drafting": "lookahead", "lookahead": False}, "drafting"),
    (COMPLETION, {"n_predict": 1, "drafting": "suffixes", "lookahead": False}, "lookahead"),
    (CHAT, calling("assistant", CALL, function_call=OTHER), "messages.function_call"),
    (CHAT, calling("tool", CALL), "messages.tool_calls"),
    (CHAT, calling("user", CALL), "messages.tool_calls"),
    (CHAT, calling("system", CALL, CALL), "messages.tool_calls"),
    (CHAT, calling("user", function_call=CALL), "messages.function_call"),
    (CHAT, calling("developer", OTHER, function_call=CALL), "messages.function_call, messages.tool_calls"),
    (CHAT, {"messages": calling("system", CALL)["messages"][1:], "max_tokens": 1}, "messages.tool_calls"),
    ("/tokenize", {"prompt": "x", "tools": TOOLS, "add_generation_prompt": False}, "tools, add_generation_prompt"),
    ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "parse_special": True}, "parse_special"),
    (
        "/v1/responses",
        {"input": [{"type": "message", "role": "user", "content": "x", "output": "y"}], "max_output_tokens": 1},
        "input.output",
    ),
    (
        "/v1/responses",
        {"input": "x", "max_output_tokens": 1, "tools": [{"type": "function", "name": "later", "function": NOW}]},
        "tools.name",
    ),
    (
        COMPLETION,
        {
            "n_predict": 1,
            "response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}, "schema": {"type": "object"}},
        },
        "response_format.schema",
    ),
]


@pytest.mark.parametrize(("path", "body", "named"), IGNORED)
def test_what_does_not_count_is_named_or_strictly_refused(
    http: httpx.Client, strict: httpx.Client, path: str, body: dict[str, Any], named: str
) -> None:
    body = {**BODIES.get(path, {}), **body}
    answer = http.post(path, json=body)
    assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, named), answer.text
    refused = strict.post(path, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, named.partition(",")[0])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, {"max_completion_tokens": 1, "max_tokens": 1, "n_predict": 1}),
        (COMPLETIONS, {"options": {"num_predict": 1, "temperature": 0.5, "stop": ["a"]}}),
        (COMPLETIONS, {"max_tokens": 1, "suffix": "x", "input_extra": EXTRA, "repo_name": "r", "filename": "b.py"}),
        (INFILL, {"n_predict": 1, "input_extra": EXTRA, "repo_name": "r", "filename": "b.py"}),
        (CHAT, calling("assistant", CALL, function_call=CALL)),
        ("/tokenize", {"prompt": "x", "parse_special": True, "tools": [], "add_generation_prompt": True}),
        ("/tokenize", {"messages": [{"role": "user", "content": "x"}], "parse_special": False, "tools": TOOLS}),
        (CHAT, {"max_tokens": 1, "tools": TOOLS, "functions": [], "function_call": "auto"}),
        (CHAT, {"max_tokens": 1, "tools": TOOLS, "tool_choice": "none", "function_call": "none"}),
        (CHAT, {"max_tokens": 1, "functions": FUNCTIONS, "tools": [], "tool_choice": "auto"}),
    ],
)
def test_what_says_the_same_twice_is_accepted_in_silence(http: httpx.Client, path: str, body: dict[str, Any]) -> None:
    answer = http.post(path, json={**BODIES.get(path, {}), **body})
    assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), answer.text


def allowing(*tools: dict[str, Any]) -> dict[str, Any]:
    """A choice among some of the tools."""
    return {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"tools": TOOLS, "functions": FUNCTIONS}, "functions"),
        ({"tools": TOOLS, "functions": FUNCTIONS, "function_call": {"name": "later"}}, "functions"),
        ({"tools": TOOLS, "function_call": {"name": "now"}}, "function_call"),
        ({"tools": TOOLS, "function_call": "none"}, "function_call"),
        ({"tools": TOOLS, "function_call": "auto", "tool_choice": "required"}, "function_call"),
        ({"functions": FUNCTIONS, "tool_choice": "required"}, "tool_choice"),
        ({"functions": FUNCTIONS, "tool_choice": "none", "function_call": {"name": "later"}}, "tool_choice"),
        ({"tool_choice": "none", "function_call": "auto"}, "function_call"),
        ({"tools": TOOLS, **allowing({"type": "function", "function": {"name": "later"}})}, "tool_choice"),
        ({"tools": TOOLS, **allowing({"type": "function", "name": "now"})}, "tool_choice"),
    ],
)
@pytest.mark.parametrize("path", [CHAT, f"{CHAT}/render"])
def test_tools_and_functions_are_not_offered_together(
    http: httpx.Client, path: str, body: dict[str, Any], field: str
) -> None:
    refused = http.post(path, json={**BODIES[CHAT], "max_tokens": 1, **body})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), refused.text
    assert field in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"guided_regex": "a+"}, "guided_regex"),
        ({"grammar": 'root ::= "a"'}, "grammar"),
        ({"structured_outputs": {"choice": ["a"]}}, "structured_outputs.choice"),
    ],
)
def test_a_demanded_call_has_no_other_form(http: httpx.Client, form: dict[str, Any], field: str) -> None:
    offered = {"max_tokens": 1, "tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "now"}}}
    for asked in (
        offered,
        {**offered, "tool_choice": "required"},
        {"functions": [NOW], "function_call": {"name": "now"}},
    ):
        refused = http.post(f"{CHAT}/render", json={**BODIES[CHAT], **asked, **form})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, field), refused.text
    json_forms: list[dict[str, Any]] = [{"response_format": {"type": "json_object"}}, {"guided_json": {}}]
    for fine in (form | {"tool_choice": "auto"}, *json_forms):
        answer = http.post(CHAT, json={**BODIES[CHAT], **offered, **fine})
        assert (answer.status_code, answer.headers.get("x-nimble-ignored")) == (200, None), answer.text


def test_a_call_that_gave_nothing_says_so(http: httpx.Client) -> None:
    items = [
        {"role": "user", "content": "x"},
        {"type": "function_call", "name": "now", "call_id": "a", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a"},
    ]
    refused = http.post("/v1/responses", json={"input": items, "max_output_tokens": 1})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "input[2].output")
    items[2]["output"] = ""
    assert http.post("/v1/responses", json={"input": items, "max_output_tokens": 1}).status_code == 200


def test_a_result_may_name_what_was_called(strict: httpx.Client) -> None:
    items = [
        {"role": "user", "content": "x"},
        {"type": "function_call", "name": "now", "call_id": "a", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": "noon", "name": "now"},
    ]
    answer = strict.post("/v1/responses", json={"input": items, "max_output_tokens": 1})
    assert (answer.status_code, "x-nimble-ignored" in answer.headers) == (200, False), answer.text
    items[0]["name"] = "ann"
    assert strict.post("/v1/responses", json={"input": items, "max_output_tokens": 1}).status_code == 400


def test_an_outer_schema_holds_where_the_inner_object_has_none(http: httpx.Client) -> None:
    form = {"type": "json_object", "json_schema": {"name": "x"}, "schema": {"type": "object", "maxProperties": 0}}
    answer = http.post(COMPLETIONS, json={**BODIES[COMPLETIONS], "max_tokens": 8, "response_format": form})
    assert answer.json()["choices"][0]["text"] == "{}"
