"""Content addresses: what determines an engine, and what determines the artefact around it.

Two, because an engine takes minutes to compile: other templates or serving parameters make another artefact of the same
engine.
"""

import hashlib
import json
from dataclasses import asdict

from build_engine.checkpoint import sha256
from build_engine.profiles import Profile
from build_engine.repository import TEMPLATES, template_files

ROUNDING = {"int4": "compensated; embedding, head, queries, keys and values in 6 bits"}
"""How weights of a precision are chosen: changes whenever that does, so that no older engine is taken for a new one."""


def engine_address(
    profile: Profile, source: dict[str, str], version: str, companion: bool, calibration: str | None
) -> str:
    """SHA-256 over a checkpoint's file hashes, what is built of it and how, and the engine's version."""
    # Where nothing is rounded the address is what it was before rounding had a place in it.
    rounding = {"rounding": ROUNDING[profile.precision]} if profile.precision in ROUNDING else {}
    return address(
        profile=profile.id, source=source, version=version, companion=companion, calibration=calibration, **rounding
    )


def content_address(profile: Profile, engine_key: str) -> str:
    """SHA-256 over an artefact's engine, its whole profile, and the repository's templates."""
    templates = {str(path.relative_to(TEMPLATES)): sha256(path) for path in template_files()}
    return address(engine=engine_key, profile=asdict(profile), templates=templates)


def address(**everything: object) -> str:
    """SHA-256 of values that JSON can express."""
    return hashlib.sha256(json.dumps(everything, sort_keys=True).encode()).hexdigest()
