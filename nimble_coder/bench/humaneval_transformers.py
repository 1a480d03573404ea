"""What `transformers` answers to HumanEval's problems with the same weights, beside answers that were kept.

    scripts/bench humaneval --json answers.json
    scripts/bench humaneval-transformers answers.json CHECKPOINT theirs.json [--device cuda]
    scripts/bench humaneval-judge answers.json theirs.json

Its greedy decoding runs in fp32, from the same prompts and to the same ends. Where the most likely token behind every
prefix of a given answer is the next one, that answer is what greedy decoding gives. From the first token that differs
on, it is generated.
"""

import argparse
import sys
import time
from typing import Any

import torch
import transformers

from nimble_coder.bench.arguments import add_device, checkpoint_directory, existing_file, new_file, positive_int
from nimble_coder.bench.asking import keep
from nimble_coder.bench.coding_prompts import CHAT, humaneval_problems
from nimble_coder.bench.humaneval import FENCE, MOST_TOKENS, Answer
from nimble_coder.bench.humaneval_judge import differences, pairs, read
from nimble_coder.engine.torch_engine import choose_device
from nimble_coder.text.tokenizer import TextTokenizer


def greedy(model: Any, prompt: list[int], answer: list[int], ends: list[int], most: int) -> list[int]:
    """The model's own answer of at most so many tokens, without the one of `ends` that ends it; `answer` is a guess."""
    with torch.inference_mode():
        logits = model(torch.tensor([prompt + answer], device=model.device)).logits[0, len(prompt) - 1 :]
        best: list[int] = logits.argmax(-1).tolist()
        agreed = next((i for i, token in enumerate(answer) if token != best[i] or token in ends), len(answer))
        if agreed == most or best[agreed] in ends:
            return answer[:agreed]
        start = torch.tensor([[*prompt, *answer[:agreed], best[agreed]]], device=model.device)
        config = transformers.GenerationConfig(
            max_new_tokens=max(1, most - agreed - 1), do_sample=False, eos_token_id=ends, pad_token_id=ends[0]
        )
        written = model.generate(start, attention_mask=torch.ones_like(start), generation_config=config)
    tokens: list[int] = written[0, len(prompt) :].tolist()[:most]
    return tokens[:-1] if tokens[-1] in ends else tokens


def write(model: Any, tokenizer: TextTokenizer, problem: dict[str, str], answer: Answer, most: int) -> Answer:
    """What the model answers to a problem, from what somebody answered; nobody has tried it."""
    started = time.perf_counter()
    prompt = tokenizer.encode(CHAT.format(problem=problem["prompt"]))
    ids = greedy(model, prompt, answer.token_ids, [*tokenizer.end_ids, *tokenizer.encode(FENCE)], most)
    text = tokenizer.decode(ids).partition(FENCE)[0]
    return Answer(problem["task_id"], text, len(ids), 0, round(time.perf_counter() - started, 3), None, ids)


def main() -> None:
    """Generates, keeps, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=existing_file, help="what `humaneval --json` or `humaneval-engine` wrote")
    parser.add_argument("checkpoint", type=checkpoint_directory, help="the directory that they were written with")
    parser.add_argument("json", type=new_file, help="the file for its answers")
    parser.add_argument("--max-tokens", type=positive_int, default=MOST_TOKENS, help="as was asked for")
    add_device(parser)
    args = parser.parse_args()
    problems = {problem["task_id"]: problem for problem in humaneval_problems(164)}
    model: Any = transformers.Qwen2ForCausalLM.from_pretrained(args.checkpoint, dtype=torch.float32)
    model.to(choose_device(args.device))
    tokenizer = TextTokenizer(args.checkpoint)
    answers, theirs = read(args.answers), []
    started = time.perf_counter()
    for answer in answers:
        theirs.append(write(model, tokenizer, problems[answer.task], answer, args.max_tokens))
        print(f"{len(theirs)} problems, {time.perf_counter() - started:.1f} s", file=sys.stderr, flush=True)
    keep(theirs, args.json)
    print(f"beside {args.answers.name}: {differences(pairs(answers, theirs))}")


if __name__ == "__main__":
    main()
