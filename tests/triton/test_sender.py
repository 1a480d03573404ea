"""What a response hands to Triton; and under load, that every stream still gets all of its own."""

import asyncio
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from build_engine.artifact import Artifact
from nimble_coder.bench.stand_in import stand_in_repository
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.sender import Array, Sender
from tests.conftest import running_triton

TEXT = "for item in items:\n    total += 1\n"
STREAMS, TOKENS, ROUNDS = 64, 256, 2


async def crowd(addresses: Addresses) -> list[list[int]]:
    """The tokens of every stream of every round."""

    async def one() -> list[int]:
        generation = Generation([1, 2, 3], TOKENS, ())
        async with aclosing(streams.generate(generation, "one")) as steps:
            return [token async for step in steps for token in step.token_ids]

    streams = TokenStreams(addresses.host, addresses.grpc_port)
    answers = []
    for _ in range(ROUNDS):
        answers += await asyncio.gather(*(one() for _ in range(STREAMS)))
    streams.close()
    return answers


class Recorder:
    """The part of Triton's Python module that a sender uses; keeps what is made and what is sent."""

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    def __init__(self) -> None:
        self.made: dict[str, Array] = {}
        self.sent: list[tuple[list[str], int]] = []

    def Tensor(self, name: str, array: Array) -> str:  # noqa: N802, Triton's name
        self.made[name] = array
        return name

    def InferenceResponse(self, tensors: list[str]) -> list[str]:  # noqa: N802, Triton's name
        return tensors

    def request(self, *wanted: str) -> Any:
        """A request for the outputs that are named."""
        sender = SimpleNamespace(send=lambda response, flags: self.sent.append((response, flags)))
        return SimpleNamespace(requested_output_names=lambda: list(wanted), get_response_sender=lambda: sender)


def test_an_output_that_nobody_asked_for_is_never_made() -> None:
    """Triton's stub (2.51) frees such a one without Python's lock; so leaving it out of the response is not enough."""
    triton = Recorder()
    sender = Sender(triton.request("output_ids", "sequence_length"), triton)
    outputs = {name: np.zeros(1, np.int32) for name in ("output_ids", "sequence_length", "context_logits")}
    sender.send(outputs)
    sender.send({"context_logits": np.zeros(1, np.float32)}, is_last=True)
    assert list(triton.made) == ["output_ids", "sequence_length"]
    assert triton.sent == [(["output_ids", "sequence_length"], 0), ([], 1)]


@pytest.mark.timeout(120)
def test_many_streams_at_once_each_get_their_own(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway asks for few of the model's outputs; several threads send for all of the streams."""
    monkeypatch.setenv("NIMBLE_BENCH_TOKENS_PER_STEP", "1")
    monkeypatch.setenv("NIMBLE_BENCH_INTERVAL", "0.0005")
    monkeypatch.setenv("NIMBLE_BENCH_TEXT", TEXT)
    repository, log = tmp_path / "model_repository", tmp_path / "triton.log"
    stand_in_repository(artifact, repository)
    with running_triton(repository, log) as triton:
        answers = asyncio.run(crowd(triton.addresses))
        assert triton.poll() is None
    ids = TextTokenizer(artifact.tokenizer).encode(TEXT)
    assert all(answer == (ids * TOKENS)[:TOKENS] for answer in answers)
    assert "Reference count error" not in log.read_text()
