"""What ways to draft would give a machine whose step times are known: answers are drafted anew, without the model.

    scripts/bench humaneval-engine CHECKPOINT answers.json
    scripts/bench replayed answers.json CHECKPOINT --step-ms 1:0.85 16:1.09 64:1.16 112:1.27 420:1.99

A simulation: `nimble_coder/planning/replay.py` says what it leaves out, and time between steps is not counted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from build_engine.lookahead import LookaheadConfig
from nimble_coder.bench.arguments import checkpoint_directory, existing_file, positive_int
from nimble_coder.bench.coding_prompts import CHAT, humaneval_problems
from nimble_coder.bench.humaneval_judge import read
from nimble_coder.contract.bounds import MOST_DRAFTS
from nimble_coder.engine.budget import Budget, StepCosts
from nimble_coder.engine.drafter import Drafter
from nimble_coder.engine.followers import Followers
from nimble_coder.engine.lookahead import Lookahead
from nimble_coder.engine.suffix import SuffixDrafter
from nimble_coder.planning.replay import Recording, Step, replay
from nimble_coder.text.added_tokens import added_tokens
from nimble_coder.text.tokenizer import TextTokenizer

Make = Callable[[list[int]], Drafter]


def recordings(answers: Path, tokenizer: TextTokenizer, most: int) -> list[Recording]:
    """The answers' first `most` tokens behind their problems' prompts."""
    prompts = {problem["task_id"]: CHAT.format(problem=problem["prompt"]) for problem in humaneval_problems(164)}
    return [
        Recording(tokenizer.encode(prompts[answer.task]), answer.token_ids[:most])
        for answer in read(answers)
        if len(answer.token_ids) > 1
    ]


def together(recorded: list[Recording], load: int, make: Make, costs: StepCosts) -> list[Step]:
    """The steps of all answers, `load` at a time."""
    budget = Budget(costs)
    groups = [recorded[start : start + load] for start in range(0, len(recorded) - load + 1, load)]
    return [step for group in groups for step in replay(group, make, budget)]


def ways(configs: list[LookaheadConfig], followers: Followers | None) -> dict[str, Make]:
    """How each way to draft is made, plain decoding first. Of lookahead its n-grams alone: no window was recorded."""
    found: dict[str, Make] = {
        "plain": lambda prompt: SuffixDrafter(prompt, 0),
        "suffixes": lambda prompt: SuffixDrafter(prompt, MOST_DRAFTS, followers=followers),
    }
    for config in configs:
        found[str(config)] = lambda prompt, config=config: Lookahead(config, prompt, 0)  # type: ignore[misc]
    return found


def step_times(texts: list[str]) -> dict[float, float]:
    """Seconds by rows, from `rows:milliseconds`."""
    pairs = (text.split(":") for text in texts)
    return {float(rows): float(milliseconds) / 1e3 for rows, milliseconds in pairs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=existing_file, help="written by humaneval-engine or humaneval")
    parser.add_argument("checkpoint", type=checkpoint_directory, help="whose tokenizer it is")
    parser.add_argument("--step-ms", nargs="+", required=True, metavar="ROWS:MS")
    parser.add_argument("--loads", type=positive_int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--configs", nargs="*", default=["1,5,5", "1,8,8", "1,15,15"], metavar="W,N,G")
    parser.add_argument("--max-tokens", type=positive_int, default=512, help="of each answer")
    args = parser.parse_args()
    recorded = recordings(args.answers, TextTokenizer(args.checkpoint), args.max_tokens)
    followers = Followers.among(added_tokens(args.checkpoint))
    costs = StepCosts(step_times(args.step_ms))
    made = ways([LookaheadConfig.parse(text) for text in args.configs], followers)
    table = Table(title=f"simulated: {len(recorded)} answers; tokens and rows per step and sequence, over plain")
    for heading in ("at once", *list(made)[1:]):
        table.add_column(heading, justify="right")
    for load in args.loads:
        cells, plain = [str(load)], 0.0
        for make in made.values():
            steps = together(recorded, load, make, costs)
            turns, tokens = sum(step.sequences for step in steps), sum(step.tokens for step in steps)
            rate = tokens / sum(costs.of(step.rows) for step in steps)
            if not plain:
                plain = rate
                continue
            rows = sum(step.rows for step in steps)
            cells.append(f"{tokens / turns:.2f}, {rows / turns:.1f}: {rate / plain:.2f}x")
        table.add_row(*cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
