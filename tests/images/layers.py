"""What is in an image's layers, whichever later layer hides it."""

import subprocess
from pathlib import Path

from tests.images.podman import Podman


def found_in_layers(podman: Podman, image: str, text: str) -> list[Path]:
    """The files of every layer that contain the text, binary files too."""
    layers = podman.layers(image)
    assert layers
    command = [
        "grep",
        "--recursive",
        "--files-with-matches",
        "--fixed-strings",
        "--regexp",
        text,
        "--",
        *map(str, layers),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    return [Path(line) for line in done.stdout.splitlines()]
