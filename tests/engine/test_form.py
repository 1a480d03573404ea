"""Outputs held to a form: always of that form, and token by token those of plain decoding under it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import Guide, GuideType, Request, RequestError, Sampling
from nimble_coder.contract.response import FinishReason
from nimble_coder.engine import form
from nimble_coder.engine.form import SECONDS_PER_TOKEN
from nimble_coder.engine.generate import Generation, generate
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.text.tokenizer import TextTokenizer
from tests.engine.conftest import LoadEngine
from tests.engine.forms import END, FORMS, PROMPT, TURN, VOCAB

KINDS = {
    "greedy": None,
    "temperature": Sampling(temperature=1.0),
    "cuts": Sampling(temperature=1.3, top_k=40, top_p=0.9, min_p=0.02),
    "penalties": Sampling(temperature=0.9, repetition_penalty=1.2, presence_penalty=0.4),
    "log probabilities": Sampling(temperature=0.9, log_probs=True, top_log_probs=2),
}
WAYS: dict[str, dict[str, object]] = {"lookahead": {}, "narrow": {"lookahead": LookaheadConfig(1, 3, 1)},
                                      "suffixes": {"draft_tokens": 8}}  # fmt: skip


def has_form(guide: Guide, text: str) -> bool:
    if guide.type is GuideType.JSON_SCHEMA:
        return bool(Draft202012Validator(json.loads(guide.text)).is_valid(json.loads(text)))
    pattern = {
        "regex": guide.text,
        "ebnf_grammar": r"([a-c]+|import os)(,([a-c]+|import os))*\.",
        "lark": r"return [a-z]{1,4}(\nreturn [a-z]{1,4}){3}",
    }[guide.type.value]
    return re.fullmatch(pattern, text) is not None


def told(generation: Generation) -> tuple[object, ...]:
    return generation.token_ids, generation.finish_reason, generation.log_probs


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FORMS)
def test_an_output_under_a_form_has_it_and_is_that_of_plain_decoding(
    engine: TorchEngine, tokenizer: TextTokenizer, name: str, kind: str
) -> None:
    guide, accepted = FORMS[name], dict.fromkeys(WAYS, 0)
    for seed in range(3):
        request = Request(PROMPT, 150, seed=seed, sampling=KINDS[kind], end_id=END, guide=guide)
        (plain,) = generate(engine, [replace(request, lookahead=PLAIN)])
        for way, asked in WAYS.items():
            (drafted,) = generate(engine, [replace(request, **asked)])  # type: ignore[arg-type]
            assert told(drafted) == told(plain), way
            assert drafted.error is None
            assert drafted.metrics
            accepted[way] += drafted.metrics.total_accepted_draft_tokens
        if plain.finish_reason is not FinishReason.LENGTH:
            assert has_form(guide, tokenizer.decode(plain.token_ids))
        if KINDS[kind] is None and name != "schema":
            break  # without sampling no seed makes a difference
    if name == "schema":
        assert min(accepted.values()) > 20, accepted  # the keys are forced, whatever the model would say


def test_in_batches_with_prompts_in_the_cache(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    requests = [
        Request(PROMPT, 120, guide=FORMS["schema"], end_id=END),
        Request(PROMPT, 60),
        Request(PROMPT[:20], 120, seed=2, sampling=KINDS["temperature"], guide=FORMS["regex"], end_id=END),
        Request(PROMPT, 120, seed=7, sampling=KINDS["cuts"], guide=FORMS["schema"], end_id=END),
    ]
    plain = generate(engine, [replace(request, lookahead=PLAIN) for request in requests])
    for _ in range(2):
        assert list(map(told, generate(engine, requests))) == list(map(told, plain))
    assert json.loads(tokenizer.decode(plain[0].token_ids))


def test_an_answer_ends_where_its_form_does_without_an_end_id(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = Guide(GuideType.REGEX, "import (os|sys)")
    for end_id in (None, END):
        (generation,) = generate(engine, [Request(PROMPT, 50, guide=guide, end_id=end_id)])
        assert tokenizer.decode(generation.token_ids) in ("import os", "import sys")
        assert generation.finish_reason is FinishReason.END_ID


def test_a_form_that_may_go_on_is_ended_by_the_model_or_the_limit(
    engine: TorchEngine, tokenizer: TextTokenizer
) -> None:
    guide = Guide(GuideType.REGEX, "a+")
    (free,) = generate(engine, [Request(PROMPT, 30, guide=guide)])
    assert free.finish_reason is FinishReason.LENGTH
    assert set(tokenizer.decode(free.token_ids)) == {"a"}
    favoured = Sampling(temperature=0.0, logit_bias=((END, 100.0),))
    (ended,) = generate(engine, [Request(PROMPT, 30, guide=guide, end_id=END, sampling=favoured)])
    assert (ended.finish_reason, len(ended.token_ids)) == (FinishReason.END_ID, 1)
    (later,) = generate(
        engine, [Request(PROMPT, 30, guide=guide, end_id=END, sampling=replace(favoured, min_tokens=7))]
    )
    assert (later.finish_reason, len(later.token_ids)) == (FinishReason.END_ID, 7)


def test_a_form_that_does_not_fit_ends_with_length(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    (generation,) = generate(engine, [Request(PROMPT, 6, guide=FORMS["schema"], end_id=END)])
    assert (generation.finish_reason, len(generation.token_ids)) == (FinishReason.LENGTH, 6)
    assert tokenizer.decode(generation.token_ids).startswith('{"name": "')


def test_a_stop_word_ends_it_earlier(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = FORMS["schema"]
    (whole,) = generate(engine, [Request(PROMPT, 150, guide=guide, end_id=END)])
    stop = whole.token_ids[5:7]
    (stopped,) = generate(engine, [Request(PROMPT, 150, guide=guide, end_id=END, stop_words=[stop])])
    assert stopped.finish_reason is FinishReason.STOP_WORDS
    assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]
    assert stopped.token_ids[-2:] == stop


def test_no_other_rule_can_break_a_form(engine: TorchEngine, tokenizer: TextTokenizer) -> None:
    guide = Guide(GuideType.REGEX, "ab|ac")
    forbidden = Sampling(min_tokens=20, logit_bias=tuple((i, -100.0) for i in range(VOCAB)))
    (generation,) = generate(engine, [Request(PROMPT, 20, guide=guide, end_id=END, sampling=forbidden)])
    assert tokenizer.decode(generation.token_ids) in ("ab", "ac")


@pytest.mark.parametrize("way", ["limits", "time"])
def test_a_form_that_turns_out_to_be_too_complex_ends_its_own_answer_alone(
    engine: TorchEngine, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    more = " | ".join("/[a-z]/ " * count + "e" for count in (1, 2, 3, 4))
    guide = Guide(GuideType.LARK, f"start: e\ne: {more} | /[a-z]/")  # a row of Earley's grows with every letter
    if way == "time":
        monkeypatch.setattr(form, "FREE_SECONDS", -SECONDS_PER_TOKEN * 20)
    others = [Request(PROMPT, 60), Request(PROMPT, 120, guide=FORMS["schema"], end_id=END)]
    alone = generate(engine, others) if way == "limits" else generate(engine, others[:1])
    failed, *beside = generate(engine, [Request(PROMPT, 2000, guide=guide), *others[: len(alone)]])
    assert failed.error
    assert "guided_decoding_guide) is too complex" in str(failed.error)
    assert list(map(told, beside)) == list(map(told, alone))


@pytest.mark.parametrize("count", [7, 4000])
def test_one_of_many_choices_is_written(engine: TorchEngine, tokenizer: TextTokenizer, count: int) -> None:
    choices = [f"choice {number}" for number in range(count)]
    guide = Guide(GuideType.CHOICE, json.dumps(choices))
    (generation,) = generate(engine, [Request(PROMPT, 30, guide=guide, end_id=END)])
    assert tokenizer.decode(generation.token_ids) in choices


@pytest.mark.parametrize("kind", KINDS)
def test_calls_in_a_turn_are_those_of_plain_decoding(engine: TorchEngine, tokenizer: TextTokenizer, kind: str) -> None:
    call = tokenizer.encode("<tool_call>")[0]
    sampling = replace(KINDS[kind] or Sampling(temperature=0.0), logit_bias=((call, 18.0), (END, -100.0)))
    for seed in range(3):
        request = Request(PROMPT, 150, seed=seed, sampling=sampling, end_id=END, guide=TURN)
        (plain,) = generate(engine, [replace(request, lookahead=PLAIN)])
        assert call in plain.token_ids
        for way in WAYS.values():
            (drafted,) = generate(engine, [replace(request, **way)])  # type: ignore[arg-type]
            assert told(drafted) == told(plain)


def test_an_engine_without_a_tokenizer_says_so(load_engine: LoadEngine, tmp_path: Path) -> None:
    engine = load_engine(tokenizer=False)
    with pytest.raises(RequestError, match="without a tokenizer"):
        engine.enqueue(Request(PROMPT, 5, guide=FORMS["regex"]))
