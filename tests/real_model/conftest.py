"""The real model: its checkpoint, an engine of it, and the service, each made once a session."""

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.hardware import Hardware
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import Profile
from build_engine.selection import profile_of
from nimble_coder.engine.cores import Cores
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.gateway.prompts.chat import ChatPrompts
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer

WIDEST = LookaheadConfig(4, 5, 4)
"""What the engine is built for; a request that names none gets the policy's (w,n,g) as everywhere."""


@pytest.fixture(scope="session", autouse=True)
def all_cores() -> None:
    """These tests run one after the other, so `transformers` and the reference may have what the machine has."""
    torch.set_num_threads(Cores.here().usable)


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """A checkpoint of Qwen2.5-Coder-Instruct in a directory."""
    return Checkpoint.open(Path(os.environ["NIMBLE_REAL_MODEL"]))


@pytest.fixture(scope="session")
def profile(checkpoint: Checkpoint) -> Profile:
    """The portable engine's, long enough for an agent's prompt, and no larger than a small machine bears."""
    profile = profile_of(checkpoint, Hardware((), None))
    return profile.with_limits(lookahead=WIDEST, max_batch_size=4, max_input_len=16384, max_seq_len=17408)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def artifact(checkpoint: Checkpoint, profile: Profile, cache: Cache) -> Artifact:
    """In bf16, as it is served."""
    return build(profile, checkpoint.directory, cache, print)


@pytest.fixture(scope="module")
def engine(artifact: Artifact) -> Iterator[TorchEngine]:
    """The engine alone; it ends with its module, so that the service has the cores for itself."""
    engine = TorchEngine(artifact.engine, WIDEST, TorchEngineOptions(device="cpu"))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="session")
def encoder(tokenizer: TextTokenizer) -> PromptEncoder:
    return PromptEncoder(tokenizer)


@pytest.fixture(scope="session")
def tokenizer(artifact: Artifact) -> TextTokenizer:
    return TextTokenizer(artifact.tokenizer)


@pytest.fixture(scope="session")
def chats(encoder: PromptEncoder, artifact: Artifact) -> ChatPrompts:
    return ChatPrompts(encoder, artifact.tokenizer)


@pytest.fixture(scope="session")
def http(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """The whole service, and a client of it."""
    log = tmp_path_factory.mktemp("serving") / "serving.log"
    with Serving(artifact.directory, Addresses.free(), log=log) as serving:
        serving.wait_ready(300)
        with httpx.Client(base_url=serving.addresses.http, timeout=900) as client:
            yield client
