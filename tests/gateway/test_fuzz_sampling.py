"""Whatever numbers a client sends about sampling, the engine goes on and nobody else's generation is harmed.

Over the portable engine itself, unlike `test_fuzz.py`: its sampler is what has to hold. `NIMBLE_FUZZ_CASES` as there.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from nimble_coder.client.grpc import tensors
from nimble_coder.contract.fields import SCALARS
from nimble_coder.processes.serving import Serving
from tests.gateway.conftest import read_log
from tests.gateway.fuzzing import Bystander, check, fuzz

pytestmark = pytest.mark.timeout(3600)

fuzz_sampling = settings(parent=fuzz, max_examples=int(os.environ.get("NIMBLE_FUZZ_CASES", "75")))
FAILED_IN_A_STEP = re.compile(r"a step of \d+ sequences failed|request \d+ failed in a step")

LONG = {"prompt": "import os\nimport sys\n", "max_tokens": 3000, "ignore_eos": True, "stream": True}
HOSTILE: list[dict[str, Any]] = [
    {"temperature": 1e-40},
    {"temperature": 5e-324},
    {"temperature": 1e-38, "top_k": 5},
    {"temperature": 0.001, "repetition_penalty": 0.01, "frequency_penalty": -100, "presence_penalty": 100},
    {"temperature": 1000, "repetition_penalty": 100, "frequency_penalty": 100},
    {"temperature": 1, "repetition_penalty": 1e-40},
    {"temperature": 0, "repetition_penalty": 1e-40},
    {"temperature": 1, "repetition_penalty": 5e-324},
    {"temperature": 1, "top_p": 1e-50},
    {"temperature": 1, "top_p": 1e-40, "top_k": 2**31 - 1},
    {"temperature": 1, "presence_penalty": 1e39},
    {"temperature": 1, "frequency_penalty": math.inf},
    {"temperature": math.nan},
    {"temperature": 1e400},
    {"temperature": 1, "seed": 2**64 - 1, "min_tokens": 4, "n": 2},
]


def stream_long(client: httpx.Client, started: Event) -> str:
    """The text of a long completion; tells when it begins to come."""
    text = ""
    with client.stream("POST", "/v1/completions", json=LONG) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            started.set()
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["text"]
    return text


def stream_on(client: httpx.Client, started: Event, over: Event) -> set[str]:
    """The texts of one long completion after the other."""
    texts = set()
    while not over.is_set():
        texts.add(stream_long(client, started))
    return texts


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
def test_hostile_sampling_beside_long_streams(gateway: Serving, http: httpx.Client, path: str) -> None:
    said = {"prompt": "import os", "messages": [{"role": "user", "content": "import os"}], "max_tokens": 4}
    started, over = Event(), Event()
    with ThreadPoolExecutor(1) as pool, httpx.Client(base_url=gateway.addresses.http, timeout=60) as other:
        alone = stream_long(other, Event())
        beside = pool.submit(stream_on, other, started, over)
        assert started.wait(30)
        try:
            for body in HOSTILE:
                check(http.post(path, content=json.dumps({**said, **body})))
        finally:
            over.set()
        assert beside.result() == {alone}


@pytest.mark.parametrize("temperature", [0.0, 1e-40, 0.000999, 0.001, 0.01])
def test_the_header_says_what_the_engine_did(http: httpx.Client, temperature: float) -> None:
    body = {"prompt": "import os\n", "max_tokens": 48, "ignore_eos": True}
    plain = http.post("/v1/completions", json=body)
    answer = http.post("/v1/completions", json={**body, "temperature": temperature})
    is_greedy = temperature < 0.001
    assert answer.headers["x-nimble-decoding"] == ("greedy" if is_greedy else "sampling")
    if is_greedy:
        assert answer.headers["x-nimble-drafting"] == plain.headers["x-nimble-drafting"] != "none"
        assert answer.json()["choices"] == plain.json()["choices"]


@pytest.fixture(scope="module")
def target(gateway: Serving) -> Iterator[Serving]:
    """The service with a bystander; what went wrong shows at the end."""
    failed_before = len(FAILED_IN_A_STEP.findall(read_log(gateway)))
    bystander = Bystander(gateway.addresses.http)
    yield gateway
    bystander.end()
    assert bystander.answers
    assert bystander.wrong == []
    assert len(FAILED_IN_A_STEP.findall(read_log(gateway))) == failed_before


@pytest.fixture(scope="module")
def channel(target: Serving) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(target.addresses.grpc) as channel:
        yield channel


FRACTIONS = [name for name, scalar in SCALARS.items() if scalar.effect and name not in ("top_k", "top_p")]
TENSORS = [scalar.name for scalar in SCALARS.values() if scalar.effect and scalar.datatype == "FP32"]
EDGES = [0, -0.0, -1, -100, 1e-45, 1e-40, 1e-38, 1e-7, 0.000999, 0.001, 0.00999, 0.01, 1, 2, 100, 101, 1000, 1e38]
NOT_FINITE = [math.inf, -math.inf, math.nan]
usual = st.one_of(st.floats(0, 1), st.floats(0, 1), st.floats(0, 0.001), st.floats(1, 100))  # most of it is taken
decimals = st.one_of(usual, usual, st.sampled_from([*EDGES, *NOT_FINITE, 5e-324, 1e39]), st.floats())
counts = st.one_of(st.integers(-1, 60), st.sampled_from([2**31 - 1, 2**31, 2**63]))
numbers = st.builds(
    lambda temperature, fractions, counts: {"temperature": temperature, **fractions, **counts},
    decimals,
    st.dictionaries(st.sampled_from(["top_p", *FRACTIONS]), decimals, max_size=2),
    st.dictionaries(st.sampled_from(["top_k", "seed", "min_tokens"]), counts, max_size=1),
)
BASES: list[tuple[str, dict[str, Any], dict[str, str]]] = [
    ("/v1/completions", {"prompt": "import os", "max_tokens": 4}, {}),
    ("/v1/completions", {"prompt": "import os", "max_tokens": 4, "stream": True, "logprobs": 1}, {}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 4}, {}),
    (
        "/v2/models/tensorrt_llm/generate",
        {"input_ids": list(range(300, 310)), "input_lengths": 10, "request_output_len": 4},
        {"top_p": "runtime_top_p", "top_k": "runtime_top_k", "seed": "random_seed", "min_tokens": "min_length"},
    ),
    (
        "/v2/models/ensemble/generate",
        {"text_input": "import os\nimport sys\n", "max_tokens": 4},
        {"seed": "random_seed", "min_tokens": "min_length"},
    ),
]


@fuzz_sampling
@given(base=st.sampled_from(BASES), asked=numbers)
def test_numbers_in_json(
    target: Serving, http: httpx.Client, base: tuple[str, dict[str, Any], dict[str, str]], asked: dict[str, float]
) -> None:
    path, body, names = base
    content = json.dumps({**body, **{names.get(name, name): value for name, value in asked.items()}})
    check(http.post(path, content=content.replace("Infinity", "1e999")))  # JSON has no infinity, but has this


bits = st.integers(0, 2**32 - 1).map(lambda pattern: np.array([[pattern]], np.uint32).view(np.float32))
singles = st.one_of(usual, usual, st.sampled_from([*EDGES, *NOT_FINITE]), st.floats(width=32))
fp32 = st.one_of(singles.map(lambda value: np.array([[value]], np.float32)), bits)
int32 = st.integers(-(2**31), 2**31 - 1)
words = st.lists(st.integers(-3, 2**31 - 1) | st.integers(0, 4000), min_size=1, max_size=3)


@fuzz_sampling
@given(
    decimals=st.dictionaries(st.sampled_from(["temperature", "runtime_top_p", *TENSORS]), fp32, max_size=3),
    counts=st.dictionaries(st.sampled_from(["runtime_top_k", "min_length", "end_id"]), int32 | st.integers(-1, 60)),
    bad_word=st.none() | words,
)
def test_numbers_in_tensors(
    channel: grpc.Channel, decimals: dict[str, Any], counts: dict[str, int], bad_word: list[int] | None
) -> None:
    arrays = {
        "input_ids": np.array([range(300, 310)], np.int32),
        "input_lengths": np.array([[10]], np.int32),
        "request_output_len": np.array([[4]], np.int32),
        "streaming": np.array([[True]]),
        **decimals,
        **{name: np.array([[count]], np.int32) for name, count in counts.items()},
    }
    if bad_word:
        ends = [len(bad_word), *[-1] * (len(bad_word) - 1)]
        arrays["bad_words_list"] = np.array([[bad_word, ends]], np.int32)
    given = tensors(arrays)
    request = service_pb2.ModelInferRequest(
        model_name="tensorrt_llm",
        inputs=[each._get_tensor() for each in given],
        raw_input_contents=[each._get_content() for each in given],
    )
    call = channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=service_pb2.ModelStreamInferResponse.FromString,
    )
    for response in call(iter([request.SerializeToString()]), timeout=15):
        told = response.error_message
        is_longer = counts.get("min_length", 0) > 4 and "min_length" in told  # than what is asked for
        assert not told or "out of range" in told or is_longer


tokens = st.integers(-2, 4100) | st.integers(-(2**70), 2**70)
texts = (
    st.sampled_from(["import", " os", "\n", "", " ", "<|im_end|>", "\ud800", "é" * 9, "\x00", "5", "-1", "9" * 25])
    | st.text()
)
ASKED: dict[str, st.SearchStrategy[Any]] = {
    "logit_bias": st.dictionaries(tokens.map(str) | texts, st.floats(-100, 100) | decimals, max_size=5)
    | st.lists(st.tuples(tokens | texts, st.booleans() | st.floats(-100, 100)), max_size=5),
    "bad_words": st.lists(texts, max_size=4) | texts,
    "min_p": st.floats(0, 1),
    "min_tokens": st.integers(0, 6),
    "stop": st.lists(texts, max_size=3),
    "stop_token_ids": st.lists(tokens, max_size=3),
    "logprobs": st.integers(-1, 21) | st.booleans(),
    "echo": st.booleans(),
    "n": st.integers(1, 3),
    "stream": st.booleans(),
    "temperature": st.sampled_from([0, 1, 1000]),
    "truncate_prompt_tokens": st.integers(-1, 5),
    "include_stop_str_in_output": st.booleans(),
}


@fuzz_sampling
@given(asked=st.fixed_dictionaries({}, optional=ASKED))
def test_rules_for_tokens_of_any_kind(target: Serving, http: httpx.Client, asked: dict[str, Any]) -> None:
    body = json.dumps({"prompt": "import os", "max_tokens": 4, **asked})
    answer = http.post("/v1/completions", content=body.replace("Infinity", "1e999"))
    check(answer)
    assert '"code":"engine_error"' not in answer.text


odd = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
nested = st.recursive(odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner))
PARAMETERS = ("logit_bias", *(scalar.name for scalar in SCALARS.values() if scalar.datatype is None))


@fuzz_sampling
@given(
    asked=st.dictionaries(st.sampled_from(PARAMETERS), nested | st.floats(0, 1) | st.just("[[5, 6], [7]]"), min_size=1)
)
def test_request_parameters_of_any_value(http: httpx.Client, target: Serving, asked: dict[str, Any]) -> None:
    body = {"input_ids": list(range(300, 310)), "input_lengths": 10, "request_output_len": 2, "return_log_probs": True}
    for sent in (asked, {name: json.dumps(value) for name, value in asked.items()}):
        content = json.dumps({**body, **sent})
        check(http.post("/v2/models/tensorrt_llm/generate", content=content.replace("Infinity", "1e999")))


@fuzz_sampling
@given(ids=st.lists(int32 | st.integers(-2, 4100), max_size=9), length=int32, beams=st.integers(1, 2))
def test_ids_of_any_kind_as_text(channel: grpc.Channel, ids: list[int], length: int, beams: int) -> None:
    arrays = {
        "TOKENS_BATCH": np.array([[ids] * beams], np.int32).reshape(1, beams, len(ids)),
        "SEQUENCE_LENGTH": np.full((1, beams), length, np.int32),
    }
    given = tensors(arrays)
    request = service_pb2.ModelInferRequest(
        model_name="postprocessing",
        inputs=[each._get_tensor() for each in given],
        raw_input_contents=[each._get_content() for each in given],
    )
    call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
    try:
        call(request.SerializeToString(), timeout=15)
    except grpc.RpcError as error:
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
