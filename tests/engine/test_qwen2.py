"""The model computes what Hugging Face transformers' Qwen2 computes, and the cache holds what it should."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from tests.conftest import EMBEDDED, MakeCheckpoint
from tests.engine.conftest import LoadEngine


def reference(directory: Path, prompt: list[int], count: int) -> list[int]:
    model = transformers.Qwen2ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ids = torch.tensor([prompt])
    output = model.generate(  # type: ignore[misc] # its mixin's protocol for `self` does not fit its own models
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return [int(i) for i in output[0, len(prompt) :]]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"num_attention_heads": 4, "num_key_value_heads": 1},
        {"num_attention_heads": 2, "num_key_value_heads": 2},
        {"rope_theta": 1000000.0},
    ],
)
def test_greedy_output_equals_transformers(
    load_engine: LoadEngine, make_checkpoint: MakeCheckpoint, changes: dict[str, Any]
) -> None:
    directory = make_checkpoint(**changes)
    prompt = [(i * 131) % 4096 for i in range(40)]
    assert generate(load_engine(directory), [Request(prompt, 48)])[0].token_ids == reference(directory, prompt, 48)


def test_a_sharded_checkpoint_gives_the_same(load_engine: LoadEngine, make_checkpoint: MakeCheckpoint) -> None:
    whole, shards = make_checkpoint("whole"), make_checkpoint("shards", shards=3)
    prompt = [9, 8, 7, 6]
    first, second = (generate(load_engine(d), [Request(prompt, 32)])[0].token_ids for d in (whole, shards))
    assert first == second


def test_the_embedded_model_equals_transformers(load_engine: LoadEngine) -> None:
    prompt = [(i * 131) % 4000 for i in range(60)]
    engine = load_engine(EMBEDDED)
    assert generate(engine, [Request(prompt, 64)])[0].token_ids == reference(EMBEDDED, prompt, 64)


def test_after_many_steps_the_cache_holds_what_a_fresh_prefill_computes(load_engine: LoadEngine) -> None:
    engine = load_engine(EMBEDDED, max_batch_size=1)
    cache = engine._scheduler._cache
    prompt = [(i * 7) % 50 for i in range(30)]
    tokens = prompt + generate(engine, [Request(prompt, 80)])[0].token_ids
    length = len(tokens) - 9  # what the last step wrote was not moved: the sequence was over
    stepped = [kind[:, 0, :, :length].copy() for kind in (cache.keys, cache.values)]
    cache.keys[:] = cache.values[:] = 0
    cache.hold(0, [])  # nothing to reuse: everything is computed anew
    generate(engine, [Request(tokens, 1)])
    fresh = [kind[:, 0, :, :length] for kind in (cache.keys, cache.values)]
    np.testing.assert_allclose(stepped, fresh, atol=1e-4, rtol=1e-4)
