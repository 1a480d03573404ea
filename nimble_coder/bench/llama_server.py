"""Drafting beside llama.cpp's own: files written anew with a small change, the same weights, one request at a time.

    scripts/bench llama-server --model CHECKPOINT --gguf FILE --binary llama-server [--count 4] [--threads 2]

FILE is what llama.cpp's `convert_hf_to_gguf.py CHECKPOINT --outtype bf16 --outfile FILE` makes. Each way in which
llama.cpp drafts from n-grams gets a server of its own, and all take turns with this engine, prompt by prompt, on the
same token ids. Time runs from a request's first token to its last, as each engine itself counts it; the prompts' time
is told apart.
"""

import argparse
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import STEP_PRECISIONS
from nimble_coder.bench.arguments import checkpoint_directory, existing_file, positive_int, thread_count
from nimble_coder.bench.asking import post
from nimble_coder.bench.checkpoint_engine import checkpoint_engine
from nimble_coder.bench.load.scenarios import scenarios
from nimble_coder.bench.ratio import Ratio
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.torch_engine import TorchEngineOptions
from nimble_coder.processes.triton import Addresses
from nimble_coder.text.tokenizer import TextTokenizer

OURS, OURS_PLAIN, THEIRS_PLAIN = "Nimble Coder", "Nimble Coder, plain", "llama.cpp, plain"
SPECS: dict[str, list[str]] = {
    "ngram-simple": [],
    "ngram-simple 4 16": ["--spec-ngram-simple-size-n", "4", "--spec-ngram-simple-size-m", "16"],
    "ngram-map-k 4 16": ["--spec-ngram-map-k-size-n", "4", "--spec-ngram-map-k-size-m", "16"],
    "ngram-mod 8 16": [
        *("--spec-ngram-mod-n-match", "8"),
        *("--spec-ngram-mod-n-min", "2", "--spec-ngram-mod-n-max", "16"),
    ],
    "ngram-cache": [],
}
"""Its ways to draft (`--spec-type` of llama.cpp's common/arg.cpp) with their own settings, or with those that suit few
cores better: so many tokens have to match, and so many are drafted at most."""


@dataclass(frozen=True)
class Answer:
    """What one engine took for one prompt."""

    ids: list[int]
    prompt_seconds: float
    seconds: float
    """From the first token to the last."""
    accepted: int

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return (len(self.ids) - 1) / self.seconds

    @property
    def tokens_per_step(self) -> float:
        return (len(self.ids) - 1) / max(len(self.ids) - 1 - self.accepted, 1)


Ask = Callable[[list[int]], Answer]


@contextmanager
def llama_server(args: argparse.Namespace, spec: Sequence[str]) -> Iterator[Ask]:
    """A llama-server that is ready; ends with the block. Raises `RuntimeError` where it does not come up."""
    addresses = Addresses.free()
    url = addresses.http
    command = [args.binary, "-m", args.gguf, "--port", str(addresses.http_port), "-c", "4096", "--parallel", "1"]
    command += ["--threads", str(args.threads), "--threads-batch", str(args.threads), *spec]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_ready(process, url)
            yield lambda ids: ask_llama(url, ids, args.max_tokens)
        finally:
            process.terminate()


def wait_ready(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Until the server answers."""
    while True:
        try:
            post(f"{url}/completion", {"prompt": [1], "n_predict": 1})
        except OSError:
            if process.poll() is not None:
                raise RuntimeError(f"llama-server ended with code {process.returncode}") from None
            time.sleep(0.2)
        else:
            return


def ask_llama(url: str, ids: list[int], max_tokens: int) -> Answer:
    """One greedy answer; an end of the answer is none of its tokens."""
    body: dict[str, Any] = {"prompt": ids, "n_predict": max_tokens, "return_tokens": True}
    body |= {"temperature": 0, "samplers": ["temperature"]}  # a checkpoint may ask for penalties
    found = post(f"{url}/completion", body)
    timings = found["timings"]
    accepted = timings.get("draft_n_accepted", 0)
    return Answer(found["tokens"], timings["prompt_ms"] / 1e3, timings["predicted_ms"] / 1e3, accepted)


def ask_engine(engine: Engine, ends: list[list[int]], max_tokens: int, lookahead: LookaheadConfig | None) -> Ask:
    """This engine."""

    def ask(ids: list[int]) -> Answer:
        [found] = generate(engine, [Request(ids, max_tokens, stop_words=ends, lookahead=lookahead)])
        if found.metrics is None:
            raise RuntimeError(found.error)
        m = found.metrics
        prompt_seconds = (m.first_token_time_ns - m.first_scheduled_time_ns) / 1e9
        return Answer(found.token_ids, prompt_seconds, found.decode_seconds, m.total_accepted_draft_tokens)

    return ask


def measure(contestants: dict[str, Ask], prompts: list[list[int]]) -> dict[str, list[Answer]]:
    """Everybody's answers to each prompt, who begins turning from one to the next."""
    answers: dict[str, list[Answer]] = {name: [] for name in contestants}
    names = list(contestants)
    for index, ids in enumerate(track(prompts, "measuring", console=Console(stderr=True))):
        turn = index % len(names)
        for name in names[turn:] + names[:turn]:
            answers[name].append(contestants[name](ids))
    return answers


def report(answers: dict[str, list[Answer]], title: str) -> Table:
    table = Table(title=title)
    for heading in ("", "tokens/step", "tokens/s", "ours over it", "least", "most", "prompt", "equal outputs"):
        table.add_column(heading, justify="right" if heading else "left")
    ours = answers[OURS]
    for name, found in answers.items():
        ratios = [mine.speed / theirs.speed for mine, theirs in zip(ours, found, strict=True)]
        equal = sum(mine.ids == theirs.ids for mine, theirs in zip(ours, found, strict=True))
        table.add_row(
            name,
            f"{statistics.median(each.tokens_per_step for each in found):.2f}",
            f"{statistics.median(each.speed for each in found):.1f}",
            *Ratio.of(ratios).cells,
            f"{statistics.median(each.prompt_seconds for each in found):.1f} s",
            f"{equal} of {len(found)}",
        )
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=checkpoint_directory, required=True, help="a checkpoint")
    parser.add_argument("--gguf", type=existing_file, required=True, help="the same weights for llama.cpp")
    parser.add_argument("--binary", default="llama-server", help="llama.cpp's server")
    parser.add_argument(
        "--specs", nargs="+", choices=SPECS, default=list(SPECS), metavar="NAME", help="ways of drafting"
    )
    parser.add_argument("--count", type=positive_int, default=4, help="of edits")
    parser.add_argument("--max-tokens", type=positive_int, default=256)
    parser.add_argument("--precision", choices=STEP_PRECISIONS, default="bf16", help="of this engine")
    parser.add_argument("--threads", type=thread_count, default=2, help="of a step, of both")
    args = parser.parse_args()
    tokenizer = TextTokenizer(args.model)
    asked = scenarios()["edit"].take(args.count)
    prompts = [tokenizer.encode(prompt.numbered(number).text) for number, prompt in enumerate(asked)]
    ends = [[i] for i in tokenizer.end_ids]
    options = TorchEngineOptions(threads=args.threads, device="cpu", tokenizer=args.model)
    with ExitStack() as stack:
        engine = stack.enter_context(checkpoint_engine(args.model, args.precision, [LookaheadConfig(1, 4, 1)], options))
        contestants = {OURS: ask_engine(engine, ends, args.max_tokens, None)}
        contestants[OURS_PLAIN] = ask_engine(engine, ends, args.max_tokens, PLAIN)
        contestants[THEIRS_PLAIN] = stack.enter_context(llama_server(args, []))
        for name in args.specs:
            spec = ["--spec-type", name.split()[0], *SPECS[name]]
            contestants[f"llama.cpp, {name}"] = stack.enter_context(llama_server(args, spec))
        answers = measure(contestants, prompts)
    title = f"{args.model.name}, {args.precision}, {args.threads} threads, {len(prompts)} edits, medians"
    Console(width=120).print(report(answers, title))


if __name__ == "__main__":
    main()
