"""The settings as options of `nimble-coder serve`: all but the secrets, which a command line would show."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nimble_coder.environment import env_names
from nimble_coder.settings.loading import is_secret, nearest
from nimble_coder.settings.model import Settings


@dataclass(frozen=True)
class CommandLine:
    """What was asked for."""

    options: dict[str, Any]
    config: Path | None
    dry_run: bool


def parse(arguments: list[str]) -> CommandLine:
    """Reads the arguments; mistakes and `--help` end the process as argparse does it, a mistake with code 2."""
    parser = argument_parser()
    known, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_unknown(unknown))
    given = vars(known)
    return CommandLine(config=given.pop("config"), dry_run=given.pop("dry_run"), options=given)


def _unknown(arguments: list[str]) -> str:
    """A complaint; what stands behind an option may be a key, and is left out."""
    options = [argument.partition("=")[0] for argument in arguments if argument.startswith("-")]
    names = options or arguments
    name = names[0].lstrip("-").replace("-", "_")
    if is_secret(name):
        hint = f": a command line can be read by everybody; set {env_names(name)[0]}"
    else:
        known = [_option(setting) for setting in Settings.model_fields if not is_secret(setting)]
        hint = nearest(names[0], known) if options else ""
    return f"unrecognized arguments: {' '.join(names)}{hint}"


def _option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def argument_parser() -> argparse.ArgumentParser:
    """One option a setting; only those that are given appear in the result."""
    parser = argparse.ArgumentParser(
        "nimble-coder serve",
        usage="%(prog)s [--help] [--dry-run] [--config FILE] [--SETTING VALUE ...] [artifact]",
        description="Serve an engine: OpenAI, fill-in-the-middle and NIM over HTTP, KServe over gRPC, until Ctrl-C or "
        "SIGTERM. Options come before the environment, that before the file of --config.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--dry-run", action="store_true", default=False, help="Say what would be started, and end.")
    parser.add_argument("--config", type=Path, default=None, help="YAML file with settings. [NIMBLE_CONFIG]")
    for name, field in Settings.model_fields.items():
        about = f"{field.description} [{', '.join(env_names(name))}]".replace("%", "%%")
        option = _option(name)
        if name == "artifact":
            parser.add_argument(name, nargs="?", help=about)
        elif field.annotation in (bool, bool | None):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=about)
        elif not is_secret(name):
            parser.add_argument(option, metavar="X", help=about)
    return parser
