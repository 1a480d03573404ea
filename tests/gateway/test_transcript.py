"""An answer ends where it should, for the reason it says, with whole characters only."""

from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.gateway.answers.transcript import Ending, Transcript
from nimble_coder.gateway.upstream.token_stream import Step
from nimble_coder.text.tokenizer import TextTokenizer

TEXT = "naïve = '日本語 🦀'\nprint(naïve)\n"


def steps_of(ids: list[int], size: int) -> list[Step]:
    return [Step(ids[i : i + size], is_final=i + size >= len(ids)) for i in range(0, len(ids), size)]


def run(tokenizer: TextTokenizer, ending: Ending, steps: list[Step]) -> tuple[str, Transcript]:
    transcript, text = Transcript(tokenizer, ending), ""
    for step in steps:
        piece = transcript.push(step).text
        assert "\ufffd" not in piece
        text += piece
        if transcript.finish_reason:
            break
    return text, transcript


@given(size=st.integers(1, 7))
def test_text_is_exact_however_many_tokens_a_step_has(tokenizer: TextTokenizer, size: int) -> None:
    text, transcript = run(tokenizer, Ending(1000, frozenset()), steps_of(tokenizer.encode(TEXT), size))
    assert text == TEXT
    assert transcript.finish_reason == "stop"


@given(size=st.integers(1, 7))
def test_the_budget_cuts_inside_a_step_too(tokenizer: TextTokenizer, size: int) -> None:
    ids = tokenizer.encode("def add(a, b):\n    return a + b\n")
    text, transcript = run(tokenizer, Ending(5, frozenset()), steps_of(ids, size))
    assert transcript.token_ids == ids[:5]
    assert text == tokenizer.decode(ids[:5])
    assert transcript.finish_reason == "length"


def test_an_end_id_ends_it_and_is_not_shown(tokenizer: TextTokenizer) -> None:
    end = tokenizer.end_ids[0]
    ids = [*tokenizer.encode("abc"), end, *tokenizer.encode("hidden")]
    text, transcript = run(tokenizer, Ending(100, frozenset({end})), [Step(ids)])
    assert (text, transcript.finish_reason, transcript.ended_by_id) == ("abc", "stop", True)


def test_end_ids_before_min_tokens_are_passed_over(tokenizer: TextTokenizer) -> None:
    end, ids = tokenizer.end_ids[0], tokenizer.encode("one two three")
    ending = Ending(100, frozenset({end}), min_tokens=len(ids))
    text, _ = run(tokenizer, ending, [Step([end, *ids, end, *ids])])
    assert text == "one two three"


def test_a_stop_string_over_two_steps_is_found_and_not_shown(tokenizer: TextTokenizer) -> None:
    steps = [Step(tokenizer.encode("x = 1\n")), Step(tokenizer.encode("\ny = 2"))]
    text, transcript = run(tokenizer, Ending(100, frozenset(), stops=("\n\n",)), steps)
    assert (text, transcript.finish_reason, transcript.stop_string) == ("x = 1", "stop", "\n\n")


@given(size=st.integers(1, 7), shows_stop=st.booleans())
def test_the_id_that_ends_it_is_the_reason_and_shown_where_asked_for(
    tokenizer: TextTokenizer, size: int, shows_stop: bool
) -> None:
    ids = tokenizer.encode("one two three")
    last, pad, end = ids[-1], tokenizer.control_ids["<|fim_pad|>"], tokenizer.end_ids[0]
    stop_ids: dict[int, int | str] = {last: last, pad: "<|fim_pad|>", end: end}
    ending = Ending(100, frozenset({end}), ("<|fim_pad|>",), stop_ids=stop_ids, shows_stop=shows_stop)
    for stop, reason in ((last, last), (pad, "<|fim_pad|>"), (end, None)):
        before = ids[:-1]
        text, transcript = run(tokenizer, ending, steps_of([*before, stop, *ids], size))
        is_shown = shows_stop and reason is not None
        assert (transcript.stop_reason, transcript.finish_reason) == (reason, "stop")
        assert transcript.token_ids == [*before, *([stop] if is_shown else [])]
        assert text == tokenizer.decode(before) + (tokenizer.decode([stop], False) if is_shown else "")


@given(size=st.integers(1, 7))
def test_a_character_that_the_limit_cuts_is_left_out(tokenizer: TextTokenizer, size: int) -> None:
    ids = tokenizer.encode("ab🦀")
    for limit in range(len(ids) - 3, len(ids)):
        text, transcript = run(tokenizer, Ending(limit, frozenset()), steps_of(ids, size))
        assert text == "ab"
        assert (transcript.tokens, transcript.finish_reason) == (limit, "length")


@given(size=st.integers(1, 9), stop=st.sampled_from(["foo", "o(", "= f", "\n", "\n\n", "🦀", "x2 "]))
def test_what_a_step_brings_behind_a_stop_string_is_not_counted(tokenizer: TextTokenizer, size: int, stop: str) -> None:
    ids = tokenizer.encode("x1 = foo(1)\n🦀\n\nx2 = foo(2)\n")
    steps = [Step(s.token_ids, s.is_final, [float(i) for i in s.token_ids]) for s in steps_of(ids, size)]
    plain = [Step([i], False, [float(i)]) for i in ids]
    text, transcript = run(tokenizer, Ending(100, frozenset(), stops=(stop,)), steps)
    plain_text, plainly = run(tokenizer, Ending(100, frozenset(), stops=(stop,)), plain)
    assert (text, transcript.token_ids, transcript.log_probs) == (plain_text, plainly.token_ids, plainly.log_probs)
    assert (transcript.finish_reason, transcript.stop_string) == ("stop", stop)


@given(size=st.integers(1, 7))
def test_stop_strings_wait_for_min_tokens(tokenizer: TextTokenizer, size: int) -> None:
    ids = tokenizer.encode("one two one two one two")
    half = len(tokenizer.encode("one two one"))
    text, transcript = run(tokenizer, Ending(100, frozenset(), ("two",), min_tokens=half), steps_of(ids, size))
    assert text == "one two one "
    assert (transcript.finish_reason, transcript.stop_string) == ("stop", "two")
    assert transcript.tokens >= half


@given(size=st.integers(1, 7))
def test_end_ids_that_were_passed_over_do_not_use_up_the_budget(tokenizer: TextTokenizer, size: int) -> None:
    end, ids = tokenizer.end_ids[0], tokenizer.encode("one two three")
    ending = Ending(len(ids), frozenset({end}), min_tokens=len(ids), asked_tokens=len(ids) + 3)
    text, transcript = run(tokenizer, ending, steps_of([end, *ids[:2], end, end, *ids[2:]], size))
    assert (text, transcript.finish_reason) == ("one two three", "length")


def test_an_engine_that_gave_all_it_was_asked_for_ended_by_length(tokenizer: TextTokenizer) -> None:
    end, ids = tokenizer.end_ids[0], tokenizer.encode("one two three")
    ending = Ending(len(ids), frozenset({end}), min_tokens=len(ids))
    _, transcript = run(tokenizer, ending, [Step([end, *ids[1:]], is_final=True)])
    assert (transcript.tokens, transcript.finish_reason) == (len(ids) - 1, "length")


def test_time_over_waits_for_a_whole_line(tokenizer: TextTokenizer) -> None:
    transcript = Transcript(tokenizer, Ending(100, frozenset(), seconds_after_first_line=0.0))
    transcript.push(Step(tokenizer.encode("x = 1")))
    assert transcript.finish_reason is None
    transcript.push(Step(tokenizer.encode("\ny")))
    assert transcript.finish_reason == "length"
