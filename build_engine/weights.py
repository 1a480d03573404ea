"""Checkpoints from the hub, or from a directory where there is no hub: whole, verified, and shared by all processes.

They are kept in the layout of huggingface_hub, which also brings its environment variables: `HF_TOKEN`, `HF_ENDPOINT`
(a mirror), `HF_HUB_OFFLINE`. Large files are fetched by `download.py`, which resumes.
"""

import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from huggingface_hub import HfApi, constants, errors, hf_hub_url, snapshot_download

from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint, CheckpointError, sha256
from build_engine.download import Download, download_all
from build_engine.exit_codes import ExitCode
from build_engine.local import EMBEDDED_MODEL, is_gguf
from build_engine.profiles import EMBEDDED, Profile
from build_engine.snapshot import Snapshot

WANTED = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "LICENSE*",
)
HASH = re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?")
"""Of a commit or a content: directories and files of the cache are called so."""
ATTEMPTS = 6
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0
"""Seconds between attempts, also where the hub asks for more."""
TRANSPORT = (getattr(errors, "HTTPError", OSError), OSError)
"""Failures below HTTP: huggingface_hub 1 moved from requests, whose errors are OSErrors, to httpx, whose are not."""

Progress = Callable[[str], None]


class WeightsError(RuntimeError):
    """A checkpoint that cannot be had; says why and what to do."""

    exit_code = ExitCode.CHECKPOINT


class HubSettingError(WeightsError):
    """One of huggingface_hub's variables, which takes any value and makes what it likes of it."""

    exit_code = ExitCode.ASKED


class HubUnreachableError(WeightsError):
    """The hub cannot be asked now; a copy that is here already will do."""


@dataclass(frozen=True)
class Weights:
    """A checkpoint on this machine."""

    directory: Path
    commit: str | None = None
    """Of the hub's repository; None for a directory of unknown origin."""
    hashes: dict[str, str] = field(default_factory=dict)
    """File name to SHA-256, for files whose content has been verified and has not changed since."""


@dataclass(frozen=True)
class RemoteFile:
    """One file as the hub describes it."""

    name: str
    size: int
    git_sha1: str
    sha256: str | None
    """Of files in large-file storage; the others have only git's own hash."""

    def has_size(self, path: Path) -> bool:
        """True where there is a file of the announced size."""
        return path.is_file() and path.stat().st_size == self.size

    def matches(self, path: Path) -> bool:
        """True where the file's content is what the hub announced."""
        if not self.has_size(path):
            return False
        return sha256(path) == self.sha256 if self.sha256 else git_sha1(path) == self.git_sha1


def local_weights(source: Path, cache: Cache, progress: Progress) -> Weights:
    """A checkpoint's directory as it is, or the one in the cache that a GGUF file is converted to.

    Raises `CheckpointError` or `CacheError`.
    """
    if is_gguf(source):
        from build_engine.gguf.conversion import convert  # noqa: PLC0415

        return Weights(convert(source, cache, progress))
    return Weights(source)


def own_weights(profile: Profile, revision: str, cache: Cache, progress: Progress) -> Weights:
    """The checkpoint that a profile names itself: the one shipped with this package, or the hub's."""
    if profile.model == EMBEDDED:
        return Weights(EMBEDDED_MODEL)
    return fetch_weights(profile.model, revision, cache, progress)


def fetch_weights(repo: str, revision: str, cache: Cache, progress: Progress) -> Weights:
    """The checkpoint `repo` at `revision` (branch, tag or commit), downloaded where it is not there yet.

    Raises `WeightsError`, or `CacheError` where there is not enough disk; nothing has been downloaded then.
    """
    check_hub_settings()
    if not revision.strip():
        raise WeightsError(f"the revision of {repo} is empty: name a branch, tag or commit, or leave it out")
    here = Snapshot.named(cache, repo, revision)
    if constants.HF_HUB_OFFLINE:
        return _cached(here, revision, "HF_HUB_OFFLINE is set")
    if here.commit == revision and (hashes := _complete(here)):  # a commit never changes: nobody needs to be asked
        return Weights(here.directory, here.commit, hashes)
    attempts = 2 if here.directory.is_dir() else ATTEMPTS
    try:
        commit, files = _persist(lambda: _describe(repo, revision), repo, revision, progress, attempts)
    except HubUnreachableError as error:
        found = _cached(here, revision, str(error))
        progress(f"{error}; using the copy of commit {found.commit} that is here")
        return found
    snapshot = Snapshot(cache, repo, commit)
    missing = [file for file in files if not file.has_size(snapshot.directory / file.name)]
    if missing:
        size = sum(file.size for file in missing)
        cache.check_space(size, f"downloading {repo}")
        progress(f"downloading {len(missing)} files ({size / 1e9:.2f} GB) of {repo} at {commit}")
    _download_intact(snapshot, files, progress)
    snapshot.name(revision)
    hashes = snapshot.note_verified({file.name: file.sha256 for file in files})
    return Weights(snapshot.directory, commit, hashes)


def check_hub_settings() -> None:
    """Raises `HubSettingError`."""
    if not constants.ENDPOINT.lower().startswith(("http://", "https://")):
        text = f"HF_ENDPOINT is {constants.ENDPOINT!r}: give a URL that begins with https:// or http://, or unset it"
        raise HubSettingError(text)
    if "@" in urlparse(constants.ENDPOINT).netloc:
        text = "HF_ENDPOINT has a password in it, which logs would show: leave it out, and set HF_TOKEN"
        raise HubSettingError(text)
    if not os.environ.get("HF_TOKEN", "").isascii():
        raise HubSettingError("HF_TOKEN has letters that no token has: copy it again")
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper()
    if offline not in ("", *constants.ENV_VARS_TRUE_VALUES, "0", "NO", "OFF", "FALSE"):
        raise HubSettingError(f"HF_HUB_OFFLINE is {offline.lower()!r}: give 1 to download nothing, or 0")


def import_weights(source: Path, repo: str, cache: Cache, progress: Progress) -> Weights:
    """Copies a checkpoint directory into the cache as `repo`, for machines that have no hub.

    A directory of huggingface_hub (`snapshots/COMMIT`) keeps its commit; another gets one made from its content. A GGUF
    file is converted into the cache under its own name.
    """
    if is_gguf(source):
        return local_weights(source, cache, progress)
    checkpoint = Checkpoint.open(source.absolute())
    hashes = {path.name: sha256(path) for path in checkpoint.files}
    commit = source.absolute().name if source.absolute().parent.name == "snapshots" else _commit_of(hashes)
    snapshot = Snapshot(cache, repo, commit)
    wanted = [path for path in source.iterdir() if path.name in hashes or any(fnmatch(path.name, w) for w in WANTED)]
    cache.check_space(sum(path.stat().st_size for path in wanted), f"importing {repo}")
    with cache.lock(snapshot.directory, progress), cache.writing():
        if any(snapshot.verified().get(name) != known for name, known in hashes.items()):
            snapshot.directory.parent.mkdir(parents=True, exist_ok=True)
            with cache.draft(snapshot.directory) as draft:
                for path in wanted:
                    progress(f"copying {path.name}")
                    shutil.copyfile(path, draft / path.name)
        snapshot.name("main")
    return Weights(snapshot.directory, commit, snapshot.note_verified(hashes))


def git_sha1(path: Path) -> str:
    """Git's hash of a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _describe(repo: str, revision: str) -> tuple[str, list[RemoteFile]]:
    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=30)
        files = [
            RemoteFile(s.rfilename, s.size or 0, s.blob_id or "", s.lfs.sha256 if s.lfs else None)
            for s in info.siblings or []
            if "/" not in s.rfilename and any(fnmatch(s.rfilename, pattern) for pattern in WANTED)
        ]
        hashes = [str(info.sha), *(file.sha256 for file in files if file.sha256)]
        if odd := next((each for each in hashes if not HASH.fullmatch(each)), None):
            raise ValueError(f"{odd!r} is no hash")
    except ImportError as error:  # of what a SOCKS proxy needs
        raise WeightsError(f"the proxy that {' or '.join(_proxies())} names cannot be used: {error}") from None
    except (ValueError, KeyError, TypeError) as error:  # a login page of the network, say, with status 200
        raise WeightsError(
            f"{constants.ENDPOINT} does not answer as a hub does ({error!r:.80}): check HF_ENDPOINT, and what the "
            f"network puts before it"
        ) from None
    names = {file.name for file in files}
    if not names & {"model.safetensors", "model.safetensors.index.json"} or "config.json" not in names:
        raise WeightsError(f"{repo} at {revision} holds no safetensors checkpoint: choose another repository")
    return hashes[0], files


def _download_intact(snapshot: Snapshot, files: list[RemoteFile], progress: Progress) -> None:
    """Downloads what is not there, and once more what arrived with other content; raises `WeightsError` then."""
    for last in (False, True):
        if not all(file.has_size(snapshot.directory / file.name) for file in files):
            _persist(lambda: _download(snapshot, files, progress), snapshot.repo, snapshot.commit, progress)
        unknown = [file for file in files if file.name not in snapshot.verified()]
        damaged = [file for file in unknown if not file.matches(snapshot.directory / file.name)]
        if not damaged:
            return
        names = ", ".join(file.name for file in damaged)
        if last:
            raise WeightsError(
                f"{names} of {snapshot.repo} arrived damaged twice: check the network or the mirror HF_ENDPOINT"
            )
        progress(f"{names} arrived damaged: downloading again")
        for file in damaged:
            (snapshot.directory / file.name).resolve().unlink(missing_ok=True)
            (snapshot.directory / file.name).unlink(missing_ok=True)


def _download(snapshot: Snapshot, files: list[RemoteFile], progress: Progress) -> None:
    cache, names = snapshot.cache, [file.name for file in files]
    with cache.writing():
        cache.hub.mkdir(parents=True, exist_ok=True)
        _download_large(snapshot, files, progress)
        snapshot_download(
            snapshot.repo, revision=snapshot.commit, cache_dir=cache.hub, allow_patterns=names, max_workers=4
        )
        if absent := [name for name in names if not (snapshot.directory / name).is_file()]:
            # A hub that fails while it is asked leaves what was there already, without an error.
            raise ConnectionError(f"{len(absent)} files did not arrive, the first is {absent[0]}")


def _download_large(snapshot: Snapshot, files: list[RemoteFile], progress: Progress) -> None:
    """Fetches the files of large-file storage into the cache's `blobs`, where `snapshot_download` finds them."""
    large = {snapshot.blob(file.sha256): file for file in files if file.sha256}
    if all(blob.is_file() for blob in large):
        return
    with snapshot.cache.lock(snapshot.storage, progress):
        snapshot.sweep()
        download_all(
            Download(hf_hub_url(snapshot.repo, file.name, revision=snapshot.commit), blob, file.size)
            for blob, file in large.items()
            if not blob.is_file()
        )


def _persist(action: Callable[[], Any], repo: str, revision: str, progress: Progress, attempts: int = ATTEMPTS) -> Any:
    """Repeats an action while the network or the hub fails in a way that may pass."""
    for attempt in range(1, attempts + 1):
        try:
            return action()
        except TRANSPORT as error:
            if hopeless := _refusal(error, repo, revision):
                raise WeightsError(hopeless) from error
            if attempt == attempts:
                raise HubUnreachableError(
                    f"{repo} could not be downloaded in {attempts} attempts ({_brief(error)}): check "
                    f"{' and '.join(['the network', *_proxies()])}, or set HF_ENDPOINT to a mirror; the next attempt "
                    f"resumes where this one ended"
                ) from error
            wait = min(LONGEST_WAIT, max(FIRST_WAIT * 2.0 ** (attempt - 1), _retry_after(error)))
            progress(f"{_brief(error)}; trying again in {wait:.0f} s ({attempt} of {attempts})")
            time.sleep(wait)
    raise AssertionError("unreachable")


def _refusal(error: Exception, repo: str, revision: str) -> str | None:
    """What an answer that repeating will not change means, and what to do; None for what may pass."""
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: accept its terms on the hub, and set HF_TOKEN to a token of that account"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r}: give a branch, tag or commit that exists with --revision"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{repo} does not exist on {constants.ENDPOINT}, or is private: check the name, and set HF_TOKEN"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return f"{constants.ENDPOINT} refuses access to {repo} ({status}): set HF_TOKEN to a token that may read it"
        return None if status in (408, 429) or status >= 500 else f"{repo}: {_brief(error)}"
    return None


def _proxies() -> list[str]:
    """The variables that send requests over a proxy."""
    names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
    return [name for name in (*names, *map(str.lower, names)) if os.environ.get(name)]


def _retry_after(error: Exception) -> float:
    response = getattr(error, "response", None)
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdecimal() else 0.0


def _brief(error: Exception) -> str:
    response = getattr(error, "response", None)
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"the hub answered {response.status_code}" if response is not None else lines[0]


def _cached(snapshot: Snapshot, revision: str, why: str) -> Weights:
    """The copy that is here already; raises `WeightsError` where there is none that is whole."""
    if not snapshot.directory.is_dir():
        raise WeightsError(
            f"{snapshot.repo} at {revision} is not in the cache {snapshot.cache.root}, and it cannot be downloaded "
            f"({why}): fill the cache where there is a network (nimble-coder download-to-cache) and copy it, or use "
            f"--from DIR"
        )
    Checkpoint.open(snapshot.directory)
    return Weights(snapshot.directory, snapshot.commit, snapshot.verified())


def _complete(snapshot: Snapshot) -> dict[str, str]:
    """The hashes of a snapshot that is here and verified in all its files; empty otherwise."""
    hashes = snapshot.verified()
    try:
        files = Checkpoint.open(snapshot.directory).files
    except CheckpointError:  # damaged: the hub has it whole
        return {}
    return hashes if all(path.name in hashes for path in files) else {}


def _commit_of(hashes: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()[:40]
