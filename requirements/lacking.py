"""What NVIDIA's image lacks of the locks, for the Dockerfile: `list LOCK...` prints it, the first lock that has a
distribution decides; `check EXTRA PACKAGE...` tells if all fits, and imports every module of the packages.

The image's PyTorch, TensorRT-LLM and whatever they were tested with are kept, whatever the locks pin.
"""

import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.specifiers import SpecifierSet

BASE = ("tensorrt_llm", "torch")
"""What makes an image a base for the GPU targets."""
ADDED = Path("/opt/nimble-coder")
"""Where everything lies that is not the base's."""
ELSEWHERE = ("nimble_coder.bench.stand_in_model", "nimble_coder.bench.usual_front")
"""Modules that run inside Triton, or with what a comparison alone needs."""
RELAXED = {("tritonclient", "grpcio")}
"""Bounds that are not held: 2.58 asks for grpcio below 1.68, and what is used of it imports with the 1.71 of 25.05."""


def installed(name: str) -> str | None:
    """The version of a distribution in this environment or the base's."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def lacking(locks: Iterable[str]) -> Iterator[str]:
    """The locks' entries, each with its hashes, whose distributions are not there in any version."""
    seen = set[str]()
    for entry in re.split(r"\n(?=[a-z0-9])", "\n".join(locks)):
        if (named := re.match(r"([a-z0-9._-]+)==", entry)) and named[1] not in seen and installed(named[1]) is None:
            seen.add(named[1])
            yield entry.rstrip()


def unmet(requirement: Requirement, seen: set[str]) -> Iterator[str]:
    """What is missing or too old below a requirement, one sentence each."""
    found = installed(requirement.name)
    if found is None:
        yield f"{requirement} is not installed"
        return
    if not requirement.specifier.contains(found, prereleases=True):
        yield f"{requirement} is needed, the base has {found}"
    key = f"{requirement.name}[{','.join(sorted(requirement.extras))}]"
    # What the base brings was tested together by NVIDIA; only what was added to it is looked into.
    if key in seen or not Path(str(distribution(requirement.name).locate_file(""))).is_relative_to(ADDED):
        return
    seen.add(key)
    for text in requires(requirement.name) or ():
        below = Requirement(text)
        if (requirement.name, below.name) in RELAXED:
            below.specifier = SpecifierSet()
        if any(below.marker is None or below.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
            yield from unmet(below, seen)


def broken(package: str) -> Iterator[str]:
    """The modules of a package that cannot be imported, and why."""
    for found in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
        name = found.name.rpartition(".")[2]
        if found.name in ELSEWHERE or name == "__main__" or not name.isidentifier():  # the compiled step's libraries
            continue
        try:
            import_module(found.name)
        except Exception as error:
            yield f"{found.name} cannot be imported: {type(error).__name__}: {error}"


def main(action: str, argument: str, *more: str) -> None:
    if missing := [name for name in BASE if installed(name) is None]:
        sys.exit(f"the base image has no {' and no '.join(missing)}: it is not a *-trtllm-python-py3 image")
    if action == "list":
        print("\n".join(lacking(Path(lock).read_text(encoding="utf-8") for lock in (argument, *more))))
        return
    problems = {*unmet(Requirement(argument), set()), *(problem for package in more for problem in broken(package))}
    if problems:
        sys.exit("the base image and the lock do not fit together:\n  " + "\n  ".join(sorted(problems)))


main(*sys.argv[1:])
