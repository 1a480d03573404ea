"""The checkpoint out of Qwen's own GGUF file is the checkpoint of the same weights that was made elsewhere."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.gguf.conversion import convert
from nimble_coder.text.tokenizer import TextTokenizer
from tests.real_model.material import sources

TEXTS = (
    "汉字かな交じり文 한국어 ไทย עברית العربية हिन्दी ᚠᚢᚦ e\u0301 \u1e9b\u0323 \ufb01",
    "😀👩‍👩‍👧‍👦🇫🇷 \x00\x07\u200b\u2028 I'm you'LL   \n \n\t\t  x\r\n  ",
    "<|im_start|>user\nHi<|im_end|><|endoftext|><|fim_prefix|>a<|fim_suffix|>b<|fim_middle|><|fim_pad|>",
    "<|repo_name|>r<|file_sep|>f.py<tool_call>{}</tool_call><|vision_pad|><|im_start<|im_end|> |>",
)


@pytest.fixture(scope="module")
def converted(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """The one out of `NIMBLE_REAL_GGUF`, a file with the weights of `NIMBLE_REAL_MODEL`."""
    if not (path := os.environ.get("NIMBLE_REAL_GGUF")):
        pytest.skip("NIMBLE_REAL_GGUF names no GGUF file with the same weights as the checkpoint")
    return Checkpoint.open(convert(Path(path), Cache(tmp_path_factory.mktemp("gguf")), print))


def test_every_tensor_is_the_same(converted: Checkpoint, checkpoint: Checkpoint) -> None:
    assert converted.shape == checkpoint.shape
    for name, _ in checkpoint.shape.tensors():
        found, expected = (
            safe_open(place.directory / place.weight_files[name], framework="pt").get_tensor(name)  # type: ignore[no-untyped-call]
            for place in (converted, checkpoint)
        )
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected), name


def test_the_tokenizer_and_the_chat_template_are_the_same(converted: Checkpoint, checkpoint: Checkpoint) -> None:
    ours, theirs = (TextTokenizer(place.directory) for place in (converted, checkpoint))
    for text in (*TEXTS, sources(theirs, 15_000)):
        assert ours.encode(text) == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    configs = [json.loads((p.directory / "tokenizer_config.json").read_text()) for p in (converted, checkpoint)]
    for key in ("chat_template", "added_tokens_decoder", "eos_token", "pad_token"):
        assert configs[0][key] == configs[1][key]
