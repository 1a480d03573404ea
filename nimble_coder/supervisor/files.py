"""The files that settings name, read before anything is started: a gateway would find out when Triton runs."""

import tempfile
from pathlib import Path

from build_engine.artifact import Artifact
from nimble_coder.gateway.access.keys import read_keys
from nimble_coder.gateway.policy import Policy
from nimble_coder.settings.loading import Loaded


def check_lasting(file: Path) -> None:
    """Raises `ValueError` for a pipe: several processes read these files, and again when they change."""
    if file.is_fifo():
        raise ValueError("it is a pipe, and has to be read more than once: name a file")


def nearest(place: Path) -> Path:
    """The place, or the first folder above it that is there: what is to be made there is made in that one."""
    return next(path for path in (place, *place.absolute().parents) if path.exists())


def check_files(loaded: Loaded) -> None:
    """Raises `SettingsError` for a file that no gateway could use, and a directory that no engine could write;
    certificates are `supervisor.tls`'s."""
    for name, read in (("api_keys_file", read_keys), ("policy", lambda file: file.open("rb").close())):
        file = getattr(loaded.settings, name)
        if file is None:
            continue
        try:
            check_lasting(file)
            read(file)
        except OSError as error:
            raise loaded.error(name, f"it cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise loaded.error(name, str(error)) from None
    if drafts := loaded.settings.drafts_directory:
        place = nearest(drafts)
        try:
            with tempfile.TemporaryFile(dir=place):  # root may do everything, says `access`
                pass
        except OSError as error:
            text = f"no file can be made in {place} ({error.strerror}): name a directory that can be written"
            raise loaded.error("drafts_path", text) from None


def check_policy(loaded: Loaded, artifact: Artifact) -> None:
    """Raises `PolicyError` for a policy that the engine cannot follow."""
    if loaded.settings.policy is not None:
        Policy.read(loaded.settings.policy, artifact.manifest.profile.most_lookahead)
