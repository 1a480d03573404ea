"""A gateway over a real Triton with the embedded model, shared by the tests of this folder."""

import re
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from build_engine.build import Artifact
from nimble_coder.gateway.encoding import PromptEncoder
from nimble_coder.serving import Serving
from nimble_coder.text.tokenizer import TextTokenizer
from nimble_coder.triton.server import Addresses

StartServing = Callable[..., Serving]


@pytest.fixture(scope="session")
def gateway(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """The service on free ports, open and without limits of its own."""
    log = tmp_path_factory.mktemp("serving") / "serving.log"
    with Serving(artifact.directory, Addresses.free(), log=log) as serving:
        serving.wait_ready()
        yield serving


@pytest.fixture
def http(gateway: Serving) -> Iterator[httpx.Client]:
    """Requests to the gateway."""
    with httpx.Client(base_url=gateway.addresses.http, timeout=60) as client:
        yield client


@pytest.fixture
def openai(gateway: Serving) -> Iterator[OpenAI]:
    """The OpenAI SDK, pointed at the gateway."""
    with OpenAI(base_url=f"{gateway.addresses.http}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="session")
def tokenizer(artifact: Artifact) -> TextTokenizer:
    return TextTokenizer(artifact.tokenizer)


@pytest.fixture(scope="session")
def encoder(artifact: Artifact) -> PromptEncoder:
    return PromptEncoder(artifact.tokenizer)


def active_requests(serving: Serving) -> float:
    """Requests that hold a slot of the engine, as the engine itself reports."""
    with urllib.request.urlopen(serving.triton.addresses.metrics, timeout=5) as answer:
        page = answer.read().decode()
    found = re.search(r'nv_trt_llm_request_metrics\{[^}]*request_type="active"[^}]*\} (\S+)', page)
    assert found, "the engine reports no active requests"
    return float(found[1])


def wait_until(holds: Callable[[], bool], seconds: float = 5.0) -> bool:
    """Whether it holds within so many seconds."""
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
    assert serving.log is not None
    return Path(serving.log).read_text(errors="replace")
