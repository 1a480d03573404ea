"""A tokenizer that no service could start with, or of another model, is refused before anything is built."""

import json
from pathlib import Path
from typing import Any

import pytest

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import CheckpointError
from build_engine.profiles import torch_profile
from tests.conftest import MakeCheckpoint

Content = dict[str, Any] | list[Any] | str | None


@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("tokenizer.json", "version https://git-lfs.github.com/spec/v1", r"tokenizer\.json cannot be loaded"),
        ("tokenizer.json", "", r"tokenizer\.json cannot be loaded"),
        ("tokenizer.json", {}, r"tokenizer\.json cannot be loaded"),
        ("tokenizer_config.json", "[", r"tokenizer_config\.json cannot be read as JSON"),
        pytest.param("tokenizer_config.json", "[" * 5000, r"config\.json cannot be read as JSON", id="nested"),
        ("tokenizer_config.json", [], r"tokenizer_config\.json holds no JSON object"),
        ("tokenizer_config.json", {"pad_token": 5, "eos_token": "<|im_end|>"}, "5 as pad_token"),
        ("tokenizer_config.json", {"pad_token": "<|other|>"}, r"tokenizer\.json lacks it"),
        ("generation_config.json", "{", r"generation_config\.json cannot be read as JSON"),
        ("generation_config.json", [1], r"generation_config\.json holds no JSON object"),
        ("generation_config.json", {"eos_token_id": []}, r"\[\] as eos_token_id"),
        ("generation_config.json", {"eos_token_id": "<|im_end|>"}, "as eos_token_id"),
        ("generation_config.json", {"eos_token_id": [-1]}, r"\[-1\] as eos_token_id"),
        ("generation_config.json", {"eos_token_id": 99999}, "99999, the model's embedding has 4096 rows"),
    ],
)
def test_a_broken_file_is_named(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, file: str, content: Content, reason: str
) -> None:
    directory = make_checkpoint()
    (directory / file).write_text(content if isinstance(content, str) else json.dumps(content))
    assert_refused(directory, tmp_path, reason)


def test_a_chat_template_that_is_no_text_is_named(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    directory = make_checkpoint()
    (directory / "chat_template.jinja").write_bytes(b"{{ messages }}\xff")
    assert_refused(directory, tmp_path, r"chat_template\.jinja cannot be read")


@pytest.mark.parametrize(
    ("config", "reason"), [({}, "None as eos_token"), ({"eos_token": "<|other|>"}, r"tokenizer\.json lacks it")]
)
def test_something_has_to_end_a_text(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, config: Content, reason: str
) -> None:
    directory = make_checkpoint()
    (directory / "generation_config.json").unlink()
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    assert_refused(directory, tmp_path, reason)


def test_a_tokenizer_of_a_larger_model_is_refused(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    assert_refused(make_checkpoint(vocab_size=4000), tmp_path, "up to number 4095, .* has 4000 rows: it belongs to")


def assert_refused(checkpoint: Path, home: Path, reason: str) -> None:
    profile = torch_profile("tiny", "tiny", "fp32").with_limits(max_seq_len=512)
    with pytest.raises(CheckpointError, match=reason):
        build(profile, checkpoint, Cache(home / "cache"), lambda _: None)
    assert not any((home / "cache").rglob("*"))
