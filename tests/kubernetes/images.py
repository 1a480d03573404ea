"""The images of the node, built where there is a network and saved for where there is none."""

import shutil
import sys
from pathlib import Path

from tests.images.bases import make_context, make_python_base, shared_podman
from tests.images.podman import say
from tests.kubernetes.cluster import PAUSE

IMAGE = "localhost/nimble-coder:runtime-cpu"


def save_images(target: Path) -> None:
    """Writes `pause.tar` and `image.tar`."""
    with shared_podman("") as podman:
        make_python_base(podman)
        say("building runtime-cpu (two minutes the first time)")
        podman.build(make_context(podman), IMAGE, "--target=runtime-cpu")
        context = podman.work / "pause"
        context.mkdir(exist_ok=True)
        shutil.copy("/usr/bin/catatonit", context)
        (context / "Dockerfile").write_text('FROM scratch\nCOPY catatonit /\nENTRYPOINT ["/catatonit", "-P"]\n')
        podman.build(context, PAUSE)
        for image, name in ((PAUSE, "pause.tar"), (IMAGE, "image.tar")):
            (target / name).unlink(missing_ok=True)
            podman.run("save", "--format=docker-archive", f"--output={target / name}", image)


if __name__ == "__main__":
    save_images(Path(sys.argv[1]))
