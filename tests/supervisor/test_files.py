"""Files that settings name are looked at before Triton is started."""

from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from tests.supervisor.conftest import serve


@pytest.mark.parametrize(
    ("setting", "content", "reason"),
    [
        ("NIMBLE_API_KEYS_FILE", None, "cannot be read"),
        ("NIMBLE_API_KEYS_FILE", b"\xff\xfek\0", "no UTF-8 text"),
        ("NIMBLE_API_KEYS_FILE", b"one\nschl\xc3\xbcssel", "the key in line 2 has characters that no header holds"),
        ("NIMBLE_POLICY", None, "cannot be read"),
        ("NIMBLE_POLICY", b"\xff", "cannot be used"),
        ("NIMBLE_POLICY", b"levels: [{load: 1, lookahead: [99, 99, 99]}]", "cannot be used"),
    ],
)
def test_a_file_that_cannot_be_used_ends_the_start_with_2_before_triton(
    artifact: Artifact, tmp_path: Path, setting: str, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    for options in ((), ("--dry-run",)):
        done = serve(*options, NIMBLE_ARTIFACT=artifact.directory, **{setting: file})
        assert done.returncode == 2
        last = done.stderr.splitlines()[-1]
        assert reason in last
        assert str(file) in last
        assert "[triton]" not in done.stdout + done.stderr


def test_a_policy_may_ask_a_portable_engine_for_more_than_it_was_built_for(narrow: Artifact, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("levels: [{load: 1, lookahead: [4, 3, 4]}]")
    assert serve("--dry-run", NIMBLE_ARTIFACT=narrow.directory, NIMBLE_POLICY=file).returncode == 0
