"""Text comes out as soon as it is certain, and never half a character."""

import codecs
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nimble_coder.text.detokenizer import Detokenizer
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

TOKENIZER = TextTokenizer(EMBEDDED)


def pieces(ids: list[int], sizes: list[int]) -> list[str]:
    """What a detokeniser gives for `ids` cut into runs of the given sizes, repeated."""
    detokenizer = Detokenizer(TOKENIZER.decode, TOKENIZER.token_bytes)
    texts, start, turn = list[str](), 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        texts.append(detokenizer.push(ids[start : start + size]))
        start, turn = start + size, turn + 1
    return [*texts, detokenizer.finish()]


def without_cut(ids: list[int]) -> str:
    """The text of tokens, without a character at its end whose bytes are not all there."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return decoder.decode(b"".join(map(TOKENIZER.token_bytes, ids)))


@given(st.text(), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_the_pieces_of_any_text_are_the_text(text: str, sizes: list[int]) -> None:
    ids = TOKENIZER.encode(text)
    assert "".join(pieces(ids, sizes)) == TOKENIZER.decode(ids)


def test_a_character_of_several_tokens_comes_out_whole() -> None:
    texts = pieces(TOKENIZER.encode("x = '\U0001f600'"), [1])
    assert not any("\ufffd" in text for text in texts)
    assert "\U0001f600" in texts or any("\U0001f600" in text for text in texts)


def test_certain_text_is_not_held_back_with_an_incomplete_character() -> None:
    ids = TOKENIZER.encode("abc\U0001f600")
    detokenizer = Detokenizer(TOKENIZER.decode)
    assert detokenizer.push(ids[:-1]).startswith("abc")


@pytest.mark.parametrize("token_bytes", [TOKENIZER.token_bytes, None])
def test_a_character_that_never_ends_does_not_show(token_bytes: Callable[[int], bytes] | None) -> None:
    ids = TOKENIZER.encode("\U0001f600")
    for length in range(1, len(ids)):
        detokenizer = Detokenizer(TOKENIZER.decode, token_bytes)
        assert detokenizer.push(ids[:length]) == ""
        assert detokenizer.finish() == ""


def test_broken_bytes_and_replacement_characters_show_at_the_end_too() -> None:
    for ids in (BROKEN[:1], TOKENIZER.encode("x\ufffd"), [*BROKEN[:2], TOKENIZER.encode("\U0001f600")[0]]):
        detokenizer = Detokenizer(TOKENIZER.decode, TOKENIZER.token_bytes)
        assert detokenizer.push(ids) + detokenizer.finish() == without_cut(ids) != ""


BROKEN = [94, 94, 94, 126, 94]
"""Continuation bytes that nothing begins, and then a character of two bytes."""


@given(st.lists(st.integers(0, 4073), max_size=40), st.lists(st.integers(1, 3), min_size=1, max_size=3))
@example(BROKEN, [1])
def test_tokens_that_are_no_utf8_come_out_as_they_would_at_once(ids: list[int], sizes: list[int]) -> None:
    assert "".join(pieces(ids, sizes)) == without_cut(ids)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_tokens_that_are_no_utf8_are_held_for_three_at_most(ids: list[int]) -> None:
    detokenizer, given_out = Detokenizer(TOKENIZER.decode), ""
    for count, token in enumerate(ids, 1):
        given_out += detokenizer.push([token])
        assert given_out.startswith(TOKENIZER.decode(ids[: max(count - 3, 0)]).rstrip("\ufffd"))


@pytest.mark.parametrize("text", ["", "\n", "def f():\n\treturn 'ü'\n"])
def test_encoding_and_decoding_are_inverse(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
