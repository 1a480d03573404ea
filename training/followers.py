"""Counts what follows each token, and each two, in code and prose at large, for `nimble_coder/engine/followers.py`.

    python -m training.followers CHECKPOINT FOLDER...

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
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from rich.progress import track

from nimble_coder.engine.followers import BITS, FILE, MOST, MOST_OF_TWO, pair
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
FEWEST_OF_TWO, LEAST_OF_TWO = 4, 0.08
"""The same of two tokens, in all kinds."""
DOUBT = 2.0
"""What is added to the occurrences of two tokens: those of few say less."""
PAIRS = 150_000
"""Of two tokens that are kept."""
BETWEEN = -1
"""In the place of a token, between two files."""

Ids = NDArray[np.int64]
Pairs = Counter[tuple[int, int]]


def files(folders: list[Path], ends: tuple[str, ...]) -> list[Path]:
    """Of one kind, each text once."""
    found: dict[bytes, Path] = {}
    for folder in folders:
        for path in folder.rglob("*"):
            if path.suffix in ends and path.is_file() and path.stat().st_size <= LARGEST:
                found.setdefault(hashlib.sha256(path.read_bytes()).digest(), path)
    return [found[digest] for digest in sorted(found)]


def encoded(paths: list[Path], tokenizer: TextTokenizer, most: int) -> Ids:
    """About `most` tokens of files, one behind the other."""
    ids: list[int] = []
    for path in paths:
        ids += [*tokenizer.encode(path.read_text(encoding="utf-8", errors="replace")), BETWEEN]
        if len(ids) > most:
            break
    return np.array(ids, np.int64)


def counted(ids: Ids) -> Pairs:
    """How often each token follows another."""
    return Pairs(two for two in pairwise(ids.tolist()) if BETWEEN not in two)


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
    """The arrays of `FILE` for one token: those followers that have the largest share in any kind."""
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


def table_of_two(texts: list[Ids]) -> dict[str, NDArray[Any]]:
    """The arrays of `FILE` for two tokens: of those that foretell most beyond what the second one does by itself."""
    windows = np.concatenate([sliding_window_view(ids, 3) for ids in texts])
    before, token, follower = windows[(windows != BETWEEN).all(axis=1)].T
    found, counts = np.unique((pair(before, token) << BITS) | follower, return_counts=True)
    pairs, of_pair = np.unique(found >> BITS, return_inverse=True)
    occurrences = np.bincount(of_pair, counts)[of_pair]
    share = counts / (occurrences + DOUBT)
    beyond = share - alone(found & ((1 << 2 * BITS) - 1), counts)
    counts_for = (occurrences >= FEWEST_OF_TWO) & (share >= LEAST_OF_TWO)
    gain = np.bincount(of_pair, np.where(counts_for, counts * np.maximum(beyond, 0), 0))
    kept = np.sort(np.argsort(-gain, kind="stable")[: min(PAIRS, int((gain > 0).sum()))])
    best = np.flatnonzero(counts_for & np.isin(of_pair, kept))
    best = best[np.lexsort((-share[best], of_pair[best]))]
    row = np.searchsorted(kept, of_pair[best])
    column = np.arange(len(best)) - np.searchsorted(row, row)
    best, row, column = (each[column < MOST_OF_TWO] for each in (best, row, column))
    following = np.full((len(kept), MOST_OF_TWO), -1, np.int32)
    parts = np.zeros((len(kept), MOST_OF_TWO), np.uint8)
    following[row, column], parts[row, column] = found[best] & ((1 << BITS) - 1), np.round(share[best] * 255)
    return {
        "first": (pairs[kept] >> BITS).astype(np.int32),
        "second": (pairs[kept] & ((1 << BITS) - 1)).astype(np.int32),
        "following_two": following,
        "shares_of_two": parts,
    }


def alone(two: Ids, counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of a token and its follower, as one number each time that they were counted: the follower's share."""
    which, of_which = np.unique(two, return_inverse=True)
    counted = np.bincount(of_which, counts)
    _, of_token = np.unique(which >> BITS, return_inverse=True)
    return (counted / np.bincount(of_token, counted)[of_token])[of_which]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=8_000_000, help="of each kind")
    args = parser.parse_args()
    tokenizer, texts = TextTokenizer(args.checkpoint), []
    for kind, ends in track(KINDS.items(), "reading"):
        paths = files(args.folders, ends)
        texts.append(encoded(paths, tokenizer, args.tokens))
        print(f"{kind}: {len(texts[-1]):,} tokens of {len(paths):,} files")
    arrays = {**table([shares(counted(ids)) for ids in texts]), **table_of_two(texts)}
    np.savez_compressed(FILE, **arrays)
    print(f"{len(arrays['tokens']):,} tokens, {len(arrays['first']):,} pairs, {FILE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
