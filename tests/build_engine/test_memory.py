"""Memory: computed, and equal to the figures that are known."""

from dataclasses import replace

import pytest

from build_engine.catalog import SHAPES
from build_engine.lookahead import PLAIN
from build_engine.memory import GIB, plan_companion, plan_memory
from build_engine.profiles import PROFILES

SEVEN = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]


@pytest.mark.parametrize(
    ("size", "gib"), [("0.5b", 1.17), ("1.5b", 3.31), ("3b", 6.33), ("7b", 14.19), ("14b", 27.51), ("32b", 61.03)]
)
def test_weights_are_as_large_as_the_checkpoint_with_its_own_head(size: str, gib: float) -> None:
    profile = replace(SEVEN, tensor_parallel=1)
    assert plan_memory(profile, SHAPES[size]).weights / GIB == pytest.approx(gib, abs=0.01)


def test_the_kv_cache_takes_two_bytes_per_element_and_one_where_it_is_in_fp8() -> None:
    fp8 = replace(SEVEN, precision="fp8")
    assert plan_memory(SEVEN, SHAPES["7b"]).kv_per_token == plan_memory(fp8, SHAPES["7b"]).kv_per_token == 57_344
    eight_bits = replace(fp8, fp8_kv_cache=True, kv_cache_reuse=False)
    assert plan_memory(eight_bits, SHAPES["7b"]).kv_per_token == 28_672
    on_cpu = PROFILES["qwen2.5-coder-1.5b-instruct-torch-bf16-w1n4g1"]
    assert plan_memory(on_cpu, SHAPES["1.5b"]).kv_per_token == 28_672
    assert plan_memory(replace(on_cpu, int8_kv_cache=True), SHAPES["1.5b"]).kv_per_token == 28 * 2 * (2 * 128 + 8 + 8)


def test_kv_heads_are_replicated_where_there_are_fewer_than_gpus() -> None:
    two = plan_memory(replace(SEVEN, tensor_parallel=2), SHAPES["1.5b"]).kv_per_token
    four = plan_memory(replace(SEVEN, tensor_parallel=4), SHAPES["1.5b"]).kv_per_token
    assert two == four == 28_672 // 2


def test_every_draft_token_of_every_request_has_logits() -> None:
    assert plan_memory(SEVEN, SHAPES["7b"]).logits == 16 * 112 * 152_064 * 4


def test_a_companion_has_weights_of_its_own_and_half_of_the_kv_cache() -> None:
    shape = SHAPES["7b"]
    alone, pair = plan_memory(SEVEN, shape), plan_companion(SEVEN, shape)
    plain = plan_memory(replace(SEVEN, lookahead=PLAIN), shape)
    assert pair.fixed == alone.fixed + plain.fixed - GIB  # the runtime's allowance once
    assert plain.logits < alone.logits
    left = 80 * GIB - pair.fixed
    assert 2 * pair.kv_tokens(80 * GIB) * alone.kv_per_token == pytest.approx(0.9 * left, rel=1e-4)
    assert pair.kv_tokens(pair.required) == pytest.approx(alone.tokens_per_sequence, abs=1)


def test_the_required_memory_is_the_least_that_serves_one_full_sequence() -> None:
    plan = plan_memory(SEVEN, SHAPES["7b"])
    assert plan.sequences(plan.required) == pytest.approx(1, abs=0.001)
    assert plan.kv_tokens(plan.fixed) == plan.kv_tokens(0) == 0
