"""Where settings come from: command line, then environment, then file, then profile, then defaults; each value's origin
is kept.
"""

import difflib
import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr, ValidationError

from build_engine.exit_codes import ExitCode
from build_engine.profiles import Profile
from nimble_coder.environment import CLIENTS, CONFIG_FILE, NO_EFFECT, env_names
from nimble_coder.settings.model import Settings

LIKE = 0.65
"""Names of settings that are less alike have nothing to do with each other."""


class SettingsError(ValueError):
    """A setting that cannot be used: its name, where it stands, its value, and what is allowed."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class Loaded:
    """The settings, and where each came from."""

    settings: Settings
    origins: Mapping[str, str]
    """Of the settings that somebody chose; the others have their defaults."""
    warnings: tuple[str, ...] = ()

    def origin(self, name: str) -> str:
        """In words."""
        return self.origins.get(name, "default")

    def for_profile(self, profile: Profile) -> "Loaded":
        """With what follows from the profile where nobody chose; raises `SettingsError` where the two contradict."""
        s = self.settings
        if s.max_model_len and s.max_model_len > profile.max_seq_len:
            raise self.error(
                "max_model_len", f"the engine of {profile.name} holds {profile.max_seq_len} tokens: choose at most that"
            )
        if s.tensor_parallel_size and s.tensor_parallel_size != profile.tensor_parallel:
            raise self.error(
                "tensor_parallel_size",
                f"{profile.name} has {profile.tensor_parallel}: choose a profile with tp{s.tensor_parallel_size} "
                f"(list-model-profiles)",
            )
        if s.drafts_path and not profile.is_portable:
            raise self.error("drafts_path", f"the engine of {profile.name} keeps no texts to draft from: leave it out")
        implied = {
            "served_model_names": ",".join(profile.served_names),
            "max_model_len": profile.max_seq_len,
            "tensor_parallel_size": profile.tensor_parallel,
            "kv_cache_reuse": profile.kv_cache_reuse,
            "kv_cache_fraction": profile.kv_cache_fraction,
        }
        implied = {name: value for name, value in implied.items() if name not in self.origins}
        origins = {**self.origins, **dict.fromkeys(implied, f"profile {profile.name}")}
        return replace(self, settings=s.model_copy(update=implied), origins=origins)

    def error(self, name: str, allowed: str) -> SettingsError:
        """A complaint about a value that is right by itself."""
        return SettingsError(f"{describe(name, self.origin(name), getattr(self.settings, name))}: {allowed}")


def load(
    options: Mapping[str, Any] | None = None, environment: Mapping[str, str] = os.environ, file: Path | None = None
) -> Loaded:
    """Reads every source; `options` are those of the command line by setting. Raises `SettingsError`."""
    file = file or (Path(environment[CONFIG_FILE]) if environment.get(CONFIG_FILE) else None)
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for name, value, origin in (
        *(_read_file(file) if file else ()),
        *_read_environment(environment),
        *((name, value, f"command line --{name.replace('_', '-')}") for name, value in (options or {}).items()),
    ):
        values[name], origins[name] = value, origin
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError("; ".join(_complaints(error, origins))) from None
    warnings = (*_strangers(environment), *_mistaken_key(settings, environment))
    return Loaded(checked(settings, origins), origins, warnings)


def checked(settings: Settings, origins: Mapping[str, str]) -> Settings:
    """The settings, where they go together; raises `SettingsError`."""
    s, mode = settings, settings.tls_mode
    absent = [name for name in ("tls_certificate", "tls_key") if getattr(s, name) is None]
    if mode in ("tls", "mtls") and absent:
        needed = " and ".join(map(_own, absent))
        raise SettingsError(f"{describe('tls_mode', origins['tls_mode'], mode)}: it needs {needed}")
    if mode == "mtls" and s.tls_client_ca is None:
        raise SettingsError(f"{describe('tls_mode', origins['tls_mode'], mode)}: it needs {_own('tls_client_ca')}")
    if mode is None and s.tls_client_ca is not None and absent:
        raise SettingsError(f"{_own('tls_client_ca')} is set, but not {_own('tls_certificate')}: set both or none")
    if s.drafts_path and not s.share_drafts:
        raise SettingsError(
            f"{describe('drafts_path', origins['drafts_path'], s.drafts_path)}: {_own('share_drafts')} is false, so "
            f"there is nothing to keep: set one of the two"
        )
    ports: dict[int, str] = {}
    for name in (f"{prefix}{kind}_port" for prefix in ("", "triton_") for kind in ("http", "grpc", "metrics")):
        if (port := getattr(s, name)) and (other := ports.setdefault(port, name)) != name:
            raise SettingsError(f"{_own(other)} and {_own(name)} are both {port}: the ports must all be different")
    return settings


def describe(name: str, origin: str, value: object) -> str:
    """A setting in an error: `NIM_SERVER_PORT is 'x' (environment)`; values of secrets are left out."""
    source, _, given_as = origin.partition(" ")
    shown = "is not usable" if is_secret(name) else f"is {str(value) if isinstance(value, Path) else value!r}"
    return f"{given_as if source == 'environment' else _own(name)} {shown} ({origin})"


def is_secret(name: str) -> bool:
    """Whether nobody may see the value."""
    return name in Settings.model_fields and Settings.model_fields[name].annotation is SecretStr


def _own(name: str) -> str:
    return env_names(name)[0]


class OneOfEach(yaml.SafeLoader):
    """Reads YAML, and refuses a mapping that has a key twice: the library takes the last and says nothing."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Raises `yaml.YAMLError`."""
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        for twice in (key for key in keys if keys.count(key) > 1):
            raise yaml.constructor.ConstructorError(None, None, f"{twice!r} stands there twice", node.start_mark)
        return super().construct_mapping(node, deep)


def _read_file(file: Path) -> Iterator[tuple[str, Any, str]]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), OneOfEach) or {}  # noqa: S506 - it is a safe one
    except OSError as error:
        raise SettingsError(f"the settings file {file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(
            f"the settings file {file} is no UTF-8 text: {error.reason} at byte {error.start}"
        ) from None
    except RecursionError:
        raise SettingsError(f"the settings file {file} is nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:  # such as a date that there is not
        raise SettingsError(f"the settings file {file} is no YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise SettingsError(f"the settings file {file} holds a {type(content).__name__}: write `name: value` lines")
    for name, value in content.items():
        if name not in Settings.model_fields:
            raise SettingsError(f"{file} has the unknown setting {name!r}{nearest(str(name), Settings.model_fields)}")
        # Lists are one string everywhere else.
        yield name, ",".join(map(str, value)) if isinstance(value, list) else value, f"file {file}"


def _read_environment(environment: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    given = dict(_meant(environment))
    for name in Settings.model_fields:
        if found := next((variable for variable in env_names(name) if variable in given), None):
            value = given[found]
            # Secrets end with a line often. Of blanks alone the setting itself says what is wrong.
            yield name, value.strip() or value, f"environment {found}"


def _strangers(environment: Mapping[str, str]) -> Iterator[str]:
    """Warnings about variables that look like settings and do nothing."""
    known = [*(v for name in Settings.model_fields for v in env_names(name)), CONFIG_FILE, *CLIENTS]
    for variable, _ in sorted(_meant(environment)):
        if variable in NO_EFFECT:
            yield f"{variable} is known to NIM and has no effect here: {NO_EFFECT[variable]}"
        elif variable.startswith(("NIM_", "NIMBLE_")) and variable not in known:
            yield f"{variable} is not a setting{nearest(variable, known)}"


def _mistaken_key(settings: Settings, environment: Mapping[str, str]) -> Iterator[str]:
    """A warning where somebody took a client's variable for the service's, and left it open."""
    if environment.get("NIMBLE_API_KEY") and not settings.api_keys.get_secret_value() and not settings.api_keys_file:
        yield (
            "NIMBLE_API_KEY is the key that a client sends; those that the service asks for are set by "
            "NIMBLE_API_KEYS: without them it is open to everybody"
        )


def _meant(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """The variables that somebody set on purpose.

    Empty ones are none, because compose files and charts cannot leave one out; and Kubernetes describes every Service
    of a namespace, also one that is called nimble-coder, in variables of its own.
    """
    for variable, value in environment.items():
        is_service = "_SERVICE_" in variable or "_PORT_" in variable or value.startswith(("tcp://", "udp://"))
        if value and not is_service:
            yield variable, value


def nearest(name: str, known: Iterable[str]) -> str:
    """What is said behind the name of a setting that there is not: up to three that are most like it."""
    likeness = {other: _likeness(name, other) for other in known}
    best = max(likeness.values())
    found = [other for other, value in likeness.items() if value == best][:3] if best[0] >= LIKE else []
    return f": did you mean {' or '.join(found)}?" if found else ": docs/configuration.md lists all"


def _likeness(name: str, other: str) -> tuple[float, bool, bool, bool]:
    """By how much, of 1, the name is like all or some words of another (who writes `NIMBLE_PORT` means one of several);
    whether both have the same prefix; whether it is all of them; and whether the other begins so."""
    (prefix, words), (other_prefix, other_words) = _parts(name), _parts(other)
    split, length = other_words.split("_"), len(words.split("_"))
    parts = ["_".join(split[start : start + length]) for start in range(len(split) - length + 1)]
    likeness = [_ratio(words, each) for each in (other_words, *parts)]
    best = max(likeness)
    return best, prefix == other_prefix, likeness[0] == best, parts[:1] == [words]


def _ratio(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _parts(name: str) -> tuple[str, str]:
    """A variable's prefix, if it has one, and the rest."""
    prefix = next((prefix for prefix in ("NIMBLE_", "NIM_", "--") if name.startswith(prefix)), "")
    return prefix, name.removeprefix(prefix).replace("-", "_")


def _complaints(error: ValidationError, origins: Mapping[str, str]) -> Iterator[str]:
    for each in error.errors(include_url=False):
        reason = each["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        if not each["loc"]:  # of several settings together
            yield reason
            continue
        name = str(each["loc"][0])
        yield f"{describe(name, origins.get(name, 'default'), each['input'])}: it should be {reason}"
