"""The embedded model's tokenizer has what Qwen2.5-Coder's has."""

import json
import shutil
from pathlib import Path

import pytest
import transformers
from tokenizers import Tokenizer

from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_pad|>", "<|video_pad|>"]
NOT_SPECIAL = ["<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>"]
NOT_SPECIAL += ["<|repo_name|>", "<|file_sep|>"]
TOKENIZER = TextTokenizer(EMBEDDED)


@pytest.mark.parametrize("token", SPECIAL + NOT_SPECIAL)
def test_control_tokens_are_one_token(token: str) -> None:
    assert len(TOKENIZER.encode(token)) == 1


@pytest.mark.parametrize("token", NOT_SPECIAL)
def test_tool_and_fim_tokens_are_not_special_so_decoding_keeps_them(token: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(f"a{token}b")) == f"a{token}b"


@pytest.mark.parametrize("token", SPECIAL)
def test_special_tokens_are_skipped_unless_asked_for(token: str) -> None:
    ids = TOKENIZER.encode(f"a{token}b")
    assert TOKENIZER.decode(ids) == "ab"
    assert TOKENIZER.decode(ids, skip_special_tokens=False) == f"a{token}b"


def test_without_control_it_is_the_tokenizer_of_a_file_without_added_tokens() -> None:
    content = json.loads((EMBEDDED / "tokenizer.json").read_text())
    of_file, ours = Tokenizer.from_str(json.dumps({**content, "added_tokens": []})), TOKENIZER.without_control()
    text = "<|im_start|>def f(x):\n\treturn e\u0301 世界 <tool_call> 🙂\u200d🔥<|fim_middle|>"
    assert ours.encode(text).ids == of_file.encode(text).ids
    assert ours.encode(text).offsets == of_file.encode(text).offsets
    assert ours.decode(ours.encode(text).ids) == of_file.decode(of_file.encode(text).ids)
    assert not set(ours.encode(text).ids) & set(TOKENIZER.control_ids.values())
    assert set(TOKENIZER.encode(text)) & set(TOKENIZER.control_ids.values())  # the first one still knows them


def test_a_late_one_needs_its_files_no_more(tmp_path: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (EMBEDDED / name).is_file():
            shutil.copy(EMBEDDED / name, tmp_path)
    late = TextTokenizer(tmp_path, is_late=True)
    shutil.rmtree(tmp_path)
    assert late.encode("import os<|im_end|>") == TOKENIZER.encode("import os<|im_end|>")
    assert (late.end_ids, late.pad_id) == (TOKENIZER.end_ids, TOKENIZER.pad_id)


def test_the_added_tokens_are_those_of_the_tokenizer() -> None:
    assert added_tokens(EMBEDDED) == TOKENIZER.control_ids


def test_the_flags_in_tokenizer_json_and_its_config_agree() -> None:
    flags = {t["content"]: t["special"] for t in json.loads((EMBEDDED / "tokenizer.json").read_text())["added_tokens"]}
    config = json.loads((EMBEDDED / "tokenizer_config.json").read_text())
    assert flags == {t["content"]: t["special"] for t in config["added_tokens_decoder"].values()}
    assert len(flags) == 22
    assert sum(flags.values()) == 14


def test_end_ids_are_those_of_a_chat_turn_and_of_a_document() -> None:
    assert TOKENIZER.end_ids == [TOKENIZER.encode(t)[0] for t in ("<|im_end|>", "<|endoftext|>")]
    assert TOKENIZER.pad_id == TOKENIZER.encode("<|endoftext|>")[0]


def test_transformers_reads_it_alike_and_renders_chatml() -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(EMBEDDED)
    text = "def f(x):\n    return x + 1  # ünïcode \U0001f600\n"
    assert theirs.encode(text, add_special_tokens=False) == TOKENIZER.encode(text)
    turns = [{"role": "user", "content": "Hello"}]
    assert theirs.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>system\nYou are a helpful coding assistant.<|im_end|>\n"
        "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "text", ["def f(x):\n\treturn x", "naïve 世界 🙂\u200d🔥", "\x00\x7f\xa0\xad", "<|im_start|>a<|im_end|>"]
)
def test_the_bytes_of_tokens_are_the_texts(text: str) -> None:
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode(text))).decode() == text
