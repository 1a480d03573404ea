"""Perplexity is of what the compiled step computes, on code that calibration has not read."""

import pytest
import torch
import transformers

from build_engine.calibration import samples
from build_engine.checkpoint import Checkpoint
from build_engine.precision import INT8
from nimble_coder.bench.perplexity import losses, texts
from nimble_coder.engine.compiled import find_step
from tests.conftest import MakeCheckpoint


@pytest.mark.skipif(not find_step(), reason="the step was not compiled here")
def test_the_losses_are_those_of_transformers(make_checkpoint: MakeCheckpoint) -> None:
    place = make_checkpoint(
        max_position_embeddings=8192, num_attention_heads=1, num_key_value_heads=1
    )  # of 64 dimensions
    caches = ("bfloat16", INT8)
    all_losses = losses(Checkpoint.open(place), "fp32", caches, threads=1, tokens=128)
    found, eight = (each.view(-1, 127) for each in all_losses)
    ids = torch.tensor(texts(place, 128)[3])
    model = transformers.Qwen2ForCausalLM.from_pretrained(place, dtype=torch.float32)
    with torch.inference_mode():
        expected = torch.nn.functional.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none")
    # Keys and values are in bf16.
    torch.testing.assert_close(found[3], expected, atol=0.3, rtol=0.05)
    assert abs(float((found[3] - expected).mean())) < 0.02
    assert 0 < abs(float((eight - found).mean())) < 0.02


def test_calibration_reads_none_of_it(make_checkpoint: MakeCheckpoint) -> None:
    place = make_checkpoint()
    read = [tuple(ids) for ids in samples(Checkpoint.open(place))]
    assert len(set(read)) == len(read)
    for ids in texts(place):
        windows = {tuple(ids[start : start + 64]) for start in range(len(ids) - 63)}
        assert not any(tuple(piece[start : start + 64]) in windows for piece in read for start in range(0, 64, 16))
