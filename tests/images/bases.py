"""The base images, made here because no registry is needed for a test: Debian with Python, and NVIDIA's stand-in."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from build_engine.versions import CONTAINER
from tests.images.podman import Podman, say

ROOT = Path(__file__).parents[2]
PYTHON = "docker.io/library/python:3.11-slim-bookworm"
TRITON = "nvcr.io/nvidia/tritonserver"
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
PACKAGES = "ca-certificates,netbase,tzdata,python3,python3-venv,python3-pip,libpython3.11"
HEADERS = "libpython3.11-dev"
"""Whose headers the official image has, without what they come with."""
TAKE_HEADERS = f"""cd /tmp
apt-get download {HEADERS}
dpkg-deb --extract {HEADERS}_*.deb extracted
cp --recursive extracted/usr/include /usr/
rm --recursive extracted {HEADERS}_*.deb
"""
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SOURCES = ("Dockerfile", ".dockerignore", "pyproject.toml", "hatch_build.py", "README.md", "LICENSE")
CPU, CUDA = "localhost/nimble-coder:runtime-cpu", "localhost/nimble-coder:runtime-cuda"
SMALL_LOCK = "cuda-small.txt"
"""Has PyTorch's CPU build, and beside it what the kernels are compiled with: 2 GB less to download and 5 to store."""
IN_SMALL_LOCK = ("triton", "nvidia-cuda-runtime")
HAS_CUDA = os.environ.get("NIMBLE_CUDA_IMAGE") == "whole"
"""Whether `runtime-cuda` is built as it is released."""
FOLDERS = ("requirements", "build_engine", "nimble_coder", "model_repository", "backends")


@contextmanager
def shared_podman(token: str) -> Iterator[Podman]:
    """Podman in the directory that NIMBLE_IMAGES_WORK names; `token` is in everything secret that builds are given."""
    work = Path(os.environ.get("NIMBLE_IMAGES_WORK", "~/.cache/nimble-coder-images")).expanduser().absolute()
    work.mkdir(parents=True, exist_ok=True)
    say(f"images and logs are kept in {work}")
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two sessions would remove each other's containers
        engine = Podman(work)
        engine.build_options = build_options(engine, token)
        yield engine
        engine.remove_containers()
        engine.run("network", "rm", "--force", "internal")


def make_context(podman: Podman) -> Path:
    """What the images are made of, copied from the working tree."""
    place = podman.work / "context"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for name in SOURCES:
        shutil.copy2(ROOT / name, place)
    # The bases that are made here have the names, and not the digests that scripts/lock writes.
    dockerfile = place / "Dockerfile"
    dockerfile.write_text(re.sub(r"@sha256:[0-9a-f]{64}$", "", dockerfile.read_text(), flags=re.MULTILINE))
    for name in FOLDERS:
        shutil.copytree(ROOT / name, place / name, ignore=shutil.ignore_patterns("__pycache__"))
    (place / "requirements" / SMALL_LOCK).write_text(small_lock(podman))
    return place


def small_lock(podman: Podman) -> str:
    """What `runtime-cuda` is locked to here unless all of it is asked for."""
    serve, cuda = ((ROOT / "requirements" / name).read_text() for name in ("serve.txt", "cuda.txt"))
    entries = re.split(r"\n(?=[a-z0-9])", cuda.rstrip())
    added = [entry for entry in entries if entry.split("==")[0] in IN_SMALL_LOCK]
    index = "" if any("TORCH_INDEX" in each for each in podman.build_options) else f"--extra-index-url {CPU_TORCH}\n"
    return index + serve + "\n".join([*added, ""])


def make_cpu_image(podman: Podman, context: Path) -> str:
    """The target that needs no GPU."""
    make_python_base(podman)
    say("building runtime-cpu (two minutes the first time)")
    podman.build(context, CPU, "--target=runtime-cpu")
    return CPU


def make_cuda_image(podman: Podman, context: Path) -> str:
    """The portable engine's for GPUs, with PyTorch's CUDA build or with `SMALL_LOCK`."""
    make_python_base(podman)
    say("building runtime-cuda" + (" with PyTorch's CUDA build (3 GB to download)" if HAS_CUDA else ""))
    podman.build(context, CUDA, "--target=runtime-cuda", *([] if HAS_CUDA else [f"--build-arg=CUDA_LOCK={SMALL_LOCK}"]))
    return CUDA


def debian_mirror() -> str:
    """The mirror that this machine's own apt uses."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(CODENAME)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    mirrors = [line.split()[0] for line in listed.splitlines() if line.endswith(" bookworm") and "debian" in line]
    return mirrors[0] if mirrors else "http://deb.debian.org/debian"


def make_python_base(podman: Podman) -> None:
    """Debian 12 with its Python 3.11 and that one's headers, under the name of the official Python image."""
    recipe = f"{PACKAGES} {HEADERS}"
    if podman.exists(PYTHON):
        if (podman.config(PYTHON)["Labels"] or {}).get("recipe") == recipe:
            return
        podman.call("rmi", "--all", "--force")  # gigabytes that were built on the old one
    say("making the Debian base image (half a minute)")
    root = podman.work / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    log = podman.work / "logs" / "debootstrap.log"
    with log.open("w") as output:
        for command in (
            ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root), debian_mirror()],
            ["chroot", str(root), "sh", "-ec", TAKE_HEADERS],
        ):
            if subprocess.run(command, stdout=output, stderr=output, check=False).returncode:
                raise RuntimeError(f"{command[0]} failed:\n{log.read_text()[-2000:]}")
    for leftover in [*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*")]:
        shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
        subprocess.run(
            podman.command("import", "--quiet", f'--change=LABEL recipe="{recipe}"', "-", PYTHON),
            stdin=archive.stdout,
            stdout=subprocess.DEVNULL,
            env=podman.environment,
            check=True,
        )
    if archive.returncode:
        raise RuntimeError("tar failed")
    shutil.rmtree(root)


def make_triton_base(podman: Podman) -> str:
    """NVIDIA's image as far as it matters here: its Python, a real tritonserver, and stand-ins for the rest."""
    context = podman.work / "triton-base"
    shutil.rmtree(context, ignore_errors=True)
    copy_python(find_python(), context / "python")
    ignore = shutil.ignore_patterns("__pycache__", "*.py[co]")
    shutil.copytree(ROOT / "tests" / "standin", context / "standin", ignore=ignore)
    shutil.copytree(ROOT / "requirements", context / "requirements")
    say("building the stand-in for NVIDIA's base image")
    podman.build(context, CONTAINER, f"--file={ROOT / 'tests' / 'images' / 'tritonserver.Dockerfile'}")
    return CONTAINER


def find_python() -> Path:
    """A Python 3.12 with its shared library: NVIDIA's image has that one, Debian 12 has not."""
    named = [os.environ.get("NIMBLE_PYTHON_3_12"), shutil.which("python3.12")]
    candidates = [
        *(Path(each) for each in named if each),
        *Path("~/.pyenv/versions").expanduser().glob("3.12*/bin/python3.12"),
    ]
    for python in candidates:
        asked = "import sysconfig as s; print(s.get_config_var('Py_ENABLE_SHARED'))"
        done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
        if done.stdout.strip() == "1":
            return python
    raise RuntimeError(
        "the stand-in for NVIDIA's image needs a Python 3.12 with a shared library: install one (with pyenv: "
        "PYTHON_CONFIGURE_OPTS=--enable-shared pyenv install 3.12), or name it with NIMBLE_PYTHON_3_12"
    )


def copy_python(python: Path, place: Path) -> None:
    """The interpreter, its library and its standard library, as they lie below a prefix."""
    asked = (
        "import sys, sysconfig as s; print(sys.executable, s.get_path('stdlib'), "
        "s.get_config_var('LIBDIR') + '/' + s.get_config_var('INSTSONAME'), sep='\\n')"
    )
    paths = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.split("\n")
    executable, standard, library = map(Path, paths[:3])
    ignore = shutil.ignore_patterns("__pycache__", "test", "tests", "config-*", "*-packages")
    shutil.copytree(standard, place / "lib" / "python3.12", ignore=ignore)
    (place / "bin").mkdir()
    shutil.copy2(executable.resolve(), place / "bin" / "python3.12")
    shutil.copy2(library.resolve(), place / "lib" / library.name)


def build_options(podman: Podman, token: str) -> list[str]:
    """Gives pip inside a build what it has here: indexes, local files, certificates, as docs/container.md says.

    The token stands for the password that such a pip.conf may hold.
    """
    settings = {name: pip_setting(name) for name in ("index-url", "extra-index-url", "find-links")}
    lines = [f"{name} = {' '.join(places)}" for name, places in settings.items() if places]
    file = podman.work / "pip.conf"
    file.write_text("\n".join(["[global]", f"# password: {token}", *lines, ""]))
    options = [f"--secret=id=pip,src={file}", f"--secret=id=ca,src={CERTIFICATES}"]
    wheels = [Path(place) for place in settings["find-links"]]
    indexes = [
        Path(url.removeprefix("file://")).parent for url in settings["extra-index-url"] if url.startswith("file:")
    ]
    options += [f"--volume={place}:{place}:ro" for place in [*wheels, *indexes] if place.is_dir()]
    if any(list(place.glob("torch-*+cpu-*.whl")) for place in wheels):
        options.append("--build-arg=TORCH_INDEX=https://pypi.org/simple")  # PyTorch's own need not be asked
    return options


def pip_setting(name: str) -> list[str]:
    """A setting of pip on this machine, from the environment or its configuration."""
    if variable := os.environ.get(f"PIP_{name.upper().replace('-', '_')}"):
        return variable.split()
    command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.split()
