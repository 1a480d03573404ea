"""What `list-model-profiles` prints: this machine, and every profile's verdict."""

import json
from collections import defaultdict
from dataclasses import asdict

from build_engine.catalog import SHAPES, find_model
from build_engine.hardware import GPU_TYPES, Gpu, Hardware
from build_engine.profiles import EMBEDDED, PROFILES, Profile, ProfileError
from build_engine.selection import Assessment, Fit, assess_all, select_profile
from build_engine.versions import CONTAINER, IncompatibleError, check_version, installed_tensorrt_llm
from nimble_coder.planning.gpu import proposal


def assessments(hardware: Hardware, model: str | None) -> list[Assessment]:
    """The verdicts on all profiles, or on those of one model; raises `CatalogError` for an unknown one."""
    wanted = find_model(model).repo if model else None
    return assess_all((p for p in PROFILES.values() if wanted in (None, p.model)), hardware)


def automatic(hardware: Hardware, model: str | None) -> Profile | None:
    """The profile that is taken where nobody chooses."""
    try:
        return select_profile(hardware, model)
    except ProfileError:
        return None


def compiler() -> str:
    """Whether TensorRT engines can be compiled here."""
    try:
        return f"{check_version(installed_tensorrt_llm())}, compiles and serves lookahead engines"
    except IncompatibleError as error:
        return str(error)


def report_json(hardware: Hardware, model: str | None) -> str:
    """Machine-readable; sizes in bytes per GPU."""
    chosen = automatic(hardware, model)
    return json.dumps(
        {
            "system": {**asdict(hardware), "tensorrt_llm": installed_tensorrt_llm(), "container": CONTAINER},
            "selected": chosen.name if chosen else None,
            "profiles": [_entry(assessment) for assessment in assessments(hardware, model)],
        },
        indent=2,
    )


def _entry(assessment: Assessment) -> dict[str, object]:
    profile, memory, companion = assessment.profile, assessment.memory, assessment.companion
    return {
        "id": profile.id,
        **asdict(profile),
        "license": None if profile.model == EMBEDDED else find_model(profile.model).license,
        "max_draft_len": profile.lookahead.max_draft_tokens,
        "status": assessment.fit.name.lower(),
        "reason": assessment.reason,
        "remedy": assessment.remedy,
        "memory": {**asdict(memory), "required": memory.required} if memory else None,
        "required_with_companion": companion.required if companion else None,
    }


def report_text(hardware: Hardware, model: str | None) -> str:
    """For people; profiles that fail for the same reason stand together."""
    lines = ["SYSTEM INFO"]
    lines += [f"- {gpu}, {free_memory(gpu)}" for gpu in hardware.gpus] or [f"- no GPU: {hardware.note}"]
    lines += [f"- TensorRT-LLM: {compiler()}", "MODEL PROFILES"]
    verdicts = assessments(hardware, model)
    for fit in Fit:
        mine = [verdict for verdict in verdicts if verdict.fit is fit]
        if mine:
            lines.append(f"- {fit.value.capitalize()} ({len(mine)}):")
            lines += _groups(mine)
    lines += proposals(hardware, model)
    chosen = automatic(hardware, model)
    lines.append(f"Taken where none is chosen: {chosen.name}" if chosen else "No profile runs here.")
    return "\n".join(lines)


def free_memory(gpu: Gpu) -> str:
    """For people."""
    return f"{gpu.free_mib} MiB free" if gpu.free_mib else "what is free is not told"


def proposals(hardware: Hardware, model: str | None) -> list[str]:
    """Which (W,N,G) the cost model would build for this machine's GPUs, of one model's size or all."""
    types = dict.fromkeys(gpu.type for gpu in hardware.gpus if gpu.type in GPU_TYPES)
    sizes = [find_model(model).size] if model else list(SHAPES)
    return [
        f"(W,N,G) for {size} on {name}, by requests at once: {proposal(GPU_TYPES[name], SHAPES[size])} "
        "(a model, not measured: docs/cost-model.md)"
        for name in types
        for size in sizes
    ]


def _groups(verdicts: list[Assessment]) -> list[str]:
    groups = defaultdict(list)
    for verdict in verdicts:
        groups[verdict.reason, verdict.remedy].append(verdict.profile)
    lines = []
    for (reason, remedy), profiles in groups.items():
        lines.append(f"  {reason}{': ' if remedy else ''}{remedy}")
        lines += [f"    - {profile.id} ({profile.name})" for profile in profiles]
    return lines
