"""Everything about the portable engine that only a GPU can show, in one call, as a page to keep.

    scripts/bench gpu [--output gpu-benchmark.md] [--dry-run]

A 7B-shaped model's plain step against reading its weights, and its steps of D + 1 tokens against plain ones; the
embedded model's lookahead, its output compared; the whole path through Triton. `--dry-run` does the same on a CPU with
a small shape. Nothing is downloaded: weights are random, or the embedded model's.
"""

import argparse
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

console = Console(stderr=True)


def sections(dry_run: bool) -> dict[str, list[str]]:
    """The commands by what they show. Each fails where what it checks does not hold."""
    python = [sys.executable, "-m"]
    device = "cpu" if dry_run else "cuda"
    rounds = "1" if dry_run else "5"
    shape = ["--shape", "0.5b", "--rounds", "1"] if dry_run else ["--shape", "7b"]
    configs = ["4,3,4", "5,5,5", "8,8,8", "15,15,15"]
    lookahead = [*python, "nimble_coder.bench.lookahead", "--device", device, "--rounds", rounds, "--configs", *configs]
    return {
        "A step against reading its weights once (aims: plain at most 1.33x, (8,8,8) at most 1.35x plain)": [
            *python,
            "nimble_coder.bench.step",
            "--device",
            device,
            *shape,
        ],
        "The embedded model's lookahead in fp32, where every output is compared": [*lookahead, "--precision", "fp32"],
        "The embedded model's lookahead in bf16 (aim: 3.4x)": [*lookahead, "--precision", "bf16"],
        "The whole path through Triton": [*python, "nimble_coder.quickstart", "--once", "--free-ports"],
    }


def machine(dry_run: bool) -> str:
    """What the figures were measured on."""
    name = "CPU, a dry run" if dry_run else torch.cuda.get_device_name()
    day = datetime.now(UTC).date().isoformat()
    return f"{day}; {name}; PyTorch {torch.__version__}; Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("gpu-benchmark.md"))
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, small")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here; --dry-run goes through the same commands on the CPU")
    parts, failed = [f"# The portable engine on a GPU\n\n{machine(args.dry_run)}\n"], []
    for title, command in sections(args.dry_run).items():
        console.print(f"[bold green]==>[/] {title}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        shown = " ".join(["python", *command[1:]])
        parts.append(f"## {title}\n\n```\n{shown}\n```\n\n```\n{done.stdout.strip()}\n```\n")
        if done.returncode:
            failed.append(title)
            parts.append(f"Failed with code {done.returncode}:\n\n```\n{done.stderr.strip()[-2000:]}\n```\n")
    args.output.write_text("\n".join(parts), encoding="utf-8")
    console.print(f"written to {args.output}")
    sys.exit(f"failed: {'; '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
