"""From a profile to a served engine through a real Triton, with stand-ins for TensorRT-LLM and the C++ backend."""

import shutil
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from build_engine import verify
from build_engine.artifact import Artifact
from build_engine.build import BuildOptions, build
from build_engine.cache import Cache
from build_engine.lookahead import PLAIN
from build_engine.profiles import PROFILES, Profile
from build_engine.store import create_store
from build_engine.verify import VerificationError
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.processes import triton_installation as installation
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.gateway import GatewayProcesses
from nimble_coder.processes.triton import Addresses
from nimble_coder.processes.verification import verify_served
from tests.conftest import EMBEDDED, running_triton
from tests.standin.machine import STANDIN, Machine, write_tiny_checkpoint

SEVEN = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
THIRTY_TWO = PROFILES["qwen2.5-coder-32b-instruct-h100-fp8-tp2-w15n15g15"]

Build = Callable[..., Artifact]


@pytest.fixture
def make(h100: Machine, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    """Builds a profile and verifies it behind the stand-in for the C++ backend, which checks what that one checks."""
    monkeypatch.setattr(installation, "BACKENDS", STANDIN / "backends")

    def run(
        profile: Profile,
        options: BuildOptions | None = None,
        verified: bool = True,
        checkpoint: Path = tiny_checkpoint,
    ) -> Artifact:
        verifier = verify_served if verified else None
        return build(profile, checkpoint, Cache(h100.cache), lambda _: None, options=options, verifier=verifier)

    return run


@pytest.mark.parametrize("profile", [SEVEN, THIRTY_TWO], ids=["TP1", "TP2 fp8"])
def test_a_compiled_engine_is_verified_before_it_is_published(make: Build, profile: Profile) -> None:
    record = make(profile, BuildOptions(companion=profile is SEVEN)).manifest.verification
    assert record is not None
    assert (record["status"], record["requests"], record["identical"]) == ("passed", 8, 8)
    assert record["tokens"] == 1600
    assert (record["agreement"], record["loss"]) == (1, 0)
    assert record["alone"]["speed_up"] > 1
    assert record["alone"]["tokens_per_step"] > 2


def test_the_plain_engine_that_a_refusal_offers_is_built_and_verified(make: Build) -> None:
    record = make(SEVEN.with_limits(lookahead=PLAIN)).manifest.verification
    assert record is not None
    assert (record["requests"], record["identical"], record["alone"]["tokens_per_step"]) == (8, 8, 1.0)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("slow", "slower than plain decoding"),
        ("wrong", "generates other tokens"),
        ("crash", "Encountered an error in forwardAsync"),
    ],
)
def test_an_engine_that_fails_verification_is_not_published(
    make: Build, h100: Machine, monkeypatch: pytest.MonkeyPatch, fault: str, message: str
) -> None:
    h100.set(STANDIN_ENGINE=fault)
    if fault == "slow":
        monkeypatch.setattr(verify, "TOKENS", verify.COMPARED)  # fewer show it as well, and every way takes its time
    with pytest.raises(VerificationError, match=message):
        make(SEVEN)
    assert h100.artifacts == h100.leftovers == []


def test_a_store_is_served_from_where_it_is(make: Build, tmp_path: Path) -> None:
    repository = create_store(make(THIRTY_TWO, verified=False), tmp_path / "store")
    with (
        running_triton(repository, tmp_path / "triton.log") as running,
        CompletionClient(running.addresses.grpc) as client,
    ):
        assert len(client.stream_tokens([1, 2, 3], 10).finish().token_ids) == 10


def test_the_gateway_says_that_a_compiled_lookahead_engine_decodes_greedily(make: Build, tmp_path: Path) -> None:
    checkpoint = write_tiny_checkpoint(tmp_path / "coder", vocab_size=4096)
    for file in ("tokenizer.json", "tokenizer_config.json"):  # the gateway wants Qwen2.5-Coder's control tokens
        shutil.copyfile(EMBEDDED / file, checkpoint / file)
    artifact = make(SEVEN, checkpoint=checkpoint, verified=False)
    asked = {"prompt": "import os\nimport sys\nimport re\n", "max_tokens": 4, "temperature": 0.7, "top_p": 0.9}
    with running_triton(artifact.repository, tmp_path / "triton.log") as running:
        for strict, status in (("false", 200), ("true", 400)):
            settings = {"NIMBLE_STRICT_SAMPLING": strict}
            gateways = GatewayProcesses(
                artifact.directory, running.addresses, Addresses.free(), log=tmp_path / "log", settings=settings
            )
            with gateways as g:
                g.wait_ready()
                answer = httpx.post(f"{g.addresses.http}/v1/completions", json=asked)
                greedy = httpx.post(f"{g.addresses.http}/v1/completions", json={**asked, "temperature": 0})
            assert answer.status_code == status
            assert (greedy.status_code, greedy.headers["x-nimble-decoding"]) == (200, "greedy")
            if status == 200:
                assert answer.headers["x-nimble-decoding"] == "greedy"
                assert answer.json()["choices"][0]["text"] == greedy.json()["choices"][0]["text"]
            else:
                assert answer.json()["error"]["code"] == "greedy_only"


def test_a_repository_whose_lookahead_does_not_fit_the_engine_does_not_load(make: Build, tmp_path: Path) -> None:
    """The stand-in backend is only worth something if it refuses what the C++ backend refuses."""
    repository = create_store(make(SEVEN, verified=False), tmp_path / "store")
    config = repository / "tensorrt_llm" / "config.pbtxt"
    text = config.read_text()
    given, other = (f'"lookahead_ngram_size" value: {{ string_value: "{n}" }}' for n in (8, 7))
    assert given in text
    config.write_text(text.replace(given, other))
    with pytest.raises(TritonError), running_triton(repository, tmp_path / "triton.log"):
        pass
    assert "96 != 112" in (tmp_path / "triton.log").read_text()


def test_the_portable_engine_is_verified_in_the_same_way(h100: Machine, tiny_checkpoint: Path) -> None:
    profile = PROFILES["demo"].with_limits(max_batch_size=8, max_seq_len=1024, max_input_len=512)
    artifact = build(profile, tiny_checkpoint, Cache(h100.cache), lambda _: None, verifier=verify_served)
    record = artifact.manifest.verification
    assert record is not None
    assert (record["identical"], record["near_ties"]) == (8, 0)
    assert record["status"] in ("passed", "slower")  # by the machine's mood: random weights accept few drafts
