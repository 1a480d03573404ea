"""Which profiles run on this machine, and which of them is taken where nobody chose one."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

from build_engine.catalog import MODELS, find_model
from build_engine.checkpoint import Checkpoint
from build_engine.hardware import GPU_TYPES, MIB, Gpu, Hardware
from build_engine.memory import GIB, CompanionPlan, MemoryPlan, plan_companion, plan_memory
from build_engine.precision import PRECISIONS
from build_engine.profiles import (
    ANY,
    CUDA,
    CUDA_SM,
    DEMO,
    EMBEDDED,
    PROFILES,
    Profile,
    ProfileError,
    cuda_profile,
    torch_profile,
)
from build_engine.versions import FP8_SM, IncompatibleError, check_compute_capability, compiles_here

if TYPE_CHECKING:
    from build_engine.gguf.model import GgufModel


class Fit(Enum):
    """Whether a profile runs here; the words are those of NIM's `list-model-profiles`."""

    RUNNABLE = "compatible with system and runnable"
    LOW_MEMORY = "compatible with system but low memory"
    INCOMPATIBLE = "incompatible with system"


@dataclass(frozen=True)
class Assessment:
    """The verdict on one profile, why, and what to do about it."""

    profile: Profile
    fit: Fit
    reason: str
    remedy: str = ""
    memory: MemoryPlan | None = None
    """None for a profile whose model is not in the catalogue."""
    companion: CompanionPlan | None = None
    """With a second engine for requests that sample; None where the engine itself does."""


DEFAULT_MODELS = ("qwen2.5-coder-7b-instruct", "qwen2.5-coder-1.5b-instruct", "qwen2.5-coder-0.5b-instruct")
"""Tried in this order where no model is named; 3B is left out because its licence forbids commercial use."""


def assess(profile: Profile, hardware: Hardware) -> Assessment:
    """Judges a profile against this machine's GPUs."""
    plan = None if profile.model == EMBEDDED else plan_memory(profile, find_model(profile.model).shape)
    if profile.gpu == ANY:
        size = f"; {_gib(plan.weights)} of weights" if plan else ""
        return Assessment(profile, Fit.RUNNABLE, f"runs on any machine{size}", memory=plan)
    try:
        gpus = matching_gpus(profile, hardware)
    except IncompatibleError as error:
        reason, _, remedy = str(error).partition(": ")
        return Assessment(profile, Fit.INCOMPATIBLE, reason, remedy, plan)
    if plan is None:
        raise ProfileError(f"profile {profile.name} is tied to {profile.gpu} but its model is not in the catalogue")
    free = min(gpu.free_mib for gpu in gpus) * MIB
    if not free:
        reason = f"needs {_gib(plan.required)} per GPU, nvidia-smi does not tell how much is free"
        remedy = "name the profile where there is so much, as on a share of a GPU (MIG)"
        return Assessment(profile, Fit.LOW_MEMORY, reason, remedy, plan)
    if plan.required > free:
        return _low_memory(profile, plan, gpus, free)
    reason = (
        f"needs {_gib(plan.required)} per GPU of {_gib(free)} free; the KV cache holds {plan.kv_tokens(free)} tokens, "
        f"{plan.sequences(free):.1f} sequences of full length"
    )
    if profile.is_portable:  # which samples by itself
        return Assessment(profile, Fit.RUNNABLE, reason, memory=plan)
    pair = plan_companion(profile, find_model(profile.model).shape)
    fits = f"two caches of {pair.kv_tokens(free)} tokens" if pair.required <= free else "too much"
    reason += f"; with --companion {_gib(pair.required)}: {fits}"
    return Assessment(profile, Fit.RUNNABLE, reason, memory=plan, companion=pair)


def matching_gpus(profile: Profile, hardware: Hardware) -> list[Gpu]:
    """The GPUs that a profile would run on, those with most free memory first.

    Raises `IncompatibleError` where there are too few of its type; its text is `reason: remedy`.
    """
    if not hardware.gpus:
        raise IncompatibleError(f"no GPU found ({hardware.note}): run this on a machine with {profile.gpu.upper()}")
    if profile.gpu == CUDA:
        least = FP8_SM if profile.precision == "fp8" else CUDA_SM
        return [max(cuda_gpus(hardware, least), key=lambda gpu: gpu.free_mib)]
    wanted = GPU_TYPES[profile.gpu]
    check_compute_capability(wanted.sm, profile.precision == "fp8")
    for gpu in hardware.gpus:
        if gpu.type == profile.gpu:
            check_compute_capability(gpu.sm, profile.precision == "fp8")
    gpus = sorted((g for g in hardware.gpus if g.type == profile.gpu), key=lambda g: -g.free_mib)
    if not gpus:
        found = ", ".join(sorted({f"{g.product} (compute capability {g.sm / 10})" for g in hardware.gpus}))
        raise IncompatibleError(
            f"needs {profile.gpu.upper()}, this machine has {found}: {_remedy_for_other_gpu(hardware)}"
        )
    if len(gpus) < profile.tensor_parallel:
        raise IncompatibleError(
            f"needs {profile.tensor_parallel} {profile.gpu.upper()}, this machine has {len(gpus)}: "
            f"choose a smaller model or an fp8 profile, or make more GPUs visible"
        )
    return gpus[: profile.tensor_parallel]


def cuda_gpus(hardware: Hardware, least: int = CUDA_SM) -> list[Gpu]:
    """The GPUs of compute capability `least` / 10 or more, which the portable engine's kernels run on; raises
    `IncompatibleError` where there is none."""
    found = [gpu for gpu in hardware.gpus if gpu.sm >= least]
    if not found:
        here = ", ".join(sorted({f"{gpu.product} (compute capability {gpu.sm / 10})" for gpu in hardware.gpus}))
        raise IncompatibleError(
            f"needs compute capability {least / 10} or more, this machine has {here}: choose one for any machine"
        )
    return found


def _remedy_for_other_gpu(hardware: Hardware) -> str:
    types = sorted({g.type for g in hardware.gpus} & {p.gpu for p in PROFILES.values()})
    if types:
        return f"choose a profile for {' or '.join(types)}"
    try:
        for gpu in hardware.gpus:
            check_compute_capability(gpu.sm, fp8=False)
    except IncompatibleError as error:
        return str(error).partition(": ")[2]
    return "no profile is written for it; choose one of the torch engine"


def _low_memory(profile: Profile, plan: MemoryPlan, gpus: list[Gpu], free: int) -> Assessment:
    reason = f"needs {_gib(plan.required)} per GPU, {_gib(free)} of {gpus[0].memory_mib / 1024:.1f} GiB are free"
    if plan.required <= min(gpu.memory_mib for gpu in gpus) * MIB:
        return Assessment(profile, Fit.LOW_MEMORY, reason, "end what else uses the GPU (see nvidia-smi)", plan)
    draft = profile.lookahead.max_draft_tokens
    length = (plan.kv_tokens(free) - draft) // 256 * 256
    if length > 256:
        shorter = min(profile.max_input_len, length * 3 // 4)
        smaller = replace(profile, max_seq_len=length, max_input_len=shorter)
        needed = plan_memory(smaller, find_model(profile.model).shape).required
        remedy = f"build it with --max-seq-len {length} --max-input-len {shorter}: needs {_gib(needed)} per GPU"
    else:
        remedy = "choose a smaller model, an fp8 profile or one with more GPUs (tp2)"
    return Assessment(profile, Fit.LOW_MEMORY, reason, remedy, plan)


def assess_all(profiles: Iterable[Profile], hardware: Hardware) -> list[Assessment]:
    """Every profile's verdict: runnable first, then low memory, then the rest; within each in the table's order."""
    order = list(Fit)
    return sorted((assess(profile, hardware) for profile in profiles), key=lambda a: order.index(a.fit))


def select_profile(
    hardware: Hardware, model: str | None = None, tensor_parallel: int | None = None, allow_unproven: bool = False
) -> Profile:
    """The profile for this machine where nobody chose one (`NIM_MODEL_PROFILE`, `--profile`).

    1. What cannot run here is left out. 2. The model asked for; without one, the first of `DEFAULT_MODELS` that has a
    profile for this GPU. 3. TensorRT where what is installed is not refused (or unproven and not allowed), then the
    portable engine on CUDA, then that for any machine. 4. bf16 before what is quantised, which changes the model's
    output. 5. Fewer GPUs first, or the number asked for. A machine without a usable GPU gets `demo` where no model is
    asked for.
    """
    wanted = [find_model(model).name] if model else list(DEFAULT_MODELS)
    for name in wanted:
        candidates = [p for p in PROFILES.values() if p.model != EMBEDDED and find_model(p.model).name == name]
        candidates = [p for p in candidates if tensor_parallel in (None, p.tensor_parallel)]
        if model and not candidates:
            raise ProfileError(f"no profile of {name} has {tensor_parallel} GPUs; `nimble-coder list-model-profiles`")
        verdicts = assess_all((p for p in candidates if model or p.gpu != ANY), hardware)
        runnable = [a.profile for a in verdicts if a.fit is Fit.RUNNABLE]
        if runnable:
            return min(runnable, key=preference(compiles_here(allow_unproven)))
        if model:
            here = {gpu.type for gpu in hardware.gpus}
            closest = min(verdicts, key=lambda a: (a.fit is Fit.INCOMPATIBLE, a.profile.gpu not in here))
            raise ProfileError(
                f"no profile of {name} runs here; {closest.profile.name} {closest.reason}: {closest.remedy}"
            )
    return PROFILES[DEMO]


def preference(has_tensorrt: bool) -> Callable[[Profile], tuple[bool, bool, bool, int]]:
    """Sorts profiles that run here; what cannot be compiled here, without TensorRT-LLM, comes last."""

    def rank(profile: Profile) -> tuple[bool, bool, bool, int]:
        engine = profile.is_portable == has_tensorrt
        quantised = PRECISIONS[profile.precision].quant_algo is not None
        return engine, profile.gpu == ANY, quantised, profile.tensor_parallel

    return rank


def profile_of(checkpoint: "Checkpoint | GgufModel", hardware: Hardware, allow_unproven: bool = False) -> Profile:
    """The profile for a checkpoint that somebody brings, where nobody chose one; it is called after the checkpoint.

    That of the published model of the same shape on this machine, else the portable engine's.
    """
    name = checkpoint.name
    own = (cuda_profile if any(gpu.sm >= CUDA_SM for gpu in hardware.gpus) else torch_profile)(name, name)
    if name.lower() in MODELS and MODELS[name.lower()].shape == checkpoint.shape:
        return select_profile(hardware, name, allow_unproven=allow_unproven)
    alike = [model.name for model in MODELS.values() if model.shape == checkpoint.shape and model.is_instruct]
    if not alike:
        length = min(own.max_seq_len, checkpoint.shape.max_position_embeddings)
        return replace(own, max_seq_len=length, max_input_len=length - 1)
    best = select_profile(hardware, alike[0], allow_unproven=allow_unproven)
    return replace(best, name=best.name.replace(alike[0], name), model=name)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
