"""What only a GPU can show, in one run with a report on standard output. See docs/gpu-checklist.md.

Every probe says what is expected and what was seen; none stops the others. `--checklist` prints the probes themselves,
which is what that page has of them.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from build_engine.artifact import Artifact
from build_engine.build import BuildOptions, workshop
from build_engine.engines.tensorrt import trtllm_build
from build_engine.hardware import detect_hardware
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.profiles import PROFILES, Profile
from build_engine.store import create_store
from build_engine.verify import PROMPTS, TOKENS
from build_engine.versions import TENSORRT_LLM
from nimble_coder.client.grpc import CompletionClient, CompletionError
from nimble_coder.commands.terminal import say
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.triton import Addresses, TritonServer
from nimble_coder.processes.verification import LOADING, ServedEngine

PYTHON = sys.executable
SIZES = ("1.5b", "7b", "32b")
LONG = 1000
"""Tokens of an answer that is still in flight when another request comes."""


@dataclass(frozen=True)
class Probe:
    """One question to the machine."""

    name: str
    command: str
    """What runs, for a person."""
    expected: str
    ask: Callable[[], str]
    """What was seen; whatever it raises is seen too."""
    right: Callable[[str], bool]
    remedy: str = "a finding: report it"
    """What to do where it is not as expected."""


@dataclass(frozen=True)
class Result:
    """The answer to one."""

    probe: Probe
    seen: str
    seconds: float

    @property
    def verdict(self) -> str:
        return "as expected" if self.probe.right(self.seen) else "NOT as expected"


def shell(name: str, command: str, expected: str, pattern: str, remedy: str) -> Probe:
    """A command whose output has to match a pattern."""

    def ask() -> str:
        path = os.pathsep.join([str(Path(PYTHON).parent), os.environ["PATH"]])  # its `python3` is the one that runs
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        return (done.stdout + (done.stderr if done.returncode else "")).strip() or f"exit code {done.returncode}"

    return Probe(name, f"`{command}`", expected, ask, lambda seen: bool(re.search(pattern, seen, re.DOTALL)), remedy)


def interface_probes() -> Iterator[Probe]:
    """Is this TensorRT-LLM the one that the build stage was written against?"""
    yield shell("GPUs", "nvidia-smi -L", "one line per GPU", r"GPU 0", "`--gpus all`, and the driver")
    yield shell(
        "version",
        "python3 -c 'import tensorrt_llm as t; print(t.__version__)'",
        f"`{TENSORRT_LLM}`",
        rf"{re.escape(TENSORRT_LLM)}\s*$",
        "another container: see `build_engine/versions.py`",
    )
    profile = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
    shop = workshop(profile, Path("m"), Path("w"), BuildOptions())
    flags = [part for part in trtllm_build(profile, shop, Path("e"), profile.lookahead) if part.startswith("--")]
    yield shell(
        "flags",
        "trtllm-build --help",
        f"knows {', '.join(f'`{flag}`' for flag in flags)}",
        "^" + "".join(rf"(?=.*{flag}\b)" for flag in flags),
        "mend `trtllm_build()` and `tests/standin/trtllm_build_flags.json`",
    )
    for name, module, item, arguments, file in (
        ("conversion", "models", "QWenForCausalLM.from_hugging_face", "hf_model_or_dir dtype mapping", "convert"),
        ("saving", "models", "QWenForCausalLM.save_checkpoint", "output_dir save_config", "convert"),
        (
            "quantisation",
            "quantization",
            "quantize_and_export",
            "calib_dataset qformat kv_cache_dtype tp_size",
            "quantize",
        ),
    ):
        code = f"import inspect, tensorrt_llm.{module} as m; print(inspect.signature(m.{item}))"
        yield shell(
            name,
            f'python3 -c "{code}"',
            f"has {', '.join(f'`{each}`' for each in arguments.split())}, in this order",
            ".*".join(arguments.split()),
            f"mend `engines/{file}.py`",
        )
    code = "import inspect, tensorrt_llm.quantization.quantize_by_modelopt as q; print(inspect.getsource(q))"
    yield shell(
        "calibration",
        f'python3 -c "{code}" | grep isdir',
        "`os.path.isdir`: a directory with `train.jsonl` is taken as a data set",
        "isdir",
        "`--calibration cnn_dailymail`, which needs a network",
    )
    template = "/app/all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt"
    yield shell("template", f"grep -c lookahead {template}", "9", r"^9$", "the container is older than 25.05")
    package = "$(python3 -c 'import os, tensorrt_llm as t; print(os.path.dirname(t.__file__))')"
    yield shell(
        "library",
        f"grep -ciaE 'lookahead|runtime w' {package}/libs/libtensorrt_llm.so",
        "more than 0",
        r"^[1-9]",
        "lookahead was left out of this build",
    )


@dataclass
class Engines:
    """Engines built for this machine's GPUs, and how they behave."""

    gpu: str
    scratch: Path

    def profile(self, size: str) -> Profile:
        """The bf16 profile of an Instruct model for this GPU type."""
        wanted = f"qwen2.5-coder-{size}-instruct-{self.gpu}-bf16-"
        return next(profile for name, profile in PROFILES.items() if name.startswith(wanted))

    def build(self, size: str, *more: str) -> Artifact:
        """Runs the command that a person would run; raises `RuntimeError` with its last lines."""
        command = [PYTHON, "-m", "nimble_coder.cli", "build-engine", "-p", self.profile(size).name, *more]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"exit code {done.returncode}: {done.stderr[-2000:]}")
        return Artifact.open(Path(done.stdout.strip()))

    def smoke(self) -> str:
        """A small engine through its verification: 8 requests at once, 200 tokens each, with lookahead and without."""
        return str(self.build("1.5b", "--lookahead", "4,3,4", "--max-batch-size", "8").manifest.verification)

    def misfit(self, lookahead: LookaheadConfig) -> str:
        """Loads the small engine (4,3,4) with another (W,N,G) in Triton's configuration."""
        artifact = self.build("1.5b", "--lookahead", "4,3,4", "--max-batch-size", "8")
        store = self.scratch / f"misfit-{lookahead.max_draft_tokens}"
        config = create_store(artifact, store) / "tensorrt_llm" / "config.pbtxt"
        text = config.read_text(encoding="utf-8")
        for name, value in zip(("window", "ngram", "verification_set"), str(lookahead)[1:-1].split(","), strict=True):
            text = re.sub(rf'("lookahead_{name}_size" value: {{ string_value: )"\d+"', rf'\1"{value}"', text)
        config.write_text(text, encoding="utf-8")
        with TritonServer(store / "model_repository", Addresses.free(), self.scratch / "misfit.log") as server:
            try:
                server.wait_ready(LOADING)
            except TritonError as error:
                return f"does not load: {error}"
        return "loads"

    def over_limit(self) -> str:
        """One request beyond the engine's (W,N,G) beside a normal one; the gateway exists because of the answer."""
        artifact = self.build("1.5b", "--lookahead", "4,3,4", "--max-batch-size", "8")
        with TritonServer(artifact.repository, Addresses.free(), self.scratch / "limit.log") as server:
            server.wait_ready(LOADING)
            with CompletionClient(server.addresses.grpc) as client:
                prompt = client.encode(PROMPTS[0])
                normal = client.stream_tokens(prompt, LONG)
                next(normal)
                seen = []
                for name, stream in (
                    ("bad", client.stream_tokens(prompt, 16, LookaheadConfig(9, 9, 9))),
                    ("normal", normal),
                ):
                    try:
                        seen.append(f"{name}: {len(stream.finish().token_ids)} tokens")
                    except CompletionError as error:
                        seen.append(f"{name}: {error}")
        return "; ".join(seen)

    def figure(self, size: str) -> str:
        """Tokens per second of one request at a time, with lookahead and without."""
        profile = self.profile(size)
        artifact = self.build(size)
        with TritonServer(artifact.repository, Addresses.free(), self.scratch / f"{size}.log") as server:
            server.wait_ready(LOADING)
            with CompletionClient(server.addresses.grpc) as client:
                engine = ServedEngine(client)
                prompts = [engine.encode(text) for text in PROMPTS]
                speeds = []
                for mode in (profile.lookahead, PLAIN):
                    engine.generate(prompts[:1], 32, mode)
                    seconds = sum(engine.generate([prompt], TOKENS, mode).seconds for prompt in prompts)
                    speeds.append(len(prompts) * TOKENS / seconds)
        return f"{speeds[0]:.1f} tokens/s with {profile.lookahead}, {speeds[1]:.1f} plain: {speeds[0] / speeds[1]:.2f}x"


def engine_probes(engines: Engines) -> Iterator[Probe]:
    """Does the compiled engine do what is built on it?"""
    yield Probe(
        "smoke",
        "`build-engine -p qwen2.5-coder-1.5b-instruct-GPU-bf16-... --lookahead 4,3,4 --max-batch-size 8`",
        "verification passes: eight requests at once give the tokens of plain decoding, which are the checkpoint's, "
        "and one request is faster",
        engines.smoke,
        lambda seen: "'passed'" in seen,
        "`invalid configuration argument` is TensorRT-LLM #5451, other tokens after the first generation #2263",
    )
    larger, smaller = LookaheadConfig(5, 3, 5), LookaheadConfig(3, 3, 3)
    configured = "the same engine (D = 15) with {} (D = {}) in Triton's configuration"
    yield Probe(
        "D above the engine's",
        configured.format(larger, larger.max_draft_tokens),
        "does not load",
        lambda: engines.misfit(larger),
        lambda seen: seen.startswith("does not"),
    )
    yield Probe(
        "D below the engine's",
        configured.format(smaller, smaller.max_draft_tokens),
        "either; the project keeps them equal",
        lambda: engines.misfit(smaller),
        bool,
    )
    yield Probe(
        "a request over the limit",
        "(9,9,9) beside a normal request",
        "both fail: `Encountered an error in forwardAsync function`",
        engines.over_limit,
        lambda seen: "normal: " in seen and "tokens" not in seen.partition("normal: ")[2],
        "the guard of the gateway is not needed; keep it",
    )
    for size in SIZES:
        yield Probe(
            f"speed of {size}",
            f"one request at a time, {TOKENS} tokens each, {len(PROMPTS)} code prompts; 32B needs two GPUs",
            "faster than plain decoding; NVIDIA's Figures 2 (H100) and 3 (H200) show up to 3.6x",
            lambda size=size: engines.figure(size),  # type: ignore[misc]
            is_faster,
            "`nimble-coder tune ARTEFACT` finds what is faster",
        )


def checklist() -> str:
    """The probes as two tables, for docs/gpu-checklist.md."""
    lines = list[str]()
    for title, probes in (
        ("Interfaces", interface_probes()),
        ("Engines", engine_probes(Engines("GPU", Path("scratch")))),
    ):
        lines += [f"## {title}", "", "| probe | what runs | expected | if not |", "|---|---|---|---|"]
        cells = ((probe.name, probe.command, probe.expected, probe.remedy) for probe in probes)
        lines += [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in cells]
        lines.append("")
    return "\n".join(lines)


def is_faster(seen: str) -> bool:
    """True for a measurement that ends with a speed-up above 1."""
    match = re.search(r"([\d.]+)x$", seen)
    return match is not None and float(match[1]) > 1


def answer(probe: Probe) -> Result:
    """Asks; an exception is an answer too."""
    say(probe.name)
    started = time.monotonic()
    try:
        seen = probe.ask()
    except (RuntimeError, ValueError, OSError, StopIteration) as error:
        seen = f"{type(error).__name__}: {error}"
    result = Result(probe, seen, time.monotonic() - started)
    say(f"  {result.verdict}: {seen[:200]}")
    return result


def report(results: list[Result]) -> str:
    """Markdown."""
    right = sum(result.verdict == "as expected" for result in results)
    lines = [
        "# GPU acceptance",
        "",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {right} of {len(results)} as expected.",
    ]
    lines += [f"- {gpu}" for gpu in detect_hardware().gpus]
    for result in results:
        probe = result.probe
        lines += [
            "",
            f"## {probe.name}: {result.verdict}",
            f"What runs: {probe.command}",
            f"Expected: {probe.expected}",
            f"If not: {probe.remedy}",
            f"Took {result.seconds:.1f} s",
            "",
        ]
        lines += ["```", result.seen[-4000:], "```"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Asks every probe, prints the report; exit code 1 where something is not as expected."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--interfaces-only", action="store_true", help="compile nothing")
    parser.add_argument("--checklist", action="store_true", help="ask nothing, and print what would be asked")
    args = parser.parse_args()
    if args.checklist:
        print(checklist(), end="")
        return
    gpus = detect_hardware().gpus
    with tempfile.TemporaryDirectory(prefix="nimble-acceptance-") as scratch:
        engines = Engines(gpus[0].type if gpus else "unknown", Path(scratch))
        probes = [*interface_probes(), *(() if args.interfaces_only else engine_probes(engines))]
        results = [answer(probe) for probe in probes]
    print(report(results), end="")
    sys.exit(any(result.verdict != "as expected" for result in results))


if __name__ == "__main__":
    main()
