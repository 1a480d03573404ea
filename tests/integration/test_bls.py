"""The model `tensorrt_llm_bls` behind a real Triton: text that streams, whole characters only, and cancellation."""

import queue
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.profiles import PROFILES
from nimble_coder.client.grpc import CompletionClient, tensors
from nimble_coder.processes.triton import TritonServer
from tests.conftest import running_triton

LONGEST = 32768
"""Tokens of a text: its answer takes longer than any test, also on a busy machine."""


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Random weights over a byte-level tokenizer: most of the output is no whole character."""
    place = tmp_path_factory.mktemp("bls")
    profile = PROFILES["demo"].with_limits(max_batch_size=4, max_seq_len=LONGEST, max_input_len=512)
    artifact = build(profile, tiny_checkpoint, Cache(place / "cache"), lambda _: None)
    with running_triton(artifact.repository, place / "triton.log") as running:
        yield running


def request(prompts: list[bytes], max_tokens: int = 60, **more: Any) -> Any:
    count = len(prompts)
    text = np.array([[prompt] for prompt in prompts], np.object_)
    return tensors({"text_input": text, "max_tokens": np.full((count, 1), max_tokens, np.int32), **more})


STREAM: dict[str, Any] = {"stream": np.array([[True]])}
METRICS: dict[str, Any] = {"return_perf_metrics": np.array([[True]])}


def stream(server: TritonServer, inputs: Any, **more: Any) -> Generator[tuple[Any, bool], None, None]:
    """Results, and whether each is the last; raises what the model refuses."""
    answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
    with grpc.InferenceServerClient(server.addresses.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.async_stream_infer("tensorrt_llm_bls", inputs, enable_empty_final_response=True, **more)
        try:
            final = False
            while not final:
                result, error = answers.get(timeout=30)
                if error:
                    raise error
                final = result.get_response().parameters["triton_final_response"].bool_param
                yield result, final
        except GeneratorExit:
            client.stop_stream(cancel_requests=True)


def texts(server: TritonServer, inputs: Any) -> list[bytes]:
    found = [result.as_numpy("text_output") for result, _ in stream(server, inputs)]
    return [text.reshape(-1)[0] for text in found if text is not None]


@pytest.mark.parametrize("prompt", [b"def f(x):", "größer → ".encode(), "日本".encode()])
def test_streamed_pieces_are_whole_characters_and_make_the_whole_text(server: TritonServer, prompt: bytes) -> None:
    pieces = texts(server, request([prompt], **STREAM))
    with CompletionClient(server.addresses.grpc) as client:
        expected = client.complete(prompt.decode(), 60).text
    assert len(pieces) > 5
    assert b"".join(pieces).decode() == expected
    for piece in pieces:
        piece.decode()


def test_without_streaming_the_whole_text_comes_at_once(server: TritonServer) -> None:
    (whole,) = texts(server, request([b"def f(x):"]))
    assert whole == b"".join(texts(server, request([b"def f(x):"], **STREAM)))


def test_a_whole_text_begins_with_its_prompt_where_that_is_not_excluded(server: TritonServer) -> None:
    prompt = "größer\n".encode()
    given: dict[str, Any] = {"exclude_input_in_output": np.array([[False]])}
    (whole,), (repeated,) = texts(server, request([prompt])), texts(server, request([prompt], **given))
    assert repeated == prompt + whole


def test_stop_words_and_metrics_are_passed_on(server: TritonServer) -> None:
    whole = texts(server, request([b"def f(x):"]))[0].decode()
    word = next(character for character in whole if character.isascii() and character.isprintable())
    stops: dict[str, Any] = {"stop_words": np.array([[word.encode()]], np.object_)}
    (stopped,) = texts(server, request([b"def f(x):"], **stops))
    assert stopped.decode() == whole[: whole.index(word) + 1]
    outputs = [grpc.InferRequestedOutput(name) for name in ("text_output", "total_draft_tokens", "acceptance_rate")]
    answers = list(stream(server, request([b"def f(x):"], **METRICS), outputs=outputs))
    assert any(result.as_numpy("total_draft_tokens") is not None for result, _ in answers)


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ([b"a", b"b"], {}, "one prompt per request"),
        ([b"a"], {"image_url_input": np.array([[b"x"]], np.object_)}, "reads text and nothing else"),
        ([b"\xff"], {}, "not valid UTF-8"),
        ([b"a"], {"stop_words": np.array([[b"\xff\xfe"]], np.object_)}, "not valid UTF-8"),
        ([b"a" * 600], {}, "exceeds maximum input length"),
    ],
    ids=["batch", "image", "UTF-8", "UTF-8 of a stop word", "length"],
)
def test_what_cannot_be_answered_is_refused(
    server: TritonServer, prompts: list[bytes], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        texts(server, request(prompts, **more))
    assert texts(server, request([b"def f(x):"], 4))


def test_requests_run_at_once(server: TritonServer) -> None:
    streams = [stream(server, request([b"def f(x):"], 200, **STREAM)) for _ in range(3)]
    firsts = [next(each)[1] for each in streams]
    assert firsts == [False, False, False]
    for each in streams:
        assert list(each)[-1][1]


def test_a_client_that_leaves_ends_the_engines_request(server: TritonServer) -> None:
    answers = stream(server, request([b"def f(x):"], LONGEST, **STREAM))
    next(answers)
    wait_until(lambda: count(server, "active") == 1)
    answers.close()
    wait_until(lambda: count(server, "active") == 0)


@pytest.mark.parametrize("more", [{}, STREAM], ids=["whole", "streamed"])
def test_a_client_that_leaves_before_the_first_token_ends_the_engines_request(
    server: TritonServer, more: dict[str, Any]
) -> None:
    """All slots of the engine are taken meanwhile, so that nothing comes."""
    with CompletionClient(server.addresses.grpc) as client:
        others = [client.stream("def f(x):", LONGEST) for _ in range(4)]
        for other in others:
            next(other)
        with grpc.InferenceServerClient(server.addresses.grpc) as leaving:
            answers: list[Any] = []
            leaving.start_stream(lambda result, error: answers.append((result, error)))
            leaving.async_stream_infer("tensorrt_llm_bls", request([b"def f(x):"], **more))
            wait_until(lambda: count(server, "waiting") == 1 or answers)
            assert not answers
            leaving.stop_stream(cancel_requests=True)
            wait_until(lambda: count(server, "waiting") == 0)
        assert count(server, "active") == 4
        for other in others:
            other.close()
    wait_until(lambda: count(server, "active") == 0)


def wait_until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def count(server: TritonServer, kind: str) -> float:
    """Requests of the engine that it runs now, or that wait."""
    with urllib.request.urlopen(server.addresses.metrics, timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    found = next(line for line in lines if f'request_type="{kind}"' in line)
    return float(found.rsplit(" ", 1)[1])
