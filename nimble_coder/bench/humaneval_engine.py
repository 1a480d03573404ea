"""HumanEval's problems answered by a checkpoint's portable engine, without a service and without running an answer.

    scripts/bench humaneval-engine CHECKPOINT answers.json [--device cuda] [--precision fp32] [--drafting plain]
    scripts/bench humaneval-engine CHECKPOINT answers.json --samples 5 --temperature 0.2 --at-once 32
    scripts/bench humaneval-judge answers.json

It asks as `humaneval` does, or several times with a seed each: pass@1 of five samples is surer than that of one answer.
The machine that writes, a lent one with a GPU for example, need not be the one that tries.
"""

import argparse
import sys
import time

from build_engine.precision import STEP_PRECISIONS
from build_engine.profiles import cuda_profile, torch_profile
from nimble_coder.bench.arguments import add_device, checkpoint_directory, new_file, positive_float, positive_int
from nimble_coder.bench.asking import keep
from nimble_coder.bench.checkpoint_engine import checkpoint_engine
from nimble_coder.bench.coding_prompts import CHAT, humaneval_problems
from nimble_coder.bench.humaneval import FENCE, MOST_TOKENS, Answer, before, drafted
from nimble_coder.bench.load.drafting import WAYS, Drafting
from nimble_coder.contract.request import Request, Sampling
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions, choose_device
from nimble_coder.text.tokenizer import TextTokenizer

TOP_P = 0.95
WAITING = 3
"""Requests that wait for each that runs: a batch ends with few of them running."""


def write(
    engine: Engine,
    tokenizer: TextTokenizer,
    asked: list[tuple[dict[str, str], int]],
    most: int,
    drafting: Drafting,
    temperature: float | None = None,
) -> list[Answer]:
    """The engine's answers of at most so many tokens to problems, each with its seed, asked all at once; nobody has
    tried them."""
    ends = [*tokenizer.end_ids, *tokenizer.encode(FENCE)]
    requests = [
        Request(
            tokenizer.encode(CHAT.format(problem=problem["prompt"])),
            most,
            stop_words=[[end] for end in ends],
            sampling=Sampling(temperature=temperature, top_p=TOP_P) if temperature else None,
            seed=seed,
            **drafting.request,
        )
        for problem, seed in asked
    ]
    answers = []
    for (problem, seed), found in zip(asked, generate(engine, requests), strict=True):
        if found.metrics is None:
            raise RuntimeError(f"{problem['task_id']}: {found.error}")
        ids = before(found.token_ids, ends)
        text = tokenizer.decode(ids).partition(FENCE)[0]
        seconds = (found.metrics.last_token_time_ns - found.metrics.arrival_time_ns) / 1e9
        accepted = found.metrics.total_accepted_draft_tokens
        task, tokens = problem["task_id"], len(found.token_ids)
        answers.append(Answer(task, text, tokens, accepted, round(seconds, 3), None, ids, seed))
    return answers


def main() -> None:
    """Asks, keeps, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=checkpoint_directory)
    parser.add_argument("json", type=new_file, help="the file for the answers")
    parser.add_argument("--count", type=positive_int, default=164, help="of problems, spread over all")
    parser.add_argument("--max-tokens", type=positive_int, default=MOST_TOKENS)
    parser.add_argument("--precision", choices=[*STEP_PRECISIONS, "fp8"], default="bf16")
    parser.add_argument("--drafting", type=Drafting.parse, default="default", help=WAYS)
    parser.add_argument("--at-once", type=positive_int, default=1, help="problems that share the steps")
    parser.add_argument("--temperature", type=positive_float, help=f"sample, with top-p {TOP_P}; greedy without it")
    parser.add_argument("--samples", type=positive_int, default=1, help="of each problem, by --temperature")
    add_device(parser)
    args = parser.parse_args()
    if args.samples > 1 and not args.temperature:
        parser.error("--samples without --temperature: greedy answers are all the same")
    tokenizer = TextTokenizer(args.checkpoint)
    usual = cuda_profile if choose_device(args.device) == "cuda" else torch_profile
    largest = args.drafting.lookahead or usual("usual", "").lookahead
    together = args.at_once * (1 + WAITING)
    options = TorchEngineOptions(device=args.device, max_queue_size=together, tokenizer=args.checkpoint)
    asked = [(problem, seed) for problem in humaneval_problems(args.count) for seed in range(args.samples)]
    answers: list[Answer] = []
    with checkpoint_engine(args.checkpoint, args.precision, [largest], options, args.at_once) as engine:
        generate(engine, [Request([tokenizer.pad_id] * 8, 8)])  # the first use of code paths
        started = time.perf_counter()
        for start in range(0, len(asked), together):
            some = asked[start : start + together]
            answers += write(engine, tokenizer, some, args.max_tokens, args.drafting, args.temperature)
            print(
                f"{len(answers)} of {len(asked)} answers, {time.perf_counter() - started:.1f} s",
                file=sys.stderr,
                flush=True,
            )
        seconds = time.perf_counter() - started
    keep(answers, args.json)
    print(f"{drafted(answers)}, {sum(a.tokens for a in answers) / seconds:.1f} a second ({args.at_once} at once)")


if __name__ == "__main__":
    main()
