"""The engine gives the checkpoint's own tokens, with lookahead and without, with reuse and without."""

from dataclasses import replace

import pytest
import torch
from transformers import Qwen2ForCausalLM

from build_engine.artifact import Artifact
from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import Profile
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.gateway.prompts.chat import ChatPrompts
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from nimble_coder.text.tokenizer import TextTokenizer
from tests.real_model.conftest import WIDEST
from tests.real_model.material import prompts_of_every_kind, sources

TOKENS = 64
FEW = LookaheadConfig(1, 2, 1)
"""Drafts that cost next to nothing for several requests at once."""


def test_in_fp32_every_token_is_that_of_transformers(
    checkpoint: Checkpoint, profile: Profile, cache: Cache, encoder: PromptEncoder, chats: ChatPrompts
) -> None:
    prompts = list(prompts_of_every_kind(encoder, chats).values())[-8:]
    exact = replace(profile, name="fp32", precision="fp32", max_seq_len=2048, max_input_len=1024)
    made = build(exact, checkpoint.directory, cache, print)
    engine = TorchEngine(made.engine, WIDEST, TorchEngineOptions(device="cpu"))
    try:
        outputs = [
            each.token_ids for each in generate(engine, [Request(prompt, TOKENS, lookahead=FEW) for prompt in prompts])
        ]
    finally:
        engine.shutdown()
    assert [len(output) for output in outputs] == [TOKENS] * 8
    model = Qwen2ForCausalLM.from_pretrained(checkpoint.directory, dtype=torch.float32)
    # Where the most likely token behind every prefix is the next one, greedy decoding gives these very tokens.
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == output


@pytest.mark.parametrize("lookahead", [LookaheadConfig(1, 4, 1), WIDEST], ids=str)
def test_in_bf16_lookahead_gives_the_tokens_of_plain_decoding(
    engine: TorchEngine, encoder: PromptEncoder, chats: ChatPrompts, lookahead: LookaheadConfig
) -> None:
    every = prompts_of_every_kind(encoder, chats)
    # Of the widest, whose steps take long, one of each kind.
    names = ["chat 0", "stack_class", "infill C", "tools Paris"] if lookahead == WIDEST else list(every)
    plain, drafted = (
        generate(engine, [Request(every[name], TOKENS, lookahead=config) for name in names])
        for config in (PLAIN, lookahead)
    )
    for name, one, other in zip(names, plain, drafted, strict=True):
        assert one.token_ids == other.token_ids, name
    assert sum(each.tokens_per_step for each in drafted) > len(names), "nothing was drafted"


def test_a_prompt_of_4000_tokens_that_begins_alike_is_not_computed_again(
    engine: TorchEngine, artifact: Artifact, tokenizer: TextTokenizer
) -> None:
    prompt = tokenizer.encode(sources(tokenizer, 4000))
    changed = [*prompt[:-20], *tokenizer.encode("\n\ndef main() -> None:\n    parser =")]
    first, again = (generate(engine, [Request(ids, 8, lookahead=FEW)])[0] for ids in (prompt, changed))
    assert first.metrics and again.metrics
    assert again.metrics.kv_cache_reused_blocks > 0.9 * again.metrics.kv_cache_alloc_total_blocks
    options = TorchEngineOptions(device="cpu", reuse_kv_cache=False)
    fresh = TorchEngine(artifact.engine, WIDEST, options)
    try:
        assert generate(fresh, [Request(changed, 8, lookahead=FEW)])[0].token_ids == again.token_ids
    finally:
        fresh.shutdown()
