"""Which parts of a JSON Schema are schemas too: what stands under a name of the client's own is, whatever the name, and
what is a value is not, whatever it looks like."""

from collections.abc import Iterator
from typing import Any

VALUES = ("const", "enum")
"""Keywords whose values an answer may have."""
DATA = (*VALUES, "default", "examples")
"""Keywords that hold no schemas."""
NAMES = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies")
"""In these, keys are names and no keywords."""

Part = tuple[Any, bool]
"""A part of a schema, and whether its keys are names."""


def schemas_in(part: Any, has_names: bool = False) -> Iterator[Part]:
    """What within a part is a schema or holds some; `has_names` says that its own keys are names."""
    if isinstance(part, list):
        yield from ((each, False) for each in part)
    elif isinstance(part, dict):
        for name, each in part.items():
            if has_names or name not in DATA:
                yield each, name in NAMES and not has_names
