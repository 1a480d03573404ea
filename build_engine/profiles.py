"""Build profiles: everything about an engine that a person may choose, under one name."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from build_engine.catalog import MODELS, Model
from build_engine.exit_codes import ExitCode
from build_engine.hardware import GPU_TYPES
from build_engine.lookahead import LookaheadConfig, Mode, portable_limit
from build_engine.precision import PRECISIONS, STEP_PRECISIONS, Precision
from build_engine.versions import FP8_SM

EngineKind = Literal["torch", "tensorrt"]

EMBEDDED = "embedded"
"""The `model` of a profile that is built from the checkpoint shipped with this package."""
ANY = "any"
"""The `gpu` of a profile that runs on any machine, a GPU or none."""
CUDA = "cuda"
"""The `gpu` of a portable profile for any NVIDIA GPU that the portable engine's kernels run on (`CUDA_SM`)."""
CUDA_SM = 80
"""The least compute capability, times ten: older cards do not compute in bf16."""
DEMO = "demo"
LONGEST = 32_768
"""Positions of Qwen2.5-Coder without YaRN. The portable engine is built for them: it takes memory as it uses it."""


class ProfileError(ValueError):
    """A profile that cannot be built as asked; says what to change."""

    exit_code = ExitCode.ASKED


@dataclass(frozen=True)
class Profile:
    """One way to build and serve one model. Lengths are in tokens; `max_seq_len` bounds prompt plus output."""

    name: str
    model: str
    """Hub id of the checkpoint, the name of somebody's own, or `EMBEDDED`."""
    engine: EngineKind
    precision: Precision
    lookahead: LookaheadConfig
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    """Bound on the tokens of one forward pass, prompts and draft tokens of all requests together."""
    tensor_parallel: int = 1
    gpu: str = ANY
    """Name in `GPU_TYPES`: a TensorRT engine runs only on the architecture it was compiled for."""
    fp8_kv_cache: bool = False
    """Of an fp8 engine. The biases of Qwen2.5's keys are so large (211 in 0.5B) that 8 bits lose what lies beside them:
    TensorRT-LLM issues #4218, #2699 and #2607 are wrong output of such engines."""
    int8_kv_cache: bool = False
    """Of a portable engine on a CPU, which divides keys by what their biases let expect before it rounds them: half the
    memory of a sequence."""
    kv_cache_fraction: float = 0.9
    """Of the GPU memory that is free once the engine is loaded."""
    kv_cache_reuse: bool = True
    max_queue_factor: int = 4
    """Requests that may wait, in full batches; one more and the client is told to come back."""
    cancellation_check_period_ms: int = 5

    def __post_init__(self) -> None:
        for name in ("max_batch_size", "max_seq_len", "max_input_len", "max_num_tokens"):
            if getattr(self, name) < 1:
                raise ProfileError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.max_input_len >= self.max_seq_len:
            raise ProfileError(
                f"max_input_len {self.max_input_len} leaves no room for output: "
                f"make max_seq_len ({self.max_seq_len}) larger"
            )
        if self.engine not in PRECISIONS[self.precision].engines:
            known = ", ".join(name for name, numbers in PRECISIONS.items() if self.engine in numbers.engines)
            raise ProfileError(f"a {self.engine} engine has no {self.precision}: choose one of {known}")
        if self.is_portable and self.gpu == CUDA and self.precision in ("int8", "int4"):
            raise ProfileError(f"{self.precision} of the torch engine is for CPUs: choose bf16 or fp8")
        if self.is_portable and self.gpu != CUDA and self.precision == "fp8":
            raise ProfileError("fp8 of the torch engine is for GPUs: choose bf16, int8 or int4")
        if self.is_portable and self.fp8_kv_cache:
            raise ProfileError("an fp8 KV cache is for TensorRT engines: choose a profile of those, or leave it out")
        if self.int8_kv_cache and (not self.is_portable or self.gpu == CUDA or self.precision not in STEP_PRECISIONS):
            raise ProfileError(
                f"an int8 KV cache is for the torch engine on CPUs, in one of {', '.join(STEP_PRECISIONS)}: "
                f"choose a profile of those, or leave it out"
            )
        if self.engine == "tensorrt":
            self._check_tensorrt()

    def _check_tensorrt(self) -> None:
        if self.gpu not in GPU_TYPES:
            raise ProfileError(f"gpu {self.gpu!r} is not one of {', '.join(GPU_TYPES)}")
        if self.fp8_kv_cache and self.precision != "fp8":
            raise ProfileError(f"an fp8 KV cache beside {self.precision} weights cannot be reused or paged: choose fp8")
        if self.fp8_kv_cache and self.kv_cache_reuse:
            raise ProfileError("an fp8 KV cache of Qwen2.5 is not precise enough to be reused: turn kv_cache_reuse off")
        if self.max_input_len > self.max_num_tokens:
            raise ProfileError(
                f"max_input_len {self.max_input_len} exceeds max_num_tokens {self.max_num_tokens}: a prompt is "
                f"computed in one forward pass (chunked context is off with lookahead decoding); raise max_num_tokens"
            )

    def check_positions(self, positions: int) -> None:
        """Raises `ProfileError` where a model has too few; drafts take those behind a TensorRT engine's last token."""
        draft = 0 if self.is_portable else self.lookahead.max_draft_tokens
        if self.max_seq_len + draft > positions:
            exceed = f"and the {draft} draft tokens behind it exceed" if draft else "exceeds"
            raise ProfileError(
                f"max_seq_len {self.max_seq_len} {exceed} the model's {positions} positions: lower --max-seq-len to "
                f"{positions - draft} or less"
            )

    @property
    def is_portable(self) -> bool:
        """Whether the engine is ours, which runs without TensorRT and keeps to more than NVIDIA's contract."""
        return self.engine == "torch"

    @property
    def matches_suffixes(self) -> bool:
        """Whether a request that says nothing is drafted for by matching suffixes, within the rows that are worth their
        time: of a wide window's many rows few are (docs/gpu-benchmarks.md)."""
        return self.is_portable and not self.lookahead.is_plain

    @property
    def most_lookahead(self) -> LookaheadConfig:
        """Up to which (w,n,g) a request or a policy may name one."""
        return portable_limit(self.lookahead) if self.is_portable else self.lookahead

    @property
    def usual(self) -> Mode:
        """How a lone request that says nothing is decoded."""
        return None if self.matches_suffixes else self.lookahead

    @property
    def samples(self) -> bool:
        """Whether its engine can sample: TensorRT-LLM decodes greedily where it looks ahead."""
        return self.is_portable or self.lookahead.is_plain

    @property
    def reads_before_prompt(self) -> bool:
        """Whether a prompt shorter than N-1 makes the engine read out of bounds, as TensorRT-LLM 0.19 does."""
        return not self.is_portable

    @property
    def engine_num_tokens(self) -> int:
        """`max_num_tokens` of the TensorRT engine: at least one step of a full batch, D + 1 tokens a request.

        trtllm-build raises a smaller value to this by itself (tensorrt_llm/builder.py); we pass it, so that the
        command says what the engine will be.
        """
        return max(self.max_num_tokens, self.max_batch_size * self.lookahead.tokens_per_step)

    @property
    def max_queue_size(self) -> int:
        return self.max_queue_factor * self.max_batch_size

    @property
    def served_names(self) -> list[str]:
        """What requests may call the model where nobody has named it; the first is its id."""
        owner, _, own = self.model.rpartition("/")
        named = [] if self.model == EMBEDDED else [own.lower() if owner else own]
        return [*dict.fromkeys([*named, self.name, "qwen2.5-coder"])]

    @property
    def id(self) -> str:
        """64 hexadecimal digits that stay the same as long as the profile builds the same engine."""
        serving = {"name", "kv_cache_fraction", "kv_cache_reuse", "max_queue_factor", "cancellation_check_period_ms"}
        content = {key: value for key, value in asdict(self).items() if key not in serving}
        if self.precision != "fp8":
            del content["fp8_kv_cache"]  # which they cannot have, and ids made before it was asked for stay
        if not self.int8_kv_cache:
            del content["int8_kv_cache"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    def with_limits(self, **changes: object) -> "Profile":
        """A variant with other limits, precision or lookahead; values that are None change nothing.

        It is named after this one, by what it has itself; where a name does not say all that differs, by its id too.
        """
        given: dict[str, Any] = {key: value for key, value in changes.items() if value is not None}
        if not given:
            return self
        if self.is_portable and "max_seq_len" in given:  # any prompt may be sent that leaves room for a token
            given.setdefault("max_input_len", given["max_seq_len"] - 1)
        variant = replace(self, **given)
        if variant == self:
            return self
        renamed = replace(variant, name=f"{self.name.removesuffix(self._traits)}{variant._traits}")
        others = (name for name in given if name not in ("precision", "lookahead"))
        says_all = self.name.endswith(self._traits) and all(given[name] == getattr(self, name) for name in others)
        return renamed if says_all else replace(renamed, name=f"{renamed.name}-custom-{variant.id[:8]}")

    @property
    def _traits(self) -> str:
        """How the names of profiles end, but those of the embedded model."""
        parallel = "" if self.is_portable else f"-tp{self.tensor_parallel}"
        return f"-{self.precision}{parallel}-{self.lookahead.label}"


DEMO_PROFILE = Profile(
    name=DEMO,
    model=EMBEDDED,
    engine="torch",
    precision="fp32",
    lookahead=LookaheadConfig(8, 8, 8),
    max_batch_size=32,
    max_input_len=8191,
    max_seq_len=8192,
    max_num_tokens=512,
)

LOOKAHEAD = {
    # A decoding step has room for about as many tokens as the GPU's bf16 FLOP per byte of memory traffic
    # (`GpuType.ridge`): H100 295, H200 206, A100 153, L40S 419, L4 403, A10G 117. NVIDIA published (8,8,8), which
    # takes 112 tokens, for H100 and H200; half of a request's share goes to the others of its batch on A100 and A10G.
    "a100": LookaheadConfig(7, 7, 7),
    "a100-40gb": LookaheadConfig(7, 7, 7),
    "a10g": LookaheadConfig(5, 5, 5),
}
PUBLISHED_32B = LookaheadConfig(15, 15, 15)
"""NVIDIA's configuration for 32B on two H100 or H200; 7B and 1.5B have (8,8,8) on one."""

GPUS_NEEDED = {
    # (GPU types, size, precision) where one GPU does not hold weights, activations and four full-length sequences.
    (("h200", "h100"), "32b", "bf16"): 2,
    (("h200", "h100"), "32b", "fp8"): 2,
    (("a100",), "32b", "bf16"): 2,
    (("a100-40gb",), "14b", "bf16"): 2,
    (("a100-40gb",), "32b", "bf16"): 4,
    (("l40s",), "32b", "bf16"): 2,
    (("l40s",), "32b", "fp8"): 2,
    (("l4", "a10g"), "14b", "bf16"): 2,
    (("l4", "a10g"), "32b", "bf16"): 4,
    (("l4",), "14b", "fp8"): 2,
    (("l4",), "32b", "fp8"): 4,
}


def _tensorrt_profiles() -> Iterator[Profile]:
    for model in MODELS.values():
        for gpu in GPU_TYPES.values():
            precisions: tuple[Precision, ...] = ("bf16", "fp8") if gpu.sm >= FP8_SM else ("bf16",)
            for precision in precisions:
                yield _tensorrt_profile(model, gpu.name, precision)


def _tensorrt_profile(model: Model, gpu: str, precision: Precision) -> Profile:
    published = model.size == "32b" and gpu in ("h100", "h200")
    lookahead = PUBLISHED_32B if published else LOOKAHEAD.get(gpu, LookaheadConfig(8, 8, 8))
    small = GPU_TYPES[gpu].memory_mib < 32 << 10
    tp = next((n for (g, s, p), n in GPUS_NEEDED.items() if gpu in g and (s, p) == (model.size, precision)), 1)
    return Profile(
        name=f"{model.name}-{gpu}-{precision}-tp{tp}-{lookahead.label}",
        model=model.repo,
        engine="tensorrt",
        precision=precision,
        lookahead=lookahead,
        max_batch_size=8 if small or published else 16,
        max_input_len=4096 if small else 8192,
        max_seq_len=8192 if small else 16384,
        max_num_tokens=4096 if small else 8192,
        tensor_parallel=tp,
        gpu=gpu,
    )


def torch_profile(name: str, model: str, precision: Precision = "bf16") -> Profile:
    """The portable engine for a CPU or an unsupported GPU: on two cores six tokens a step pay for a lone request, and
    more do not (docs/tuning.md)."""
    return Profile(
        name=f"{name}-torch-{precision}-w1n4g1",
        model=model,
        engine="torch",
        precision=precision,
        lookahead=LookaheadConfig(1, 4, 1),
        max_batch_size=8,
        max_input_len=LONGEST - 1,
        max_seq_len=LONGEST,
        max_num_tokens=512,
    )


def cuda_profile(name: str, model: str, precision: Precision = "bf16") -> Profile:
    """The portable engine for NVIDIA GPUs: a lone request drafts most, and others less by the policy
    (docs/gpu-benchmarks.md)."""
    return Profile(
        name=f"{name}-torch-cuda-{precision}-w15n15g15",
        model=model,
        engine="torch",
        precision=precision,
        lookahead=LookaheadConfig(15, 15, 15),
        max_batch_size=16,
        max_input_len=LONGEST - 1,
        max_seq_len=LONGEST,
        max_num_tokens=2048,
        gpu=CUDA,
    )


CPU_PRECISIONS: tuple[Precision, ...] = ("bf16", "int8", "int4")
"""What a step on a CPU costs is reading its weights."""
CUDA_PRECISIONS: tuple[Precision, ...] = ("bf16", "fp8")
"""The portable engine's on GPUs."""


def _torch_profiles() -> Iterator[Profile]:
    """For CPUs those of the sizes that one can bear, for GPUs all."""
    for model in MODELS.values():
        if model.size in ("0.5b", "1.5b", "3b", "7b"):
            for precision in CPU_PRECISIONS:
                yield torch_profile(model.name, model.repo, precision)
        for precision in CUDA_PRECISIONS:
            yield cuda_profile(model.name, model.repo, precision)


PROFILES = {profile.name: profile for profile in (DEMO_PROFILE, *_tensorrt_profiles(), *_torch_profiles())}


def find_profile(name: str) -> Profile:
    """The profile of that name or id (its first 8 digits suffice); raises `ProfileError` that says what is known."""
    if profile := PROFILES.get(name):
        return profile
    matches = [p for p in PROFILES.values() if len(name) >= 8 and p.id.startswith(name.lower())]
    if len(matches) == 1:
        return matches[0]
    near = [known for known in PROFILES if name.lower() in known][:8]
    if (model := name.rsplit("/", 1)[-1].lower()) in MODELS:
        hint = (
            f"that is a model: name it by --model-name (NIM_MODEL_NAME), or choose one of its profiles "
            f"(`nimble-coder list-model-profiles --model-name {model}`)"
        )
    elif near:
        hint = f"did you mean {', '.join(near)}? `nimble-coder list-model-profiles` tells which of them run here"
    else:
        hint = "`nimble-coder list-model-profiles` shows them"
    raise ProfileError(f"there is no profile {name!r}; {hint}")
