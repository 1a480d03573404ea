"""Writes docs/configuration.md: `python -m nimble_coder.settings.documentation > docs/configuration.md`."""

import types
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from nimble_coder.environment import CLIENTS, CONFIG_FILE, NO_EFFECT, env_names
from nimble_coder.gateway.settings import GatewayOptions
from nimble_coder.settings.loading import is_secret
from nimble_coder.settings.model import Settings

HEAD = """# Configuration

Written by `python -m nimble_coder.settings.documentation`; a test keeps it current.

A setting is looked for on the command line of `nimble-coder serve`, then in the environment, then in the YAML file
that `--config` or `{config}` names, then in the profile of the engine that is served; a setting that is given nowhere
has its default. In the file a setting is a key by its plain name, and lists may be written as lists:

```yaml
http_port: 9000
served_model_names: [coder, qwen2.5-coder]
drain_seconds: 60
```

- `nimble-coder serve --dry-run` prints every value with where it came from, and the processes that would be started.
- Names of NVIDIA NIM stand behind our own; where both are set, ours wins. An empty variable counts as not set.
- A variable `NIMBLE_*` or `NIM_*` that is no setting is warned about with the nearest name; a value that cannot be used
  ends the command at once with exit code 2.
- Keys and tokens have no option, because a command line can be read by everybody on the machine. They are shown
  nowhere.
- {clients} belong to `nimble-coder complete`.
"""


def page() -> str:
    """The whole page."""
    own = [name for name in Settings.model_fields if name not in GatewayOptions.model_fields]
    head = HEAD.format(config=CONFIG_FILE, clients=", ".join(f"`{name}`" for name in CLIENTS))
    parts = [head, "\n## The service\n\n", *table(["artifact", *own])]
    parts += ["\n## The gateway\n\n", *table(name for name in GatewayOptions.model_fields if name != "artifact")]
    return "".join([*parts, "\n## NIM's names that do nothing here\n\n", *without_effect()])


def table(names: Iterable[str]) -> Iterator[str]:
    """A row a setting."""
    yield "| setting and option | environment | values | default | meaning |\n|---|---|---|---|---|\n"
    for name in names:
        field = Settings.model_fields[name]
        option = f"`--{name.replace('_', '-')}`"
        shown = f"`{name}`, positional" if name == "artifact" else f"`{name}`" if is_secret(name) else option
        variables = ", ".join(f"`{variable}`" for variable in env_names(name))
        yield f"| {shown} | {variables} | {values(field)} | {default(field)} | {field.description} |\n"


def values(field: FieldInfo) -> str:
    """What is allowed."""
    kind = described(field.annotation)
    bounds = [
        f"{sign} {getattr(rule, name)}" for rule in field.metadata for name, sign in BOUNDS if hasattr(rule, name)
    ]
    return ", ".join([kind, *bounds])


BOUNDS = (("ge", "at least"), ("gt", "more than"), ("le", "at most"))
KINDS: dict[Any, str] = {str: "text", int: "number", float: "number", bool: "true, false", Path: "path"}
KINDS[SecretStr] = "secret"


def described(kind: Any) -> str:
    """A type in words."""
    if get_origin(kind) in (Union, types.UnionType):
        return described(next(part for part in get_args(kind) if part is not type(None)))
    if get_origin(kind) is Literal:
        return ", ".join(get_args(kind))
    return KINDS[kind]


def default(field: FieldInfo) -> str:
    """The default, nothing for none."""
    value = field.default
    if value is None or value == "" or isinstance(value, SecretStr):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else f'{value:g}' if isinstance(value, float) else value}`"


def without_effect() -> Iterator[str]:
    """One row a reason."""
    yield "| variables | why, or what to use |\n|---|---|\n"
    for reason, names in groupby(NO_EFFECT, NO_EFFECT.__getitem__):
        yield f"| {', '.join(f'`{name}`' for name in names)} | {reason} |\n"


if __name__ == "__main__":
    print(page(), end="")
