"""Makes a TensorRT engine: a plan of commands that a person could run, run one after the other and checked.

Flags: `trtllm-build --help` of TensorRT-LLM 0.19. What its builder changes by itself (tensorrt_llm/builder.py):
`max_seq_len` becomes max_seq_len + D, and `max_num_tokens` at least max_batch_size * (D + 1), where D is max_draft_len.
"""

import signal
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from build_engine.checkpoint import ModelShape
from build_engine.engine_config import EngineConfig
from build_engine.exit_codes import ExitCode
from build_engine.hardware import GPU_TYPES
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import PRECISIONS
from build_engine.profiles import Profile, ProfileError
from build_engine.versions import check_compute_capability

LAST_LINES = 20
LOOKAHEAD_HEADS = (64, 128, 256)
"""Dimensions of a head that the attention of speculative decoding takes (XQA, TensorRT-LLM 0.19): with others an engine
is built that does not run."""
CHECKED = (
    "version",
    "max_draft_len",  # before max_seq_len, which is read with it taken off
    "dtype",
    "quant_algo",
    "kv_cache_quant_algo",
    "tensor_parallel",
    "max_batch_size",
    "max_seq_len",
    "max_num_tokens",
)
"""What must be in the finished engine's `config.json` as planned; `max_input_len` is not kept by the builder."""


class EngineBuildError(RuntimeError):
    """A command of the plan failed, or gave another engine than planned; says which, and what it last wrote."""

    exit_code = ExitCode.BUILD


@dataclass(frozen=True)
class Step:
    """One command of the plan."""

    name: str
    command: tuple[str, ...]


@dataclass(frozen=True)
class Workshop:
    """The directories of one build."""

    model: Path
    """The Hugging Face checkpoint."""
    checkpoint: Path
    """The converted checkpoint, which is not kept."""
    engine: Path
    plain_engine: Path | None = None
    """The companion without lookahead, where one is wanted."""
    workers: int = 1
    """Ranks compiled at once, each on its own GPU."""
    calibration: str | None = None


def plan(profile: Profile, shop: Workshop) -> list[Step]:
    """The commands that make the engine of `profile`, in order."""
    steps = quantization(profile, shop) if profile.precision == "fp8" else conversion(profile, shop)
    steps.append(Step("compile the lookahead engine", trtllm_build(profile, shop, shop.engine, profile.lookahead)))
    if shop.plain_engine:
        steps.append(Step("compile the plain engine", trtllm_build(profile, shop, shop.plain_engine, PLAIN)))
    return steps


def conversion(profile: Profile, shop: Workshop) -> list[Step]:
    """One step a rank."""
    return [
        Step(
            f"convert the checkpoint, rank {rank} of {profile.tensor_parallel}",
            (*_module("convert", profile, shop), "--rank", str(rank)),
        )
        for rank in range(profile.tensor_parallel)
    ]


def quantization(profile: Profile, shop: Workshop) -> list[Step]:
    """One step for all ranks."""
    calibration = ("--calibration", shop.calibration) if shop.calibration else ()
    cache = ("--fp8-kv-cache",) if profile.fp8_kv_cache else ()
    return [Step("quantise the checkpoint to fp8", (*_module("quantize", profile, shop), *calibration, *cache))]


def _module(name: str, profile: Profile, shop: Workshop) -> tuple[str, ...]:
    places = ("--model-dir", str(shop.model), "--output-dir", str(shop.checkpoint))
    parallel = ("--tensor-parallel", str(profile.tensor_parallel))
    return (
        sys.executable,
        "-m",
        f"build_engine.engines.{name}",
        *places,
        "--dtype",
        PRECISIONS[profile.precision].dtype,
        *parallel,
    )


def trtllm_build(profile: Profile, shop: Workshop, engine: Path, lookahead: LookaheadConfig) -> tuple[str, ...]:
    """The compiler's command. Every limit is given: the default of 2048 requests times D + 1 tokens fits no GPU.

    `--kv_cache_type` is not: paged is the default, and the parser of later versions dies of any value.
    """
    flags = {
        "checkpoint_dir": shop.checkpoint,
        "output_dir": engine,
        "max_batch_size": profile.max_batch_size,
        "max_input_len": profile.max_input_len,
        "max_seq_len": profile.max_seq_len,  # the builder adds D
        "max_num_tokens": profile.max_num_tokens if lookahead.is_plain else profile.engine_num_tokens,
        "max_beam_width": 1,
        "tokens_per_block": 32,
        "remove_input_padding": "enable",
        "context_fmha": "enable",
        "use_paged_context_fmha": "enable",  # without it the KV cache is not reused
        "gpt_attention_plugin": "auto",
        "gemm_plugin": "auto",
        "workers": shop.workers,
        "output_timing_cache": shop.checkpoint.with_name("model.cache"),  # by default in the current directory
        "log_level": "info",
    }
    if not lookahead.is_plain:
        flags |= {"speculative_decoding_mode": "lookahead_decoding", "max_draft_len": lookahead.max_draft_tokens}
    return ("trtllm-build", *(part for flag, value in flags.items() for part in (f"--{flag}", str(value))))


def run(step: Step, log: Path) -> None:
    """Runs a command with its output appended to `log`; raises `EngineBuildError` with its last lines if it fails."""
    with log.open("a", encoding="utf-8") as output:
        output.write(f"$ {' '.join(step.command)}\n")
        output.flush()
        try:
            # The cache's lock stays held by the command even if this process is killed: see Cache.lock.
            code = subprocess.run(
                step.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                close_fds=False,
                check=False,
            ).returncode
        except OSError as error:
            raise EngineBuildError(
                f"could not {step.name}: {step.command[0]} cannot be run ({error.strerror}); use NVIDIA's container"
            ) from None
    if code:
        lines = "\n".join(f"  {line}" for line in last_lines(log))
        raise EngineBuildError(f"could not {step.name}: {outcome(code)}\n{lines}\nwhole log: {log}")


def outcome(code: int) -> str:
    """An exit code in words."""
    if code == -signal.SIGKILL:
        return "it was killed, most often because the machine ran out of memory"
    return f"it ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def last_lines(log: Path) -> list[str]:
    """The end of the log."""
    return log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]


def check_profile(profile: Profile, shape: ModelShape) -> None:
    """Raises `ProfileError` where a model cannot be built as the profile says, `IncompatibleError` where no GPU of its
    type could run that."""
    profile.check_positions(shape.max_position_embeddings)
    check_compute_capability(GPU_TYPES[profile.gpu].sm, profile.precision == "fp8")
    if shape.num_attention_heads % profile.tensor_parallel:
        raise ProfileError(
            f"{shape.num_attention_heads} attention heads cannot be split over {profile.tensor_parallel} GPUs: "
            f"choose a divisor"
        )
    if not profile.lookahead.is_plain and shape.head_dim not in LOOKAHEAD_HEADS:
        raise ProfileError(
            f"TensorRT-LLM has no kernels of lookahead for heads of {shape.head_dim} dimensions, but for "
            f"{', '.join(map(str, LOOKAHEAD_HEADS))}: choose lookahead (1,1,0), or a portable profile"
        )


def check_equal(engine: Path, name: str, found: object, planned: object) -> None:
    """Raises `EngineBuildError` where an engine's `config.json` does not say what was planned."""
    if found != planned:
        raise EngineBuildError(
            f"{engine / 'config.json'} says {name} {found}, planned was {planned}: TensorRT-LLM built another engine "
            f"than asked for; see the log, and report it with both values"
        )


def check_engine(engine: Path, expected: EngineConfig) -> None:
    """Raises `EngineBuildError` or `EngineConfigError` unless the directory holds the engine that was planned."""
    found = EngineConfig.read(engine)
    for name in CHECKED:
        is_, should = getattr(found, name), getattr(expected, name)
        check_equal(engine, name, is_, should)
    for name, should in asdict(expected.shape).items():
        if name != "tie_word_embeddings":  # its head is another tensor, tied or not
            check_equal(engine, name, getattr(found.shape, name), should)
    for rank in range(expected.tensor_parallel):
        file = engine / f"rank{rank}.engine"
        if not file.is_file() or not file.stat().st_size:
            raise EngineBuildError(f"{file} is missing or empty although trtllm-build ended well; see the log")
