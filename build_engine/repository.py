"""Renders the Triton model repository of an engine from the templates in `model_repository/`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from build_engine.lookahead import PLAIN
from build_engine.profiles import Profile

ENGINE_MODEL, PLAIN_MODEL = "tensorrt_llm", "tensorrt_llm_plain"
MODELS = ("preprocessing", ENGINE_MODEL, "postprocessing", "ensemble", "tensorrt_llm_bls")
"""As in tensorrtllm_backend; a companion engine adds `PLAIN_MODEL`, rendered from the engine's template."""
TEMPLATES = Path(__file__).parents[1] / "model_repository"


@dataclass(frozen=True)
class Places:
    """Absolute paths that the repository names; they are those of the published artefact."""

    engine: Path
    tokenizer: Path
    plain_engine: Path | None = None
    """The companion without lookahead, where there is one."""
    kv_cache_tokens: int | None = None
    """Of each of the two engines' KV caches where there is a companion; one alone takes its fraction of the memory."""


def render_repository(profile: Profile, places: Places, repository: Path) -> None:
    """Writes every model's `config.pbtxt` and version directory below `repository`.

    A template variable without a value is an error (`jinja2.UndefinedError`), never a leftover placeholder.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        autoescape=False,  # noqa: S701 - protobuf text, not HTML
    )
    environment.filters["pbtxt"] = pbtxt_string
    values = template_values(profile, places)
    for model in MODELS:
        render_model(environment, model, model, values, repository)
    if places.plain_engine:
        plain = {**values, "engine_dir": str(places.plain_engine), "lookahead": PLAIN}
        render_model(environment, ENGINE_MODEL, PLAIN_MODEL, plain, repository)


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
    }


def pbtxt_string(value: object) -> str:
    """A quoted string in protobuf text format, whose escapes JSON's are a subset of."""
    return json.dumps(str(value))
