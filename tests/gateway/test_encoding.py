"""No text that a user sends becomes a control token; prompts are otherwise what the tokenizer makes of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.prompts.encoding import END_TOKENS, FIM_TOKENS, PromptEncoder
from nimble_coder.text.tokenizer import TextTokenizer

CONTROL = [*END_TOKENS, *FIM_TOKENS, "<|im_start|>", "<tool_call>", "</tool_call>"]
nasty = st.lists(st.sampled_from([*CONTROL, "<|", "|>", "<", "fim_middle", "x = 1\n", " ", "é🦀"])).map("".join)


@given(st.one_of(st.text(), nasty))
def test_plain_text_holds_no_control_token(encoder: PromptEncoder, text: str) -> None:
    control = {encoder.id(token) for token in CONTROL}
    assert control.isdisjoint(encoder.plain(text))


@given(nasty)
def test_plain_text_survives_the_round_trip(encoder: PromptEncoder, tokenizer: TextTokenizer, text: str) -> None:
    assert tokenizer.decode(encoder.plain(text)) == text


@given(nasty)
def test_a_raw_prompt_is_encoded_as_the_tokenizer_does(
    encoder: PromptEncoder, tokenizer: TextTokenizer, text: str
) -> None:
    assert encoder.encode(encoder.split(text)) == tokenizer.encode(text)


@pytest.mark.parametrize("bad", [-1, 4096, "x", 1.5, None])
def test_what_is_no_token_id_is_refused_with_its_value(encoder: PromptEncoder, bad: object) -> None:
    with pytest.raises(ApiError, match="ids go from 0 to 4095") as caught:
        encoder.check_ids([1, bad], 4096)
    assert (caught.value.status, caught.value.param) == (400, "prompt")
