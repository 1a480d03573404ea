"""Responses under load: several threads send for many streams, and every stream still gets all of its own."""

import asyncio
from contextlib import aclosing
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.bench.stand_in import stand_in_repository
from nimble_coder.contract.encoding import Generation
from nimble_coder.gateway.upstream.token_stream import TokenStreams
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import running_triton

TEXT = "for item in items:\n    total += 1\n"
STREAMS, TOKENS, ROUNDS = 64, 256, 4


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


@pytest.mark.timeout(120)
def test_outputs_that_nobody_asked_for_do_not_corrupt_memory(
    artifact: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway asks for few of the model's outputs; handing the others to Triton too ended its process here."""
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
