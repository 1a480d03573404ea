"""A GGUF file becomes the checkpoint that it was made from, or is refused with what is wrong."""

import json
import os
import shutil
import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from build_engine.build import build
from build_engine.cache import Cache, CacheError
from build_engine.checkpoint import Checkpoint, CheckpointError
from build_engine.gguf.conversion import convert, rounded
from build_engine.gguf.header import Header
from build_engine.gguf.model import GgufModel
from build_engine.hardware import Hardware
from build_engine.local import is_gguf, open_local
from build_engine.selection import profile_of
from build_engine.weights import import_weights
from tests.build_engine.conftest import fill
from tests.build_engine.gguf_files import write_gguf
from tests.conftest import EMBEDDED, MakeCheckpoint, silent
from tests.standin.machine import Machine

TEXTS = (
    "def fib(n):\n\treturn n if n < 2 else fib(n - 1) + fib(n - 2)\n\n\n    # 12345.678e-9 _x__y\r\n",
    "汉字かな交じり文 한국어 ไทย עברית العربية हिन्दी",
    "😀👩‍👩‍👧‍👦🇫🇷 ᚠᚢᚦ e\u0301 \u1e9b\u0323 \ufb01 \x00\x07\u200b\u2028",
    "<|im_start|>user\nHi<|im_end|><|endoftext|><|fim_prefix|>a<|fim_suffix|>b<|fim_middle|><|fim_pad|>",
    "<|repo_name|>r<|file_sep|>f.py<tool_call>{}</tool_call><|vision_pad|><|im_start<|im_end|> |>",
    "I'm you'LL they'Ve   \n \n\t\t  x  ",
)


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as a GGUF file whose tensors are as exact as the checkpoint's."""
    return write_gguf(EMBEDDED, tmp_path_factory.mktemp("gguf") / "toy-bf16.gguf", "BF16")


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache")


@pytest.fixture
def tiny(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> Path:
    """A small file to damage; tensors of it are multiples of every format's block."""
    return write_gguf(make_checkpoint(hidden_size=256, intermediate_size=256), tmp_path / "tiny.gguf")


def same(one: Path, other: Path) -> None:
    """Two checkpoints have the same tensors, bit for bit."""
    ours, theirs = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


def test_a_file_gives_the_checkpoint_it_was_made_from(embedded: Path, cache: Cache) -> None:
    found = Checkpoint.open(convert(embedded, cache, silent))
    assert found.shape == Checkpoint.open(EMBEDDED).shape
    assert found.name == "toy-bf16"
    same(found.directory, EMBEDDED)


def test_the_tokenizer_is_the_original_one(embedded: Path, cache: Cache) -> None:
    directory = convert(embedded, cache, silent)
    ours, theirs = (Tokenizer.from_file(str(place / "tokenizer.json")) for place in (directory, EMBEDDED))
    for text in (*TEXTS, *(path.read_text() for path in Path(__file__).parent.glob("*.py"))):
        ids = theirs.encode(text).ids
        assert ours.encode(text).ids == ids
        for skip in (True, False):
            assert ours.decode(ids, skip_special_tokens=skip) == theirs.decode(ids, skip_special_tokens=skip)
    assert ours.get_vocab() == theirs.get_vocab()
    configs = [json.loads((place / "tokenizer_config.json").read_text()) for place in (directory, EMBEDDED)]
    for key in ("chat_template", "added_tokens_decoder", "eos_token", "pad_token"):
        assert configs[0][key] == configs[1][key], key
    generation = [json.loads((place / "generation_config.json").read_text()) for place in (directory, EMBEDDED)]
    assert generation[0]["eos_token_id"] == generation[1]["eos_token_id"]


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q4_0", "Q5_0", "Q5_1", "Q8_0"])
def test_every_format_gives_the_values_of_llama_cpp(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, cache: Cache, kind: str
) -> None:
    checkpoint = make_checkpoint(hidden_size=256, intermediate_size=256)
    found = load_file(convert(write_gguf(checkpoint, tmp_path / "m.gguf", kind), cache, silent) / "model.safetensors")
    dtype = {"F32": torch.float32, "F16": torch.float16}.get(kind, torch.bfloat16)
    number = GGMLQuantizationType[kind]
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        values = tensor.numpy()
        expected = torch.from_numpy(dequantize(quantize(values, number), number) if values.ndim == 2 else values)
        assert found[name].dtype == dtype
        assert torch.equal(found[name], expected.to(dtype)), name


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_blocks_of_256_are_taken_row_by_row(tiny: Path, cache: Cache, kind: str) -> None:
    """Nobody quantises to these in Python: any bytes are values of some kind."""
    number = GGMLQuantizationType[kind]
    header = Header.read(tiny)
    info = header.tensors["blk.1.ffn_down.weight"]
    content = bytearray(tiny.read_bytes())
    place = content.index(b"blk.1.ffn_down.weight") + len("blk.1.ffn_down.weight") + 4 + 16
    content[place : place + 4] = struct.pack("<I", number)
    tiny.write_bytes(content)
    found = load_file(convert(tiny, cache, silent) / "model.safetensors")["model.layers.1.mlp.down_proj.weight"]
    length = Header.read(tiny).tensors[info.name].row_bytes * 256
    raw = torch.frombuffer(content, dtype=torch.uint8)[info.offset : info.offset + length].numpy().reshape(256, -1)
    with np.errstate(all="ignore"):
        expected = torch.from_numpy(dequantize(raw, number)).to(torch.bfloat16)
    assert torch.equal(found.nan_to_num(), expected.nan_to_num())


def test_rounding_to_bfloat16_is_pytorchs() -> None:
    bits = torch.randint(-(1 << 31), (1 << 31) - 1, (1 << 16,), dtype=torch.int32)
    edges = torch.tensor([0.0, -0.0, float("inf"), float("-inf"), 1 + 2**-8, 1 + 3 * 2**-8, 3.39e38, 1e-45])
    values = torch.cat([bits.view(torch.float32), edges])
    finite = values[~values.isnan()]
    assert (
        rounded(finite.numpy(), "bfloat16").tobytes() == finite.to(torch.bfloat16).view(torch.int16).numpy().tobytes()
    )
    assert rounded(torch.tensor([float("nan")]).numpy(), "bfloat16") == [0x7FC0]


def test_a_head_that_is_the_embedding_in_a_finer_format_is_tied_and_the_finer_one_taken(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, cache: Cache
) -> None:
    """Qwen's own Q4_K_M files of 0.5B and 1.5B have both."""
    checkpoint = make_checkpoint()
    weights = load_file(checkpoint / "model.safetensors")
    fine = weights["lm_head.weight"]
    weights["model.embed_tokens.weight"] = fine + torch.randn(fine.shape) * 0.02
    save_file(weights, checkpoint / "model.safetensors")
    found = Checkpoint.open(convert(write_gguf(checkpoint, tmp_path / "m.gguf"), cache, silent))
    assert found.shape.tie_word_embeddings
    assert torch.equal(load_file(found.directory / "model.safetensors")["model.embed_tokens.weight"], fine)


def test_a_model_in_several_files_is_read_from_the_first(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, cache: Cache
) -> None:
    checkpoint = make_checkpoint()
    weights = load_file(checkpoint / "model.safetensors")
    for number in (0, 1):
        part = tmp_path / f"part{number}"
        shutil.copytree(checkpoint, part)
        chosen = {name: each for i, (name, each) in enumerate(weights.items()) if i % 2 == number}
        save_file(chosen, part / "model.safetensors")
        split: dict[str, Any] = {"split__no": number, "split__count": 2}
        write_gguf(part, tmp_path / f"m-0000{number + 1}-of-00002.gguf", **split)
    model = GgufModel.open(tmp_path / "m-00001-of-00002.gguf")
    assert model.name == "m"
    same(convert(model.files[0], cache, silent), checkpoint)
    with pytest.raises(CheckpointError, match="give the first of them"):
        GgufModel.open(model.files[1])
    model.files[1].unlink()
    with pytest.raises(CheckpointError, match=r"m-00002-of-00002\.gguf is missing"):
        GgufModel.open(model.files[0])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_conversion_that_was_damaged_is_made_again(tiny: Path, cache: Cache, damage: str) -> None:
    weights = convert(tiny, cache, lambda _: None) / "model.safetensors"
    content = weights.read_bytes()
    weights.unlink()
    if damage == "cut":
        weights.write_bytes(content[:-9])
    said: list[str] = []
    assert convert(tiny, cache, said.append) == weights.parent
    assert weights.read_bytes() == content
    assert any("(converting again)" in line for line in said)


def test_a_file_is_converted_once_with_progress_and_its_place_follows_its_content(tiny: Path, cache: Cache) -> None:
    said: list[str] = []
    first = convert(tiny, cache, said.append)
    assert any("100 %" in line for line in said)
    weights = first / "model.safetensors"
    before = weights.stat().st_mtime_ns
    said.clear()
    assert import_weights(tiny, "ignored", cache, said.append).directory == first
    assert weights.stat().st_mtime_ns == before
    assert f"already converted: {first}" in said
    content = bytearray(tiny.read_bytes())
    content[-1] ^= 1
    tiny.write_bytes(content)
    assert convert(tiny, cache, silent) != first


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(tiny: Path, small_disk: Path) -> None:
    fill(small_disk, 50_000)
    cache = Cache(small_disk / "cache")
    with pytest.raises(CacheError, match="make room"):
        convert(tiny, cache, silent)
    assert not cache.hub.exists()


def test_a_file_is_built_and_called_after_itself(tiny: Path, machine: Machine) -> None:
    done = machine.call("build-engine", "--model", tiny, "--skip-verify")
    assert done.returncode == 0, done.stderr
    assert machine.artifacts == [Path(done.stdout.strip())]
    assert "profile tiny-" in done.stderr
    planned = machine.call("build-engine", "--model", tiny, "--dry-run")
    assert f"nimble-coder build-engine --model {tiny}" in planned.stdout


def test_an_engine_for_tensorrt_converts_the_same_directory(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, h100: Machine
) -> None:
    tiny = write_gguf(make_checkpoint(), tmp_path / "tiny.gguf", qwen2__context_length=32768)
    profile = "qwen2.5-coder-1.5b-instruct-h100-bf16-tp1-w8n8g8"
    plainly = ("-p", profile, "--lookahead", "1,1,0")  # heads of 16 are too small for lookahead
    planned = h100.call("build-engine", *plainly, "--model", tiny, "--dry-run")
    assert f"MODEL=$(nimble-coder download-to-cache --model {tiny})" in planned.stdout, planned.stderr
    done = h100.call("build-engine", *plainly, "--model", tiny, "--skip-verify")
    assert done.returncode == 0, done.stderr
    converted = h100.call("download-to-cache", "--model", tiny)
    assert converted.returncode == 0, converted.stderr
    assert Checkpoint.open(Path(converted.stdout.strip())).name == "tiny"


def test_the_artefact_generates_what_the_checkpoints_artefact_does(embedded: Path, machine: Machine) -> None:
    """The engine's weights and tokenizer, byte by byte, are those of the checkpoint."""
    cache, made = Cache(machine.cache), []
    for source in (embedded, EMBEDDED):
        profile = profile_of(open_local(source), Hardware((), None))
        made.append(build(profile, source, cache, silent))
    weights = [next(each.engine.glob("*.safetensors")).read_bytes() for each in made]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"general__architecture": "llama"}, "architecture 'llama'; only 'qwen2' is served"),
        ({"general__architecture": "qwen2moe"}, "architecture 'qwen2moe'"),
        ({"tokenizer__ggml__model": "llama"}, "tokenizer 'llama' is not Qwen2's"),
        ({"tokenizer__ggml__pre": "llama-bpe"}, "pre-tokenizer llama-bpe"),
        ({"qwen2__rope__scaling__type": "yarn"}, "RoPE scaling 'yarn'"),
        ({"qwen2__rope__dimension_count": 8}, "rope.dimension_count is not the head's size, 64"),
        ({"qwen2__attention__head_count": 0}, "has 0 as qwen2.attention.head_count"),
        ({"qwen2__attention__head_count_kv": 3}, "not a multiple"),
        ({"qwen2__block_count": None}, "lacks qwen2.block_count"),
        ({"qwen2__block_count": 2**32 - 1}, "lacks the tensor blk.2.attn_norm.weight"),
        ({"qwen2__block_count": 1}, "tensors that Qwen2 does not have"),
        ({"qwen2__block_count": "two"}, "has str 'two' as qwen2.block_count"),
        ({"qwen2__embedding_length": 128}, "token_embd.weight has shape"),
        ({"qwen2__rope__freq_base": float("nan")}, "has nan as qwen2.rope.freq_base"),
        ({"qwen2__attention__layer_norm_rms_epsilon": -1.0}, "has -1.0"),
        ({"tokenizer__ggml__tokens": ["a", "b"]}, "2 tokens, 4096 token types"),
        ({"tokenizer__ggml__token_type": [1] * 4095 + [9]}, "tokens of type 9"),
        ({"tokenizer__ggml__token_type": [3] + [1] * 4095}, "do not follow each other"),
        ({"tokenizer__ggml__tokens": ["x"] * 4096}, "a token that is there twice"),
        ({"tokenizer__ggml__merges": ["x y z"]}, "a merge 'x y z' of what are no tokens"),
        ({"tokenizer__ggml__merges": [1, 2]}, "no merges"),
        ({"tokenizer__ggml__eos_token_id": 4096}, "eos_token_id 4096"),
        ({"general__alignment": 3}, "alignment 3, which is no power of two"),
        ({"split__no": 0, "split__count": 2}, "one of 2 files"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    make_checkpoint: MakeCheckpoint, tmp_path: Path, cache: Cache, changes: dict[str, Any], reason: str
) -> None:
    path = write_gguf(make_checkpoint(hidden_size=256), tmp_path / "m.gguf", **changes)
    with pytest.raises(CheckpointError, match=reason):
        convert(path, cache, silent)
    assert [*cache.hub.glob("*/snapshots/*")] == []


def string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def file_of(*parts: bytes, version: int = 3, tensors: int = 0, pairs: int = 1) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + value


def tensor(name: bytes, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


HOSTILE = {
    "empty": (b"", "is not a GGUF file"),
    "another format": (b"PK\x03\x04" + bytes(100), "is not a GGUF file"),
    "version 1": (file_of(version=1), "version 1"),
    "big-endian": (file_of(version=3 << 24), "big-endian"),
    "tensors beyond counting": (file_of(bytes(64), tensors=2**63), "announces 9223372036854775808 tensors"),
    "metadata beyond counting": (file_of(bytes(64), pairs=2**64 - 1), "announces 18446744073709551615 metadata"),
    "a key beyond the file": (file_of(struct.pack("<Q", 2**62), bytes(64)), "truncated at a key"),
    "a text beyond the file": (file_of(pair(b"k", 8, struct.pack("<Q", 2**63))), "truncated at k"),
    "an array beyond the file": (file_of(pair(b"k", 9, struct.pack("<IQ", 8, 2**61))), "texts of k"),
    "numbers beyond the file": (file_of(pair(b"k", 9, struct.pack("<IQ", 10, 2**61))), "numbers of k"),
    "arrays in arrays": (file_of(pair(b"k", 9, struct.pack("<IQ", 9, 1) * 4000)), "an array of type 9 as k"),
    "an unknown type": (file_of(pair(b"k", 99, bytes(8))), "the unknown type 99 of k"),
    "a key twice": (file_of(pair(b"k", 0, b"1") * 2, bytes(8), pairs=2), "twice the key k"),
    "a key that is no text": (file_of(pair(b"\xff\xfe", 0, b"1"), bytes(8)), "not UTF-8 in a key"),
    "a value that is no text": (file_of(pair(b"k", 8, string(b"\xc3\x28"))), "not UTF-8 in k"),
    "no dimensions": (file_of(tensor(b"t", ()), bytes(64), tensors=1, pairs=0), "0 dimensions of t"),
    "dimensions beyond counting": (
        file_of(string(b"t"), struct.pack("<I", 2**32 - 1), bytes(64), tensors=1, pairs=0),
        "4294967295 dimensions of t",
    ),
    "an empty dimension": (file_of(tensor(b"t", (0, 4)), tensors=1, pairs=0), r"shape \[4, 0\] of t"),
    "a row that is no blocks": (file_of(tensor(b"t", (33, 4), 8), tensors=1, pairs=0), "no multiple of 32"),
    "an unknown format": (file_of(tensor(b"t", (32,), 4), tensors=1, pairs=0), "the unknown type 4 of t"),
    "a tensor beyond the file": (file_of(tensor(b"t", (2**40, 2**40)), tensors=1, pairs=0), "truncated: t ends"),
    "an offset beyond the file": (file_of(tensor(b"t", (1,), 0, 2**64 - 1), tensors=1, pairs=0), "truncated: t ends"),
    "a tensor twice": (
        file_of(tensor(b"t", (1,)), tensor(b"t", (1,), 0, 32), bytes(99), tensors=2, pairs=0),
        "two tensors that are called t",
    ),
    "tensors in each other": (
        file_of(tensor(b"t", (16,)), tensor(b"u", (16,), 0, 32), bytes(999), tensors=2, pairs=0),
        "a tensor u that overlaps another",
    ),
    "a long name": (file_of(tensor(b"t" * 65, (1,)), bytes(99), tensors=1, pairs=0), "name of 65 bytes"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused_in_a_moment_and_in_little_memory(tmp_path: Path, name: str) -> None:
    content, reason = HOSTILE[name]
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=reason):
            GgufModel.open(path)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A whole file of the embedded model's, without most of its tensors' data."""
    path = write_gguf(EMBEDDED, tmp_path_factory.mktemp("gguf") / "toy.gguf", "Q8_0")
    return path.read_bytes()


def outcome(path: Path) -> str:
    """What becomes of a file; anything but success and a clear refusal is this test's failure."""
    try:
        GgufModel.open(path)
    except CheckpointError as error:
        return str(error)
    return ""


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
@example(share=0.0)
def test_a_file_cut_anywhere_is_told_to_be_cut(small: bytes, tmp_path: Path, share: float) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small[: int(len(small) * share**4)])  # mostly in the header
    assert "download it again" in (said := outcome(path)) or "is not a GGUF file" in said


def test_a_file_cut_in_its_last_byte_is_told_to_be_cut(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(small)
    assert outcome(path) == ""
    path.write_bytes(small[:-1])
    assert "is truncated" in outcome(path)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), min_size=1, max_size=4)
)
def test_a_damaged_file_is_refused_or_read_and_nothing_else(
    small: bytes, tmp_path: Path, damages: list[tuple[float, bytes]]
) -> None:
    content = bytearray(small)
    header = min(info.offset for info in _header(small, tmp_path).tensors.values())
    for share, damage in damages:
        place = int(header * share)
        content[place : place + len(damage)] = damage
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    started = time.process_time()
    outcome(path)
    assert time.process_time() - started < 30  # seconds; a whole file takes a fraction of one


def _header(content: bytes, directory: Path) -> Header:
    path = directory / "whole.gguf"
    if not path.exists():
        path.write_bytes(content)
    return Header.read(path)


def test_pipes_devices_directories_and_dangling_links_are_refused_with_the_checkpoints_exit_code(
    tmp_path: Path, machine: Machine, tiny: Path
) -> None:
    pipe, dangling, absent = (tmp_path / f"{name}.gguf" for name in ("pipe", "dangling", "absent"))
    os.mkfifo(pipe)
    dangling.symlink_to(tmp_path / "nowhere")
    directory = tmp_path / "directory.gguf"
    directory.mkdir()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.read_bytes()[:100_000])
    reasons = {
        pipe: "no regular file",
        Path("/dev/zero"): "no regular file",
        dangling: "cannot be read: No such file",
        absent: "absent.gguf does not exist",
        directory: "lacks config.json",
        cut: "download it again",
    }
    for path, reason in reasons.items():
        done = machine.call("build-engine", "--model", path)
        assert done.returncode == 4, (path, done.stderr)
        assert reason in done.stderr
        assert "Traceback" not in done.stderr
    assert machine.artifacts == machine.leftovers == []


def test_a_link_to_a_file_is_the_file(tiny: Path, tmp_path: Path) -> None:
    """huggingface_hub keeps links in its snapshots."""
    link = tmp_path / "link.gguf"
    link.symlink_to(tiny)
    assert is_gguf(link)
    assert GgufModel.open(link).shape == GgufModel.open(tiny).shape
