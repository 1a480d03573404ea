"""What the gateway encodes is what the engine decodes: each is the other's inverse."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2
from tritonclient.utils import triton_to_np_dtype

from build_engine.lookahead import LookaheadConfig
from nimble_coder.contract.decoding import read_call
from nimble_coder.contract.encoding import Generation, infer_request, stop_request
from nimble_coder.contract.fields import SCALARS
from nimble_coder.contract.request import Sampling

IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
WORDS = st.lists(IDS.map(tuple), max_size=4).map(tuple)
VALUES = {
    "temperature": st.floats(0.5, 100, width=32),
    "top_k": st.integers(2, 1000),
    "top_p": st.floats(0.25, 0.75, width=32),
    "repetition_penalty": st.floats(0.5, 2, width=32),
    "presence_penalty": st.floats(-2, 2, width=32),
    "frequency_penalty": st.floats(-2, 2, width=32),
    "min_tokens": st.integers(0, 1000),
    "log_probs": st.booleans(),
    "min_p": st.floats(0, 1),
    "top_log_probs": st.integers(0, 20),
    "prompt_log_probs": st.booleans(),
}


def received(message: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, object]]:
    """The inputs and parameters that Triton hands to a backend."""
    request = service_pb2.ModelInferRequest.FromString(message)
    inputs = {
        tensor.name: np.frombuffer(content, triton_to_np_dtype(tensor.datatype)).reshape(tensor.shape)
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }
    return inputs, {name: getattr(p, p.WhichOneof("parameter_choice")) for name, p in request.parameters.items()}


def test_every_field_is_tried() -> None:
    assert VALUES.keys() == SCALARS.keys()


@given(IDS, st.integers(1, 2**31 - 1), IDS.map(tuple), st.booleans(), WORDS, st.fixed_dictionaries(VALUES))
def test_a_request_comes_back_as_it_was(
    ids: list[int],
    max_tokens: int,
    ends: tuple[int, ...],
    streaming: bool,
    bad_words: tuple[tuple[int, ...], ...],
    values: dict[str, Any],
) -> None:
    tensors = tuple((SCALARS[n].name, k, v) for n, v in values.items() if (k := SCALARS[n].datatype))
    parameters = tuple((SCALARS[n].name, float(v)) for n, v in values.items() if SCALARS[n].datatype is None)
    lookahead = LookaheadConfig(4, 3, 2)
    generation = Generation(ids, max_tokens, ends, lookahead, streaming, False, tensors, bad_words, parameters)
    call = read_call(*arguments(infer_request(generation, "id")))
    (request,) = call.requests
    assert (request.input_ids, request.max_tokens, request.streaming) == (ids, max_tokens, streaming)
    assert (request.end_id, request.stop_words) == (ends[0], [[i] for i in ends[1:]])
    assert request.lookahead == lookahead
    assert request.sampling == Sampling(**values, bad_words=bad_words)
    assert (call.exclude_input, call.return_perf_metrics) == (True, True)


def test_ids_that_must_come_back_are_words_also_where_nothing_else_ends_it() -> None:
    for ends in ((), (4,)):
        message = infer_request(Generation([1], 1, ends, stop_ids=(5, 6)), "id")
        (request,) = read_call(*arguments(message)).requests
        assert (request.end_id, request.stop_words) == (ends[0] if ends else None, [[5], [6]])


def arguments(message: bytes) -> tuple[dict[str, NDArray[Any]], bool, dict[str, object]]:
    """`read_call`'s arguments, its default being what the message does not say."""
    inputs, parameters = received(message)
    return inputs, False, parameters


@pytest.mark.parametrize("seed", [0, 2**63, 2**64 - 1])
def test_a_seed_of_64_bits_is_kept(seed: int) -> None:
    tensors = (("temperature", "FP32", 0.5), ("random_seed", "UINT64", seed))
    (request,) = read_call(*arguments(infer_request(Generation([1], 1, (), sampling=tensors), "id"))).requests
    assert request.seed == seed


def test_a_request_that_says_nothing_is_greedy() -> None:
    (request,) = read_call(*arguments(infer_request(Generation([1], 1, ()), "id"))).requests
    assert request.sampling is None
    assert request.lookahead is None


def test_a_stop_is_read_as_one() -> None:
    inputs, _ = received(stop_request("id"))
    assert inputs["stop"].item() is True
