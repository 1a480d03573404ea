"""What `transformers` solves of HumanEval with the same weights, beside the answers of a service that were kept.

    scripts/bench humaneval --json answers.json
    scripts/bench humaneval-transformers answers.json CHECKPOINT

Its greedy decoding runs in fp32 on the CPU, from the same prompts and to the same ends. Where the most likely token
behind every prefix of a service's answer is the next one, that answer is what greedy decoding gives. From the first
token that differs on, it is generated.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import track
from transformers import GenerationConfig, Qwen2ForCausalLM

from nimble_coder.bench.coding_prompts import CHAT, humaneval_problems
from nimble_coder.bench.humaneval import FENCE, MOST_TOKENS, passes, program_of
from nimble_coder.text.tokenizer import TextTokenizer


@dataclass(frozen=True)
class Compared:
    """One problem by both."""

    is_same: bool
    """Whether the two wrote the same tokens."""
    mine: bool
    """Whether the service's answer solves it."""
    theirs: bool


def greedy(model: Any, prompt: list[int], answer: list[int], ends: list[int], most: int) -> list[int]:
    """The model's own answer of at most so many tokens, without the one of `ends` that ends it; `answer` is a guess."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 :]
        best: list[int] = logits.argmax(-1).tolist()
        agreed = next((i for i, token in enumerate(answer) if token != best[i] or token in ends), len(answer))
        if agreed == most or best[agreed] in ends:
            return answer[:agreed]
        start = torch.tensor([[*prompt, *answer[:agreed], best[agreed]]])
        config = GenerationConfig(
            max_new_tokens=max(1, most - agreed - 1), do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
        written = model.generate(start, attention_mask=torch.ones_like(start), generation_config=config)
    tokens: list[int] = written[0, len(prompt) :].tolist()[:most]
    return tokens[:-1] if tokens[-1] in ends else tokens


def compare(
    model: Any, tokenizer: TextTokenizer, problem: dict[str, str], answer: dict[str, Any], most: int
) -> Compared:
    """What the model writes for a problem, beside a service's answer to it."""
    prompt = tokenizer.encode(CHAT.format(problem=problem["prompt"]))
    ends = [*tokenizer.end_ids, *tokenizer.encode(FENCE)]
    tokens = greedy(model, prompt, answer["token_ids"], ends, most)
    if tokens == answer["token_ids"]:
        return Compared(True, answer["passed"], answer["passed"])
    text = tokenizer.decode(tokens).partition(FENCE)[0]
    return Compared(False, answer["passed"], passes(program_of(problem, text)))


def summary(found: list[Compared]) -> str:
    """One line."""
    mine, theirs = (100 * sum(solved) / len(found) for solved in ([f.mine for f in found], [f.theirs for f in found]))
    same = sum(f.is_same for f in found)
    return (
        f"pass@1 {theirs:.1f} by transformers in fp32, {mine:.1f} by the service ({mine - theirs:+.1f}), "
        f"on the same {len(found)} problems; {same} of the answers are the same to the last token"
    )


def main() -> None:
    """Generates, tries, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path, help="what `scripts/bench humaneval --json` wrote")
    parser.add_argument("checkpoint", type=Path, help="the directory that the service's engine was built from")
    parser.add_argument("--max-tokens", type=int, default=MOST_TOKENS, help="as the service was asked")
    args = parser.parse_args()
    answers = json.loads(args.answers.read_text(encoding="utf-8"))
    problems = {problem["task_id"]: problem for problem in humaneval_problems(164)}
    model = Qwen2ForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    tokenizer = TextTokenizer(args.checkpoint)
    found = [
        compare(model, tokenizer, problems[answer["task"]], answer, args.max_tokens)
        for answer in track(answers, "transformers")
    ]
    print(summary(found))


if __name__ == "__main__":
    main()
