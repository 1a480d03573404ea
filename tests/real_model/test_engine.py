"""The engine gives the checkpoint's own tokens, with lookahead and without, with reuse and without."""

from dataclasses import replace

import pytest
import torch
import transformers

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import Profile
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.gateway.prompts.chat import ChatPrompts
from nimble_coder.gateway.prompts.encoding import PromptEncoder
from tests.real_model.conftest import WIDEST
from tests.real_model.material import prompts_of_every_kind

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
    model = transformers.Qwen2ForCausalLM.from_pretrained(checkpoint.directory, dtype=torch.float32)
    # Where the most likely token behind every prefix is the next one, greedy decoding gives these very tokens.
    for prompt, output in zip(prompts, outputs, strict=True):
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + output[:-1]])).logits[0, len(prompt) - 1 :]
        assert logits.argmax(-1).tolist() == output


@pytest.fixture(scope="module")
def prompts(encoder: PromptEncoder, chats: ChatPrompts) -> dict[str, list[int]]:
    return prompts_of_every_kind(encoder, chats)


def written(engine: TorchEngine, prompts: list[list[int]], lookahead: LookaheadConfig) -> list[Generation]:
    return generate(engine, [Request(prompt, TOKENS, lookahead=lookahead) for prompt in prompts])


@pytest.fixture(scope="module")
def plain(engine: TorchEngine, prompts: dict[str, list[int]]) -> dict[str, list[int]]:
    """Plain decoding's tokens, by the prompt's name."""
    outputs = written(engine, list(prompts.values()), PLAIN)
    return {name: output.token_ids for name, output in zip(prompts, outputs, strict=True)}


@pytest.mark.parametrize("lookahead", [LookaheadConfig(1, 4, 1), WIDEST], ids=str)
def test_in_bf16_lookahead_gives_the_tokens_of_plain_decoding(
    engine: TorchEngine, prompts: dict[str, list[int]], plain: dict[str, list[int]], lookahead: LookaheadConfig
) -> None:
    # Of the widest, whose steps take long, one of each kind.
    names = ["chat 0", "stack_class", "infill C", "tools Paris"] if lookahead == WIDEST else list(prompts)
    drafted = written(engine, [prompts[name] for name in names], lookahead)
    for name, output in zip(names, drafted, strict=True):
        assert output.token_ids == plain[name], name
    assert sum(each.tokens_per_step for each in drafted) > len(names), "nothing was drafted"
