"""A gateway over a real Triton with the embedded model, shared by the tests of this folder."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from build_engine.artifact import Artifact
from nimble_coder.bench.stand_in import stand_in_repository
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import running_triton
from tests.gateway.conformance import CheckingClient


@pytest.fixture(scope="session")
def gateway(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The service on free ports, open and without limits of its own."""
    with running_service(artifact.directory, tmp_path_factory.mktemp("serving") / "serving.log") as serving:
        yield serving


@contextmanager
def running_service(artifact: Path, log: Path, **settings: str) -> Iterator[Serving]:
    """The service on free ports, ready; at the end its Triton is killed, which would take 4 s to unload its models."""
    with Serving(artifact, Addresses.free(), log=log, settings=settings) as serving:
        serving.wait_ready()
        try:
            yield serving
        finally:
            serving.gateways.stop()
            serving.triton.stop(grace=0.0)


@pytest.fixture
def http(gateway: Serving) -> Iterator[httpx.Client]:
    """Requests to the gateway, whose answers must be what the OpenAPI document says."""
    with CheckingClient(base_url=gateway.addresses.http, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def strict(artifact: Artifact, gateway: Serving, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A second gateway, which refuses what it would ignore."""
    log = tmp_path_factory.mktemp("strict") / "log"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIMBLE_STRICT_SAMPLING", "true")
        processes = GatewayProcesses(artifact.directory, gateway.triton.addresses, Addresses.free(), log=log)
        with processes as gateways:
            gateways.wait_ready()
            with httpx.Client(base_url=gateways.addresses.http, timeout=60) as client:
                yield client


@pytest.fixture
def openai(gateway: Serving) -> Iterator[OpenAI]:
    """The OpenAI SDK, pointed at the gateway."""
    url = f"{gateway.addresses.http}/v1"
    with (
        CheckingClient() as http,
        # The SDK takes httpx's clients too, and declares only those of its own httpx2.
        OpenAI(base_url=url, api_key="none", max_retries=0, http_client=http) as client,  # type: ignore[arg-type]
    ):
        yield client


@pytest.fixture(scope="session")
def tokenizer(artifact: Artifact) -> TextTokenizer:
    return TextTokenizer(artifact.tokenizer)


@pytest.fixture(scope="session")
def encoder(tokenizer: TextTokenizer) -> PromptEncoder:
    return PromptEncoder(tokenizer)


@contextmanager
def stand_in_gateway(
    artifact: Artifact, work: Path, tokens_per_step: int, interval: float, text: str | None = None
) -> Iterator[tuple[TritonServer, GatewayProcesses]]:
    """A gateway over a real Triton whose engine emits so many tokens of a text every `interval` seconds."""
    stand_in_repository(artifact, work / "repository")
    config = work / "repository" / "tensorrt_llm" / "config.pbtxt"
    often = re.sub(r'(stats_check_period_ms" value: { string_value: ")\d+', r"\g<1>20", config.read_text())
    config.write_text(often)  # the tests count steps
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NIMBLE_BENCH_TOKENS_PER_STEP", str(tokens_per_step))
        patch.setenv("NIMBLE_BENCH_INTERVAL", str(interval))
        if text is not None:
            patch.setenv("NIMBLE_BENCH_TEXT", text)
        with (
            running_triton(work / "repository", work / "triton.log") as triton,
            GatewayProcesses(artifact.directory, triton.addresses, Addresses.free(), log=work / "log") as gateways,
        ):
            gateways.wait_ready()
            yield triton, gateways


def engine_gauge(triton: TritonServer, label: str) -> int:
    """What the engine itself reports of one kind: `active` requests, `request_steps`, `generated_tokens`."""
    with urllib.request.urlopen(triton.addresses.metrics, timeout=5) as answer:
        page = answer.read().decode()
    found = re.search(rf'\{{[^}}]*="{label}"[^}}]*\}} (\S+)', page)
    assert found, f"the engine reports no {label}"
    return int(float(found[1]))


def active_requests(serving: Serving) -> int:
    """Requests that hold a slot of the engine."""
    return engine_gauge(serving.triton, "active")


def generated(serving: Serving) -> int:
    """Tokens that the engine has generated so far, of all requests."""
    return engine_gauge(serving.triton, "generated_tokens")


def is_cut_short(serving: Serving, before: int, tokens: int) -> bool:
    """Whether the engine ends its requests without generating all of the `tokens` that they asked for."""
    return wait_until(lambda: active_requests(serving) == 0) and generated(serving) - before < tokens


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes to hold; the time is only there to end a test that would wait for ever on a shared machine."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if holds():
            return True
        time.sleep(0.02)
    return holds()


def events(text: str) -> list[str]:
    """The data of server-sent events."""
    return [line[len("data: ") :] for line in text.splitlines() if line.startswith("data: ")]


def read_log(serving: Serving) -> str:
    """Everything Triton and the gateway wrote."""
    assert isinstance(serving.log, Path)
    return serving.log.read_text(errors="replace")
