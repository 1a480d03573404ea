"""The plan of a build as a shell script that a person could run, with the reasons for its numbers."""

import shlex
from pathlib import Path

from build_engine.build import BuildOptions, workshop
from build_engine.engines import tensorrt
from build_engine.local import is_gguf
from build_engine.profiles import PROFILES, Profile
from build_engine.versions import CONTAINER

LIMITS = ("precision", "int8_kv_cache", "max_batch_size", "max_input_len", "max_seq_len", "max_num_tokens")
"""What `build-engine` changes of a portable engine's profile, beside lookahead."""


def shell_script(profile: Profile, source: Path | None, options: BuildOptions, base: Profile) -> str:
    """Bash that makes the engine of `profile`, which is `base` with other limits, in `$WORK`; needs no GPU to be
    printed."""
    header = [f"# {profile.name}", f"# id {profile.id}", *(f"# {line}" for line in explanation(profile))]
    if profile.is_portable:
        given = ["--model", str(source.absolute())] if source else []
        named = ["-p", base.name] if base.name in PROFILES else []
        asked = [*given, *named, *changes(profile, base), *_revision(options)]
        command = shlex.join(["nimble-coder", "build-engine", *asked])
        return "\n".join([*header, f"{command}  # nothing is compiled"])
    model = shlex.quote(str(source.absolute())) if source else f"$({_download(base, options)})"
    if source and is_gguf(source):
        model = f"$({shlex.join(['nimble-coder', 'download-to-cache', '--model', str(source.absolute())])})"
    lines = [*header, "set -eu", f"MODEL={model}", 'WORK="${WORK:-$PWD/build}"; mkdir -p "$WORK/work"']
    shop = workshop(profile, Path("$MODEL"), Path("$WORK"), options)
    for step in tensorrt.plan(profile, shop):
        lines += [f"# {step.name}", " ".join(map(quote, step.command))]
    return "\n".join(lines)


def explanation(profile: Profile) -> list[str]:
    """Where the numbers of the build command come from."""
    draft = profile.lookahead.max_draft_tokens
    if profile.is_portable:
        return [f"lookahead {profile.lookahead}: up to {draft} draft tokens per step"]
    return [
        f"runs in {CONTAINER}",
        f"lookahead {profile.lookahead}: D = {draft} draft tokens per step, which max_draft_len must equal",
        f"max_seq_len {profile.max_seq_len}: prompt and output; the builder adds D, config.json will say "
        f"{profile.max_seq_len + draft}",
        f"max_num_tokens {profile.engine_num_tokens}: the longest prompt ({profile.max_input_len}), and a step of "
        f"{profile.max_batch_size} requests of D + 1 = {draft + 1} tokens "
        f"({profile.max_batch_size * (draft + 1)})",
    ]


def _download(profile: Profile, options: BuildOptions) -> str:
    return shlex.join(["nimble-coder", "download-to-cache", "-p", profile.name, *_revision(options)])


def _revision(options: BuildOptions) -> list[str]:
    return ["--revision", options.revision] if options.revision != "main" else []


def changes(profile: Profile, base: Profile) -> list[str]:
    """The options that make `profile` of `base`; a variant's own name is known to nobody."""
    found = []
    if profile.lookahead != base.lookahead:
        found += ["--lookahead", str(profile.lookahead).strip("()")]
    for name in LIMITS:
        value = getattr(profile, name)
        if value != getattr(base, name):
            found += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return found


def quote(part: str) -> str:
    """Like `shlex.quote`, but leaves `$MODEL` and `$WORK` to the shell."""
    return f'"{part}"' if part.startswith(("$MODEL", "$WORK")) else shlex.quote(part)
