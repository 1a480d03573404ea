"""`manifest.json`: what an artefact is, what it was made from, and the files it consists of.

Only a finished artefact has one, so a directory without it is never served.
"""

import json
import os
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from build_engine.checkpoint import sha256
from build_engine.exit_codes import ExitCode
from build_engine.lookahead import LookaheadConfig
from build_engine.profiles import Profile

NAME = "manifest.json"
SCHEMA = 2


class ManifestError(ValueError):
    """An artefact that is absent, unfinished or damaged; says which file and what to do."""

    exit_code = ExitCode.ARTIFACT


class OtherVersionError(ManifestError):
    """An artefact that another version of this program has built, and may be serving, from the same cache."""


@dataclass(frozen=True)
class FileRecord:
    """One file of the artefact, its path relative to the manifest's directory."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The manifest's content."""

    key: str
    """Content address: SHA-256 of everything that determines the artefact."""
    engine_key: str
    """The same of the engine alone, which several artefacts may have."""
    profile: Profile
    """What the artefact was built from."""
    source: dict[str, str]
    """The checkpoint's files and their SHA-256."""
    engine_version: str
    built_by: str
    built_at: str
    """UTC, ISO 8601."""
    seconds: float
    files: list[FileRecord]
    verification: dict[str, Any] | None = None
    """`build_engine.verify.Verification.to_json`, or why there is none."""
    revision: str | None = None
    """The commit of the hub's repository that the checkpoint was downloaded from."""
    machine: dict[str, str] = field(default_factory=dict)
    """What built it: GPUs, driver, Python."""
    schema: int = SCHEMA

    @classmethod
    def read(cls, artifact: Path) -> "Manifest":
        """Reads the manifest of an artefact; raises `ManifestError` where there is none or it is damaged, and
        `OtherVersionError` where it says what this version does not know."""
        path = artifact / NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise OtherVersionError(
                    f"{path} has schema {content['schema']}, this version reads {SCHEMA}: build again"
                )
            for given, known in ((content, cls), (content["profile"], Profile)):
                if unknown := given.keys() - {each.name for each in fields(known)}:
                    raise OtherVersionError(f"{path} has {min(unknown)}, which this version does not know: build again")
            content["files"] = [FileRecord(**record) for record in content["files"]]
            content["profile"] = _profile(path, content["profile"])
            manifest = cls(**content)
            manifest._check_kinds()
            return manifest
        except OSError as error:
            raise ManifestError(f"{artifact} {what_it_is(artifact, error)}") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, ManifestError):
                raise
            raise ManifestError(f"{path} is damaged ({error!r}); build the artefact again") from None

    def _check_kinds(self) -> None:
        """Raises `TypeError` or `ValueError` for a value that is none of its field's; a profile checks its own."""
        texts = [self.key, self.engine_key, self.engine_version, self.built_by, self.built_at]
        texts += [text for record in self.files for text in (record.path, record.sha256)]
        tables = [self.source, self.machine, {} if self.verification is None else self.verification]
        if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, dict) for table in tables):
            raise TypeError("a value of another type than its field's")
        if datetime.fromisoformat(self.built_at).tzinfo is None:
            raise ValueError("built_at without a time zone")

    def write(self, artifact: Path) -> None:
        """Writes the manifest into the artefact's directory."""
        (artifact / NAME).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

    def check_sizes(self, artifact: Path) -> None:
        """Raises `ManifestError` for a file that is absent or has another size. Takes milliseconds."""
        for record in self.files:
            path = artifact / record.path
            found = path.stat().st_size if path.is_file() else None
            if found != record.bytes:
                state = "is missing" if found is None else f"has {found} bytes instead of {record.bytes}"
                raise ManifestError(f"{path} {state}; build the artefact again")

    def check_hashes(self, artifact: Path) -> None:
        """Raises `ManifestError` for the first file whose content changed. Reads every byte."""
        self.check_sizes(artifact)
        for record in self.files:
            if sha256(artifact / record.path) != record.sha256:
                raise ManifestError(f"{artifact / record.path} changed after it was built; build the artefact again")


def _profile(path: Path, content: dict[str, Any]) -> Profile:
    """What the artefact was built from; raises `OtherVersionError` for one that this version cannot have."""
    try:
        return Profile(**{**content, "lookahead": LookaheadConfig(**content["lookahead"])})
    except (ValueError, KeyError, TypeError) as error:
        raise OtherVersionError(
            f"{path} has a profile that this version does not know ({error}): build again"
        ) from None


def what_it_is(place: Path, error: OSError) -> str:
    """Of a path whose manifest cannot be read: why not, and what to do."""
    if not os.path.exists(place):  # noqa: PTH110 - it makes no error of a name too long for any file
        return "does not exist; give the directory that build-engine printed"
    if place.suffix == ".gguf" or (place / "config.json").is_file():
        return f"is a checkpoint and no artefact; `nimble-coder build-engine --model {place}` makes one of it"
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return f"is no finished artefact: it has no {NAME}; run build-engine"
    return f"has a {NAME} that cannot be read: {error.strerror}"


def record_files(artifact: Path) -> list[FileRecord]:
    """Every file below the artefact's directory, sorted by path."""
    return [
        FileRecord(path.relative_to(artifact).as_posix(), path.stat().st_size, sha256(path))
        for path in sorted(artifact.rglob("*"))
        if path.is_file()
    ]
