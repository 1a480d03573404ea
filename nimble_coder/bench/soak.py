"""Mixed requests for a long time: does a process's memory come to rest?

    scripts/bench soak --pid PID [--url http://127.0.0.1:8000] [--minutes 60] [--clients 6]

PID is a gateway worker's (`python -m nimble_coder.gateway.server`) or an engine's stub, of a server that has just
started. Every minute its resident memory is printed; the last must be at most 1.15 times that of the tenth minute. A
third of the clients hang up in the middle, and a tenth of the requests are wrong in some way.
"""

import argparse
import asyncio
import json
import random
import resource
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpcore

from nimble_coder.bench.arguments import positive_int

REFERENCE_MINUTE, MOST = 10, 1.15
PAGE = resource.getpagesize()
PAUSE = 0.2
"""Seconds between two requests of a client: it is time that is tried, not speed."""
HEADERS = [("content-type", "application/json")]
LIMITS = {"timeout": dict.fromkeys(("connect", "read", "write", "pool"), 120.0)}

Body = dict[str, Any]


def resident_mib(pid: int) -> float:
    """Resident memory of a process; raises `FileNotFoundError` where it has ended."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * PAGE / 2**20


def some_request(rng: random.Random) -> tuple[str, Body]:
    """A path and a body, of many kinds and sizes."""
    text = "def f(x):\n" + "".join(f"    y{rng.randrange(99)} = x + {n}\n" for n in range(rng.choice([1, 5, 40, 200])))
    sampling: Body = rng.choice([{}, {"temperature": 0.8, "seed": rng.randrange(99)}, {"top_p": 0.9, "logprobs": 2}])
    common: Body = {"model": "qwen2.5-coder", "max_tokens": rng.choice([1, 8, 32, 96]), "stream": rng.random() < 0.6}
    kinds: list[tuple[str, Body]] = [
        ("/v1/completions", {"prompt": text, **common, **sampling}),
        ("/v1/completions", {"prompt": text, "suffix": "\n    return y\n", **common}),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], **common}),
        ("/infill", {"input_prefix": text, "input_suffix": "\n", "n_predict": 16, "stream": False}),
        ("/tokenize", {"content": text}),
    ]
    wrong: list[tuple[str, Body]] = [
        ("/v1/completions", {"prompt": [], **common}),
        ("/v1/completions", {"prompt": text, "temperature": -1}),
        ("/v1/completions", {"prompt": "x" * 900_000, **common}),
        ("/nothing", {"a": text}),
    ]
    return rng.choice(wrong if rng.random() < 0.1 else kinds)


async def client(url: str, until: float, seed: int, seen: Counter[str]) -> None:
    """One client after another: each sends a request and reads its answer, or a part of it."""
    rng = random.Random(seed)
    while time.monotonic() < until:
        path, body = some_request(rng)
        try:
            async with (
                httpcore.AsyncConnectionPool() as http,
                http.stream(
                    "POST", url + path, headers=HEADERS, content=json.dumps(body).encode(), extensions=LIMITS
                ) as answer,
            ):
                seen[f"{answer.status // 100}xx"] += 1
                hangs_up = rng.random() < 0.33
                async for _ in answer.aiter_stream():
                    if hangs_up:
                        break
        except (httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException) as error:
            seen[type(error).__name__] += 1
        await asyncio.sleep(PAUSE)


async def watch(pid: int, minutes: int, seen: Counter[str]) -> list[float]:
    """Memory at the end of each minute, in MiB."""
    found = []
    for minute in range(1, minutes + 1):
        await asyncio.sleep(60)
        found.append(resident_mib(pid))
        print(f"minute {minute}: {found[-1]:.1f} MiB, {dict(sorted(seen.items()))}", flush=True)
    return found


async def soak(args: argparse.Namespace) -> list[float]:
    seen: Counter[str] = Counter()
    until = time.monotonic() + 60 * args.minutes
    watched = asyncio.create_task(watch(args.pid, args.minutes, seen))
    await asyncio.gather(*(client(args.url, until, seed, seen) for seed in range(args.clients)))
    return await watched


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pid", type=positive_int, required=True, help="the process whose memory is watched")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--minutes", type=positive_int, default=60)
    parser.add_argument("--clients", type=positive_int, default=6)
    args = parser.parse_args()
    memory = asyncio.run(soak(args))
    reference = memory[min(REFERENCE_MINUTE, len(memory)) - 1]
    ratio = memory[-1] / reference
    print(
        f"at the end {memory[-1]:.1f} MiB, {ratio:.2f} times what it was in minute {min(REFERENCE_MINUTE, len(memory))}"
    )
    sys.exit(ratio > MOST)


if __name__ == "__main__":
    main()
