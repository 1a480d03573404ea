"""Requests are sent as often as asked for and no more, as many at once as asked for, and at the asked rate."""

import threading
import time
from functools import partial

import pytest

from nimble_coder.bench.load.sending import Request, closed_loop, open_loop
from nimble_coder.bench.load.target import Sample


class Service:
    """Counts what it is asked, and how much of it at once."""

    def __init__(self, seconds: float = 0.01) -> None:
        self.seconds, self.asked, self.running, self.most = seconds, list[int](), 0, 0
        self._lock = threading.Lock()

    def answer(self, number: int) -> Sample:
        with self._lock:
            self.asked.append(number)
            self.running += 1
            self.most = max(self.most, self.running)
        sample = Sample(str(number), time.perf_counter())
        time.sleep(self.seconds)
        with self._lock:
            self.running -= 1
        return sample

    def requests(self, count: int) -> list[Request]:
        return [partial(self.answer, number) for number in range(count)]


@pytest.mark.parametrize("concurrency", [1, 3, 50])
def test_a_closed_loop_sends_each_request_once_and_no_more_than_that_at_a_time(concurrency: int) -> None:
    service, done = Service(), list[None]()
    samples = closed_loop(service.requests(20), concurrency, lambda: done.append(None))
    assert sorted(service.asked) == list(range(20))
    assert service.most <= concurrency
    assert len(samples) == len(done) == 20
    assert [sample.sent for sample in samples] == sorted(sample.sent for sample in samples)


def test_a_closed_loop_of_several_does_send_several_at_once() -> None:
    service = Service(0.2)
    closed_loop(service.requests(3), 3)
    assert service.most == 3


def test_an_open_loop_sends_on_while_answers_are_missing_and_no_sooner_than_its_rate_says() -> None:
    service = Service(1.0)
    started = time.perf_counter()
    samples = open_loop(service.requests(10), rate=50)
    assert sorted(service.asked) == list(range(10))
    assert service.most > 5
    # The seed's own intervals; a busy machine can only make them longer.
    assert [sample.prompt for sample in samples] == [str(number) for number in range(10)]
    assert samples[-1].sent - started > 0.1


def test_what_a_request_raises_ends_the_run_and_no_further_one_is_sent() -> None:
    service = Service()

    def broken() -> Sample:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        closed_loop([broken, *service.requests(5)], 1)
    assert service.asked == []
