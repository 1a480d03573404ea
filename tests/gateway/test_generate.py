"""KServe's `generate`: a field, in `parameters` or beside them, is an input of the model or the request's parameter."""

import json
from typing import Any

import httpx
import pytest

TEXT: dict[str, Any] = {"text_input": "import os\nimport sys\n\ndef main(argv):\n    ", "max_tokens": 6}
MODELS = ("ensemble", "tensorrt_llm_bls")
VERBS = ("generate", "generate_stream")


def texts(http: httpx.Client, model: str, verb: str, body: dict[str, Any]) -> list[str]:
    """The text of each sequence of an answer, whether it comes whole or as events."""
    answer = http.post(f"/v2/models/{model}/{verb}", json=body)
    assert answer.status_code == 200, answer.text
    if verb == "generate":
        whole = answer.json()["text_output"]
        return whole if isinstance(whole, list) else [whole]
    found: dict[int, str] = {}
    for line in answer.text.splitlines():
        if line.startswith("data: "):
            event = json.loads(line[6:])
            found[event["sequence_index"]] = found.get(event["sequence_index"], "") + event["text_output"]
    return [text for _, text in sorted(found.items())]


@pytest.fixture
def usual(http: httpx.Client) -> str:
    body = {"prompt": TEXT["text_input"], "max_tokens": TEXT["max_tokens"]}
    return str(http.post("/v1/completions", json=body).json()["choices"][0]["text"])


@pytest.fixture
def biased(http: httpx.Client) -> str:
    """A bias that makes every token the same."""
    token = http.post("/tokenize", json={"content": "7"}).json()["tokens"][0]
    return json.dumps({str(token): 100})


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
def test_inputs_stand_in_parameters_too(http: httpx.Client, usual: str, model: str, verb: str) -> None:
    inner = {"max_tokens": TEXT["max_tokens"], "stream": verb == "generate_stream", "temperature": 0}
    assert texts(http, model, verb, {"text_input": TEXT["text_input"], "parameters": inner}) == [usual]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_no_input_is_a_parameter(http: httpx.Client, biased: str, model: str, verb: str) -> None:
    for given in ({"logit_bias": biased}, {"parameters": {"logit_bias": biased}}):
        assert texts(http, model, verb, TEXT | given) == ["7" * 6]
    for share in (5, 5.5):
        answer = http.post(f"/v2/models/{model}/{verb}", json=TEXT | {"parameters": {"min_p": share}})
        assert answer.status_code == 400
        assert f"min_p is {float(share)}" in answer.json()["error"]


def test_an_inference_takes_a_fraction_as_parameter(http: httpx.Client) -> None:
    inputs = [
        {"name": name, "shape": [1, 1], "datatype": kind, "data": [TEXT[name]]}
        for name, kind in (("text_input", "BYTES"), ("max_tokens", "INT32"))
    ]
    for model in MODELS:
        answer = http.post(f"/v2/models/{model}/infer", json={"inputs": inputs, "parameters": {"min_p": 1.5}})
        assert (answer.status_code, "min_p is 1.5" in answer.text) == (400, True)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"parameters": {"max_tokens": 3}}, "'max_tokens' stands in parameters and beside them"),
        ({"parameters": {"parameters": {"top_k": 3}}}, "'parameters' stands in parameters"),
        ({"parameters": {"owner": "me"}}, "owner is the gateway's own"),
        ({"parameters": {"stop_words": ["a b c"] * 9000}}, "stop_words has 27000 tokens"),
        ({"odd": [1]}, "parameter 'odd'"),
        ({"prompt_logprobs": True, "stop_words": 5}, ""),
    ],
    ids=["twice", "nested", "owner", "words", "a list", "a number"],
)
def test_what_cannot_be_is_refused(
    http: httpx.Client, model: str, verb: str, given: dict[str, Any], reason: str
) -> None:
    answer = http.post(f"/v2/models/{model}/{verb}", json=TEXT | given)
    assert answer.status_code == 400
    assert reason in answer.json()["error"]


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_several_sequences_have_a_text_each(
    http: httpx.Client, usual: str, model: str, streamed: bool, verb: str
) -> None:
    asked = TEXT | {"stream": streamed, "num_return_sequences": 3}
    assert texts(http, model, verb, asked) == [usual] * 3


def test_a_stop_word_ends_its_own_sequence_alone(http: httpx.Client) -> None:
    asked = TEXT | {"max_tokens": 24, "num_return_sequences": 3, "temperature": 1.5, "random_seed": 5}
    whole = texts(http, "tensorrt_llm_bls", "generate", asked)
    assert len(set(whole)) == 3
    word = next(c for c in whole[0] if c in whole[0][:8] and any(c not in text for text in whole[1:]))
    stopped = texts(http, "tensorrt_llm_bls", "generate", asked | {"stop_words": [word]})
    assert stopped == [text[: text.index(word) + 1] if word in text else text for text in whole]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("verb", ["generate", "generate_stream", "infer"])
def test_half_a_character_is_taken_and_an_empty_body_is_named(http: httpx.Client, model: str, verb: str) -> None:
    """JavaScript writes the half of an emoji that a cut has left as an escape."""
    text, path = r"x = 1  # \ud83d", f"/v2/models/{model}/{verb}"
    one = '"datatype": "BYTES", "shape": [1, 1], "data"'
    tensors = f'{{"name": "text_input", {one}: ["{text}"]}}, {{"name": "max_tokens", {one}: [2]}}'
    tensors = tensors.replace('"max_tokens", "datatype": "BYTES"', '"max_tokens", "datatype": "INT32"')
    fields = f'"inputs": [{tensors}]' if verb == "infer" else f'"text_input": "{text}", "max_tokens": 2'
    assert http.post(path, content=f"{{{fields}}}").status_code == 200
    refused = http.post(path, content=" ")
    assert (refused.status_code, refused.json()["error"]) == (400, "the body is empty: send a JSON object")
