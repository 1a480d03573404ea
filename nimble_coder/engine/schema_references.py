"""References in a JSON Schema: to places in it, such as '#/$defs/name', and to nothing else.

What names a part in another way, by an anchor, an identifier or a URI, would hide it from all that looks into a schema
before a compiler or a validator does.
"""

from collections.abc import Sequence
from typing import Any
from urllib.parse import unquote

from nimble_coder.engine.schema_parts import DATA, NAMES, schemas_in

NAMING = ("$id", "$schema")
"""Within a schema, the first has references mean places in its own part; the second may give that part another draft,
in which `id` does the same."""
DRAFT_4 = "draft-04"
"""Where it stands in `$schema`, `$id` is called `id`; elsewhere that is no keyword."""
LONGEST_INDEX = 9
"""Digits."""


class NowhereError(ValueError):
    """A reference that leads to no place in its schema."""


def check_references(schema: Any) -> None:
    """Raises ValueError where a schema refers to something else than its own places. Names of the whole move none."""
    is_draft_4 = isinstance(schema, dict) and DRAFT_4 in str(schema.get("$schema"))
    check_part(schema, schema, (*NAMING, "id") if is_draft_4 else NAMING, is_whole=True)


def check_part(
    schema: Any, part: Any, naming: Sequence[str], moved_by: str = "", is_whole: bool = False, has_names: bool = False
) -> None:
    """Checks a part of a schema, in which `moved_by`, if anything, has references mean other places."""
    if isinstance(part, dict) and not has_names:
        if not is_whole:
            moved_by = next((name for name in naming if isinstance(part.get(name), str)), moved_by)
        pointer = part.get("$ref")
        if isinstance(pointer, str):
            place(schema, pointer)
            if moved_by:
                raise ValueError(f"{moved_by} above {pointer[:80]!r} has it mean another place: leave it out")
    for each, are_names in schemas_in(part, has_names):
        check_part(schema, each, naming, moved_by, has_names=are_names)


def place(schema: Any, pointer: str) -> Any:
    """What stands where a reference leads; raises `NowhereError`, also for a value and for all that has names together,
    which nobody has looked at as a schema."""
    nowhere = NowhereError(f"{pointer[:80]!r} is not in the schema: refer to its places, as in '#/$defs/name'")
    if (pointer != "#" and not pointer.startswith("#/")) or "%2f" in pointer.lower():
        raise nowhere
    part, has_names = schema, False
    for written in unquote(pointer).split("/")[1:]:
        name = written.replace("~1", "/").replace("~0", "~")  # RFC 6901's escapes
        if isinstance(part, dict) and name in part and (has_names or name not in DATA):
            part, has_names = part[name], name in NAMES and not has_names
        elif isinstance(part, list) and name.isdecimal() and len(name) <= LONGEST_INDEX and int(name) < len(part):
            part, has_names = part[int(name)], False
        else:
            raise nowhere
    if has_names:
        raise nowhere
    return part


def resolve(schema: Any, pointer: str) -> Any:
    """What stands where a reference leads; true, which anything has, where there is nothing."""
    try:
        return place(schema, pointer)
    except NowhereError:
        return True
