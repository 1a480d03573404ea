"""Counts what follows each token in code and prose at large, for `nimble_coder/engine/bigrams.py`.

    python -m training.bigrams CHECKPOINT FOLDER...

CHECKPOINT has the tokenizer. Kinds of files, by the ends of their names, are counted each by itself, so many tokens of
each, in files that their contents choose alone.
"""

import argparse
import hashlib
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

from nimble_coder.engine.bigrams import FILE, MOST
from nimble_coder.text.tokenizer import TextTokenizer

KINDS = {
    "Python": (".py",),
    "JavaScript": (".js", ".mjs", ".cjs"),
    "TypeScript": (".ts", ".tsx"),
    "Go": (".go",),
    "Rust": (".rs",),
    "C and C++": (".h", ".hpp", ".c", ".cc", ".cpp"),
    "prose": (".md", ".rst"),
}
LARGEST = 60_000
"""Bytes of a file; larger ones are made by programs."""
FEWEST, LEAST = 8, 0.03
"""Occurrences of a token in a kind, and the share of what follows it in one, from which on it counts."""

Pairs = Counter[tuple[int, int]]


def files(folders: list[Path], ends: tuple[str, ...]) -> list[Path]:
    """Of one kind, each text once."""
    found: dict[bytes, Path] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in ends and path.is_file() and path.stat().st_size <= LARGEST:
                found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    return [found[digest] for digest in sorted(found)]


def pairs(paths: list[Path], tokenizer: TextTokenizer, most: int) -> Pairs:
    """How often each token follows another, in about `most` tokens."""
    counts = Pairs()
    for path in paths:
        ids = tokenizer.encode(path.read_text(encoding="utf-8", errors="replace"))
        counts.update(pairwise(ids))
        if (most := most - len(ids)) < 0:
            break
    return counts


def shares(counts: Pairs) -> dict[int, dict[int, float]]:
    """By token, how large a share of what follows it each other one has; of tokens that are frequent enough."""
    behind: defaultdict[int, dict[int, float]] = defaultdict(dict)
    for (token, following), count in counts.items():
        behind[token][following] = count
    totals = {token: sum(found.values()) for token, found in behind.items()}
    return {
        token: {following: count / totals[token] for following, count in found.items()}
        for token, found in behind.items()
        if totals[token] >= FEWEST
    }


def table(kinds: list[dict[int, dict[int, float]]]) -> dict[str, NDArray[Any]]:
    """The arrays of `FILE`: of each token those followers that have the largest share in any kind."""
    rows = []
    for token in sorted(set().union(*kinds)):
        found = [kind.get(token, {}) for kind in kinds]
        largest = {following: max(kind.get(following, 0.0) for kind in found) for following in set().union(*found)}
        best = sorted((f for f, share in largest.items() if share >= LEAST), key=lambda f: (-largest[f], f))[:MOST]
        if best:
            padded = best + [-1] * (MOST - len(best))
            rows.append((token, padded, [[kind.get(following, 0.0) for kind in found] for following in padded]))
    tokens, followers, parts = zip(*rows, strict=True)
    return {
        "tokens": np.array(tokens, np.int32),
        "following": np.array(followers, np.int32),
        "shares": np.round(np.array(parts) * 255).astype(np.uint8),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=4_000_000, help="of each kind")
    args = parser.parse_args()
    tokenizer, kinds = TextTokenizer(args.checkpoint), []
    for kind, ends in track(KINDS.items(), "counting"):
        paths = files(args.folders, ends)
        counts = pairs(paths, tokenizer, args.tokens)
        print(f"{kind}: {counts.total():,} tokens of {len(paths):,} files")
        kinds.append(shares(counts))
    arrays = table(kinds)
    np.savez_compressed(FILE, **arrays)
    print(f"{len(arrays['tokens']):,} tokens, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
