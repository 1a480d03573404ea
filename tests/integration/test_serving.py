"""A real tritonserver with the portable backend: every way in agrees with the engine, and nobody is hurt."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from build_engine.artifact import Artifact
from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.coding_prompts import coding_prompts
from nimble_coder.client.grpc import CompletionClient, CompletionError, tensors
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.processes.triton import TritonServer
from nimble_coder.text.tokenizer import TextTokenizer

PROMPTS = list(coding_prompts().values())[:8]
COUNT = 48


@pytest.fixture(scope="module")
def tokenizer(artifact: Artifact) -> TextTokenizer:
    return TextTokenizer(artifact.tokenizer)


@pytest.fixture(scope="module")
def expected(artifact: Artifact, tokenizer: TextTokenizer) -> list[list[int]]:
    """The engine's own output for every prompt, without Triton."""
    engine = TorchEngine(artifact.engine, artifact.manifest.profile.lookahead, TorchEngineOptions())
    end, *others = tokenizer.end_ids
    requests = [
        Request(tokenizer.encode(p), COUNT, end_id=end, stop_words=[[i] for i in others], lookahead=PLAIN)
        for p in PROMPTS
    ]
    try:
        return [g.token_ids for g in generate(engine, requests)]
    finally:
        engine.shutdown()


@pytest.fixture
def client(triton: TritonServer) -> Iterator[CompletionClient]:
    with CompletionClient(triton.addresses.grpc) as opened:
        yield opened


def arrays(ids: list[int], count: int = COUNT, **more: Any) -> dict[str, Any]:
    """The inputs of a token-level request."""
    return {
        "input_ids": np.array([ids], np.int32),
        "input_lengths": np.array([[len(ids)]], np.int32),
        "request_output_len": np.array([[count]], np.int32),
        **more,
    }


def infer(triton: TritonServer, inputs: dict[str, Any], request_id: str = "") -> list[Any]:
    """All responses of one token-level request, as tritonclient gives them; raises its exception."""
    done, results = threading.Event(), list[Any]()

    def receive(result: Any, error: InferenceServerException | None) -> None:
        results.append(error or result)
        if error or result.get_response().parameters["triton_final_response"].bool_param:
            done.set()

    with grpc.InferenceServerClient(triton.addresses.grpc) as connection:
        connection.start_stream(receive)
        connection.async_stream_infer(
            "tensorrt_llm", tensors(inputs), request_id=request_id, enable_empty_final_response=True
        )
        assert done.wait(60)
    for result in results:
        if isinstance(result, InferenceServerException):
            raise result
    return results


def post(triton: TritonServer, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(triton.addresses.http + path, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def gauge(triton: TritonServer, name: str, kind: str) -> float:
    """The newest value of one of the backend's metrics."""
    with urllib.request.urlopen(triton.addresses.metrics, timeout=10) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + "{") and f'"{kind}"' in line:
                return float(line.rsplit(" ", 1)[1])
    raise AssertionError(f"no metric {name} {kind}")


REPORTED = 0.6
"""Seconds after which the gauges, which are set four times a second, hold what was done before."""


def wait_idle(triton: TritonServer, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while gauge(triton, "nv_trt_llm_request_metrics", "active") > 0:
        assert time.monotonic() < deadline, "requests are still active"
        time.sleep(0.05)


def test_grpc_streaming_agrees_with_the_engine(client: CompletionClient, expected: list[list[int]]) -> None:
    for config in (None, PLAIN, LookaheadConfig(4, 3, 4)):
        for prompt, ids in zip(PROMPTS, expected, strict=True):
            assert client.complete(prompt, COUNT, config).token_ids == ids


def test_lookahead_streams_several_tokens_at_once_and_plain_decoding_one(client: CompletionClient) -> None:
    plain = list(client.stream(PROMPTS[1], COUNT, PLAIN))
    fast = list(client.stream(PROMPTS[1], COUNT, LookaheadConfig(8, 8, 8)))
    assert {len(chunk.token_ids) for chunk in plain if chunk.token_ids} == {1}
    assert max(len(chunk.token_ids) for chunk in fast) > 1
    assert "".join(c.text for c in plain) == "".join(c.text for c in fast)


def test_http_generate_stream_agrees_with_the_engine(
    triton: TritonServer, tokenizer: TextTokenizer, expected: list[list[int]]
) -> None:
    for prompt, ids in zip(PROMPTS, expected, strict=True):
        body = {"text_input": prompt, "max_tokens": COUNT, "stream": True}
        events = post(triton, "/v2/models/ensemble/generate_stream", body).split(b"\n\n")
        texts = [json.loads(event.removeprefix(b"data: "))["text_output"] for event in events if event]
        assert "".join(texts) == tokenizer.decode(ids)


@pytest.mark.parametrize("model", ["ensemble", "tensorrt_llm_bls"])
def test_an_end_id_that_comes_alone_ends_the_text(triton: TritonServer, expected: list[list[int]], model: str) -> None:
    body = {"text_input": PROMPTS[0], "max_tokens": COUNT, "end_id": expected[0][0]}
    events = post(triton, f"/v2/models/{model}/generate_stream", {**body, "stream": True}).split(b"\n\n")
    texts = [json.loads(event.removeprefix(b"data: ")) for event in events if event]
    assert [text["text_output"] for text in texts] == [""]
    if model == "ensemble":  # the BLS answers streams only
        assert json.loads(post(triton, f"/v2/models/{model}/generate", body))["text_output"] == ""


def test_the_ensemble_without_streaming_agrees_with_the_engine(
    triton: TritonServer, tokenizer: TextTokenizer, expected: list[list[int]]
) -> None:
    for prompt, ids in zip(PROMPTS, expected, strict=True):
        answer = post(triton, "/v2/models/ensemble/generate", {"text_input": prompt, "max_tokens": COUNT})
        assert json.loads(answer)["text_output"] == tokenizer.decode(ids)


def test_the_token_level_model_without_streaming_includes_the_prompt_only_on_request(
    triton: TritonServer, tokenizer: TextTokenizer, expected: list[list[int]]
) -> None:
    ids, end = tokenizer.encode(PROMPTS[0]), np.array([[tokenizer.end_ids[0]]], np.int32)
    for exclude, before in ((True, []), (False, ids)):
        results = infer(triton, arrays(ids, end_id=end, exclude_input_in_output=np.array([[exclude]])))
        outputs = [r for r in results if r.as_numpy("output_ids") is not None]
        assert len(outputs) == 1
        assert outputs[0].as_numpy("output_ids").reshape(-1).tolist()[: len(before) + 20] == before + expected[0][:20]
        assert outputs[0].as_numpy("sequence_length").item() == outputs[0].as_numpy("output_ids").size


def test_a_batch_of_two_prompts_is_answered_row_by_row(
    triton: TritonServer, tokenizer: TextTokenizer, expected: list[list[int]]
) -> None:
    rows = [tokenizer.encode(p) for p in PROMPTS[:2]]
    width = max(map(len, rows))
    inputs = {
        "input_ids": np.array([row + [0] * (width - len(row)) for row in rows], np.int32),
        "input_lengths": np.array([[len(row)] for row in rows], np.int32),
        "request_output_len": np.array([[20]] * 2, np.int32),
    }
    found = {
        r.as_numpy("batch_index").item(): r.as_numpy("output_ids").reshape(-1).tolist()
        for r in infer(triton, inputs)
        if r.as_numpy("output_ids") is not None
    }
    assert found == {0: expected[0][:20], 1: expected[1][:20]}


def test_perf_metrics_come_with_the_last_response(client: CompletionClient) -> None:
    done = client.complete(PROMPTS[1], COUNT, LookaheadConfig(8, 8, 8))
    assert 0 < done.accepted_draft_tokens <= done.draft_tokens
    assert done.acceptance_rate == pytest.approx(done.accepted_draft_tokens / done.draft_tokens)
    assert done.tokens_per_step > 1
    assert 0 < done.time_to_first_token <= done.seconds


def test_thirty_two_requests_at_once_get_what_each_gets_alone(triton: TritonServer, expected: list[list[int]]) -> None:
    configs = [None, PLAIN, LookaheadConfig(4, 3, 4), LookaheadConfig(2, 2, 1)]

    def one(index: int) -> list[int]:
        with CompletionClient(triton.addresses.grpc) as mine:
            return mine.complete(PROMPTS[index % 8], COUNT, configs[index // 8]).token_ids

    with ThreadPoolExecutor(32) as pool:
        assert list(pool.map(one, range(32))) == expected * 4


def test_cancelling_frees_the_slot_long_before_the_end(triton: TritonServer, client: CompletionClient) -> None:
    wait_idle(triton)
    time.sleep(REPORTED)  # without it the tokens of the test before may count as this one's
    before = gauge(triton, "nimble_lookahead_totals", "generated_tokens")
    with client.stream("x = 1\n", 6000, PLAIN) as stream:
        for _ in range(5):
            next(stream)
    wait_idle(triton)
    time.sleep(REPORTED)
    assert gauge(triton, "nimble_lookahead_totals", "generated_tokens") - before < 1500


def test_a_stop_request_ends_the_request_of_the_same_id(triton: TritonServer, tokenizer: TextTokenizer) -> None:
    wait_idle(triton)
    inputs = arrays(tokenizer.encode("x = 1\n"), 6000, streaming=np.array([[True]]))
    inputs["lookahead_window_size"] = inputs["lookahead_ngram_size"] = np.array([[1]], np.int32)
    inputs["lookahead_verification_set_size"] = np.array([[0]], np.int32)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(infer, triton, inputs, "to-be-stopped")
        while gauge(triton, "nv_trt_llm_request_metrics", "active") < 1:
            time.sleep(0.02)
        stop = infer(triton, arrays([1], 1, stop=np.array([[True]])), "to-be-stopped")
        assert [r.as_numpy("output_ids") for r in stop] == [None]
        received = running.result(timeout=120)
        assert sum(r.as_numpy("output_ids").size for r in received if r.as_numpy("output_ids") is not None) < 6000


def test_a_client_that_is_killed_frees_its_slot(triton: TritonServer, client: CompletionClient) -> None:
    wait_idle(triton)
    command = [sys.executable, "-m", "nimble_coder.cli", "complete", "x = 1\n", "--max-tokens", "6000"]
    command += ["--no-lookahead", "--url", triton.addresses.grpc]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.read(10)
        process.send_signal(signal.SIGKILL)
    wait_idle(triton)
    assert client.complete(PROMPTS[0], 8).token_ids


BAD_REQUESTS: dict[str, tuple[dict[str, Any], str]] = {
    "w greater than W": (
        {
            "lookahead_window_size": np.array([[9]], np.int32),
            "lookahead_ngram_size": np.array([[8]], np.int32),
            "lookahead_verification_set_size": np.array([[8]], np.int32),
        },
        r"\(9,8,8\) exceeds the engine's \(8,8,8\)",
    ),
    "illegal n": (
        {
            "lookahead_window_size": np.array([[2]], np.int32),
            "lookahead_ngram_size": np.array([[1]], np.int32),
            "lookahead_verification_set_size": np.array([[2]], np.int32),
        },
        "not legal",
    ),
    "only one of the three": ({"lookahead_window_size": np.array([[2]], np.int32)}, "send all three"),
    "unknown key": ({"no_such_input": np.array([[1]], np.int32)}, "unexpected inference input 'no_such_input'"),
    "too long a prompt": (
        {"input_ids": np.ones((1, 8200), np.int32), "input_lengths": np.array([[8200]], np.int32)},
        r"Prompt length \(8200\) exceeds maximum input length \(8191\)",
    ),
    "prompt shorter than N-1": (
        {
            "input_ids": np.array([[1, 2, 3]], np.int32),
            "input_lengths": np.array([[3]], np.int32),
            "lookahead_window_size": np.array([[8]], np.int32),
            "lookahead_ngram_size": np.array([[8]], np.int32),
            "lookahead_verification_set_size": np.array([[8]], np.int32),
        },
        "has 3 tokens, .* needs at least 7",
    ),
    "empty prompt": (
        {"input_ids": np.zeros((1, 0), np.int32), "input_lengths": np.array([[0]], np.int32)},
        "the prompt is empty",
    ),
    "max_tokens 0": ({"request_output_len": np.array([[0]], np.int32)}, "request_output_len is 0"),
    "min_length": ({"min_length": np.array([[5]], np.int32)}, "min_length is 5, above request_output_len, which is 4"),
    "top-p's decay": ({"runtime_top_p_decay": np.array([[0.9]], np.float32)}, "runtime_top_p_decay must be 1"),
    "wrong dtype": ({"input_ids": np.array([[1, 2, 3]], np.int64)}, "INT64.*INT32|expects.*INT32"),
    "wrong length": ({"input_lengths": np.array([[99]], np.int32)}, "input_lengths is 99"),
    "not a token": ({"input_ids": np.full((1, 20), 99999, np.int32)}, "99999, which is not a token"),
    "beams": ({"beam_width": np.array([[2]], np.int32)}, "beam_width"),
    "context logits": ({"return_context_logits": np.array([[True]])}, "return_context_logits is not supported"),
    "temperature": ({"temperature": np.array([[-1]], np.float32)}, "temperature is -1.0, which is out of range"),
    "many sequences": ({"num_return_sequences": np.array([[65]], np.int32)}, "ask for 1 to 64"),
    "stop without an id": ({"stop": np.array([[True]])}, "request ID is not provided"),
}


def test_bad_requests_get_clear_errors_while_sixteen_others_finish_unharmed(
    triton: TritonServer, tokenizer: TextTokenizer, expected: list[list[int]]
) -> None:
    def good(index: int) -> list[int]:
        with CompletionClient(triton.addresses.grpc) as mine:
            return mine.complete(PROMPTS[index % 8], COUNT, PLAIN).token_ids

    with ThreadPoolExecutor(16) as pool:
        others = [pool.submit(good, index) for index in range(16)]
        for name, (wrong, reason) in BAD_REQUESTS.items():
            inputs = arrays(tokenizer.encode(PROMPTS[0])[:20], 4, streaming=np.array([[True]])) | wrong
            with pytest.raises(InferenceServerException, match=reason):
                infer(triton, inputs)
                pytest.fail(f"{name} was accepted")
        assert [other.result(timeout=60) for other in others] == expected * 2


def test_sampling_through_triton_is_reproducible_and_tells_log_probs(
    triton: TritonServer, tokenizer: TextTokenizer
) -> None:
    more = {
        "temperature": np.array([[0.9]], np.float32),
        "random_seed": np.array([[7]], np.uint64),
        "return_log_probs": np.array([[True]]),
        "num_return_sequences": np.array([[3]], np.int32),
    }
    runs = []
    for _ in range(2):
        results = infer(triton, arrays(tokenizer.encode(PROMPTS[0]), 20, **more))
        found = {
            r.as_numpy("sequence_index").item(): r.as_numpy("output_ids").reshape(-1).tolist()
            for r in results
            if r.as_numpy("output_ids") is not None
        }
        for r in results:
            if (log_probs := r.as_numpy("output_log_probs")) is not None:
                assert log_probs.shape == (1, 1, r.as_numpy("sequence_length").item())
                assert r.as_numpy("cum_log_probs").item() == pytest.approx(log_probs.sum(), rel=1e-4)
        runs.append(found)
    assert runs[0] == runs[1]
    assert sorted(runs[0]) == [0, 1, 2]
    assert len({tuple(ids) for ids in runs[0].values()}) == 3


def test_streaming_two_prompts_in_one_request_is_refused(triton: TritonServer) -> None:
    inputs = {name: np.repeat(value, 2, axis=0) for name, value in arrays([1, 2, 3], 4).items()}
    with pytest.raises(InferenceServerException, match="send the prompts as separate requests"):
        infer(triton, inputs | {"streaming": np.array([[True], [True]])})


def test_http_says_what_is_wrong_with_a_status(triton: TritonServer) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(triton, "/v2/models/ensemble/generate", {"text_input": "x", "max_tokens": 0})
    assert refused.value.code == 400
    assert "request_output_len is 0" in refused.value.read().decode()


def test_stop_words_of_the_text_model_end_the_output(triton: TritonServer) -> None:
    body = {"text_input": "import os\nimport re\nimport", "max_tokens": 40, "stop_words": ["\n"]}
    text = json.loads(post(triton, "/v2/models/ensemble/generate", body))["text_output"]
    assert text.count("\n") <= 1


def test_the_client_says_when_nobody_answers() -> None:
    with (
        CompletionClient("127.0.0.1:1") as nobody,
        pytest.raises(CompletionError, match=r"127\.0\.0\.1:1: .*failed to connect"),
    ):
        nobody.complete("x")


def test_the_backend_publishes_its_metrics(triton: TritonServer, client: CompletionClient) -> None:
    client.complete(PROMPTS[0], 16)
    time.sleep(0.6)
    assert gauge(triton, "nv_trt_llm_request_metrics", "max") == 32
    assert gauge(triton, "nv_trt_llm_general_metrics", "iteration_counter") > 0
    assert gauge(triton, "nimble_lookahead_totals", "generated_tokens") >= 16
