"""What is asked is what people ask, and every text is new to the service."""

import re

import pytest

from nimble_coder.bench.load.scenarios import Prompt, Scenario, filled, infills, scenarios, sources
from nimble_coder.text.tokenizer import TextTokenizer
from tests.conftest import EMBEDDED

ALL = scenarios()


def test_there_are_four_scenarios_with_several_prompts_each() -> None:
    assert [*ALL] == ["chat", "completion", "infill", "edit"]
    assert min(len(scenario.prompts) for scenario in ALL.values()) >= 8


def test_every_prompt_has_a_name_of_its_own() -> None:
    """By which benchmarks keep what it was answered."""
    for scenario in ALL.values():
        assert len({prompt.name for prompt in scenario.prompts}) == len(scenario.prompts), scenario.name


@pytest.mark.parametrize("scenario", ALL.values(), ids=ALL)
def test_numbers_make_texts_different_and_equally_long(scenario: Scenario) -> None:
    tokenizer = TextTokenizer(EMBEDDED)
    for prompt in scenario.prompts:
        one, other = prompt.numbered(7).text, prompt.numbered(1_234_568).text
        assert one != other
        assert len(one) == len(other)
        # The difference is near the beginning: what is kept of an earlier request does not help.
        same = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
        assert len(tokenizer.encode(one[:same])) < 64


def test_infills_are_long_prompts_whose_answer_is_what_was_cut_out() -> None:
    found = list(infills())
    assert min(len(prompt.text) for prompt in found) > 4000
    files = [filled(content) for content in sources().values()]
    for prompt in found:
        assert prompt.suffix is not None
        assert "{{" not in prompt.text
        assert "}}" not in prompt.text.replace("}}\n", "")
        own = prompt.prefix.rpartition("# file: ")[2].partition("\n")[2]
        assert any(file.startswith(own) and file.endswith(prompt.suffix) for file in files), prompt.name


def test_edits_hold_the_whole_file() -> None:
    for prompt in ALL["edit"].prompts:
        assert any(filled(content) in prompt.question for content in sources().values())


def test_a_scenario_begins_again_where_more_is_asked_for_than_it_has() -> None:
    scenario = Scenario("x", 1, [Prompt("a"), Prompt("b")])
    assert [prompt.name for prompt in scenario.take(5)] == ["a", "b", "a", "b", "a"]


def test_another_turn_takes_the_prompts_behind_those_of_the_one_before() -> None:
    scenario = Scenario("x", 1, [Prompt(name) for name in "abcde"])
    assert [[prompt.name for prompt in scenario.take(2, turn)] for turn in range(3)] == [
        ["a", "b"],
        ["c", "d"],
        ["e", "a"],
    ]


def test_no_prompt_that_should_be_code_holds_a_control_token() -> None:
    for name in ("completion", "chat", "edit"):
        assert not any(re.search(r"<\|\w+\|>", p.prefix + p.question) for p in ALL[name].prompts)
