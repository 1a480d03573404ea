"""Stop strings never show, wherever the pieces break, and nothing else is lost."""

import time

from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.text.stops import StopMatcher

letters = st.text("ab\n", max_size=30)


def pushed(stops: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + ("" if matcher.matched else matcher.flush()), matcher.matched


@given(letters, st.lists(st.text("ab\n", min_size=1, max_size=4), max_size=5), st.data())
def test_any_split_gives_the_text_before_the_first_stop(text: str, stops: list[str], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    shown, matched = pushed(stops, pieces)
    if matched is None:
        assert shown == text
        assert not any(stop in text for stop in stops)
    else:
        assert text.startswith(shown + matched)
        assert not any(stop in shown for stop in stops)


def test_what_may_become_a_stop_string_is_held_back_and_the_rest_is_not() -> None:
    matcher = StopMatcher(["\n\n", "END"])
    assert matcher.push("abc\n") == "abc"
    assert matcher.push("d E") == "\nd "
    assert matcher.push("N") == ""
    assert matcher.push("x") == "ENx"
    assert matcher.push("yEND of it") == "y"
    assert matcher.matched == "END"
    assert matcher.push("more") == ""


def test_tens_of_thousands_of_stop_strings_cost_a_piece_little_more_than_a_few() -> None:
    """Each piece of every stream is matched where the others wait, and a client sends as many as it likes."""

    def seconds(count: int) -> float:
        matcher = StopMatcher([f"zq{number}" for number in range(count)])
        started = time.perf_counter()
        for _ in range(100):
            matcher.push(" z")
        return time.perf_counter() - started

    assert min(seconds(30_000) for _ in range(3)) < 30 * min(seconds(10) for _ in range(3))


def test_of_stop_strings_that_begin_at_one_place_the_longest_is_the_one() -> None:
    matcher = StopMatcher(["bc", "ab", "abc", "c"], shows_stop=True)
    assert matcher.push("xabcd") == "xabc"
    assert matcher.matched == "abc"
