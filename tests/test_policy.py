"""The policy's file is checked when it is read, and a load finds its (w,n,g)."""

from pathlib import Path

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.gateway.policy import Level, Measured, Policy, PolicyError, Table, policy_of, write_policy

ENGINE = LookaheadConfig(8, 8, 8)
LEVELS = [
    Level(load=8, lookahead=(1, 1, 0)),
    Level(load=1, lookahead=(4, 5, 4), tokens_per_second=512.25, engine=300.0, plain=190.0),
    Level(load=4, lookahead=(1, 4, 4)),
]
MEASURED = Measured(artifact="demo-1", date="2026-11-24", machine="a laptop", command="nimble-coder tune 'x y'")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policies" / "demo.yaml"


@pytest.mark.parametrize(
    ("load", "prompt", "chosen"),
    [
        (0, 100, LookaheadConfig(4, 5, 4)),
        (1, 100, LookaheadConfig(4, 5, 4)),
        (3, 100, LookaheadConfig(4, 5, 4)),
        (4, 100, LookaheadConfig(1, 4, 4)),
        (7, 3, LookaheadConfig(1, 4, 4)),
        (7, 2, PLAIN),
        (1, 3, PLAIN),
        (8, 1, PLAIN),
        (5000, 100, PLAIN),
    ],
)
def test_a_load_gets_the_level_it_has_reached_and_a_short_prompt_plain_decoding(
    path: Path, load: int, prompt: int, chosen: LookaheadConfig
) -> None:
    write_policy(path, Table(levels=LEVELS, measured=MEASURED))
    assert Policy.read(path, ENGINE).choose(load, prompt) == chosen


def test_the_file_can_be_read_by_people(path: Path) -> None:
    write_policy(path, Table(levels=LEVELS[1:2], measured=MEASURED))
    assert path.read_text().splitlines()[-6:] == [
        "levels:",
        "- load: 1",
        "  lookahead: [4, 5, 4]",
        "  tokens_per_second: 512.25",
        "  engine: 300.0",
        "  plain: 190.0",
    ]
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("levels: [{load: 1, lookahead: [9, 8, 8]}]", r"exceeds the engine's \(8,8,8\)"),
        ("levels: [{load: 1, lookahead: [2, 1, 0]}]", "not legal"),
        ("levels: [{load: 1, lookahead: [4, 4]}]", "lookahead"),
        ("levels: [{load: one, lookahead: [4, 4, 4]}]", "load"),
        ("levels: [{load: 1, lookahead: [4, 4, 4], window: 3}]", "window"),
        ("levels: []", "no levels"),
        ("levels: [{load: 2, lookahead: [4, 4, 4]}, {load: 2, lookahead: [4, 4, 4]}]", "two levels for load 2"),
        ("levels: [{load: 2, lookahead: [4, 4, 4]}, {load: 2, lookahead: [1, 4, 1]}]", "two levels for load 2"),
        ("levels: [", "cannot be used"),
        ("nothing", "cannot be used"),
    ],
)
def test_a_file_that_is_no_policy_for_this_engine_is_refused(path: Path, text: str, reason: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(PolicyError, match=reason):
        Policy.read(path, ENGINE)


def test_a_file_that_is_not_there_is_named(path: Path) -> None:
    with pytest.raises(PolicyError, match=r"demo\.yaml cannot be read"):
        Policy.read(path, ENGINE)


def test_the_cache_keeps_policies_beside_its_artefacts(tmp_path: Path) -> None:
    assert policy_of(tmp_path / "artifacts" / "demo-1") == tmp_path / "policies" / "demo-1.yaml"
    assert policy_of(tmp_path / "store") is None


def test_a_level_may_leave_the_choice_to_the_engine(path: Path) -> None:
    write_policy(path, Table(levels=[Level(load=1, lookahead=None), Level(load=4, lookahead=(1, 1, 0))]))
    policy = Policy.read(path, ENGINE)
    assert [policy.choose(load, prompt_length=1) for load in (1, 4)] == [None, PLAIN]
