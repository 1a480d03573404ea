"""The images of the node, built where there is a network and saved for where there is none."""

import shutil
import sys
from pathlib import Path

from tests.images.bases import make_context, make_cpu_image, shared_podman
from tests.kubernetes.own_cluster import PAUSE


def save_images(target: Path) -> None:
    """Writes `pause.tar` and `image.tar`."""
    with shared_podman("") as podman:
        image = make_cpu_image(podman, make_context(podman))
        context = podman.work / "pause"
        context.mkdir(exist_ok=True)
        shutil.copy("/usr/bin/catatonit", context)
        (context / "Dockerfile").write_text('FROM scratch\nCOPY catatonit /\nENTRYPOINT ["/catatonit", "-P"]\n')
        podman.build(context, PAUSE)
        for tag, name in ((PAUSE, "pause.tar"), (image, "image.tar")):
            (target / name).unlink(missing_ok=True)
            podman.run("save", "--format=docker-archive", f"--output={target / name}", tag)


if __name__ == "__main__":
    save_images(Path(sys.argv[1]))
