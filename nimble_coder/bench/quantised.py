"""A quantised engine beside llama.cpp with a GGUF file of the same model, in turn, prompt by prompt.

    scripts/bench quantised ARTEFACT --gguf FILE [--threads 2] [--prompts 4] [--max-tokens 64] [--rounds 5] [--openvino]
        [--server vLLM=http://127.0.0.1:8100 ...]

Decoding is timed from the first token to the last, plainly and with what each drafts by itself: the engine as in the
service, llama.cpp by prompt lookup. The prompts are problems of HumanEval asked as chats. One of 1,000 tokens is timed
to its first token. llama.cpp: `pip install -e '.[peers]'`, which builds it from source for this processor. OpenVINO
GenAI, which reads GGUF files too: `pip install openvino-genai`. A server of OpenAI's API, which has been started with a
checkpoint of the same model and as many threads, takes turns by its name; its times hold HTTP.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from build_engine.artifact import Artifact
from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.bench.arguments import existing_file, positive_int, thread_count
from nimble_coder.bench.coding_prompts import humaneval_chats
from nimble_coder.bench.llama_cpp import LlamaCpp
from nimble_coder.bench.open_vino import OpenVino
from nimble_coder.bench.openai_server import OpenAIServer
from nimble_coder.bench.ratio import Ratio
from nimble_coder.contract.request import Request
from nimble_coder.engine.generate import generate
from nimble_coder.engine.torch_engine import TorchEngine, TorchEngineOptions
from nimble_coder.text.tokenizer import TextTokenizer

Speed = Callable[[list[int]], float]
"""Tokens per second behind a prompt, or of it."""
LONG = 1000
DRAFTS = 10
"""llama-cpp-python's own choice for prompt lookup."""


def engine_decoding(engine: TorchEngine, count: int, lookahead: LookaheadConfig | None, ids: list[int]) -> float:
    generation = generate(engine, [Request(ids, count, lookahead=lookahead)])[0]
    return (len(generation.token_ids) - 1) / generation.decode_seconds


def peer_decoding(peer: LlamaCpp, count: int, ids: list[int]) -> float:
    tokens = peer.tokens(ids)
    next(tokens)
    started = time.perf_counter()
    list(islice(tokens, count - 1))
    return (count - 1) / (time.perf_counter() - started)


def prefill(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return LONG / (time.perf_counter() - started)


def server_prefill(server: OpenAIServer, ids: list[int]) -> float:
    return prefill(lambda: server.read(ids))


def named_url(text: str) -> tuple[str, str]:
    """A name and where it is asked; raises `argparse.ArgumentTypeError`."""
    name, found, url = text.partition("=")
    if not (name and found and url.startswith("http")):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=URL, as in vLLM=http://127.0.0.1:8100")
    return name, url


def measure(speeds: dict[str, Speed], prompts: list[list[int]], rounds: int) -> dict[str, list[float]]:
    """Every prompt in every round under each, whose order turns."""
    found: dict[str, list[float]] = {name: [] for name in speeds}
    names = list(speeds)
    for turn, ids in enumerate(track(prompts * rounds, "taking turns", console=Console(stderr=True))):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            found[name].append(speeds[name](ids))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--gguf", type=existing_file, required=True)
    parser.add_argument("--threads", type=thread_count, default=2)
    parser.add_argument("--prompts", type=positive_int, default=4)
    parser.add_argument("--max-tokens", type=positive_int, default=64)
    parser.add_argument("--rounds", type=positive_int, default=5)
    parser.add_argument("--openvino", action="store_true", help="OpenVINO GenAI with the same file takes turns too")
    parser.add_argument("--server", action="append", default=[], type=named_url, metavar="NAME=URL")
    args = parser.parse_args()
    artifact, count = Artifact.open(args.artifact), args.max_tokens
    tokenizer = TextTokenizer(artifact.tokenizer)
    chats = [tokenizer.encode(text) for text in humaneval_chats(args.prompts).values()]
    long = tokenizer.encode("".join(humaneval_chats(20).values()))[:LONG]
    options = TorchEngineOptions(threads=args.threads, reuse_kv_cache=False, tokenizer=artifact.tokenizer)
    engine = TorchEngine(artifact.engine, artifact.manifest.profile.lookahead, options)
    plain, drafting = LlamaCpp(args.gguf, args.threads), LlamaCpp(args.gguf, args.threads, DRAFTS)
    decoding: dict[str, Speed] = {
        "engine, plain": partial(engine_decoding, engine, count, PLAIN),
        "engine, drafts": partial(engine_decoding, engine, count, None),
        "llama.cpp, plain": partial(peer_decoding, plain, count),
        "llama.cpp, drafts": partial(peer_decoding, drafting, count),
    }
    prompt: dict[str, Speed] = {
        "engine, prompt": lambda ids: prefill(lambda: generate(engine, [Request(ids, 1)])),
        "llama.cpp, prompt": lambda ids: prefill(lambda: plain.generate(ids, 1)),
    }
    if args.openvino:
        other, other_drafting = OpenVino(args.gguf, args.threads), OpenVino(args.gguf, args.threads, DRAFTS)
        decoding["OpenVINO, plain"] = partial(other.decoding, count)
        decoding["OpenVINO, drafts"] = partial(other_drafting.decoding, count)
        prompt["OpenVINO, prompt"] = lambda ids: prefill(lambda: other.read(ids))
    for name, url in args.server:
        server = OpenAIServer(url)
        decoding[name] = partial(server.decoding, count)
        prompt[f"{name}, prompt"] = partial(server_prefill, server)
    try:
        measure(decoding, chats[:1], 1)  # first uses
        found = measure(decoding, chats, args.rounds) | measure(prompt, [long], args.rounds)
    finally:
        engine.shutdown()
    title = f"{args.artifact.name} and {args.gguf.name}, {args.threads} thread(s)"
    Console(width=110).print(report(title, found))


def report(title: str, found: dict[str, list[float]]) -> Table:
    """Medians, and of the engine's over the peer's, measurement by measurement."""
    table = Table(title=title)
    for heading in ("", "tokens/s", "over llama.cpp plain", "least", "most"):
        table.add_column(heading, justify="right" if heading else "left")
    for name, speeds in found.items():
        peers = found["llama.cpp, prompt" if name.endswith("prompt") else "llama.cpp, plain"]
        ratios = [mine / theirs for mine, theirs in zip(speeds, peers, strict=True)]
        table.add_row(name, f"{statistics.median(speeds):.1f}", *Ratio.of(ratios).cells)
    return table


if __name__ == "__main__":
    main()
