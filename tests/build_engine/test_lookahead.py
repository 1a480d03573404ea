"""(W, N, G): the formula for D and every rule about what is legal and what fits."""

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig, LookaheadError, portable_limit


@pytest.mark.parametrize(
    ("config", "drafts"),
    [
        ((1, 1, 0), 0),
        ((2, 2, 1), 2),
        ((4, 3, 4), 15),
        ((3, 5, 3), 23),
        ((5, 5, 5), 39),
        ((7, 7, 7), 83),
        ((8, 8, 8), 111),
        ((15, 15, 15), 419),
    ],
)
def test_draft_tokens_are_those_tensorrt_llm_computes(config: tuple[int, int, int], drafts: int) -> None:
    assert LookaheadConfig(*config).max_draft_tokens == drafts
    assert LookaheadConfig(*config).tokens_per_step == drafts + 1


@pytest.mark.parametrize("config", [(0, 2, 1), (1, 0, 0), (2, 2, -1), (2, 1, 0), (1, 1, 1), (-1, 3, 3)])
def test_illegal_combinations_are_refused(config: tuple[int, int, int]) -> None:
    with pytest.raises(LookaheadError, match="not legal"):
        LookaheadConfig(*config)


def test_one_one_zero_is_plain_decoding() -> None:
    assert PLAIN.is_plain
    assert LookaheadConfig(1, 2, 0).is_plain  # a window of one column and no guesses: nothing to verify
    assert not LookaheadConfig(2, 2, 1).is_plain


@pytest.mark.parametrize("request_config", [(9, 8, 8), (8, 9, 8), (8, 8, 9)])
def test_a_request_may_not_exceed_the_engine_in_any_of_the_three(request_config: tuple[int, int, int]) -> None:
    with pytest.raises(LookaheadError, match=r"exceeds the engine's \(8,8,8\)"):
        LookaheadConfig(*request_config).check_within(LookaheadConfig(8, 8, 8))


@pytest.mark.parametrize("request_config", [(8, 8, 8), (1, 1, 0), (2, 2, 1), (1, 8, 8)])
def test_a_request_within_the_engine_is_allowed(request_config: tuple[int, int, int]) -> None:
    LookaheadConfig(*request_config).check_within(LookaheadConfig(8, 8, 8))


def test_text_is_read_in_the_form_people_write_it() -> None:
    assert LookaheadConfig.parse("8,8,8") == LookaheadConfig.parse("(8, 8, 8)") == LookaheadConfig(8, 8, 8)


@pytest.mark.parametrize("text", ["", "8", "8,8", "8,8,8,8", "a,b,c", "8;8;8", "1.5,2,2"])
def test_other_text_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(LookaheadError, match="such as 8,8,8"):
        LookaheadConfig.parse(text)


@pytest.mark.parametrize(
    ("own", "limit"), [((1, 4, 1), (8, 8, 8)), ((15, 15, 15), (15, 15, 15)), ((1, 9, 1), (8, 9, 8))]
)
def test_a_portable_engine_takes_at_least_the_published_configuration(
    own: tuple[int, int, int], limit: tuple[int, int, int]
) -> None:
    assert portable_limit(LookaheadConfig(*own)) == LookaheadConfig(*limit)
