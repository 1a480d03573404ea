"""A prompt is rendered of what would be answered, and of nothing else."""

from typing import Any

import httpx
import pytest

from tests.gateway.asking import SENT

RENDERED = [SENT[route] for route in ("completions", "chat", "infill")]


def test_a_prompt_is_rendered_of_what_would_be_answered(http: httpx.Client) -> None:
    for path, base in RENDERED:
        body = {**base, "mirostat": 2, "prediction": {"content": "x"}, "seed": 7, "stream_options": {"zzz": 1}}
        answers = [http.post(each, json=body) for each in (path, f"{path}/render")]
        assert len({answer.headers["x-nimble-ignored"] for answer in answers}) == 1


@pytest.mark.parametrize(
    "more",
    [
        {"min_tokens": 2},
        {"response_format": {"type": "function"}},
        {"guided_json": {}, "grammar": "x"},
        {"logit_bias": {"999999": 1}},
        {"lookahead": [1, 2, 3]},
        {"n": 17},
        {"n_cmpl": 17, "zzz": 1},
    ],
)
def test_no_prompt_is_rendered_that_would_be_refused(http: httpx.Client, more: dict[str, Any]) -> None:
    for path, base in RENDERED:
        answered, rendered = (http.post(each, json={**base, **more}) for each in (path, f"{path}/render"))
        named = [answer.headers.get("x-nimble-ignored") for answer in (answered, rendered)]
        assert (answered.status_code, named[0]) == (rendered.status_code, named[1])
        if answered.status_code != 200:
            assert answered.json() == rendered.json()


@pytest.mark.parametrize(
    ("route", "more", "param"),
    [
        ("completions", {"prompt": ""}, "prompt"),
        ("completions", {"prompt": "x " * 9000}, "prompt"),
        ("completions", {"prompt": ["x", []]}, "prompt"),
        ("completions", {"best_of": 2}, "best_of"),
        ("chat", {"messages": [{"role": "user", "content": "x " * 9000}]}, "messages"),
        ("chat", {"top_logprobs": 2}, "top_logprobs"),
    ],
)
def test_what_is_too_long_or_means_nothing_is_not_rendered(
    http: httpx.Client, route: str, more: dict[str, Any], param: str
) -> None:
    path, base = SENT[route]
    for each in (path, f"{path}/render"):
        refused = http.post(each, json={**base, **more})
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
