"""The judgement on a new engine: equal tokens, near ties, the checkpoint's own tokens, and speed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest

from build_engine.checkpoint import CheckpointError
from build_engine.lookahead import PLAIN, LookaheadConfig
from build_engine.precision import Precision
from build_engine.profiles import PROFILES, Profile
from build_engine.verify import (
    LIMITS,
    OPEN_PROMPTS,
    PORTABLE_COMPARED,
    PORTABLE_TOKENS,
    PROMPTS,
    TOKENS,
    Batch,
    Verification,
    VerificationError,
    advice,
    verify,
)

BF16 = PROFILES["qwen2.5-coder-7b-instruct-h100-bf16-tp1-w8n8g8"]
FP32 = PROFILES["demo"]


@dataclass
class FakeEngine:
    """Continues a prompt by its length: every token is the number of tokens before it."""

    wrong: dict[int, int] = field(default_factory=dict)
    """Position in the output, and the token that lookahead gives there instead; the rest follows from it."""
    forgets: bool = False
    """From its first wrong token on, lookahead gives nothing but zeros."""
    plain_seconds: float = 2.0
    """Of a request that is alone; lookahead takes 1.0."""
    crowded: float = 1.0
    """How much longer lookahead takes for every request when others run beside it."""
    smaller_seconds: float = 1.0
    """Of a request that is alone and asks for less than the engine's own."""
    own: LookaheadConfig = FP32.lookahead
    knows_lookahead: bool = True
    """Whether it was built with lookahead; one that was not takes no (w,n,g)."""

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def generate(self, prompts: Sequence[list[int]], max_tokens: int, lookahead: LookaheadConfig | None) -> Batch:
        assert lookahead is None or self.knows_lookahead
        if lookahead and not lookahead.is_plain:  # as engines do: an own one is left out silently, one asked for is not
            assert all(len(prompt) >= lookahead.ngram_size - 1 for prompt in prompts), "the prompt is too short"
        plain = lookahead is not None and lookahead.is_plain
        outputs = [self._continue(prompt, max_tokens, {} if plain else self.wrong) for prompt in prompts]
        alone = self.smaller_seconds if lookahead not in (None, self.own) else 1.0
        seconds = self.plain_seconds if plain else self.crowded if len(prompts) > 1 else alone
        return Batch(outputs, seconds, 1.0 if plain else 2.5)

    def _continue(self, prompt: list[int], count: int, wrong: dict[int, int]) -> list[int]:
        tokens, output = sum(prompt), list[int]()
        for position in range(count):
            token = wrong.get(position, (tokens * 31 + 7) % 1000)
            if self.forgets and wrong and position > min(wrong):
                token = 0
            output.append(token)
            tokens += token
        return output


@dataclass
class FakeReference:
    """A checkpoint that prefers another token than the engine's every `period` tokens, by `nats`."""

    period: int = 1
    nats: float = 0.0
    asked: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def losses(self, generations: Sequence[tuple[list[int], list[int]]]) -> list[list[float]]:
        self.asked += generations
        return [[0.0 if i % self.period else self.nats for i in range(len(output))] for _, output in generations]


def check(engine: FakeEngine, profile: Profile = BF16, reference: FakeReference | None = None) -> Verification:
    return verify(engine, profile, reference or FakeReference(), lambda _: None)


def judge(engine: FakeEngine, profile: Profile = BF16) -> dict[str, object]:
    return check(engine, profile).to_json()


def test_a_checkpoint_that_computes_no_numbers_is_what_is_wrong() -> None:
    with pytest.raises(CheckpointError, match="the checkpoint itself computes what is no number: a weight is damaged"):
        check(FakeEngine(), FP32, FakeReference(nats=float("nan")))


def test_eight_prompts_of_two_hundred_tokens_are_compared() -> None:
    result = judge(FakeEngine())
    assert (len(PROMPTS), TOKENS) == (8, 200)
    assert (result["requests"], result["tokens"], result["identical"]) == (8, 1600, 8)


def test_a_portable_engine_on_a_cpu_generates_fewer_and_says_what_is_going_on() -> None:
    said: list[str] = []
    result = verify(FakeEngine(), FP32, FakeReference(), said.append)
    assert result.tokens == 8 * PORTABLE_TOKENS
    assert [line.split(",")[0] for line in said] == [
        "8 requests at once",
        f"asking the checkpoint about the first {PORTABLE_COMPARED} tokens of each",
        "one request at a time",
    ]


def test_the_record_has_the_speeds_of_one_request_and_of_eight() -> None:
    result = judge(FakeEngine(crowded=4.0))
    assert result["status"] == "passed"
    assert result["alone"] == {
        "plain_seconds": 6.0,
        "lookahead_seconds": 3.0,
        "tokens_per_step": 2.5,
        "speed_up": 2.0,
    }
    assert result["together"] == {
        "plain_seconds": 2.0,
        "lookahead_seconds": 4.0,
        "tokens_per_step": 2.5,
        "speed_up": 0.5,
    }


def test_the_checkpoint_is_asked_about_what_lookahead_generated() -> None:
    reference = FakeReference(period=64, nats=0.08)
    result = check(FakeEngine(wrong={10: 5}), BF16, reference)
    assert [(prompt, len(output)) for prompt, output in reference.asked] == [
        (list(text.encode()), 64) for text in PROMPTS + OPEN_PROMPTS
    ]
    assert {output[10] for _, output in reference.asked} == {5}
    assert (result.agreement, result.loss) == (0.9844, 0.00125)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8"])
def test_tokens_that_the_checkpoint_would_not_choose_are_refused_beyond_the_precisions_limit(
    precision: Precision,
) -> None:
    profile = replace(FP32 if precision == "fp32" else BF16, precision=precision)
    limit = LIMITS[precision].loss
    check(FakeEngine(), profile, FakeReference(nats=0.9 * limit))
    with pytest.raises(VerificationError, match="does not compute what its checkpoint does"):
        check(FakeEngine(), profile, FakeReference(nats=1.1 * limit))


def test_a_near_tie_is_told_from_a_wrong_engine_by_what_follows() -> None:
    assert judge(FakeEngine(wrong={100: 5}))["near_ties"] == 8
    with pytest.raises(VerificationError, match="generates other tokens than without"):
        judge(FakeEngine(wrong={100: 5}, forgets=True))


def test_more_near_ties_than_sixteen_bits_explain_are_refused() -> None:
    judge(FakeEngine(wrong={20 * i: 5 for i in range(LIMITS["bf16"].near_ties)}))
    with pytest.raises(VerificationError, match=r"token 40 of 200 is the difference number 3, 2 are allowed"):
        judge(FakeEngine(wrong={20 * i: 5 for i in range(LIMITS["bf16"].near_ties + 1)}))


def test_a_difference_in_the_last_token_is_one_near_tie() -> None:
    assert judge(FakeEngine(wrong={TOKENS - 1: 5}))["near_ties"] == 8


def test_in_fp32_every_token_must_be_equal() -> None:
    with pytest.raises(VerificationError, match="0 are allowed"):
        judge(FakeEngine(wrong={10: 5}), FP32)


def test_a_compiled_engine_that_is_slower_is_refused_and_what_was_faster_is_offered() -> None:
    with pytest.raises(VerificationError, match=r"slower than plain.* build a plain engine \(--lookahead 1,1,0\)"):
        judge(FakeEngine(plain_seconds=0.5, crowded=0.1))
    with pytest.raises(VerificationError, match=r"\(8,8,8\) is slower.* build it for \(\d,3,\d\).*, 2\.00x the speed"):
        judge(FakeEngine(plain_seconds=0.5, smaller_seconds=0.25))


def test_an_engine_that_matches_suffixes_is_judged_by_that_and_may_be_slower() -> None:
    result = check(FakeEngine(plain_seconds=0.5), FP32)
    assert (result.is_slower, result.fastest, result.gain) == (True, PLAIN, 1.0)
    said = advice(FP32, result)
    assert said.startswith("drafting by matching suffixes is slower than plain decoding here: 3.00 s instead of 1.50 s")
    assert '"draft_tokens": 0' in said
    faster = check(FakeEngine(), FP32)
    assert (faster.fastest, faster.to_json()["fastest"], faster.gain) == (None, None, 2.0)
    assert advice(FP32, faster) == ""


@pytest.mark.parametrize("own", [LookaheadConfig(8, 8, 8), LookaheadConfig(4, 3, 4), LookaheadConfig(2, 4, 2)])
def test_what_was_too_slow_is_never_what_is_recommended(own: LookaheadConfig) -> None:
    with pytest.raises(VerificationError, match=r"1\.25x the speed of plain decoding") as refused:
        check(FakeEngine(plain_seconds=0.5, smaller_seconds=0.4, own=own), replace(BF16, lookahead=own))
    recommended = LookaheadConfig.parse(str(refused.value).rpartition("--lookahead ")[2].partition(")")[0])
    recommended.check_within(own)
    assert recommended not in (own, PLAIN)


def test_a_plain_engine_is_compared_with_itself_and_not_for_speed() -> None:
    plain = replace(BF16, lookahead=PLAIN)
    result = check(FakeEngine(knows_lookahead=False, plain_seconds=0.5), plain)
    assert (result.identical, result.near_ties) == (8, 0)
    assert (result.alone.speed_up, result.together.speed_up, result.is_slower) == (1.0, 1.0, False)


def test_prompts_shorter_than_the_own_n_grams_are_lengthened() -> None:
    """The first of them has 12 tokens, too few for 15-grams."""
    wide = LookaheadConfig(15, 15, 15)

    class Coarse(FakeEngine):
        def encode(self, text: str) -> list[int]:
            return list(text.encode()[:12])

    result = check(Coarse(own=wide), replace(BF16, lookahead=wide))
    assert (result.alone.speed_up, result.fastest) == (2.0, wide)


def test_a_short_context_is_verified_with_what_fits() -> None:
    profile = replace(BF16, max_seq_len=160, max_input_len=100)
    assert int(str(judge(FakeEngine(), profile)["tokens"])) < 1600
