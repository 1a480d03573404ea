"""`nimble-coder doctor`: what must be right on a machine before it serves, each with what to do where it is not."""

import json
import os
import resource
import shutil
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from build_engine.artifact import Artifact
from build_engine.cache import Cache, CacheError
from build_engine.engine_config import WEIGHTS, EngineConfig
from build_engine.hardware import Hardware, detect_hardware
from build_engine.profiles import CUDA, CUDA_SM
from build_engine.versions import (
    CONTAINER,
    DRIVER,
    IncompatibleError,
    check_compute_capability,
    check_container,
    check_driver_for_container,
    check_driver_for_pytorch,
    check_version,
    installed_tensorrt_llm,
)
from nimble_coder.commands.health import ask
from nimble_coder.commands.installed import container_release
from nimble_coder.commands.terminal import Format
from nimble_coder.engine.cores import Cores
from nimble_coder.engine.memory import GIB, MIB, OTHERS, free_memory, slot_bytes, slots_within
from nimble_coder.gateway.access.certificate import SOON, valid_until
from nimble_coder.processes.errors import HostError, PortTakenError, TritonError
from nimble_coder.processes.kernel_compiler import KEPT, lacking, without_unwritable
from nimble_coder.processes.kernel_limits import narrow_limits
from nimble_coder.processes.open_files import LEAST, WANTED, open_files
from nimble_coder.processes.shared_memory import PLACE
from nimble_coder.processes.temporary_directory import TemporaryDirectoryError, check_temporary_directory
from nimble_coder.processes.triton_installation import shared_libpython
from nimble_coder.processes.triton_stack import STACK, shortage
from nimble_coder.settings.loading import Loaded
from nimble_coder.settings.model import Settings
from nimble_coder.supervisor.choice import Choice, choose
from nimble_coder.supervisor.files import nearest
from nimble_coder.supervisor.tls import server_context

SHARED_MEMORY, SHARED_MEMORY_RANKS = 32 * MIB, GIB
"""For Triton's Python models, and for several ranks of one engine (NCCL)."""
OPEN_FILES = 4096
RELEASED = datetime(2025, 5, 1, tzinfo=UTC)
"""No clock that is right shows less."""

Verdict = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One answer."""

    check: str
    verdict: Verdict
    seen: str
    remedy: str = ""

    @property
    def is_wrong(self) -> bool:
        return self.verdict == "wrong"


def examine(loaded: Loaded) -> list[Finding]:
    """Every check, none stopped by another."""
    settings, hardware = loaded.settings, detect_hardware()
    engine, choice = check_engine(settings)
    needs_gpu = choice is not None and choice.profile.engine == "tensorrt"
    ranks = choice.profile.tensor_parallel if choice else 1
    on_cuda = is_on_cuda(settings, choice)
    return [
        check_settings(loaded),
        check_cuda_gpu(hardware) if on_cuda else check_gpu(hardware, needs_gpu),
        check_cuda_driver(hardware) if on_cuda else check_driver(hardware, needs_gpu),
        check_kernels(on_cuda),
        check_software(needs_gpu),
        check_triton(needs_gpu),
        check_shared_memory(ranks),
        check_open_files(),
        check_locked_memory(ranks),
        check_stack(needs_gpu),
        check_kernel_limits(),
        check_cores(settings, choice),
        check_memory(settings, choice),
        check_temporary(needs_gpu),
        check_cache(settings, choice),
        check_ports(settings),
        check_tls(settings),
        engine,
        check_clock(choice),
    ]


def check_settings(loaded: Loaded) -> Finding:
    """Values that are wrong end the command before; these are doubtful."""
    if not loaded.warnings:
        return Finding("settings", "ok", f"{len(loaded.origins)} are set")
    return Finding("settings", "warning", "; ".join(loaded.warnings), "remove them, or use the names in their place")


def check_gpu(hardware: Hardware, needed: bool) -> Finding:
    """Whether a GPU that can run lookahead engines is seen."""
    usable = [gpu for gpu in hardware.gpus if _has_kernels(gpu.sm)]
    if usable:
        return Finding("gpu", "ok", "; ".join(map(str, usable)))
    seen = hardware.note or "; ".join(map(str, hardware.gpus))
    if not needed:
        return Finding("gpu", "ok", f"{seen}; the portable engine needs none")
    return Finding("gpu", "wrong", seen, "docker run --gpus all with the NVIDIA container toolkit, on Ampere to Hopper")


def _has_kernels(sm: int) -> bool:
    try:
        check_compute_capability(sm, fp8=False)
    except IncompatibleError:
        return False
    return True


def check_driver(hardware: Hardware, needed: bool) -> Finding:
    """Whether the driver is new enough for the container's CUDA."""
    if hardware.driver is None:
        return _no_driver(hardware, needed)
    try:
        check_driver_for_container(hardware.driver)
    except IncompatibleError:
        return Finding("driver", "wrong", hardware.driver, f"install driver {DRIVER} or later")
    if int(hardware.driver.split(".")[0]) >= DRIVER:
        return Finding("driver", "ok", hardware.driver)
    return Finding("driver", "warning", hardware.driver, f"install {DRIVER} where the engine does not load")


def _no_driver(hardware: Hardware, needed: bool) -> Finding:
    if hardware.gpus:
        return Finding("driver", "warning", "nvidia-smi does not tell its version", f"see that it is {DRIVER} or later")
    return Finding("driver", "wrong" if needed else "ok", hardware.note, "install NVIDIA's driver" if needed else "")


def is_on_cuda(settings: Settings, choice: Choice | None) -> bool:
    """Whether the portable engine is to run on a GPU, where that is known before it is asked for one."""
    if choice is not None and (not choice.profile.is_portable or settings.engine_device == "cpu"):
        return False
    return settings.engine_device == "cuda" or (choice is not None and choice.profile.gpu == CUDA)


def check_cuda_gpu(hardware: Hardware) -> Finding:
    """Whether a GPU is seen that the portable engine's kernels run on."""
    usable = [gpu for gpu in hardware.gpus if gpu.sm >= CUDA_SM]
    if usable:
        return Finding("gpu", "ok", "; ".join(map(str, usable)))
    seen = hardware.note or "; ".join(map(str, hardware.gpus))
    remedy = f"docker run --gpus all with the NVIDIA container toolkit, on compute capability {CUDA_SM / 10} or more"
    return Finding("gpu", "wrong", seen, f"{remedy}; or NIMBLE_ENGINE_DEVICE=cpu")


def check_cuda_driver(hardware: Hardware) -> Finding:
    """Whether the driver is new enough for the CUDA that PyTorch brought along."""
    if hardware.driver is None:
        return _no_driver(hardware, needed=True)
    try:
        check_driver_for_pytorch(hardware.driver)
    except IncompatibleError as error:
        reason, _, remedy = str(error).partition(": ")
        return Finding("driver", "wrong", reason, remedy)
    return Finding("driver", "ok", hardware.driver)


def check_kernels(needed: bool) -> Finding:
    """Whether the GPU's kernels can be compiled and started."""
    if not needed:
        return Finding("kernels", "ok", "the engine has none to compile")
    if missing := list(lacking()):
        return Finding(
            "kernels", "wrong", f"missing: {', '.join(w for w, _ in missing)}", "; ".join(r for _, r in missing)
        )
    place = without_unwritable(os.environ).get(KEPT, "the home directory, until the container ends")
    return Finding("kernels", "ok", f"can be compiled, and are kept in {place}")


def check_software(needed: bool) -> Finding:
    """Whether container and TensorRT-LLM are the pair that works."""
    release, tensorrt_llm = container_release(), installed_tensorrt_llm()
    seen = f"container {release or 'none'}, TensorRT-LLM {tensorrt_llm or 'none'}"
    try:
        if release and tensorrt_llm:
            check_container(release, allow_unproven=True)
        if needed or tensorrt_llm:
            check_version(tensorrt_llm, allow_unproven=True)
    except IncompatibleError as error:
        return Finding("container", "wrong", f"{seen}: {error}", f"use the image made from {CONTAINER}")
    return Finding("container", "ok", seen)


def check_triton(needs_gpu: bool) -> Finding:
    """Whether the portable engine's Triton can load its Python backend."""
    if needs_gpu:
        return Finding("libpython", "ok", "the container brings its own")
    try:
        place = shared_libpython()
    except TritonError as error:
        return Finding("libpython", "wrong", str(error), "install it; Triton's Python backend is linked against it")
    return Finding("libpython", "ok", str(place or "a system library"))


def check_shared_memory(ranks: int) -> Finding:
    """Triton's Python models exchange tensors there, and ranks each other's."""
    needed = SHARED_MEMORY_RANKS if ranks > 1 else SHARED_MEMORY
    size = shutil.disk_usage(PLACE)
    seen = f"{size.total // MIB} MiB, {size.free // MIB} MiB free"
    if size.free >= needed:
        return Finding("shared memory", "ok", seen)
    remedy = f"docker run --shm-size {2 * needed // MIB}m, or in Kubernetes a Memory emptyDir at {PLACE}"
    return Finding("shared memory", "wrong", seen, remedy)


def check_open_files() -> Finding:
    """A connection is a file."""
    files = open_files()
    if files >= OPEN_FILES:
        return Finding("open files", "ok", str(files))
    verdict: Verdict = "warning" if files >= LEAST else "wrong"
    return Finding("open files", verdict, str(files), f"--ulimit nofile={WANTED}: a stream needs two")


def check_locked_memory(ranks: int) -> Finding:
    """NCCL pins memory."""
    soft = _limit(resource.RLIMIT_MEMLOCK)
    if ranks == 1 or soft == float("inf"):
        return Finding("locked memory", "ok", _shown(soft))
    return Finding("locked memory", "warning", _shown(soft), "--ulimit memlock=-1, which several GPUs need")


def check_stack(needs_gpu: bool) -> Finding:
    """Triton gets what it needs where the hard limit allows it; TensorRT's builder, which recurses deeply, does not."""
    soft = _limit(resource.RLIMIT_STACK)
    if missing := shortage():
        return Finding("stack", "warning", missing, f"--ulimit stack={STACK}")
    if not needs_gpu or soft >= STACK:
        return Finding("stack", "ok", _shown(soft))
    return Finding("stack", "warning", _shown(soft), f"--ulimit stack={STACK}")


def check_kernel_limits() -> Finding:
    """What Triton dies of without a word."""
    narrow = "; ".join(narrow_limits())
    if narrow:
        return Finding("kernel limits", "warning", narrow, "lift them, or a start may fail")
    return Finding("kernel limits", "ok", "room for the address space, processes and threads")


def check_cores(settings: Settings, choice: Choice | None) -> Finding:
    """How many threads the portable engine's step gets on a CPU; a step waits for the slowest of them."""
    cores, asked = Cores.here(), settings.engine_threads
    if choice is None or not choice.profile.is_portable:
        return Finding("cores", "ok", str(cores))
    if asked and asked > cores.usable:
        given = min(asked, cores.affinity)
        cut = f"{given} threads instead of {asked}" if given < asked else f"{asked} threads"
        seen = f"{cores}, but the engine's step is to have {cut}"
        return Finding("cores", "warning", seen, f"leave NIMBLE_ENGINE_THREADS out, or set at most {cores.usable}")
    if asked:
        return Finding("cores", "ok", f"{cores}; the engine's step has {asked} threads, as asked")
    if choice.artifact is None:
        return Finding("cores", "ok", f"{cores}; the engine's step has those that Triton and the gateway leave")
    threads = cores.threads((choice.artifact.engine / WEIGHTS).stat().st_size)
    return Finding("cores", "ok", f"{cores}; on a CPU the engine's step has {threads} of them")


def check_memory(settings: Settings, choice: Choice | None) -> Finding:
    """How many sequences of full length the portable engine has room for on a CPU."""
    free = free_memory()
    if choice is None or choice.artifact is None or not choice.profile.is_portable or settings.engine_device == "cuda":
        return Finding("memory", "ok", f"{free / GIB:.1f} GiB free")
    config = EngineConfig.read(choice.artifact.engine)
    length = min(config.max_seq_len, settings.max_model_len or config.max_seq_len)
    one = slot_bytes(config.shape, length + config.max_draft_len + 1, config.kv_cache_dtype)
    weights = (choice.artifact.engine / WEIGHTS).stat().st_size
    share = settings.kv_cache_fraction or choice.profile.kv_cache_fraction
    slots = slots_within(free - OTHERS, weights, one, config.max_batch_size, share)
    seen = f"{free / GIB:.1f} GiB free; beside the weights, room for {slots} sequences of {length} tokens"
    if slots == config.max_batch_size:
        return Finding("memory", "ok", seen)
    remedy = f"set NIMBLE_MAX_MODEL_LEN lower, or give it more, for {config.max_batch_size} at once"
    return Finding("memory", "warning", seen, remedy)


def _limit(number: int) -> float:
    soft = resource.getrlimit(number)[0]
    return float("inf") if soft == resource.RLIM_INFINITY else soft


def _shown(limit: float) -> str:
    return "unlimited" if limit == float("inf") else f"{limit:.0f}"


def check_temporary(needs_gpu: bool) -> Finding:
    """The portable engine's backends are laid out there, and loaded from there."""
    try:
        place = check_temporary_directory()
    except TemporaryDirectoryError as error:
        return Finding("temporary files", "wrong", str(error), "mount a tmpfs at /tmp, or set TMPDIR")
    if not needs_gpu and os.statvfs(place).f_flag & os.ST_NOEXEC:
        return Finding("temporary files", "wrong", f"{place} is mounted noexec", "docker run --tmpfs /tmp:exec")
    return Finding("temporary files", "ok", str(place))


def check_cache(settings: Settings, choice: Choice | None) -> Finding:
    """It has to be written where something has to be built, and only then."""
    try:
        root = Cache(settings.cache_path).root
    except CacheError as error:
        return Finding("cache", "wrong", str(error), "set NIMBLE_CACHE_PATH to a directory")
    place = nearest(root)
    if not place.is_dir():
        return Finding("cache", "wrong", f"{place} is no directory", "set NIMBLE_CACHE_PATH to one")
    free = shutil.disk_usage(place).free
    seen = f"{root}, {free / GIB:.1f} GiB free"
    is_built = choice is not None and choice.artifact is not None
    if not os.access(place, os.W_OK):
        remedy = "make it writable for this user (uid 1000, gid 0 in the images), or mount a filled one"
        return Finding("cache", "ok" if is_built else "wrong", f"{seen}, read-only", "" if is_built else remedy)
    if free < GIB and not is_built:
        return Finding("cache", "wrong", seen, "nimble-coder cache prune, or a larger volume")
    return Finding("cache", "ok", seen)


def check_ports(settings: Settings) -> Finding:
    """Free, or this service's own."""
    try:
        settings.listening.check_free()
    except HostError as error:
        return Finding("ports", "wrong", str(error), "set NIMBLE_HOST to one of its own")
    except PortTakenError as error:
        if ask(settings.listening, "live")[0]:
            return Finding("ports", "ok", "a running service has them")
        return Finding("ports", "wrong", str(error), "end what listens there, or choose others (NIM_SERVER_PORT, ...)")
    return Finding("ports", "ok", f"{settings.http_port}, {settings.grpc_port}, {settings.metrics_port} are free")


def check_tls(settings: Settings) -> Finding:
    """Certificate and key, where there are any."""
    try:
        context = server_context(settings)
        if context is None or settings.tls_certificate is None:
            return Finding("tls", "ok", "off")
        end = valid_until(settings.tls_certificate)
    except ValueError as error:
        return Finding("tls", "wrong", str(error), "mount certificate and key in PEM, readable for this user")
    seen, left = f"on, valid until {end.isoformat()}", end - datetime.now(UTC)
    if left > SOON:
        return Finding("tls", "ok", seen)
    return Finding(
        "tls", "warning" if left > timedelta() else "wrong", seen, "renew the certificate: no restart needed"
    )


def check_engine(settings: Settings) -> tuple[Finding, Choice | None]:
    """What would be served, every byte of it."""
    try:
        choice = choose(settings)
        if choice.artifact is None:
            return Finding("engine", "ok", f"{choice.profile.name} would be built ({choice.why})"), choice
        artifact = Artifact.open(choice.artifact.directory)
        artifact.manifest.check_hashes(artifact.directory)
        EngineConfig.read(artifact.engine)
    except IncompatibleError as error:
        reason, _, remedy = str(error).rpartition(": ")
        return Finding("engine", "wrong", reason, remedy), None
    except (ValueError, RuntimeError, OSError) as error:
        return Finding("engine", "wrong", str(error), "nimble-coder cache prune, then build-engine"), None
    return Finding("engine", "ok", f"{artifact.directory}, {len(artifact.manifest.files)} files as built"), choice


def check_clock(choice: Choice | None) -> Finding:
    """Certificates and tokens depend on it."""
    now, known = datetime.fromtimestamp(time.time(), UTC), RELEASED
    if choice and choice.artifact:
        known = max(known, datetime.fromisoformat(choice.artifact.manifest.built_at))
    seen = now.isoformat(timespec="seconds")
    if now >= known:
        return Finding("clock", "ok", seen)
    return Finding("clock", "wrong", f"{seen}, before {known.isoformat()}", "set the host's clock (NTP)")


def report(findings: list[Finding], output_format: Format) -> str:
    """As JSON, or as lines for a person."""
    if output_format is Format.JSON:
        return json.dumps([asdict(finding) for finding in findings], indent=2)
    lines = []
    for finding in findings:
        lines.append(f"{finding.verdict:<8} {finding.check:<16} {finding.seen}")
        if finding.remedy:
            lines.append(f"{'':<25} -> {finding.remedy}")
    return "\n".join(lines)
