"""What the scripts say of themselves."""

import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.mark.parametrize(
    "name", ["audit", "check", "fuzz", "lock", "test", "test-images", "test-kubernetes", "test-routing"]
)
@pytest.mark.parametrize("asked", ["--help", "-h"])
def test_help_is_given_and_nothing_is_done(name: str, asked: str, tmp_path: Path) -> None:
    """The scripts are elsewhere: what they would do here, fails there."""
    place = tmp_path / "scripts"
    place.mkdir()
    for script in (name, "environment"):
        (place / script).symlink_to(SCRIPTS / script)
    done = subprocess.run(["bash", place / name, asked], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout) > 30
    assert [*tmp_path.iterdir()] == [place]


@pytest.mark.parametrize("name", ["check", "lock"])
def test_an_argument_that_means_nothing_is_refused(name: str) -> None:
    done = subprocess.run(["bash", SCRIPTS / name, "--fast"], capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, "there is no argument to give: --fast" in done.stderr) == (1, True)
