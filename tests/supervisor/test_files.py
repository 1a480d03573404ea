"""Files that settings name are looked at before Triton is started."""

from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from tests.supervisor.conftest import Start


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
    start: Start, artifact: Artifact, tmp_path: Path, setting: str, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    for options in ((), ("--dry-run",)):
        service = start(*options, NIMBLE_ARTIFACT=artifact.directory, **{setting: file})
        assert service.process.wait(60) == 2
        assert reason in service.last_line
        assert str(file) in service.last_line
        assert not any("[triton]" in line for line in service.output)


def test_a_policy_may_ask_a_portable_engine_for_more_than_it_was_built_for(
    start: Start, narrow: Artifact, tmp_path: Path
) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text("levels: [{load: 1, lookahead: [4, 3, 4]}]")
    assert start("--dry-run", NIMBLE_ARTIFACT=narrow.directory, NIMBLE_POLICY=file).process.wait(60) == 0
