"""Which (w,n,g) suits which load: the table that `nimble-coder tune` measures and the gateway goes by."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import msgspec
import msgspec.yaml
import yaml

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError, Mode

HEADER = """\
# Written by `nimble-coder tune`; the gateway reads it when it starts (docs/tuning.md).
# From `load` generations at once on, a request that names no lookahead of its own gets this (w,n,g).
# Speeds are tokens per second of all requests together: under it, under the engine's own (W,N,G), and plainly.
"""


class PolicyError(ValueError):
    """A policy that cannot be used; says which and what to do."""

    exit_code = 2


class Level(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One line of the table."""

    load: int
    """Generations at once from which on it holds."""
    lookahead: tuple[int, int, int] | None
    """None leaves it to the portable engine, which drafts by matching suffixes."""
    tokens_per_second: float = 0.0
    engine: float = 0.0
    plain: float = 0.0

    @property
    def config(self) -> Mode:
        return self.lookahead and LookaheadConfig(*self.lookahead)


class Measured(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a table comes from."""

    artifact: str
    date: str
    machine: str
    command: str


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's content. One that was written by hand need not say where it comes from."""

    measured: Measured | None = None
    levels: list[Level]


@dataclass(frozen=True)
class Policy:
    """The table, in the order of its loads."""

    levels: tuple[tuple[int, Mode], ...]

    @classmethod
    def read(cls, path: Path, most: LookaheadConfig) -> "Policy":
        """Raises `PolicyError` where the file is no such table, or asks for more than `most`, up to which a request may
        name a (w,n,g) too."""
        try:
            table = msgspec.yaml.decode(path.read_bytes(), type=Table)
            levels = sorted(((level.load, level.config) for level in table.levels), key=lambda level: level[0])
            for _, config in levels:
                if config is not None:
                    config.check_within(most)
        except OSError as error:
            raise PolicyError(f"the policy {path} cannot be read: {error.strerror}") from None
        except (msgspec.MsgspecError, LookaheadError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise PolicyError(f"the policy {path} cannot be used: {why}; run `nimble-coder tune` again") from None
        if not levels:
            raise PolicyError(f"the policy {path} has no levels: run `nimble-coder tune` again, or remove it")
        loads = [load for load, _ in levels]
        if twice := [load for load, after in pairwise(loads) if load == after]:
            raise PolicyError(f"the policy {path} has two levels for load {twice[0]}: leave one of them")
        return cls(tuple(levels))

    def choose(self, load: int, prompt_length: int) -> Mode:
        """The (w,n,g) for a request that makes it `load` generations at once; plain where its prompt is too short."""
        fitting = [config for at, config in self.levels if at <= load]
        config = fitting[-1] if fitting else self.levels[0][1]
        return PLAIN if config is not None and prompt_length < config.ngram_size - 1 else config


def policy_of(artifact: Path) -> Path | None:
    """Where the policy of a cache's artefact is: CACHE/policies beside CACHE/artifacts, which are never changed."""
    if artifact.parent.name != "artifacts":
        return None
    return artifact.parent.with_name("policies") / f"{artifact.name}.yaml"


def write_policy(path: Path, table: Table) -> None:
    """Writes the file whole or not at all, so that a gateway that starts meanwhile reads one or the other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.draft")
    text = yaml.safe_dump(msgspec.to_builtins(table), default_flow_style=None, sort_keys=False, width=1000)
    draft.write_text(HEADER + text, encoding="utf-8")
    draft.rename(path)
