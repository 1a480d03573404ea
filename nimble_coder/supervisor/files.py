"""The files that settings name, read before anything is started: a gateway would find out when Triton runs."""

from build_engine.artifact import Artifact
from nimble_coder.gateway.access.keys import read_keys
from nimble_coder.gateway.policy import Policy
from nimble_coder.settings.loading import Loaded


def check_files(loaded: Loaded) -> None:
    """Raises `SettingsError` for a file that no gateway could use; certificates are `supervisor.tls`'s."""
    for name, read in (("api_keys_file", read_keys), ("policy", lambda file: file.open("rb").close())):
        file = getattr(loaded.settings, name)
        if file is None:
            continue
        try:
            read(file)
        except OSError as error:
            raise loaded.error(name, f"it cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise loaded.error(name, str(error)) from None


def check_policy(loaded: Loaded, artifact: Artifact) -> None:
    """Raises `PolicyError` for a policy that the engine cannot follow."""
    if loaded.settings.policy is not None:
        Policy.read(loaded.settings.policy, artifact.manifest.profile.most_lookahead)
