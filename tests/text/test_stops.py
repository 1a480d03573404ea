"""Stop strings never show, wherever the pieces break, and nothing else is lost."""

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
