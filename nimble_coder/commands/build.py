"""The commands of the build stage: profiles, weights, engines, model stores and the cache.

Each imports what it needs when it runs: a client's installation has neither PyTorch nor the hub's library.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from build_engine.exit_codes import ExitCode
from build_engine.lookahead import LookaheadConfig
from build_engine.precision import PRECISIONS
from nimble_coder.commands.terminal import Format, FormatOption, UsageError, fail, say
from nimble_coder.environment import DEFAULT_CACHE, env_names

if TYPE_CHECKING:
    from build_engine.checkpoint import ModelShape
    from build_engine.profiles import Profile
    from build_engine.verify import Verifier

app = typer.Typer()
cache_app = typer.Typer(no_args_is_help=True, help="Look at the cache, check it, and make room.")
app.add_typer(cache_app, name="cache")

AUTOMATIC = ("auto", "default")
"""Names of the best profile for this machine."""
ELSE_NAMED = "; a published model is named by --model-name, a profile by --profile"
ERRORS = (ValueError, RuntimeError, OSError)

CacheOption = Annotated[
    Path,
    typer.Option("--cache", envvar=env_names("cache_path"), help="Where artefacts are kept."),
]
ProfileOption = Annotated[
    str,
    typer.Option(
        "--profile",
        "-p",
        envvar=env_names("model_profile"),
        help="Name or id of a profile; by default the best one for this machine.",
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model-name", envvar=env_names("model_name"), help="The model, where no profile is given, or where it is."
    ),
]
FromOption = Annotated[
    Path | None, typer.Option("--from", "--model", help="A local checkpoint directory or GGUF file instead of the hub.")
]
CompanionOption = Annotated[bool, typer.Option("--companion", help="With a plain engine beside the lookahead engine.")]
RevisionOption = Annotated[str, typer.Option(help="Branch, tag or commit of the model on the hub.")]


def chosen_profile(name: str, model: str | None, source: Path | None, allow_unproven: bool = False) -> "Profile":
    """The profile asked for, or the automatic choice: for a model, else for a checkpoint that is given, else for this
    machine."""
    from build_engine.hardware import detect_hardware
    from build_engine.local import local_model, open_local
    from build_engine.profiles import find_profile
    from build_engine.selection import profile_of, select_profile

    if name not in AUTOMATIC:
        return find_profile(name)
    if source and (not model or local_model(model)):
        return profile_of(open_local(source, ELSE_NAMED), detect_hardware(), allow_unproven)
    named = model.removeprefix("hf://") if model else None
    return select_profile(detect_hardware(), named, allow_unproven=allow_unproven)


def shape_of(profile: "Profile", source: Path | None) -> "ModelShape":
    """Of the checkpoint that is given, else of the profile's own, without downloading it."""
    from build_engine.catalog import find_model
    from build_engine.local import EMBEDDED_MODEL, open_local
    from build_engine.profiles import EMBEDDED

    if source or profile.model == EMBEDDED:
        return open_local(source or EMBEDDED_MODEL, ELSE_NAMED).shape
    return find_model(profile.model).shape


def check_named(context: typer.Context, profile: str, model: str | None, source: Path | None) -> None:
    """Raises `UsageError` for an option that would go unheard. A variable that says the same is for when no profile is
    chosen: `serve` reads it so."""
    from build_engine.local import local_model

    origin = context.get_parameter_source("model")
    is_option = origin is not None and origin.name == "COMMANDLINE"
    if is_option and source and local_model(model):
        raise UsageError(f"--from {source} and --model-name {model} are two models: leave one of them out")
    if is_option and profile not in AUTOMATIC and not local_model(model):
        raise UsageError(f"the profile {profile} says which model it is of: leave out --model-name {model}")


def tell_ignored(profile: "Profile", source: Path | None, revision: str, workers: int = 1) -> None:
    """Names options that have no effect on what is built."""
    from build_engine.profiles import EMBEDDED

    if revision != "main" and (source or profile.model == EMBEDDED):
        say(f"--revision {revision} is for the hub, and has no effect on {source or 'the embedded model'}")
    if workers != 1 and profile.is_portable:
        say(f"--workers {workers} has no effect: nothing is compiled for {profile.name}")


def served_verifier() -> "Verifier":
    """What runs a new engine before it is published; raises `TemporaryDirectoryError` where it could not be started."""
    from nimble_coder.processes.shared_memory import check_shared_memory
    from nimble_coder.processes.temporary_directory import check_temporary_directory
    from nimble_coder.processes.verification import verify_served

    check_temporary_directory()
    check_shared_memory()
    return verify_served


@app.command("list-model-profiles")
def list_model_profiles(
    output_format: FormatOption = Format.TEXT,
    model: Annotated[str | None, typer.Option("--model-name", help="Only profiles of this model.")] = None,
) -> None:
    """Show this machine, and which profiles run on it; for the others why not, and what to do."""
    from build_engine.hardware import detect_hardware
    from nimble_coder.commands.profile_report import report_json, report_text

    try:
        hardware = detect_hardware()
        report = report_json(hardware, model) if output_format is Format.JSON else report_text(hardware, model)
    except ERRORS as error:
        fail(error)
    typer.echo(report)


@app.command("download-to-cache")
def download_to_cache(
    context: typer.Context,
    profile: ProfileOption = "auto",
    model: ModelOption = None,
    source: FromOption = None,
    revision: RevisionOption = "main",
    cache: CacheOption = Path(DEFAULT_CACHE),
) -> None:
    """Download a profile's checkpoint, or copy it from a directory; prints where it is."""
    from build_engine.cache import Cache
    from build_engine.local import local_model
    from build_engine.profiles import EMBEDDED
    from build_engine.weights import import_weights, own_weights

    try:
        check_named(context, profile, model, source)
        source = source or local_model(model)
        chosen = chosen_profile(profile, model, source)
        if source and chosen.model == EMBEDDED:
            raise UsageError(f"the model of {chosen.name} is in this package: leave out --from, or choose another")
        tell_ignored(chosen, source, revision)
        if source:
            weights = import_weights(source, chosen.model, Cache(cache), say)
        else:
            weights = own_weights(chosen, revision, Cache(cache), say)
    except ERRORS as error:
        fail(error)
    typer.echo(weights.directory)


@app.command("build-engine")
def build_engine(
    context: typer.Context,
    profile: ProfileOption = "auto",
    model: ModelOption = None,
    source: FromOption = None,
    revision: RevisionOption = "main",
    lookahead: Annotated[str | None, typer.Option(metavar="W,N,G", help="The engine's largest (W,N,G).")] = None,
    precision: Annotated[str | None, typer.Option(help=f"One of {', '.join(PRECISIONS)}.")] = None,
    fp8_kv_cache: Annotated[bool, typer.Option("--fp8-kv-cache", help="Of an fp8 engine; costs precision.")] = False,
    int8_kv_cache: Annotated[bool, typer.Option("--int8-kv-cache", help="Of a CPU's engine: half the memory.")] = False,
    max_batch_size: Annotated[int | None, typer.Option(help="Requests that run at once.")] = None,
    max_input_len: Annotated[int | None, typer.Option(help="Longest prompt, in tokens.")] = None,
    max_seq_len: Annotated[int | None, typer.Option(help="Longest prompt plus output, in tokens.")] = None,
    max_num_tokens: Annotated[int | None, typer.Option(help="Most tokens of one forward pass.")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Most ranks compiled at once, each on its own GPU.")] = 1,
    companion: CompanionOption = False,
    calibration: Annotated[str | None, typer.Option(help="Data set for fp8; code by default.")] = None,
    allow_unproven: Annotated[bool, typer.Option("--allow-unproven", help="Try an unproven TensorRT-LLM.")] = False,
    skip_verify: Annotated[bool, typer.Option("--skip-verify", help="Publish without running the engine.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the commands and do nothing.")] = False,
    cache: CacheOption = Path(DEFAULT_CACHE),
) -> None:
    """Build an engine and its Triton model repository; prints the artefact's directory."""
    from build_engine.build import BuildOptions, build, check_plan
    from build_engine.cache import Cache
    from build_engine.dry_run import shell_script
    from build_engine.local import local_model
    from build_engine.profiles import ProfileError

    try:
        check_named(context, profile, model, source)
        source = source or local_model(model)
        if precision is not None and precision not in PRECISIONS:
            raise ProfileError(f"precision {precision!r} is not one of {', '.join(PRECISIONS)}")
        base = chosen_profile(profile, model, source, allow_unproven)
        chosen = base.with_limits(
            lookahead=LookaheadConfig.parse(lookahead) if lookahead else None,
            precision=precision,
            fp8_kv_cache=fp8_kv_cache or None,
            kv_cache_reuse=False if fp8_kv_cache else None,
            int8_kv_cache=int8_kv_cache or None,
            max_batch_size=max_batch_size,
            max_input_len=max_input_len,
            max_seq_len=max_seq_len,
            max_num_tokens=max_num_tokens,
        )
        options = BuildOptions(companion, workers, calibration, allow_unproven, revision)
        check_plan(chosen, shape_of(chosen, source), options)
        if dry_run:
            result = shell_script(chosen, source, options, base)
        else:
            say(f"profile {chosen.name} ({chosen.id})")
            tell_ignored(chosen, source, revision, workers)
            verifier = None if skip_verify else served_verifier()
            result = str(build(chosen, source, Cache(cache), say, options=options, verifier=verifier).directory)
    except ERRORS as error:
        fail(error)
    typer.echo(result)


@app.command("create-model-store")
def create_model_store(
    profile: Annotated[str, typer.Option("--profile", "-p", help="Name or id of a profile.")],
    directory: Annotated[Path, typer.Option("--model-store", "-m", help="A new directory.")],
    mounted_at: Annotated[Path | None, typer.Option(help="Where the server will see that directory.")] = None,
    gpus_per_node: Annotated[int | None, typer.Option(help="For several machines with so many GPUs each.")] = None,
    source: FromOption = None,
    revision: RevisionOption = "main",
    companion: CompanionOption = False,
    skip_verify: Annotated[bool, typer.Option("--skip-verify", help="Where it has to be built first.")] = False,
    cache: CacheOption = Path(DEFAULT_CACHE),
) -> None:
    """Write a profile's engine, tokenizer and model repository to a directory; builds them where need be."""
    from build_engine.build import BuildOptions, build
    from build_engine.cache import Cache
    from build_engine.profiles import find_profile
    from build_engine.store import check_store, create_store

    try:
        chosen = find_profile(profile)
        check_store(chosen, directory.absolute(), mounted_at, gpus_per_node)  # before hours of building
        tell_ignored(chosen, source, revision)
        verifier = None if skip_verify else served_verifier()
        options = BuildOptions(companion, revision=revision)
        artifact = build(chosen, source, Cache(cache), say, options=options, verifier=verifier)
        repository = create_store(artifact, directory, mounted_at, gpus_per_node)
    except ERRORS as error:
        fail(error)
    typer.echo(repository)


@cache_app.command("list")
def cache_list(
    output_format: FormatOption = Format.TEXT,
    cache: CacheOption = Path(DEFAULT_CACHE),
) -> None:
    """Show artefacts, checkpoints and leftovers with their sizes."""
    from build_engine.cache import Cache
    from build_engine.inventory import inventory, size_of

    try:
        entries = inventory(Cache.existing(cache))
    except ERRORS as error:
        fail(error)
    if output_format is Format.JSON:
        typer.echo(json.dumps([{**asdict(entry), "path": str(entry.path)} for entry in entries], indent=2))
        return
    for entry in entries:
        about = ", ".join(
            filter(None, [entry.profile, entry.built_at, entry.verification and f"verification {entry.verification}"])
        )
        typer.echo(f"{entry.kind:<10} {entry.bytes / 1e9:8.3f} GB  {entry.path}  ({about or entry.state})")
    typer.echo(f"{len(entries)} entries, {size_of(*(entry.path for entry in entries)) / 1e9:.3f} GB")


@cache_app.command("verify")
def cache_verify(cache: CacheOption = Path(DEFAULT_CACHE)) -> None:
    """Read every artefact and compare it with its manifest; exit code 8 where one is damaged."""
    from build_engine.cache import Cache
    from build_engine.inventory import inventory

    try:
        artifacts = [each for each in inventory(Cache.existing(cache), read_everything=True) if each.kind == "artifact"]
    except ERRORS as error:
        fail(error)
    for entry in artifacts:
        typer.echo(f"{'damaged' if entry.is_damaged else 'unknown' if entry.is_foreign else 'ok':<8} {entry.path}")
        if entry.state != "ok":
            say(entry.state)
    damaged = sum(entry.is_damaged for entry in artifacts)
    published = sum(entry.state == "ok" for entry in artifacts)
    whole = f"{published} of {len(artifacts)} artefacts are as they were published"
    typer.echo(whole if artifacts else "there are no artefacts")  # a copy that copied nothing must be seen
    if damaged:
        raise typer.Exit(ExitCode.ARTIFACT)


@cache_app.command("prune")
def cache_prune(
    superseded: Annotated[bool, typer.Option("--superseded", help="Also all but the newest of each profile.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
    cache: CacheOption = Path(DEFAULT_CACHE),
) -> None:
    """Remove leftovers of killed builds and damaged artefacts."""
    from build_engine.cache import Cache
    from build_engine.inventory import inventory, prunable, remove, size_of

    try:
        place = Cache.existing(cache)
        everything, going = inventory(place), prunable(place, superseded)
        staying = [entry.path for entry in everything if entry not in going]
        freed = size_of(*(entry.path for entry in everything)) - size_of(*staying)
        for entry in going:
            typer.echo(f"{'would remove' if dry_run else 'removing'} {entry.path} ({entry.bytes / 1e9:.3f} GB)")
            if not dry_run:
                remove(place, entry)
    except ERRORS as error:
        fail(error)
    typer.echo(f"{freed / 1e9:.3f} GB {'could be freed' if dry_run else 'freed'}")
