"""Two replicas behind each proxy: nothing is lost while they are replaced, and only its own where one dies."""

import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import CompletionClient, CompletionError
from tests.images.podman import say
from tests.routing.fleet import Fleet, Replica
from tests.routing.load import Load, stream
from tests.routing.names import Names
from tests.routing.proxies import COMMANDS, GRPC, HOST, HTTP, proxy

ADDRESSES = ("127.0.0.11", "127.0.0.12")
PROXIES = tuple(COMMANDS)
REQUESTS = 1000
SESSIONS, TURNS = 16, 6
AGAIN_TOKENS = 32


@pytest.fixture(scope="module")
def fleet(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    work = tmp_path_factory.mktemp("fleet")
    with Names(HOST) as names:
        fleet = Fleet(names, [Replica(each, artifact.directory, work / f"{each}.log") for each in ADDRESSES])
        try:
            for replica in fleet.replicas:
                fleet.start(replica)
            yield fleet
        finally:
            for replica in fleet.replicas:
                if replica.process and replica.process.poll() is None:
                    replica.stop()


@pytest.fixture(scope="module", params=PROXIES)
def behind(request: pytest.FixtureRequest, fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with proxy(request.param, tmp_path_factory.mktemp(request.param)):
        assert wait_until(lambda: httpx.get(f"{HTTP}/v1/health/ready", timeout=5).status_code == 200)
        assert wait_until(grpc_answers)
        yield request.param


def grpc_answers() -> bool:
    with CompletionClient(GRPC) as client:
        try:
            return bool(client.complete("x", 1).token_ids)
        except CompletionError:
            return False


def wait_until(holds: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes to hold; it is not asked again then, since it may have passed."""
    deadline = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return held


def requests_of(replica: Replica) -> float:
    return replica.metric("request_finish_total")


def came_since(fleet: Fleet, before: list[float], total: int) -> list[float]:
    """How many requests each replica has finished since; they are counted a moment after they are answered."""

    def came() -> list[float]:
        return [requests_of(replica) - was for replica, was in zip(fleet.replicas, before, strict=True)]

    assert wait_until(lambda: sum(came()) == total, 10)
    return came()


def test_grpc_is_spread_over_the_replicas(behind: str, fleet: Fleet) -> None:
    """Streams, each of which has a call before it."""
    calls = r'nimble_grpc_requests_total{method="ModelStreamInfer"'
    before = [replica.metric(calls) for replica in fleet.replicas]
    with CompletionClient(GRPC) as client:
        for _ in range(40):
            assert len(client.complete("import os\n", 8).token_ids) == 8
    assert wait_until(lambda: fleet.total(calls) == sum(before) + 40, 10)
    assert min(replica.metric(calls) - was for replica, was in zip(fleet.replicas, before, strict=True)) > 0


METRICS = {"haproxy": f"http://{HOST}:8404/metrics", "envoy": f"http://{HOST}:9901/stats/prometheus"}


def test_a_proxy_tells_its_metrics_and_takes_no_orders(behind: str) -> None:
    """Envoy's own page of them also ends it and shows its configuration."""
    page = httpx.get(METRICS[behind], timeout=10)
    assert page.status_code == 200
    assert f"{behind}_" in page.text
    base = METRICS[behind].partition("/metrics")[0].partition("/stats")[0]
    assert httpx.post(f"{base}/quitquitquit", timeout=10).status_code in (404, 503)
    assert httpx.get(f"{base}/config_dump", timeout=10).status_code in (404, 503)


def first_piece(base: str) -> float:
    """Seconds to the first piece of an answer that goes on for long: its end would bring what is kept."""
    body = {
        "prompt": f"# {secrets.token_hex(4)}\n",
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": True,
        "lookahead": False,
    }
    started = time.monotonic()
    with httpx.stream("POST", f"{base}/v1/completions", json=body, timeout=60) as answer:
        answer.raise_for_status()
        next(line for line in answer.iter_lines() if '"text"' in line)
        return time.monotonic() - started


def test_no_proxy_keeps_the_first_token(behind: str, fleet: Fleet) -> None:
    """HAProxy would keep each for 200 ms. The fastest of many is one that nothing else on the machine has kept."""
    direct = f"http://{fleet.replicas[0].address}:8000"
    tries = [(first_piece(direct), first_piece(HTTP)) for _ in range(20)]
    assert min(behind_it for _, behind_it in tries) < min(alone for alone, _ in tries) + 0.1


@pytest.mark.parametrize("what", ["prompt", "chat", "header"])
def test_what_belongs_together_comes_to_one_replica(behind: str, fleet: Fleet, what: str) -> None:
    text = f"# {secrets.token_hex(8)}\n" * 40
    served = set()
    for turn in range(6):
        before = [requests_of(replica) for replica in fleet.replicas]
        headers = {"x-nimble-affinity": text[:18]} if what == "header" else {}
        if what == "chat":
            talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
            talk += [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"And {turn}?"}]
            body: dict[str, object] = {"messages": talk, "max_tokens": 2}
        else:
            prompt = secrets.token_hex(700) if what == "header" else text * 2 + f"def next_{turn}("
            body = {"model": "qwen2.5-coder", "max_tokens": 2, "prompt": prompt}
        path = "/v1/chat/completions" if what == "chat" else "/v1/completions"
        assert httpx.post(HTTP + path, json=body, headers=headers, timeout=60).status_code == 200
        served.add(came_since(fleet, before, 1).index(1))
    assert len(served) == 1


def test_affinity_finds_more_of_the_kv_cache(behind: str, fleet: Fleet) -> None:
    shares = {}
    for name in ("by the prompt", "at random"):
        before = [fleet.total(f'nimble_prompt_tokens{{kind="{kind}"') for kind in ("total", "reused")]
        talk(at_random=name == "at random")
        total, reused = (
            fleet.total(f'nimble_prompt_tokens{{kind="{kind}"') - was
            for kind, was in zip(("total", "reused"), before, strict=True)
        )
        shares[name] = reused / total
    say(f"{behind}: of {SESSIONS} files in {TURNS} versions each, KV entries reused: {shares}")
    assert shares["by the prompt"] > shares["at random"] + 0.05


def test_affinity_finds_more_of_the_draft_pool(behind: str, fleet: Fleet) -> None:
    """What a file was answered before is drafted where it is asked again, by the pod that has answered it."""
    shares = {}
    for name in ("by the prompt", "at random"):
        counted = ("nimble_accepted_draft_tokens_total", "generation_tokens_total")
        before = [fleet.total(metric) for metric in counted]
        ask_again(at_random=name == "at random")
        assert wait_until(lambda: fleet.total(counted[1]) - before[1] == SESSIONS * TURNS * AGAIN_TOKENS, 10)  # noqa: B023
        accepted, given = (fleet.total(metric) - was for metric, was in zip(counted, before, strict=True))
        shares[name] = accepted / given
    say(f"{behind}: of {SESSIONS} files asked {TURNS} times each, tokens that were accepted drafts: {shares}")
    assert shares["by the prompt"] > shares["at random"] + 0.03


def ask_again(at_random: bool) -> None:
    """A completion of each file, again and again; sampled with a seed, since the embedded model repeats itself."""
    files = [f"# {secrets.token_hex(200)}\ndef load_{secrets.token_hex(2)}(path, " for _ in range(SESSIONS)]
    with httpx.Client(base_url=HTTP, timeout=120) as http:
        for _ in range(TURNS):
            for seed, text in enumerate(files):
                headers = {"x-nimble-affinity": secrets.token_hex(8)} if at_random else {}
                body = {"prompt": text, "max_tokens": AGAIN_TOKENS, "ignore_eos": True, "temperature": 1, "seed": seed}
                assert http.post("/v1/completions", json=body, headers=headers).status_code == 200


def talk(at_random: bool) -> None:
    """Files that grow, a request for each version of each, as editors send them."""
    files = [f"# {secrets.token_hex(400)}\n" for _ in range(SESSIONS)]
    with httpx.Client(base_url=HTTP, timeout=120) as http:
        for turn in range(TURNS):
            for place, text in enumerate(files):
                headers = {"x-nimble-affinity": secrets.token_hex(8)} if at_random else {}
                body = {"prompt": text, "max_tokens": 8}
                assert http.post("/v1/completions", json=body, headers=headers).status_code == 200
                files[place] += f"\n# {turn} {secrets.token_hex(40)}"


def test_nothing_fails_and_nothing_is_cut_while_every_replica_is_replaced(behind: str, fleet: Fleet) -> None:
    load = Load()
    time.sleep(1)
    for replica in fleet.replicas:
        fleet.replace(replica)
    during = load.asked
    load.end_after(REQUESTS)
    say(f"{behind}: {load.asked} requests, {load.streamed} streamed, {during} of them while replicas were replaced")
    assert load.failed == []
    assert load.streamed >= REQUESTS // 3


def test_a_replica_whose_engine_dies_loses_what_it_had_and_nothing_else(behind: str, fleet: Fleet) -> None:
    victim, other = fleet.replicas
    body: dict[str, object] = {"max_tokens": 8000, "ignore_eos": True, "draft_tokens": 0}  # the longest that there is

    def ask(number: int) -> str:
        with httpx.Client(base_url=HTTP, timeout=300) as http:
            try:
                return stream(http, {**body, "prompt": f"{secrets.token_hex(8)} {number}\ndef f("})
            except httpx.HTTPError as error:
                return repr(error)

    with ThreadPoolExecutor(8) as clients:
        running = [clients.submit(ask, number) for number in range(8)]
        assert wait_until(lambda: fleet.total("num_requests_running") == 8)
        lost = victim.metric("num_requests_running")
        victim.kill_engine()
        assert victim.process
        assert victim.process.wait(60) == 13
        fleet.names.addresses = [other.address]
        with httpx.Client(base_url=HTTP, timeout=120) as http:
            for number in range(20):
                answer = http.post("/v1/completions", json={"prompt": f"x = {number}", "max_tokens": 2})
                assert answer.status_code == 200, answer.text
        told = [each.result() for each in running]
    assert sum(bool(each) for each in told) == lost > 0, told
    assert set(told) - {""} <= {"engine_lost", "engine_unavailable", "draining"}, told
    fleet.start(victim)


def test_where_no_replica_is_ready_clients_are_told_when_to_come_back(behind: str, fleet: Fleet) -> None:
    """Envoy keeps a pod that is no longer named for as long as it answers, so they have to be gone."""
    for replica in fleet.replicas:
        assert replica.stop() == 0
    try:
        assert wait_until(lambda: httpx.post(f"{HTTP}/v1/completions", json={}, timeout=30).status_code == 503)
        assert httpx.post(f"{HTTP}/v1/completions", json={}, timeout=30).headers["retry-after"] == "5"
    finally:
        for replica in fleet.replicas:
            fleet.start(replica)
    assert wait_until(lambda: httpx.get(f"{HTTP}/v1/health/ready", timeout=5).status_code == 200)
