"""Text comes out as soon as it is certain, and never half a character."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nimble_coder.text.detokenizer import Detokenizer
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

TOKENIZER = TextTokenizer(EMBEDDED)


def pieces(ids: list[int], sizes: list[int]) -> list[str]:
    """What a detokeniser gives for `ids` cut into runs of the given sizes, repeated."""
    detokenizer, texts, start, turn = Detokenizer(TOKENIZER.decode), [], 0, 0
    while start < len(ids):
        size = sizes[turn % len(sizes)]
        texts.append(detokenizer.push(ids[start : start + size]))
        start, turn = start + size, turn + 1
    return [*texts, detokenizer.finish()]


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


def test_a_character_that_never_ends_shows_as_a_replacement() -> None:
    ids = TOKENIZER.encode("\U0001f600")
    detokenizer = Detokenizer(TOKENIZER.decode)
    assert detokenizer.push(ids[:1]) == ""
    assert detokenizer.finish() == "\ufffd"


BROKEN = [94, 94, 94, 126, 94]
"""Continuation bytes that nothing begins, and then a character of two bytes."""


@given(st.lists(st.integers(0, 4073), max_size=40), st.lists(st.integers(1, 3), min_size=1, max_size=3))
@example(BROKEN, [1])
def test_tokens_that_are_no_utf8_come_out_as_they_would_at_once(ids: list[int], sizes: list[int]) -> None:
    assert "".join(pieces(ids, sizes)) == TOKENIZER.decode(ids)


@given(st.lists(st.integers(0, 255), max_size=40))
def test_tokens_that_are_no_utf8_are_held_for_three_at_most(ids: list[int]) -> None:
    detokenizer, given_out = Detokenizer(TOKENIZER.decode), ""
    for count, token in enumerate(ids, 1):
        given_out += detokenizer.push([token])
        assert given_out.startswith(TOKENIZER.decode(ids[: max(count - 3, 0)]).rstrip("\ufffd"))


@pytest.mark.parametrize("text", ["", "\n", "def f():\n\treturn 'ü'\n"])
def test_encoding_and_decoding_are_inverse(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text
