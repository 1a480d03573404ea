"""The image of the portable engine on GPUs, as far as a machine without one can tell.

With NIMBLE_CUDA_IMAGE=whole it is the image that is released; otherwise it has PyTorch's CPU build.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from build_engine.exit_codes import ExitCode
from tests.images.bases import HAS_CUDA, ROOT
from tests.images.podman import HARDENED, Podman, say
from tests.images.service import complete_over_grpc, complete_over_http, wait_ready
from tests.standin.machine import B200, L4, T4

CACHE, DRIVER = "/opt/nim/.cache", "/usr/local/nvidia"
MEGABYTE = 10**6


def with_gpus(*gpus: Sequence[object], driver: str = "580.65.06") -> list[str]:
    """Options of a container that sees such GPUs, by a stand-in for nvidia-smi where GKE mounts NVIDIA's."""
    smi = ROOT / "tests/standin/bin/nvidia-smi"
    seen = [f"--env=STANDIN_GPUS={json.dumps(gpus)}", f"--env=STANDIN_DRIVER={driver}"]
    return [*HARDENED, f"--volume={smi}:{DRIVER}/bin/nvidia-smi:ro", *seen]


def test_it_says_how_it_is_run_and_asks_for_the_gpus(podman: Podman, cuda_image: str) -> None:
    config = podman.config(cuda_image)["Config"]
    assert (config["User"], config["Entrypoint"], config["Cmd"]) == ("1000:0", ["nimble-coder"], ["serve"])
    assert sorted(config["ExposedPorts"]) == ["8000/tcp", "8001/tcp", "8002/tcp"]
    assert podman.config(cuda_image)["Healthcheck"]["StartPeriod"] == 3600 * 10**9
    environment = dict(each.split("=", 1) for each in config["Env"])
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"
    assert environment["TRITON_CACHE_DIR"].startswith(environment["NIM_CACHE_PATH"])


def test_without_a_gpu_it_ends_at_once_and_says_what_to_do(podman: Podman, cuda_image: str) -> None:
    done = podman.once(cuda_image)
    assert done.returncode == ExitCode.MACHINE, done.stderr
    assert "--gpus all" in done.stderr.rstrip().rpartition("\n")[2]
    assert "[build]" not in done.stderr


@pytest.mark.parametrize(
    ("gpus", "profile"),
    [
        ([B200], "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"),
        ([L4], "qwen2.5-coder-7b-instruct-torch-cuda-bf16-w15n15g15"),
        (
            [T4, ["NVIDIA GeForce RTX 3060", "8.6", 12288, 11900]],
            "qwen2.5-coder-1.5b-instruct-torch-cuda-bf16-w15n15g15",
        ),
    ],
)
def test_it_takes_the_portable_engine_on_any_card(
    podman: Podman, cuda_image: str, gpus: list[list[object]], profile: str
) -> None:
    done = podman.once(cuda_image, "serve", "--dry-run", options=with_gpus(*gpus))
    assert done.returncode == 0, done.stderr
    assert f"engine: {profile} (the best profile here)" in done.stdout


def test_an_old_driver_is_refused_before_anything_is_downloaded(podman: Podman, cuda_image: str) -> None:
    done = podman.once(cuda_image, options=with_gpus(L4, driver="570.124.06"))
    assert done.returncode == ExitCode.MACHINE
    assert "install 580 or later" in done.stderr.rstrip().rpartition("\n")[2]


def test_kernels_compile_and_what_starts_them_does_and_both_are_kept(
    podman: Podman, cuda_image: str, tmp_path: Path
) -> None:
    cache, driver = tmp_path / "cache", tmp_path / "lib64"
    for place in (cache, driver):
        place.mkdir()
        place.chmod(0o2777)
    options = [*with_gpus(L4), f"--volume={cache}:{CACHE}", f"--volume={driver}:{DRIVER}/lib64"]
    script = f"--volume={ROOT / 'tests/images/kernels.py'}:/kernels.py:ro"
    done = podman.once(cuda_image, "/kernels.py", f"{DRIVER}/lib64", options=[*options, script, "--entrypoint=python3"])
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["80", "90", "120"]
    kept = [path.name for path in cache.rglob("kernels/*/*")]
    assert {"choose.cubin", "cuda_utils.cpython-311-x86_64-linux-gnu.so"} <= set(kept)
    found = podman.once(cuda_image, "doctor", "--format", "json", options=options)
    findings = {each["check"]: each for each in json.loads(found.stdout)}
    assert {name for name, each in findings.items() if each["verdict"] == "wrong"} == (
        set() if HAS_CUDA else {"kernels"}
    )
    if HAS_CUDA:
        assert findings["kernels"]["seen"].endswith(f"{CACHE}/kernels")
    else:
        assert findings["kernels"]["seen"].startswith("missing: PyTorch's CUDA build (")
        assert "," not in findings["kernels"]["seen"]


def test_it_serves_on_the_cpu_where_that_is_asked_for(podman: Podman, cuda_image: str, tmp_path: Path) -> None:
    tmp_path.chmod(0o2775)
    asked = ["--env=NIMBLE_ENGINE_DEVICE=cpu", "--env=NIM_MODEL_PROFILE=demo", f"--volume={tmp_path}:{CACHE}"]
    with podman.start(cuda_image, options=[*HARDENED, *asked]) as container:
        wait_ready(container, 300)
        text = complete_over_http(container, "def add(a, b):", 16)
        assert len(text) > 10
        assert complete_over_grpc(container, "def add(a, b):", 16) == text


@pytest.mark.skipif(not HAS_CUDA, reason="NIMBLE_CUDA_IMAGE=whole builds it with PyTorch's CUDA build")
def test_the_whole_image_has_pytorch_with_cuda(podman: Podman, cuda_image: str) -> None:
    say(f"runtime-cuda: {podman.config(cuda_image)['Size'] / MEGABYTE:.0f} MB")
    asked = "import torch; print(torch.__version__, torch.version.cuda, torch.backends.cuda.is_built())"
    done = podman.once(cuda_image, "-c", asked, options=[*HARDENED, "--entrypoint=python3"])
    assert done.stdout.split() == ["2.11.0+cu130", "13.0", "True"], done.stderr
