"""Renders the Triton model repository of an engine from the templates in `model_repository/`."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from build_engine.profiles import Profile

MODELS = ("preprocessing", "tensorrt_llm", "postprocessing", "ensemble")
TEMPLATES = Path(__file__).parents[1] / "model_repository"


@dataclass(frozen=True)
class Places:
    """Absolute paths that the repository names; they are those of the published artefact."""

    engine: Path
    tokenizer: Path


def render_repository(profile: Profile, places: Places, repository: Path) -> None:
    """Writes every model's `config.pbtxt` and version directory below `repository`.

    A template variable without a value is an error (`jinja2.UndefinedError`), never a leftover placeholder.
    """
    values = template_values(profile, places)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - protobuf text, not HTML
    )
    environment.filters["pbtxt"] = pbtxt_string
    for model in MODELS:
        (repository / model / "1").mkdir(parents=True)
        text = environment.get_template(f"{model}/config.pbtxt.jinja").render(values)
        (repository / model / "config.pbtxt").write_text(text, encoding="utf-8")
        script = TEMPLATES / model / "1" / "model.py"
        if script.is_file():
            shutil.copyfile(script, repository / model / "1" / "model.py")


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
        # Requests beyond a full batch wait here; more than this and the client is told to come back.
        "max_queue_size": 4 * profile.max_batch_size,
        "cancellation_check_period_ms": 5,
        "stats_check_period_ms": 250,
        "text_instances": 2,
    }


def pbtxt_string(value: object) -> str:
    """A quoted string in protobuf text format, whose escapes JSON's are a subset of."""
    return json.dumps(str(value))
