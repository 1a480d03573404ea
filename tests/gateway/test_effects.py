"""Fields that choose, forbid or end are honoured by what the answers say."""

from typing import Any

import httpx
import pytest

from tests.gateway.asking import SENT


def test_biases_by_text_are_bounded_together(http: httpx.Client) -> None:
    for path, base in SENT.values():
        for asked in ({"y" * 16_385: 1}, {f"{i} {'y' * 60}": 1 for i in range(300)}, [["y" * 20_000, False]]):
            answer = http.post(path, json={**base, "logit_bias": asked})
            assert (answer.status_code, answer.json()["error"]["param"]) == (400, "logit_bias")
            assert "16384 is the limit" in answer.json()["error"]["message"]
    fits = {str(i): 0 for i in range(1000)} | {"y" * 16_000: 0}
    assert http.post(path, json={**base, "logit_bias": fits}).status_code == 200


def first_token(http: httpx.Client, **more: Any) -> int:
    body = {"prompt": "def add(a, b):\n    return", "max_tokens": 1, "return_token_ids": True, **more}
    answer = http.post("/v1/completions", json=body)
    assert answer.status_code == 200, answer.text
    return int(answer.json()["choices"][0]["token_ids"][0])


@pytest.mark.parametrize("temperature", [0, 1000])
def test_a_bias_forbids_and_prefers(http: httpx.Client, temperature: float) -> None:
    usual = first_token(http)
    for asked in ({str(usual): -100}, [[usual, False]], [[usual, -100]]):
        found = {first_token(http, logit_bias=asked, temperature=temperature, seed=seed) for seed in range(3)}
        assert usual not in found
    assert first_token(http, logit_bias={"77": 100}, temperature=0) == 77


def test_a_bias_by_text_is_of_all_its_tokens(http: httpx.Client) -> None:
    usual = first_token(http)
    text = http.post("/detokenize", json={"tokens": [usual]}).json()["content"]
    assert first_token(http, logit_bias=[[text, -100]]) != usual


@pytest.mark.parametrize(
    "asked",
    [{"4096": 1}, {"-1": 1}, {str(2**70): 1}, {"5": 101}, {"5": "1"}, [[5]], {str(i): 1 for i in range(1025)}, "5"],
)
def test_a_bias_that_is_none_is_refused(http: httpx.Client, asked: Any) -> None:
    answer = http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1, "logit_bias": asked})
    assert (answer.status_code, answer.json()["error"]["param"][:10]) == (400, "logit_bias")


@pytest.mark.parametrize("path", ["/v1/completions", "/completion"])
def test_bad_words_do_not_come_with_or_without_a_blank(http: httpx.Client, path: str) -> None:
    body = {"prompt": "import os\nimport sys\n", "max_tokens": 24}
    text = http.post(path, json=body).text
    assert "import" in text
    assert "import" not in http.post(path, json={**body, "bad_words": ["import"]}).json().get("choices", [{}])[0].get(
        "text", ""
    )


def test_min_p_cuts_what_is_unlikely(http: httpx.Client) -> None:
    usual = first_token(http)
    assert {first_token(http, min_p=1, temperature=3, seed=seed) for seed in range(8)} == {usual}
    assert {first_token(http, temperature=3, seed=seed) for seed in range(8)} != {usual}


def test_a_prompt_is_truncated_from_the_left(http: httpx.Client) -> None:
    body = {"prompt": [5, 6, 7, 8], "max_tokens": 1}
    for kept, tokens in ((1, 1), (3, 3), (9, 4), (-1, 4)):
        answer = http.post("/v1/completions", json={**body, "truncate_prompt_tokens": kept})
        assert answer.json()["usage"]["prompt_tokens"] == tokens
    nothing = http.post("/v1/completions", json={**body, "truncate_prompt_tokens": 0})
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "truncate_prompt_tokens")


def test_a_stop_string_is_shown_where_it_is_asked_for(http: httpx.Client) -> None:
    body = {"prompt": "import os\n", "max_tokens": 40, "stop": ["\n"]}
    plain = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
    shown = http.post("/v1/completions", json={**body, "include_stop_str_in_output": True}).json()["choices"][0]["text"]
    assert shown == plain + "\n"
