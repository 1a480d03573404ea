"""The build stage from end to end: checkpoint and profile in, a published artefact out."""

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from build_engine.address import content_address, engine_address
from build_engine.artifact import ENGINE, PLAIN_ENGINE, REPOSITORY, TOKENIZER, Artifact
from build_engine.cache import Cache, copy_files
from build_engine.checkpoint import Checkpoint, ModelShape, sha256
from build_engine.engine_config import EngineConfig
from build_engine.engines import tensorrt
from build_engine.guide_tokens import write_guide_tokens
from build_engine.hardware import GPU_TYPES
from build_engine.machine import Machine, check_machine, check_path
from build_engine.manifest import Manifest, ManifestError, record_files
from build_engine.memory import GIB, MIB, plan_companion, plan_memory, weight_bytes
from build_engine.profiles import Profile, ProfileError
from build_engine.repository import places_at, render_repository
from build_engine.verify import SKIPPED, Verifier, advice
from build_engine.vocabulary import check_vocabulary
from build_engine.weights import local_weights, own_weights

Progress = Callable[[str], None]


@dataclass(frozen=True)
class BuildOptions:
    """How to build what the profile says."""

    companion: bool = False
    """Build a second engine without lookahead beside it."""
    workers: int = 1
    calibration: str | None = None
    """Data set for fp8; code of the standard library where None."""
    allow_unproven: bool = False
    revision: str = "main"
    """Branch, tag or commit of the model's repository on the hub."""


def build(
    profile: Profile,
    model: Path | None,
    cache: Cache,
    progress: Progress,
    *,
    options: BuildOptions | None = None,
    verifier: Verifier | None = None,
) -> Artifact:
    """Builds `profile`, or finds it built, and returns the artefact.

    `model` is a local checkpoint directory or GGUF file; without one the profile's own model is taken, from the hub if
    need be. Without a `verifier` the engine is not run, and the manifest says so. Raises `IncompatibleError`,
    `WeightsError`, `CheckpointError`, `ProfileError`, `EngineBuildError`, `VerificationError`, `CacheError` or
    `ManifestError`, each with what to do about it; nothing is published then.
    """
    started, options = time.monotonic(), options or BuildOptions()
    machine = check_machine(profile, options.allow_unproven)
    if verifier:
        check_path(cache.root)
    weights = (
        own_weights(profile, options.revision, cache, progress)
        if model is None
        else local_weights(model, cache, progress)
    )
    checkpoint = Checkpoint.open(weights.directory)
    check_plan(profile, checkpoint.shape, options)
    progress(f"hashing {len(checkpoint.files)} files of {checkpoint.directory}")
    source = {path.name: weights.hashes.get(path.name) or sha256(path) for path in checkpoint.files}
    engine_key = engine_address(profile, source, machine.engine_version, options.companion, options.calibration)
    key = content_address(profile, engine_key)
    place = cache.place(profile.name, key)
    if found := finished(place, progress):  # without the lock: a cache may be mounted read-only
        return found
    check_vocabulary(checkpoint)
    with cache.lock(place, progress):
        if found := finished(place, progress):
            return found
        with cache.draft(place) as draft:
            job = Job(profile, checkpoint, engine_key, cache, place, draft, options, machine, progress)
            job.make()
            verification = job.verify(verifier) if verifier else SKIPPED
            manifest = Manifest(
                key=key,
                engine_key=engine_key,
                profile=profile,
                source=source,
                engine_version=machine.engine_version,
                built_by=f"nimble-coder {version('nimble-coder')}",
                built_at=datetime.now(UTC).isoformat(timespec="seconds"),
                seconds=round(time.monotonic() - started, 3),
                files=record_files(draft),
                verification=verification,
                revision=weights.commit,
                machine=machine.record(),
            )
            manifest.write(draft)
            progress(f"publishing {place}")
    progress(f"published {place}")
    return Artifact(place, manifest)


def check_plan(profile: Profile, shape: ModelShape, options: BuildOptions) -> None:
    """Raises `ProfileError` where a model of that shape cannot be built as is asked, on whatever machine, and
    `IncompatibleError` where no GPU of the profile's type could run that."""
    if profile.is_portable:
        profile.check_positions(shape.max_position_embeddings)
    else:
        tensorrt.check_profile(profile, shape)
    if options.companion:
        check_companion(profile, shape)
    elif not profile.is_portable:
        check_memory(profile, "an engine", plan_memory(profile, shape).required, "fewer requests at once")
    if options.calibration and (profile.is_portable or profile.precision != "fp8"):
        raise ProfileError("only TensorRT engines of fp8 are calibrated with a data set: leave the calibration out")


def check_companion(profile: Profile, shape: ModelShape) -> None:
    """Raises `ProfileError` where a profile's engine can have no companion."""
    if profile.is_portable:
        raise ProfileError("the torch engine decodes plainly on request: it needs no companion, leave it out")
    if profile.lookahead.is_plain:
        raise ProfileError("an engine without lookahead samples: it needs no companion, leave it out")
    check_memory(profile, "an engine and its companion", plan_companion(profile, shape).required, "no companion")


def check_memory(profile: Profile, what: str, needed: int, instead: str) -> None:
    """Raises `ProfileError` where a GPU of the profile's type has less memory than is needed."""
    there = GPU_TYPES[profile.gpu].memory_mib * MIB
    if needed > there:
        raise ProfileError(
            f"{what} of {profile.name} would take {needed / GIB:.1f} GiB per GPU, {profile.gpu.upper()} has "
            f"{there / GIB:.1f}: choose {instead}, a smaller model, shorter lengths or more GPUs"
        )


def finished(place: Path, progress: Progress) -> Artifact | None:
    """The artefact at `place` where it is whole; a damaged one is reported and built anew."""
    if not os.path.isdir(place):  # noqa: PTH112 - of a name too long for a file the lock tells
        return None
    try:
        artifact = Artifact.open(place)
    except ManifestError as error:
        progress(f"{error} (doing that now)")
        return None
    progress(f"already built: {place}")
    return artifact


@dataclass(frozen=True)
class Job:
    """One build: fills `draft`, which becomes `place` once published."""

    profile: Profile
    checkpoint: Checkpoint
    engine_key: str
    cache: Cache
    place: Path
    draft: Path
    options: BuildOptions
    machine: Machine
    progress: Progress

    def make(self) -> None:
        """Everything but the manifest."""
        if donor := self.donor():
            self.progress(f"taking the engine of {donor.directory}")
            for part in self.engines:  # links: an engine may have tens of gigabytes
                copy_files(donor.directory / part, self.draft / part, link)
        else:
            self.make_engine()
        (self.draft / TOKENIZER).mkdir()
        for path in self.checkpoint.tokenizer_files:
            shutil.copyfile(path, self.draft / TOKENIZER / path.name)
        if not self.profile.is_portable:
            write_guide_tokens(self.draft / TOKENIZER)
        self.progress("rendering the model repository")
        self.render(self.place, self.draft / REPOSITORY)

    @property
    def engines(self) -> list[str]:
        """The parts of the artefact that are engines."""
        return [ENGINE, PLAIN_ENGINE] if self.options.companion else [ENGINE]

    def donor(self) -> Artifact | None:
        """A whole artefact with the same engine: another name, other templates or other serving parameters."""
        for path in sorted(self.cache.artifacts.glob("[!.]*")):
            try:
                artifact = Artifact.open(path)
                if artifact.manifest.engine_key == self.engine_key:
                    artifact.manifest.check_hashes(path)
                    return artifact
            except ManifestError:
                continue  # `nimble-coder cache verify` reports it
        return None

    def make_engine(self) -> None:
        """Fills the directories of `engines`."""
        profile = self.profile
        self.progress(f"building the {profile.engine} engine ({profile.precision}, lookahead {profile.lookahead})")
        (self.draft / ENGINE).mkdir()
        if profile.engine == "tensorrt":
            self.compile()
        else:
            self.cache.check_space(weight_bytes(profile, self.checkpoint.shape), f"building {profile.name}")
            from build_engine.engines.torch import build_torch_engine  # noqa: PLC0415 - PyTorch takes seconds to load

            build_torch_engine(self.checkpoint, profile, self.draft / ENGINE, self.progress)

    def compile(self) -> None:
        """Runs the plan, and keeps of its results the engines alone."""
        work, log = self.draft / "work", self.cache.log(self.place)
        steps = tensorrt.plan(self.profile, workshop(self.profile, self.checkpoint.directory, self.draft, self.options))
        # The converted checkpoint, and each engine; both have a tied head a second time.
        size = self.profile.tensor_parallel * weight_bytes(self.profile, self.checkpoint.shape)
        self.cache.check_space((3 if self.options.companion else 2) * size, f"building {self.profile.name}")
        work.mkdir()
        log.write_text("", encoding="utf-8")
        for number, step in enumerate(steps, 1):
            self.progress(f"[{number}/{len(steps)}] {step.name} (log: {log})")
            tensorrt.run(step, log)
        expected = EngineConfig.of(self.profile, self.checkpoint.shape, self.machine.engine_version)
        tensorrt.check_engine(self.draft / ENGINE, expected)
        if self.options.companion:
            plain = replace(expected, max_draft_len=0, max_num_tokens=self.profile.max_num_tokens)
            tensorrt.check_engine(self.draft / PLAIN_ENGINE, plain)
        shutil.rmtree(work)

    def render(self, home: Path, repository: Path) -> None:
        """Renders the model repository of engines and tokenizer that are, or will be, at `home`."""
        shape = self.checkpoint.shape if self.options.companion else None
        render_repository(self.profile, places_at(home, self.profile, shape), repository)

    def verify(self, verifier: Verifier) -> dict[str, object]:
        """Runs the engine where it is, before it is published; the manifest's record of that."""
        self.progress("verifying: loading the engine")
        trial = self.draft / "trial"
        self.render(self.draft, trial)
        try:
            result = verifier(self.profile, trial, self.checkpoint, self.progress)
        finally:
            shutil.rmtree(trial, ignore_errors=True)
        self.progress(
            f"verified: {result.identical} of {result.requests} generations equal plain decoding token by token, "
            f"{result.agreement:.1%} of the tokens are the checkpoint's; {result.alone.tokens_per_step:.2f} tokens per "
            f"step and {result.alone.speed_up:.2f}x the speed of plain decoding for one request, "
            f"{result.together.speed_up:.2f}x for {result.requests} at once"
        )
        if slower := advice(self.profile, result):
            self.progress(f"warning: {slower}")
        return result.to_json()


def workshop(profile: Profile, model: Path, draft: Path, options: BuildOptions) -> tensorrt.Workshop:
    """The directories that the plan names."""
    return tensorrt.Workshop(
        model=model,
        checkpoint=draft / "work" / "checkpoint",
        engine=draft / ENGINE,
        plain_engine=draft / PLAIN_ENGINE if options.companion else None,
        workers=min(options.workers, profile.tensor_parallel),
        calibration=options.calibration,
    )


def link(source: str, target: str) -> None:
    """A second name for a file, or a copy where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
