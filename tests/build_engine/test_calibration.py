"""Calibration measures what a checkpoint's matrices multiply, and an engine of 4 bits gains by it."""

import torch
import transformers

from build_engine.calibration import MEASURED, Calibration, moments, samples
from build_engine.checkpoint import Checkpoint
from tests.conftest import MakeCheckpoint


def test_the_inputs_are_those_in_transformers(make_checkpoint: MakeCheckpoint) -> None:
    place = make_checkpoint(max_position_embeddings=512)
    checkpoint = Checkpoint.open(place)
    model = transformers.Qwen2ForCausalLM.from_pretrained(place, dtype=torch.float32)
    seen: dict[str, list[torch.Tensor]] = {}
    for name, module in model.named_modules():
        if (projection := name.rsplit(".", 1)[-1]) in MEASURED:
            inputs = seen.setdefault(f"layers.{name.split('.')[2]}.{MEASURED[projection]}", [])
            module.register_forward_pre_hook(lambda _, given, inputs=inputs: inputs.append(given[0][0]))
    with torch.inference_mode():
        for ids in samples(checkpoint):
            model(torch.tensor([ids]))
    calibration = Calibration(checkpoint)
    assert len(seen) == len(MEASURED) * checkpoint.shape.num_hidden_layers
    for layer in range(checkpoint.shape.num_hidden_layers):
        for matrix in MEASURED.values():
            name = f"layers.{layer}.{matrix}"
            [found], [expected] = calibration.take(name), moments(torch.cat(seen[name]))
            torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-2)


def test_moments_of_many_inputs_are_cut_into_spans() -> None:
    rows = torch.randn(10, 2100, generator=torch.Generator().manual_seed(1))
    first, second = moments(rows)
    assert first.shape == (2048, 2048)
    assert second.shape == (64, 64)  # 2100 inputs fill 33 blocks of 64
    torch.testing.assert_close(first[0, 3], (rows[:, 0] * rows[:, 3]).mean())
    assert not second[52:].any()
