"""The engine: its protocol, its batching, and what it refuses."""

import time
from typing import Any

import pytest

from build_engine.lookahead import PLAIN, LookaheadConfig
from nimble_coder.contract.request import QueueFullError, Request, RequestError
from nimble_coder.contract.response import FinishReason, Response
from nimble_coder.engine.generate import generate
from nimble_coder.engine.protocol import Engine
from nimble_coder.engine.sequence import Sequence
from nimble_coder.engine.torch_engine import TorchEngine
from nimble_coder.engine.tree import TokenTree
from tests.engine.conftest import LoadEngine, hold

PROMPT = [5, 17, 900, 33, 5, 17, 900, 34, 12, 5, 17]


def is_engine(engine: Engine) -> Engine:
    """Type-checks that the portable engine keeps the protocol."""
    return engine


def test_it_keeps_the_protocol(load_engine: LoadEngine) -> None:
    assert is_engine(load_engine()).statistics().max_requests == 4


@pytest.mark.parametrize("config", [(1, 1, 0), (2, 2, 1), (4, 3, 4), (8, 8, 8), (1, 5, 4), (6, 2, 0)])
def test_requests_together_give_what_each_gives_alone(load_engine: LoadEngine, config: tuple[int, int, int]) -> None:
    engine = load_engine()
    requests = [Request(PROMPT[: 7 + i % 5], 20 + i, lookahead=LookaheadConfig(*config)) for i in range(9)]
    alone = [generate(engine, [request])[0].token_ids for request in requests]
    together = [g.token_ids for g in generate(engine, requests)]
    assert together == alone
    assert [len(ids) for ids in alone] == [20 + i for i in range(9)]


def test_different_configurations_run_in_one_batch(load_engine: LoadEngine) -> None:
    engine = load_engine()
    configs = [PLAIN, LookaheadConfig(2, 2, 1), LookaheadConfig(8, 8, 8), None]
    generations = generate(engine, [Request(PROMPT, 40, lookahead=config) for config in configs])
    assert len({tuple(g.token_ids) for g in generations}) == 1


def test_a_plain_engine_drafts_nothing_unless_a_request_asks(load_engine: LoadEngine) -> None:
    engine = load_engine(lookahead=PLAIN)
    (plain,) = generate(engine, [Request(PROMPT, 40)])
    assert (len(plain.chunks), engine.statistics().draft_tokens) == (40, 0)
    (drafted,) = generate(engine, [Request(PROMPT, 40, lookahead=LookaheadConfig(8, 8, 8))])
    assert engine.statistics().draft_tokens > 0
    assert drafted.token_ids == plain.token_ids


@pytest.mark.parametrize("length", range(1, 10))
def test_short_prompts_run_under_the_engines_own_configuration(load_engine: LoadEngine, length: int) -> None:
    engine = load_engine()
    fast, plain = generate(engine, [Request(PROMPT[:length], 24)])[0], [0]
    if length >= 1:
        plain = generate(engine, [Request(PROMPT[:length], 24, lookahead=PLAIN)])[0].token_ids
    assert fast.token_ids == plain


@pytest.mark.parametrize("count", range(1, 11))
def test_exactly_max_tokens_are_generated(load_engine: LoadEngine, count: int) -> None:
    generation = generate(load_engine(), [Request([7] * 20, count)])[0]
    assert len(generation.token_ids) == count
    assert generation.finish_reason is FinishReason.LENGTH


def test_output_ends_where_the_sequence_limit_is(load_engine: LoadEngine) -> None:
    generation = generate(load_engine(max_input_len=390), [Request(PROMPT * 35, 4096)])[0]
    assert len(generation.token_ids) == 400 - 385
    assert generation.finish_reason is FinishReason.LENGTH


def test_the_end_id_ends_the_output_and_is_not_in_it(load_engine: LoadEngine) -> None:
    engine = load_engine()
    free = generate(engine, [Request(PROMPT, 40)])[0].token_ids
    for index in (0, 1, 5, 17, 39):
        end = free[index]
        generation = generate(engine, [Request(PROMPT, 40, end_id=end)])[0]
        assert generation.token_ids == free[: free.index(end)]
        assert generation.finish_reason is FinishReason.END_ID


def test_a_stop_word_is_the_end_of_the_output(load_engine: LoadEngine) -> None:
    engine = load_engine()
    free = generate(engine, [Request(PROMPT, 40)])[0].token_ids
    for start, length in ((0, 1), (3, 2), (10, 4)):
        word = free[start : start + length]
        first = next(i for i in range(len(free)) if free[i : i + length] == word)
        generation = generate(engine, [Request(PROMPT, 40, stop_words=[[4000, 4001], word])])[0]
        assert generation.token_ids == free[: first + length]
        assert generation.finish_reason is FinishReason.STOP_WORDS


def test_streaming_gives_deltas_and_otherwise_one_response(load_engine: LoadEngine) -> None:
    engine = load_engine()
    stream, whole = (generate(engine, [Request(PROMPT, 30, streaming=s)])[0] for s in (True, False))
    assert stream.token_ids == whole.token_ids
    assert len(stream.chunks) > 1
    assert len(whole.chunks) == 1


@pytest.mark.parametrize("chunk", [1, 5, 32, 64])
def test_a_prompt_in_chunks_gives_what_it_gives_whole(load_engine: LoadEngine, chunk: int) -> None:
    prompt = [(i * 37) % 4000 for i in range(150)]
    whole = generate(load_engine(max_num_tokens=512), [Request(prompt, 20)])[0].token_ids
    assert generate(load_engine(max_num_tokens=chunk), [Request(prompt, 20)])[0].token_ids == whole


def test_a_long_prompt_does_not_stall_running_streams(load_engine: LoadEngine) -> None:
    engine = load_engine(max_num_tokens=32)
    running = engine.enqueue(Request(PROMPT, 200, lookahead=PLAIN))
    collect(engine, running, 5)
    arrived = engine.enqueue(Request([3] * 250, 1))
    order = [response.request_id for response in until_final(engine, arrived)]
    assert order.count(running) >= 250 // 32  # one token of the stream beside every chunk of the prompt


def test_a_short_prompt_does_not_wait_for_a_long_one(load_engine: LoadEngine) -> None:
    engine = load_engine(max_num_tokens=32)
    long, short = (engine.enqueue(Request([3] * length, 1)) for length in (250, 20))
    assert [r.request_id for r in until_final(engine, long) if r.is_final] == [short, long]


def collect(engine: TorchEngine, request_id: int, count: int) -> list[int]:
    """Reads until a request has at least `count` tokens."""
    tokens: list[int] = []
    while len(tokens) < count:
        for response in engine.responses(timeout=5):
            if response.request_id == request_id:
                tokens += response.token_ids
    return tokens


def until_final(engine: TorchEngine, request_id: int) -> list[Response]:
    """Every response, of any request, until the request's final one."""
    responses: list[Response] = []
    while not any(r.request_id == request_id and r.is_final for r in responses):
        responses += engine.responses(timeout=5)
    return responses


def test_cancelling_frees_the_slot_at_the_next_step(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=1)
    cancelled = engine.enqueue(Request(PROMPT, 350, lookahead=PLAIN))
    waiting = engine.enqueue(Request(PROMPT, 3))
    collect(engine, cancelled, 3)
    before = engine.statistics().iterations
    engine.cancel(cancelled)
    responses = until_final(engine, waiting)
    final = next(r for r in responses if r.request_id == cancelled and r.is_final)
    assert final.finish_reason is FinishReason.CANCELLED
    # The step that was running, the prefill and at most two decoding steps of the one that waited.
    assert engine.statistics().iterations - before <= 4


def test_cancelling_an_unknown_or_waiting_or_finished_request_hurts_nobody(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=1)
    engine.cancel(12345)
    running, waiting = (engine.enqueue(Request(PROMPT, 30)) for _ in range(2))
    engine.cancel(waiting)
    finals = {r.request_id: r.finish_reason for r in until_final(engine, running) if r.is_final}
    assert finals == {running: FinishReason.LENGTH, waiting: FinishReason.CANCELLED}
    engine.cancel(running)
    assert len(generate(engine, [Request(PROMPT, 5)])[0].token_ids) == 5


def test_owners_take_turns_where_requests_wait(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=1)
    owners = ["flood", "flood", "flood", "flood", "one", "another", "one"]
    ids = [engine.enqueue(Request(PROMPT, 100, owner=owner, lookahead=PLAIN)) for owner in owners]
    responses = until_final(engine, ids[3])
    begun = [ids.index(each) for each in dict.fromkeys(response.request_id for response in responses)]
    assert begun == [0, 4, 5, 1, 6, 2, 3]


def test_a_full_queue_is_said_in_the_backends_own_words(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=1, max_queue_size=2)
    first = engine.enqueue(Request(PROMPT, 300, lookahead=PLAIN))
    collect(engine, first, 1)
    waiting = [engine.enqueue(Request(PROMPT, 2)) for _ in range(2)]
    with pytest.raises(QueueFullError, match="Maximum queue size of 2 has been reached, please try again later"):
        engine.enqueue(Request(PROMPT, 2))
    engine.cancel(first)
    until_final(engine, waiting[1])


def test_requests_that_nobody_wants_any_more_keep_no_others_out_of_the_queue(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even before the step has ended that runs when they are cancelled, which may take a second."""
    engine = load_engine(max_batch_size=1, max_queue_size=2)
    begun, end = hold(engine, monkeypatch)
    engine.enqueue(Request(PROMPT, 2))
    begun.wait()
    abandoned = [engine.enqueue(Request(PROMPT, 2)) for _ in range(2)]
    for request_id in abandoned:
        engine.cancel(request_id)
    wanted = [engine.enqueue(Request(PROMPT, 2)) for _ in range(2)]
    with pytest.raises(QueueFullError):
        engine.enqueue(Request(PROMPT, 2))
    end.set()
    assert [len(r.token_ids) for r in until_final(engine, wanted[1]) if r.request_id in abandoned] == [0, 0]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        (Request([], 5), "the prompt is empty"),
        (Request([1] * 257, 5), r"Prompt length \(257\) exceeds maximum input length \(256\)"),
        (Request([1], 0), "request_output_len is 0"),
        (Request([1], -3), "request_output_len is -3"),
        (Request([1, 4096], 5), "4096, which is not a token"),
        (Request([-1], 5), "-1, which is not a token"),
        (Request([1] * 20, 5, lookahead=LookaheadConfig(9, 8, 8)), r"\(9,8,8\) exceeds the engine's \(8,8,8\)"),
        (Request([1] * 6, 5, lookahead=LookaheadConfig(8, 8, 8)), "has 6 tokens, .* needs at least 7"),
    ],
)
def test_what_cannot_run_is_refused_with_its_reason(load_engine: LoadEngine, request_: Request, reason: str) -> None:
    engine = load_engine()
    with pytest.raises(RequestError, match=reason):
        engine.enqueue(request_)
    assert len(generate(engine, [Request(PROMPT, 5)])[0].token_ids) == 5


def test_a_failing_step_is_told_to_its_clients_and_the_engine_goes_on(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine()
    real = engine._runner.run

    def broken(*_: Any) -> Any:
        raise MemoryError("no memory left")

    monkeypatch.setattr(engine._runner, "run", broken)
    failed = generate(engine, [Request(PROMPT, 5), Request(PROMPT, 5)])
    assert all("no memory left" in str(g.error) for g in failed)
    monkeypatch.setattr(engine._runner, "run", real)
    assert len(generate(engine, [Request(PROMPT, 5)])[0].token_ids) == 5
    assert engine.statistics().active_requests == 0


def test_a_drafter_that_fails_ends_its_own_request_alone(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load_engine()
    alone = generate(engine, [Request(PROMPT, 40)])[0].token_ids
    real = Sequence.draft

    def draft(self: Sequence, most: int) -> TokenTree:
        if self.request.max_tokens == 39:
            raise IndexError("no such node")
        return real(self, most)

    monkeypatch.setattr(Sequence, "draft", draft)
    failed, other = generate(engine, [Request(PROMPT, 39), Request(PROMPT, 40)])
    assert failed.error == "Encountered an error in the decoding step: no such node"
    assert len(failed.token_ids) == 1  # the prompt's own
    assert other.token_ids == alone
    assert engine.statistics().active_requests == 0


def test_metrics_count_as_tensorrt_llm_counts(load_engine: LoadEngine) -> None:
    engine = load_engine()
    generation = generate(engine, [Request([7, 8, 9] * 10, 60, lookahead=LookaheadConfig(4, 5, 4))])[0]
    metrics = generation.metrics
    assert metrics is not None
    steps = len(generation.chunks) - 1
    # Accepted: tokens of a step - 1, so tokens = first + steps + accepted, but for what the last step cut off.
    assert metrics.total_accepted_draft_tokens == 60 - 1 - steps
    assert metrics.total_draft_tokens <= steps * 4
    times = (
        metrics.arrival_time_ns,
        metrics.first_scheduled_time_ns,
        metrics.first_token_time_ns,
        metrics.last_token_time_ns,
    )
    assert list(times) == sorted(times)
    statistics = engine.statistics()
    assert statistics.generated_tokens == 60
    assert statistics.request_steps == steps
    assert statistics.tokens_per_step == pytest.approx(59 / steps)


def test_statistics_show_a_running_request(load_engine: LoadEngine) -> None:
    engine = load_engine()
    request_id = engine.enqueue(Request(PROMPT, 300, lookahead=PLAIN))
    collect(engine, request_id, 5)
    statistics = engine.statistics()
    assert statistics.active_requests == 1
    assert 15 <= statistics.kv_tokens_used <= statistics.kv_tokens_max == 4 * 400
    engine.cancel(request_id)
    until_final(engine, request_id)
    deadline = time.monotonic() + 60
    while engine.statistics().active_requests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert engine.statistics().kv_tokens_used == 0


def test_shutdown_answers_everything_in_flight(load_engine: LoadEngine) -> None:
    engine = load_engine(max_batch_size=1)
    ids = {engine.enqueue(Request(PROMPT, 350)) for _ in range(3)}
    engine.shutdown()
    assert {r.request_id for r in engine.responses(timeout=1) if r.is_final} == ids


def test_a_request_may_draft_more_than_the_engine_was_built_for(load_engine: LoadEngine) -> None:
    engine = load_engine(lookahead=LookaheadConfig(1, 2, 1))
    prompt = [5, 17, 900, 33, 5, 17, 900, 34] * 4
    plain, wide = (
        generate(engine, [Request(prompt, 40, lookahead=config)])[0] for config in (PLAIN, LookaheadConfig(8, 8, 8))
    )
    assert wide.token_ids == plain.token_ids
    with pytest.raises(RequestError, match=r"exceeds the engine's \(8,8,8\)"):
        engine.enqueue(Request(prompt, 4, lookahead=LookaheadConfig(9, 3, 1)))
