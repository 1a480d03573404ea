"""Texts that draft for later requests outlive the engine where that is asked for, for the service's user alone."""

import logging
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from nimble_coder.contract.request import Request
from nimble_coder.engine.corpus import Corpus
from nimble_coder.engine.generate import generate
from nimble_coder.engine.kept_texts import FORMAT, Keeper, TextsFile
from nimble_coder.engine.pool import Pools, PoolTexts
from tests.conftest import EMBEDDED
from tests.engine.conftest import LoadEngine

TEXTS = [("a", [5, 6, 7]), ("b", []), ("a", [99, 0, 8]), ("größer", [1])]
VOCABULARY = 100


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    place = tmp_path / "tokenizer.json"
    place.write_text("one")
    return place


@pytest.fixture
def file(tmp_path: Path, tokenizer: Path) -> TextsFile:
    return TextsFile(tmp_path / "drafts", tokenizer)


def corpora() -> PoolTexts:
    return [(pool, Corpus(tokens)) for pool, tokens in TEXTS]


def ids(texts: PoolTexts) -> list[tuple[str, list[int]]]:
    return [(pool, corpus.tokens) for pool, corpus in texts]


def place_of(file: TextsFile) -> Path:
    return Path(str(file))


def test_what_is_written_is_read_again_by_who_has_the_same_tokenizer(file: TextsFile, tokenizer: Path) -> None:
    file.write(corpora())
    drafts = place_of(file).parent
    assert ids(TextsFile(drafts, tokenizer).read(VOCABULARY)) == TEXTS
    tokenizer.write_text("another")
    assert TextsFile(drafts, tokenizer).read(VOCABULARY) == []


def test_nobody_else_may_read_it_and_nothing_is_left_beside_it(file: TextsFile) -> None:
    for _ in range(2):
        file.write(corpora())
    place = place_of(file)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (place.parent, place)] == [0o700, 0o600]
    assert list(place.parent.iterdir()) == [place]


@pytest.mark.parametrize(
    "contents",
    [
        b"",
        b"{}",
        b"\xc1" * 50,
        msgspec.msgpack.encode({"format": FORMAT + 1, "texts": []}),
        msgspec.msgpack.encode({"format": FORMAT, "texts": [("a", b"123")]}),
        msgspec.msgpack.encode({"format": FORMAT, "texts": [("a", (VOCABULARY).to_bytes(4, "little"))]}),
        msgspec.msgpack.encode({"format": FORMAT, "texts": [("a", b"\xff\xff\xff\xff")]}),
        msgspec.msgpack.encode({"format": FORMAT, "texts": [("a", 7)]}),
        None,
    ],
    ids=["empty", "JSON", "noise", "a later format", "half a token", "no token", "negative", "no bytes", "directory"],
)
def test_a_file_that_is_not_one_of_ours_is_told_and_left_out(
    file: TextsFile, contents: bytes | None, caplog: pytest.LogCaptureFixture
) -> None:
    place = place_of(file)
    if contents is None:
        place.mkdir(parents=True)
    else:
        place.parent.mkdir()
        place.write_bytes(contents)
    with caplog.at_level(logging.WARNING):
        assert file.read(VOCABULARY) == []
    assert f"{place} cannot be read, drafts begin without it" in caplog.text


def test_half_a_file_is_told_and_left_out(file: TextsFile, caplog: pytest.LogCaptureFixture) -> None:
    file.write(corpora())
    place = place_of(file)
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        assert file.read(VOCABULARY) == []
    place.write_bytes(whole)
    assert ids(file.read(VOCABULARY)) == TEXTS


def test_pools_that_are_read_again_forget_the_same_texts_first(file: TextsFile) -> None:
    pools, again = Pools(most_tokens=20), Pools(most_tokens=20)
    for pool, token in (("a", 1), ("b", 2), ("a", 3)):
        pools.add(pool, Corpus([token] * 6))
    file.write(pools.all())
    for pool, text in file.read(VOCABULARY):
        again.add(pool, text)
    for each in (pools, again):
        each.add("c", Corpus([4] * 6))
    assert ids(again.all()) == ids(pools.all()) == [("a", [1] * 6), ("a", [3] * 6), ("c", [4] * 6)]


@pytest.fixture
def quick(file: TextsFile) -> Iterator[tuple[Keeper, PoolTexts]]:
    """Looks all the time; with what it looks at."""
    texts: PoolTexts = []
    keeper = Keeper(file, lambda: list(texts), seconds=0.01)
    yield keeper, texts
    keeper.close()


def test_it_is_written_while_the_engine_runs(quick: tuple[Keeper, PoolTexts], file: TextsFile) -> None:
    """So that an engine that is killed loses little."""
    keeper, texts = quick
    time.sleep(0.05)
    assert not place_of(file).exists()
    texts += corpora()
    deadline = time.monotonic() + 30
    while not file.read(VOCABULARY):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    texts.append(("late", Corpus([3])))
    keeper.close()
    assert ids(file.read(VOCABULARY)) == [*TEXTS, ("late", [3])]


def test_what_cannot_be_written_is_told_once_and_written_later(
    quick: tuple[Keeper, PoolTexts], file: TextsFile, caplog: pytest.LogCaptureFixture
) -> None:
    keeper, texts = quick
    drafts = place_of(file).parent
    with caplog.at_level(logging.WARNING):
        drafts.touch()  # a file, which nobody can write into, root included
        texts += corpora()
        deadline = time.monotonic() + 30
        while "are not kept" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(0.1)
        assert caplog.text.count("are not kept") == 1
        drafts.unlink()
    keeper.close()
    assert ids(file.read(VOCABULARY)) == TEXTS


def test_an_engine_drafts_from_the_texts_of_the_one_before_for_the_same_pool_alone(
    load_engine: LoadEngine, free_rows: None, tmp_path: Path
) -> None:
    request = Request([300 + i * i % 41 for i in range(30)], 40, draft_pool="mine")
    outputs, counts = [], []
    for pool in ("mine", "another's", "mine"):
        engine = load_engine(EMBEDDED, precision="fp32", drafts=tmp_path / "drafts")
        outputs.append(generate(engine, [replace(request, draft_pool=pool)])[0].token_ids)
        counts.append(engine.statistics().drafting["pool"].accepted)
        engine.shutdown()
    assert outputs == [outputs[0]] * 3
    assert counts[:2] == [0, 0]
    assert counts[2] >= 20
