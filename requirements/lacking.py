"""What NVIDIA's image lacks of the lock, for the Dockerfile: `list LOCK` prints it, `check EXTRA` tells if all fits.

The image's PyTorch, TensorRT-LLM and whatever they were tested with are kept, whatever the lock pins.
"""

import re
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path

from pip._vendor.packaging.requirements import Requirement

BASE = ("tensorrt_llm", "torch")
"""What makes an image a base for the GPU targets."""
ADDED = Path("/opt/nimble-coder")
"""Where everything lies that is not the base's."""


def installed(name: str) -> str | None:
    """The version of a distribution in this environment or the base's."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def lacking(lock: str) -> Iterator[str]:
    """The lock's entries, each with its hashes, whose distributions are not there in any version."""
    for entry in re.split(r"\n(?=[a-z0-9])", lock):
        if (named := re.match(r"([a-z0-9._-]+)==", entry)) and installed(named[1]) is None:
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
        if any(below.marker is None or below.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
            yield from unmet(below, seen)


def main(action: str, argument: str) -> None:
    if missing := [name for name in BASE if installed(name) is None]:
        sys.exit(f"the base image has no {' and no '.join(missing)}: it is not a *-trtllm-python-py3 image")
    if action == "list":
        print("\n".join(lacking(Path(argument).read_text(encoding="utf-8"))))
    elif problems := sorted(set(unmet(Requirement(argument), set()))):
        sys.exit("the base image and the lock do not fit together:\n  " + "\n  ".join(problems))


main(*sys.argv[1:])
