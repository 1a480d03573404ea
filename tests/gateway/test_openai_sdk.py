"""The unmodified OpenAI SDK against the whole service: what it sends is understood, what it reads is there."""

import asyncio
from typing import Any

import openai as sdk
import pytest
from openai import AsyncOpenAI, OpenAI
from openai.types import Completion
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageParam,
    ChatCompletionStreamOptionsParam,
)

from nimble_coder.client.grpc import CompletionClient
from nimble_coder.processes.serving import Serving
from nimble_coder.text.tokenizer import TextTokenizer

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "
MODEL = "qwen2.5-coder"


def tokens_of(completion: Completion) -> int:
    assert completion.usage is not None
    return completion.usage.completion_tokens


def token_ids_of(completion: Completion) -> Any:
    """A field of the first choice that the SDK does not declare."""
    choice: Any = completion.choices[0]
    return choice.token_ids


def test_a_completion_is_what_the_engine_gives_on_its_own(openai: OpenAI, gateway: Serving) -> None:
    answer = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=24)
    with CompletionClient(gateway.triton.addresses.grpc) as client:
        direct = client.complete(PROMPT, max_tokens=24)
    assert answer.choices[0].text == direct.text
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (direct.prompt_tokens, len(direct.token_ids))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert (answer.object, answer.model) == ("text_completion", MODEL)


def test_a_streamed_completion_is_the_same_text(openai: OpenAI) -> None:
    whole = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=24)
    options: ChatCompletionStreamOptionsParam = {"include_usage": True}
    chunks = list(
        openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=24, stream=True, stream_options=options)
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == []
    assert tokens_of(chunks[-1]) == tokens_of(whole)


def test_continuous_usage_counts_up(openai: OpenAI) -> None:
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=20, stream=True, stream_options=options)
    counts = [tokens_of(chunk) for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 20


def test_several_prompts_and_copies_are_answered_in_order(openai: OpenAI) -> None:
    prompts = ["import os\nimport ", "def add(a, b):\n    return "]
    answer = openai.completions.create(model=MODEL, prompt=prompts, max_tokens=6, n=2)
    single = [openai.completions.create(model=MODEL, prompt=p, max_tokens=6).choices[0].text for p in prompts]
    assert [choice.text for choice in answer.choices] == [single[0], single[0], single[1], single[1]]
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 24


def test_several_copies_stream_beside_each_other(openai: OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=12, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == texts[1] != ""


def test_token_ids_are_a_prompt_too(openai: OpenAI, tokenizer: TextTokenizer) -> None:
    ids = tokenizer.encode(PROMPT)
    as_ids = openai.completions.create(model=MODEL, prompt=ids, max_tokens=8)
    as_lists = openai.completions.create(model=MODEL, prompt=[ids], max_tokens=8)
    as_text = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=8)
    assert as_ids.choices[0].text == as_lists.choices[0].text == as_text.choices[0].text


def test_echo_repeats_the_prompt(openai: OpenAI) -> None:
    plain = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4).choices[0].text
    echoed = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4, echo=True)
    nothing = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=0, echo=True)
    streamed = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=4, echo=True, stream=True)
    assert echoed.choices[0].text == PROMPT + plain
    assert nothing.choices[0].text == PROMPT
    assert "".join(chunk.choices[0].text for chunk in streamed) == PROMPT + plain


def test_stop_strings_end_the_text_and_are_not_in_it(openai: OpenAI) -> None:
    whole = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40).choices[0].text
    stop = whole[11:15]
    stops = [f"never{i}" for i in range(20)] + [stop]
    answer = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, stop=stops)
    streamed = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=40, stop=stops, stream=True)
    expected = whole[: whole.index(stop)]
    assert (answer.choices[0].text, answer.choices[0].finish_reason) == (expected, "stop")
    assert "".join(chunk.choices[0].text for chunk in streamed) == expected


def test_finish_reason_tells_the_budget_from_the_model(openai: OpenAI) -> None:
    cut = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=3)
    assert cut.choices[0].finish_reason == "length"
    token = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=6, extra_body={"return_token_ids": True})
    third = token_ids_of(token)[2]
    ended = openai.completions.create(
        model=MODEL, prompt=PROMPT, max_tokens=6, extra_body={"stop_token_ids": [third], "return_token_ids": True}
    )
    assert ended.choices[0].finish_reason == "stop"
    assert third not in token_ids_of(ended)


def test_ignore_eos_and_min_tokens_give_a_fixed_length(openai: OpenAI) -> None:
    for extra in ({"ignore_eos": True}, {"min_tokens": 200}):
        answer = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=200, extra_body=extra)
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 200
        assert answer.choices[0].finish_reason == "length"


@pytest.mark.parametrize("lookahead", [False, [4, 3, 4], [8, 8, 8], True, None])
def test_lookahead_can_be_chosen_and_changes_nothing_in_the_text(openai: OpenAI, lookahead: object) -> None:
    plain = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=48, extra_body={"lookahead": False})
    answer = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=48, extra_body={"lookahead": lookahead})
    assert answer.choices[0].text == plain.choices[0].text
    assert answer.usage is not None
    assert answer.usage.completion_tokens_details is not None
    accepted = answer.usage.completion_tokens_details.accepted_prediction_tokens
    assert accepted == 0 if lookahead is False else accepted


def test_a_suffix_fills_in_the_middle(openai: OpenAI) -> None:
    answer = openai.completions.create(
        model=MODEL, prompt="def add(a, b):\n    return ", suffix="\n\nprint(add(1, 2))\n"
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens > 10
    assert "<|" not in answer.choices[0].text


def test_chat_whole_and_streamed(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [
        {"role": "user", "content": "Write a function that adds two numbers."}
    ]
    whole = openai.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=24, temperature=0)
    chunks = list(openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=24, stream=True))
    assert whole.choices[0].message.role == chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


def test_chat_takes_parts_tools_and_results(openai: OpenAI) -> None:
    tool: ChatCompletionFunctionToolParam = {
        "type": "function",
        "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}}},
    }
    messages: list[ChatCompletionMessageParam] = [
        {"role": "developer", "content": [{"type": "text", "text": "Be short."}]},
        {"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    answer = openai.chat.completions.create(
        model=MODEL,
        messages=messages,
        tools=[tool],
        parallel_tool_calls=False,
        max_tokens=8,
    )
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_models_tell_the_context_and_the_aliases(openai: OpenAI) -> None:
    models: dict[str, Any] = {model.id: model for model in openai.models.list()}
    assert set(models) == {"demo", "qwen2.5-coder"}
    assert models["demo"].max_model_len == 8192
    assert openai.models.retrieve("demo").id == "demo"


@pytest.mark.parametrize(
    ("error", "arguments", "code"),
    [
        (sdk.NotFoundError, {"model": "gpt-4"}, "model_not_found"),
        (sdk.BadRequestError, {"prompt": "x " * 9000}, "context_length_exceeded"),
        (sdk.BadRequestError, {"prompt": ""}, "empty_prompt"),
        (sdk.BadRequestError, {"prompt": [99999]}, "invalid_token_id"),
        (sdk.BadRequestError, {"temperature": -1}, "invalid_type"),
        (sdk.BadRequestError, {"best_of": 5}, "unsupported"),
        (sdk.BadRequestError, {"best_of": 2, "n": 3}, "invalid_input"),
        (sdk.BadRequestError, {"extra_body": {"lookahead": [9, 8, 8]}}, "lookahead_exceeds_engine"),
        (sdk.BadRequestError, {"extra_body": {"lookahead": [2, 1, 0]}}, "invalid_lookahead"),
        (sdk.BadRequestError, {"prompt": "x", "extra_body": {"lookahead": [8, 8, 8]}}, "prompt_shorter_than_ngram"),
    ],
)
def test_refusals_have_their_status_and_a_code(
    openai: OpenAI, error: type[sdk.APIStatusError], arguments: dict[str, Any], code: str
) -> None:
    with pytest.raises(error) as caught:
        openai.completions.create(**{"model": MODEL, "prompt": PROMPT, "max_tokens": 4, **arguments})
    assert caught.value.code == code
    assert caught.value.request_id


def test_a_very_short_prompt_works(openai: OpenAI) -> None:
    assert tokens_of(openai.completions.create(model=MODEL, prompt="x", max_tokens=4)) == 4


def test_many_async_streams_at_once(gateway: Serving) -> None:
    async def one(client: AsyncOpenAI, number: int) -> str:
        prompt = f"def function_{number}(value):\n    "
        stream = await client.completions.create(model=MODEL, prompt=prompt, max_tokens=16, stream=True)
        return "".join([chunk.choices[0].text async for chunk in stream])

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{gateway.addresses.http}/v1", api_key="x", max_retries=0) as client:
            return await asyncio.gather(*(one(client, number) for number in range(24)))

    assert all(asyncio.run(all_of_them()))


def test_no_temperature_is_greedy_whatever_else_is_sent(openai: OpenAI) -> None:
    plain = openai.completions.with_raw_response.create(model=MODEL, prompt=PROMPT, max_tokens=16)
    sent = openai.completions.create(model=MODEL, prompt=PROMPT, max_tokens=16, top_p=0.5, extra_body={"top_k": 40})
    assert plain.headers["x-nimble-decoding"] == "greedy"
    assert plain.parse().choices[0].text == sent.choices[0].text


def test_a_temperature_samples_and_a_seed_repeats_it(openai: OpenAI) -> None:
    def sampled(seed: int | None) -> list[str]:
        raw = openai.completions.with_raw_response.create(
            model=MODEL, prompt=PROMPT, max_tokens=24, temperature=1.5, seed=seed, n=2
        )
        assert raw.headers["x-nimble-decoding"] == "sampling"
        return [choice.text for choice in raw.parse().choices]

    assert sampled(7) == sampled(7)
    assert sampled(7) != sampled(8)
    assert len({*sampled(None), *sampled(None)}) > 1


def test_logprobs_of_the_chosen_tokens(openai: OpenAI, tokenizer: TextTokenizer) -> None:
    asked: dict[str, Any] = {"model": MODEL, "prompt": PROMPT, "max_tokens": 6, "logprobs": 1}
    whole = openai.completions.create(**asked).choices[0]
    assert "".join(whole.logprobs.tokens) == whole.text
    assert all(value <= 0 for value in whole.logprobs.token_logprobs)
    assert whole.logprobs.text_offset == [len("".join(whole.logprobs.tokens[:i])) for i in range(6)]
    chunks = [chunk.choices[0] for chunk in openai.completions.create(**asked, stream=True)]
    offsets = [offset for chunk in chunks if chunk.logprobs for offset in chunk.logprobs.text_offset]
    assert offsets == whole.logprobs.text_offset
    fewest = openai.completions.create(**{**asked, "logprobs": 0}).choices[0].logprobs
    assert whole.logprobs.top_logprobs
    assert (fewest.token_logprobs, fewest.top_logprobs) == (whole.logprobs.token_logprobs, None)
    echoed = openai.completions.create(**asked, echo=True).choices[0].logprobs
    assert echoed.text_offset[-6:] == [offset + len(PROMPT) for offset in whole.logprobs.text_offset]
    assert "".join(echoed.tokens[:-6]) == PROMPT
    streamed = [value for chunk in chunks if chunk.logprobs for value in chunk.logprobs.token_logprobs]
    assert streamed == whole.logprobs.token_logprobs


def test_logprobs_of_a_chat(openai: OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x"}]
    answer = openai.chat.completions.create(model=MODEL, messages=messages, max_tokens=5, logprobs=True)
    found = answer.choices[0].logprobs
    assert found is not None
    assert found.content is not None
    assert bytes(b for token in found.content for b in token.bytes or ()).decode() == answer.choices[0].message.content
    assert "".join(token.token for token in found.content) == answer.choices[0].message.content
    assert all(token.logprob <= 0 for token in found.content)
