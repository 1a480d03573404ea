"""The GPU targets on a stand-in for NVIDIA's image: from a checkpoint to completions, and how each rank is started."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from build_engine.exit_codes import ExitCode
from tests.images.bases import PYTHON, ROOT, TRITON
from tests.images.conftest import WITH_ENGINE
from tests.images.layers import found_in_layers
from tests.images.podman import HARDENED, Container, Podman, PodmanError, say
from tests.images.service import complete_over_grpc, complete_over_http, get, wait_ready
from tests.standin.hub import Hub
from tests.standin.machine import L4
from tests.test_sbom import check

ONE_GPU = "qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"
TWO_GPUS = "qwen2.5-coder-32b-instruct-h100-fp8-tp2-w15n15g15"
PROMPT = "def add(first, second):"
CACHE, ARTIFACT = "/opt/nim/.cache", "/opt/nimble-coder/artifact"


@dataclass(frozen=True)
class Built:
    """An engine in a cache, made by the target `build`."""

    profile: str
    cache: Path
    artifact: str
    """As containers see it."""

    @property
    def options(self) -> list[str]:
        record = f"--env=STANDIN_RECORD={CACHE}/calls.jsonl"
        return [*HARDENED, f"--volume={self.cache}:{CACHE}", record]

    def calls(self, command: str) -> list[dict[str, object]]:
        """What a stand-in was asked, in order."""
        lines = (self.cache / "calls.jsonl").read_text().splitlines()
        return [call for call in map(json.loads, lines) if call["command"] == command]


@pytest.fixture(scope="module", params=[ONE_GPU, TWO_GPUS], ids=["TP1", "TP2"])
def built(
    request: pytest.FixtureRequest,
    podman: Podman,
    build_image: str,
    checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Built:
    """`podman run ... build-engine` with the cache and a checkpoint mounted, as an ordinary user without a network."""
    cache = tmp_path_factory.mktemp("cache")
    cache.chmod(0o2775)
    before = Built(request.param, cache, "")
    say(f"building and verifying {request.param} in a container")
    options = [*before.options, f"--volume={checkpoint}:/checkpoint:ro"]
    done = podman.once(build_image, "build-engine", "-p", request.param, "--from", "/checkpoint", options=options)
    assert done.returncode == 0, done.stderr
    return Built(request.param, cache, done.stdout.strip())


@pytest.fixture(scope="module")
def served(podman: Podman, runtime_image: str, built: Built) -> Iterator[Container]:
    with podman.start(runtime_image, "serve", f"--model-profile={built.profile}", options=built.options) as container:
        wait_ready(container)
        yield container


@pytest.mark.parametrize(
    ("base", "message"),
    [
        (f"{TRITON}:25.06-trtllm-python-py3", r"25\.06.*crashes while decoding with lookahead"),
        (PYTHON, "has no tensorrt_llm and no torch"),
    ],
    ids=["TensorRT-LLM 0.20", "no TensorRT-LLM"],
)
def test_a_base_that_cannot_work_is_refused(
    podman: Podman, context: Path, build_image: str, triton_base: str, base: str, message: str
) -> None:
    if base != PYTHON:
        podman.run("tag", triton_base, base)
    with pytest.raises(PodmanError, match=message):
        podman.build(context, "localhost/refused", "--target=build", f"--build-arg=BASE_IMAGE={base}")


def test_what_nvidia_installed_is_kept_and_ours_fits_it(podman: Podman, build_image: str) -> None:
    """That every module imports there is a condition of the build (requirements/lacking.py)."""
    names = ("torch", "tensorrt_llm", "transformers", "numpy", "grpcio", "protobuf", "tritonclient")
    program = (
        "import json; from importlib.metadata import distribution as d; "
        f"print(json.dumps([(d(n).version.partition('+')[0], str(d(n).locate_file(''))) for n in {names}]))"
    )
    done = podman.once(build_image, "-c", program, options=[*HARDENED, "--entrypoint=python3"])
    theirs = "/usr/local/lib/python3.12/site-packages"
    versions = ("2.7.0", "0.19.0", "4.51.0", "1.26.4", "1.71.0", "5.29.4", "2.58.0")
    places = [*[theirs] * 6, "/opt/nimble-coder/venv/lib/python3.12/site-packages"]
    assert json.loads(done.stdout) == [list(each) for each in zip(versions, places, strict=True)], done.stderr


def test_runtime_is_the_default_target(podman: Podman, runtime_image: str) -> None:
    image = podman.config(runtime_image)
    config = image["Config"]
    assert (config["Entrypoint"], config["Cmd"], config["User"]) == (["nimble-coder"], ["serve"], "1000:0")
    assert (config["StopSignal"], image["Healthcheck"]["Test"]) == ("SIGTERM", ["CMD", "nimble-coder", "health"])
    assert sorted(config["ExposedPorts"]) == ["8000/tcp", "8001/tcp", "8002/tcp"]


def test_weights_of_another_user_are_named(podman: Podman, build_image: str, checkpoint: Path, tmp_path: Path) -> None:
    private = shutil.copytree(checkpoint, tmp_path / "private")
    (private / "model.safetensors").chmod(0o600)
    tmp_path.chmod(0o755)
    options = [*HARDENED, f"--volume={private}:/checkpoint:ro"]
    done = podman.once(build_image, "build-engine", "-p", ONE_GPU, "--from", "/checkpoint", options=options)
    assert done.returncode == ExitCode.CHECKPOINT
    assert "model.safetensors may not be read by user 1000" in done.stderr


def test_the_engine_is_compiled_with_lookahead_and_verified(built: Built) -> None:
    (call,) = built.calls("trtllm-build")
    draft_tokens = 111 if built.profile == ONE_GPU else 419
    assert (call["speculative_decoding_mode"], call["max_draft_len"]) == ("lookahead_decoding", draft_tokens)
    manifest = json.loads((built.cache / Path(built.artifact).relative_to(CACHE) / "manifest.json").read_text())
    assert manifest["verification"]["status"] == "passed"


def test_the_command_of_the_gpu_checklist_asks_the_machine(podman: Podman, runtime_image: str) -> None:
    """As the page writes it, but for the GPUs, the volume and the engines, which only a real one has."""
    page = (ROOT / "docs" / "gpu-checklist.md").read_text()
    command = page.partition("docker run ")[2].partition(" >")[0].replace("\\\n", " ").split()
    image = command.index("nimble-coder")
    options = [
        each for each in command[:image] if each not in ("--rm", "--gpus", "all", "--volume") and ":" not in each
    ]
    done = podman.once(runtime_image, *command[image + 1 :], "--interfaces-only", options=options)
    assert done.returncode == 1, done.stderr  # the stand-ins have neither NVIDIA's template nor its library
    assert "## version: as expected" in done.stdout, done.stderr
    assert "## flags: as expected" in done.stdout
    assert "H100" in done.stdout


def test_it_completes_over_grpc_and_http(served: Container) -> None:
    assert complete_over_http(served, PROMPT, 24) == complete_over_grpc(served, PROMPT, 24) != ""
    assert "nimble_" in get(f"http://{served.address}:8002/metrics")[1]


def test_each_rank_is_started_as_nvidia_starts_it(served: Container, built: Built) -> None:
    command = built.calls("tritonserver")[-1]["arguments"]
    assert isinstance(command, list)
    assert f"--model-repository={built.artifact}/model_repository" in command
    assert "--http-address=127.0.0.1" in command
    if built.profile == ONE_GPU:
        assert not (built.cache / "calls.jsonl").read_text().count('"mpirun"')
        return
    ranks = built.calls("mpirun")[-1]["ranks"]
    assert isinstance(ranks, list)
    first, second = ranks
    assert first[0] == second[0] == "/opt/tritonserver/bin/tritonserver"
    assert first[1:] == command
    assert second[-2:] == ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
    regions = [part for rank in ranks for part in rank if "shm-region-prefix-name" in part]
    assert len(set(regions)) == 2


def test_another_gpu_than_the_engines_is_named(podman: Podman, runtime_image: str, built: Built) -> None:
    options = [*built.options, f"--env=STANDIN_GPUS={json.dumps([L4, L4])}"]
    done = podman.once(runtime_image, "serve", built.artifact, options=options)
    assert done.returncode == ExitCode.MACHINE
    assert "H100" in done.stderr.upper().rstrip().rpartition("\n")[2]


def test_an_image_with_its_engine_needs_neither_hub_nor_cache(
    podman: Podman, context: Path, runtime_image: str, checkpoint: Path, token: str
) -> None:
    """The engine is compiled while the image is built, from a private model whose token is a build secret."""
    for cache in list(podman.work.glob("tmp/buildah-cache*/**/huggingface")):  # an earlier session's, of another model
        shutil.rmtree(cache.parent)
    secret = podman.work / "token"
    secret.write_text(token)
    with Hub("Qwen/Qwen2.5-Coder-7B-Instruct", checkpoint, token=token) as hub:
        podman.build(
            context,
            WITH_ENGINE,
            "--target=runtime-with-engine",
            f"--build-arg=PROFILE={ONE_GPU}",
            f"--build-arg=HF_ENDPOINT={hub.url}",
            f"--secret=id=hf_token,src={secret}",
        )
    assert found_in_layers(podman, WITH_ENGINE, "class CompletionClient")
    assert found_in_layers(podman, WITH_ENGINE, token) == []
    assert token not in podman.run("history", "--no-trunc", WITH_ENGINE)
    listed = json.loads(podman.run("run", "--rm", "--entrypoint=cat", WITH_ENGINE, "/opt/nimble-coder/sbom.spdx.json"))
    ours = [each for each in listed["packages"] if each["name"] != "tensorrt_llm"]  # the stand-in names no licence
    check({**listed, "packages": ours})
    (weights,) = [each for each in ours if each["name"] == "Qwen/Qwen2.5-Coder-7B-Instruct"]
    assert weights["licenseDeclared"] == "Apache-2.0"
    with podman.start(WITH_ENGINE) as container:
        wait_ready(container)
        assert ARTIFACT in container.log
        assert complete_over_http(container, PROMPT, 24) != ""


def test_an_engine_from_elsewhere_is_put_into_an_image(
    podman: Podman, build_image: str, runtime_image: str, checkpoint: Path, tmp_path: Path
) -> None:
    """The three lines of docs/container.md, for builders without a GPU."""
    tmp_path.chmod(0o2775)
    options = [*HARDENED, f"--volume={checkpoint}:/checkpoint:ro", f"--volume={tmp_path}:/store"]
    arguments = ["-p", ONE_GPU, "--from", "/checkpoint", "-m", "/store/artifact", "--mounted-at", ARTIFACT]
    options.append(f"--tmpfs={CACHE}:mode=1777")
    done = podman.once(build_image, "create-model-store", *arguments, options=options)
    assert done.returncode == 0, done.stderr
    lines = [f"FROM {runtime_image}", f"COPY artifact {ARTIFACT}", f"ENV NIMBLE_BAKED_ARTIFACT={ARTIFACT}"]
    (tmp_path / "Dockerfile").write_text("\n".join([*lines, ""]))
    podman.build(tmp_path, "localhost/nimble-coder:from-elsewhere")
    with podman.start("localhost/nimble-coder:from-elsewhere") as container:
        wait_ready(container)
        assert complete_over_http(container, PROMPT, 24) != ""
