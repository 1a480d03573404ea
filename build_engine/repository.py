"""Renders the Triton model repository of an engine from the templates in `model_repository/`."""

import json
import shutil
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from build_engine.artifact import ENGINE, ENGINE_MODEL, PLAIN_ENGINE, PLAIN_MODEL, TOKENIZER, Artifact
from build_engine.checkpoint import ModelShape
from build_engine.engine_config import EngineConfig
from build_engine.guide_tokens import GUIDE_TOKENS
from build_engine.hardware import GPU_TYPES, MIB
from build_engine.lookahead import PLAIN
from build_engine.memory import plan_companion
from build_engine.profiles import Profile
from build_engine.shipped import shipped

MODELS = ("preprocessing", ENGINE_MODEL, "postprocessing", "ensemble", "tensorrt_llm_bls")
"""As in tensorrtllm_backend; a companion engine adds `PLAIN_MODEL`, rendered from the engine's template."""
TEMPLATES = shipped(Path(__file__).parent, "model_repository")


@dataclass(frozen=True)
class Places:
    """Absolute paths that the repository names; they are those of the published artefact."""

    engine: Path
    tokenizer: Path
    plain_engine: Path | None = None
    """The companion without lookahead, where there is one."""
    kv_cache_tokens: int | None = None
    """Of each of the two engines' KV caches where there is a companion; one alone takes its fraction of the memory."""
    guide_tokens: Path | None = None
    """What the TensorRT engine that decodes plainly is guided with."""


def places_at(home: Path, profile: Profile, companion_of: ModelShape | None) -> Places:
    """What the repository of an artefact at `home` names; the model's shape is given where there is a companion."""
    guide_tokens = None if profile.is_portable else home / TOKENIZER / GUIDE_TOKENS
    if companion_of is None:
        return Places(home / ENGINE, home / TOKENIZER, guide_tokens=guide_tokens)
    memory = GPU_TYPES[profile.gpu].memory_mib * MIB
    tokens = plan_companion(profile, companion_of).kv_tokens(memory)
    return Places(home / ENGINE, home / TOKENIZER, home / PLAIN_ENGINE, tokens, guide_tokens)


def places_of(artifact: Artifact, home: Path, profile: Profile) -> Places:
    """What an artefact's repository names where it is at `home` and served as `profile` says."""
    shape = EngineConfig.read(artifact.engine).shape if artifact.has_companion else None
    places = places_at(home, profile, shape)
    return places if artifact.guide_tokens else replace(places, guide_tokens=None)  # an older release has built it


def render_repository(profile: Profile, places: Places, repository: Path) -> None:
    """Writes every model's `config.pbtxt` and version directory below `repository`.

    A template variable without a value is an error (`jinja2.UndefinedError`), never a leftover placeholder.
    """
    environment = templates(TEMPLATES)
    values = template_values(profile, places)
    for model in MODELS:
        render_model(environment, model, model, values, repository)
    if places.plain_engine:
        plain = {**values, "engine_dir": str(places.plain_engine), "lookahead": PLAIN}
        render_model(environment, ENGINE_MODEL, PLAIN_MODEL, plain, repository)


@cache
def templates(place: Path) -> Environment:
    """Kept, since each is compiled when it is first rendered."""
    environment = Environment(
        loader=FileSystemLoader(place),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - protobuf text, not HTML
    )
    environment.filters["pbtxt"] = pbtxt_string
    return environment


def render_model(environment: Environment, template: str, name: str, values: dict[str, Any], repository: Path) -> None:
    """Writes the model `name` from the templates of `template`."""
    (repository / name / "1").mkdir(parents=True)
    text = environment.get_template(f"{template}/config.pbtxt.jinja").render({**values, "model_name": name})
    (repository / name / "config.pbtxt").write_text(text, encoding="utf-8")
    script = TEMPLATES / template / "1" / "model.py"
    if script.is_file():
        shutil.copyfile(script, repository / name / "1" / "model.py")


def template_files() -> list[Path]:
    """Every file that determines a rendered repository, sorted by path."""
    return sorted(path for path in TEMPLATES.rglob("*") if path.suffix in (".jinja", ".py"))


def template_values(profile: Profile, places: Places) -> dict[str, Any]:
    """The templates' variables."""
    return {
        "profile": profile,
        "lookahead": profile.lookahead,
        "engine_dir": str(places.engine),
        "tokenizer_dir": str(places.tokenizer),
        "stats_check_period_ms": 250,
        "kv_cache_tokens": places.kv_cache_tokens,
        "guide_tokens": places.guide_tokens,
    }


def pbtxt_string(value: object) -> str:
    """A quoted string in protobuf text format, whose escapes JSON's are a subset of."""
    return json.dumps(str(value))
