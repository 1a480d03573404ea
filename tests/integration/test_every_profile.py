"""Every profile, from checkpoint to a model that a real Triton has loaded and that answers.

One Triton for each backend; the profiles take turns in it. Of profiles that differ by nothing but their model one is
taken, since all are built of the same tiny checkpoint. The text models, which differ by paths only, are loaded in
test_build_to_serving.py.
"""

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from tritonclient import grpc
from tritonclient.utils import InferenceServerException

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.engine_config import EngineConfig
from build_engine.lookahead import PLAIN
from build_engine.profiles import PROFILES, Profile
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.processes import triton_installation as installation
from nimble_coder.processes.triton import Addresses, TritonServer
from tests.contract.test_contract import SUBSTITUTED
from tests.standin.machine import GPUS, STANDIN, Machine

CONTRACT = json.loads((Path(__file__).parents[1] / "contract" / "triton_contract_v0.19.0.json").read_text())
ENGINE = CONTRACT["models"]["tensorrt_llm"]
PLAINLY = PROFILES["demo"].with_limits(lookahead=PLAIN)
DISTINCT = {replace(profile, name="", model=""): profile for profile in (*PROFILES.values(), PLAINLY)}.values()


SECONDS = 60.0
"""For a load or an unload: a Triton that crashed may stand still in its own handler."""


class Stage(TritonServer):
    """A Triton that starts empty and loads what it is told to."""

    def _arguments(self, backends: Path) -> list[str]:
        return [*super()._arguments(backends), "--model-control-mode=explicit"]


@dataclass
class Loader:
    """Loads engines in turn under the one name that they all have."""

    repository: Path
    url: str
    client: grpc.InferenceServerClient

    @contextmanager
    def loaded(self, artifact: Artifact) -> Iterator[None]:
        """The artefact's engine model, loaded while the block runs."""
        place = self.repository / "tensorrt_llm"
        shutil.copytree(artifact.repository / "tensorrt_llm", place)
        try:
            self.client.load_model("tensorrt_llm", client_timeout=SECONDS)
            yield
        finally:
            self.client.unload_model("tensorrt_llm", client_timeout=SECONDS)
            self._wait_unloaded()
            shutil.rmtree(place)

    def _wait_unloaded(self) -> None:
        """Triton 2.51 answers before the model has gone. The next one of its name would share its metrics, which go
        with it, and Triton crashes."""
        deadline = time.monotonic() + SECONDS
        while self.client.get_model_repository_index(client_timeout=SECONDS).models[0].reason != "unloaded":
            assert time.monotonic() < deadline, "Triton does not unload the model"
            time.sleep(0.05)


@contextmanager
def running(place: Path, backends: Path) -> Iterator[Loader]:
    (place / "repository").mkdir()
    triton = Stage(place / "repository", Addresses.free(), place / "triton.log")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(installation, "BACKENDS", backends)
        triton.start()
    try:
        with grpc.InferenceServerClient(triton.addresses.grpc) as client:
            deadline = time.monotonic() + 120
            while not is_live(client):
                assert time.monotonic() < deadline, "tritonserver does not start"
                time.sleep(0.1)
            yield Loader(place / "repository", triton.addresses.grpc, client)
    finally:
        triton.stop(grace=0.0)


def is_live(client: grpc.InferenceServerClient) -> bool:
    try:
        return bool(client.is_server_live())
    except InferenceServerException:
        return False


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """Triton with the stand-in for the C++ backend, which checks at load what that one checks."""
    with running(tmp_path_factory.mktemp("compiled"), STANDIN / "backends") as loader:
        yield loader


@pytest.fixture(scope="module")
def portable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loader]:
    """Triton with the portable backend."""
    with running(tmp_path_factory.mktemp("portable"), installation.BACKENDS) as loader:
        yield loader


def served_type(kind: str) -> str:
    """A type of the contract in the words of KServe."""
    return SUBSTITUTED.get(kind, kind).removeprefix("TYPE_").replace("STRING", "BYTES")


def check_loaded(loader: Loader, profile: Profile) -> None:
    """What Triton says of the loaded model is the contract with the profile's numbers, and the model answers."""
    assert loader.client.is_model_ready("tensorrt_llm")
    metadata = loader.client.get_model_metadata("tensorrt_llm")
    for found, expected in ((metadata.inputs, ENGINE["inputs"]), (metadata.outputs, ENGINE["outputs"])):
        assert [(tensor.name, tensor.datatype, list(tensor.shape)) for tensor in found] == [
            (name, served_type(kind), [-1, *dims]) for name, kind, dims, *_ in expected
        ]
    config = loader.client.get_model_config("tensorrt_llm").config
    assert config.max_batch_size == profile.max_batch_size
    assert config.dynamic_batching.default_queue_policy.max_queue_size == profile.max_queue_size
    with CompletionClient(loader.url) as client:
        assert len(client.stream_tokens(list(range(20)), 3).finish().token_ids) == 3


@pytest.mark.parametrize("profile", [p for p in DISTINCT if not p.is_portable], ids=lambda profile: profile.name)
def test_every_compiled_profile_is_built_and_loaded(
    profile: Profile, machine: Machine, tiny_checkpoint: Path, compiled: Loader
) -> None:
    machine.gpus(*[GPUS[profile.gpu]] * profile.tensor_parallel)
    machine.tensorrt_llm("0.19.0")
    artifact = build(profile, tiny_checkpoint, Cache(machine.cache), lambda _: None)
    with compiled.loaded(artifact):
        check_loaded(compiled, profile)
    found = EngineConfig.read(artifact.engine)
    assert found.max_draft_len == profile.lookahead.max_draft_tokens
    assert (found.max_seq_len, found.max_batch_size) == (profile.max_seq_len, profile.max_batch_size)
    assert found.quant_algo == ("FP8" if profile.precision == "fp8" else None)
    assert len(list(artifact.engine.glob("rank*.engine"))) == found.tensor_parallel == profile.tensor_parallel
    assert not (artifact.directory / "work").exists()


@pytest.mark.parametrize("profile", [p for p in DISTINCT if p.is_portable], ids=lambda profile: profile.name)
def test_every_portable_profile_is_built_and_loaded(
    profile: Profile, machine: Machine, tiny_checkpoint: Path, portable: Loader
) -> None:
    artifact = build(profile, tiny_checkpoint, Cache(machine.cache), lambda _: None)
    with portable.loaded(artifact):
        check_loaded(portable, profile)
