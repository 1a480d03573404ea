"""Requests that come at random to pods that share their time among what runs: what a request waits for.

Each request is work of two parts, up to the first token and from there to the last. A pod with n requests goes on with
each of them at the speed that was measured with n at once, and takes up to `max_at_once`; the rest waits in line.
"""

import heapq
import math
import random
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache

from nimble_coder.planning.measured import Kind, at

BALANCE = 1.5
"""A pod with so many times the mean of requests passes what comes on, as deploy/haproxy and deploy/envoy have it."""

MOST_PODS = 4096
"""Of a plan."""

INSTANT = 1e-7
"""Seconds of work that count as none: less than the clock's rounding may not be waited for."""


@dataclass(eq=False)
class Request:
    """One request; times are seconds since the beginning."""

    kind: Kind
    came: float
    left: float = 1.0
    """Of the part that it is in; the first is more than 1 where the request is longer than its kind's median."""
    first: float = math.nan
    last: float = math.nan


@dataclass
class Pod:
    """What runs and what waits on one pod."""

    max_at_once: int
    running: list[Request] = field(default_factory=list)
    waiting: deque[Request] = field(default_factory=deque)
    since: float = 0.0
    version: int = 0
    """Counts changes, after which what was foreseen no longer holds."""

    def __len__(self) -> int:
        return len(self.running) + len(self.waiting)

    def go_on(self, now: float) -> list[Request]:
        """Does the work up to now; returns the requests that have ended."""
        ended = []
        whole = [self.seconds(request) for request in self.running]
        for request, seconds in zip(self.running, whole, strict=True):
            request.left -= (now - self.since) / seconds
            if request.left * seconds > INSTANT:
                continue
            if math.isnan(request.first):
                request.first, request.left = now, 1.0
            else:
                request.last = now
                ended.append(request)
        self.running = [request for request in self.running if math.isnan(request.last)]
        self.since = now
        self.version += 1
        while self.waiting and len(self.running) < self.max_at_once:
            self.running.append(self.waiting.popleft())
        return ended

    def take(self, request: Request) -> None:
        """One more, in line where the pod is full."""
        (self.waiting if len(self.running) >= self.max_at_once else self.running).append(request)

    def next_change(self) -> float:
        """When a part of something will be done; infinite where nothing runs."""
        return self.since + min((each.left * self.seconds(each) for each in self.running), default=math.inf)

    def seconds(self, request: Request) -> float:
        """The whole part's, at this load."""
        return part_of(request.kind, math.isnan(request.first), len(self.running))


@cache
def part_of(kind: Kind, is_first: bool, at_once: int) -> float:
    """Seconds that a part takes."""
    if is_first:
        return at(kind.first, at_once)
    return max((kind.answer_tokens - 1) * at(kind.between, at_once), 1e-9)


def poisson(rate: float, requests: int, chance: random.Random) -> Iterator[float]:
    """So many moments at `rate` a second."""
    now = 0.0
    for _ in range(requests):
        now += chance.expovariate(rate)
        yield now


def simulate(
    kinds: Sequence[tuple[Kind, float]], moments: Iterable[float], pods: int, max_at_once: int, chance: random.Random
) -> list[Request]:
    """Requests that come at these moments, each of a kind with its weight, on so many pods, till the last one comes."""
    fleet = [Pod(max_at_once) for _ in range(pods)]
    changes: list[tuple[float, int, int]] = []
    came: list[Request] = []
    present = 0

    def foresee(place: int) -> None:
        heapq.heappush(changes, (fleet[place].next_change(), place, fleet[place].version))

    names, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
    for now in moments:
        while changes and changes[0][0] <= now:
            when, place, version = heapq.heappop(changes)
            if version == fleet[place].version:
                present -= len(fleet[place].go_on(when))
                foresee(place)
        place = chance.randrange(pods)
        limit = math.ceil(BALANCE * (present + 1) / pods)
        while len(fleet[place]) >= limit:
            place = (place + 1) % pods
        present -= len(fleet[place].go_on(now))
        kind = chance.choices(names, weights)[0]
        came.append(Request(kind, now, chance.lognormvariate(0.0, kind.spread)))
        fleet[place].take(came[-1])
        present += 1
        foresee(place)
    return came


@dataclass(frozen=True)
class Outcome:
    """What users see with so many pods, in seconds."""

    pods: int
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    finished: float
    """The share of requests that had come to their end when the last one came."""

    @property
    def keeps_up(self) -> bool:
        """Whether requests end as they come."""
        return self.finished > 0.9

    def meets(self, ttft: float, itl: float) -> bool:
        """Whether 95 of 100 requests have both."""
        return self.ttft_p95 <= ttft and self.itl_p95 <= itl and self.keeps_up


def outcome(
    kinds: Sequence[tuple[Kind, float]], rate: float, pods: int, max_at_once: int, requests: int, seed: int = 0
) -> Outcome:
    """So many requests at `rate` a second, told of the last four fifths, which found the pods as they are usually."""
    chance = random.Random(seed)
    came = simulate(kinds, poisson(rate, requests, chance), pods, max_at_once, chance)[requests // 5 :]
    done = [request for request in came if not math.isnan(request.last)]
    first = sorted(request.first - request.came for request in done) or [math.inf]
    between = sorted(
        (request.last - request.first) / max(request.kind.answer_tokens - 1, 1e-6) for request in done
    ) or [math.inf]

    def of(found: list[float], share: float) -> float:
        return found[min(len(found) - 1, int(share * len(found)))]

    return Outcome(pods, of(first, 0.5), of(first, 0.95), of(between, 0.5), of(between, 0.95), len(done) / len(came))


def most_a_second(kinds: Sequence[tuple[Kind, float]], max_at_once: int) -> float:
    """Requests that a pod ends a second at its best: n / T(n), which is greatest at a level that was measured, since
    the whole time T is a straight line between two."""
    levels = {n for kind, _ in kinds for n in (*kind.first, *kind.between) if 1 <= n <= max_at_once}
    total = sum(weight for _, weight in kinds)
    return max(
        n * total / sum(weight * max(kind.seconds(n), INSTANT) for kind, weight in kinds)
        for n in {1, max_at_once, *levels}
    )


def fewest(
    kinds: Sequence[tuple[Kind, float]],
    rate: float,
    ttft: float,
    itl: float,
    max_at_once: int,
    requests: int,
    most: int = MOST_PODS,
) -> Outcome | None:
    """With the fewest pods that meet both objectives; None where `most` do not."""
    # Fewer than these cannot keep up, and simulating them would take longest.
    high = max(1, min(most, int(0.9 * rate / most_a_second(kinds, max_at_once))))
    low = high - 1
    while not (found := outcome(kinds, rate, high, max_at_once, requests)).meets(ttft, itl):
        low, high = high, high * 2
        if high > most:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        tried = outcome(kinds, rate, middle, max_at_once, requests)
        if tried.meets(ttft, itl):
            high, found = middle, tried
        else:
            low = middle
    return found
