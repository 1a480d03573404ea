"""The limits hold over all workers of a service, and what one of them does the others see at once."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nimble_coder.gateway.access import ledger as ledger_module
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.access.limits import RateLimiter
from nimble_coder.gateway.errors import ApiError
from nimble_coder.gateway.telemetry.metrics import MOST_KEYS


def test_a_rate_limit_is_per_client_and_says_when_to_come_back() -> None:
    limiter = RateLimiter(2, Ledger())
    for _ in range(2):
        limiter.check("a")
    limiter.check("b")
    with pytest.raises(ApiError, match="wait") as caught:
        limiter.check("a")
    assert caught.value.status == 429
    assert caught.value.retry_after in range(25, 32)


def test_an_allowance_refills_steadily(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    ledger = Ledger()
    assert [ledger.take("a", 3) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(20)]
    now += 19
    assert ledger.take("a", 3) == pytest.approx(1)
    now += 1
    assert [ledger.take("a", 3) for _ in range(2)] == [0.0, pytest.approx(20)]
    now += 500
    assert [ledger.take("a", 3) for _ in range(4)] == [0.0, 0.0, 0.0, pytest.approx(20)]


FULL_DISK = """
import sys
from contextlib import suppress
from pathlib import Path
from nimble_coder.gateway.access.ledger import Ledger
from nimble_coder.gateway.telemetry.metrics import RESERVED, GatewayMetrics
place = Path(sys.argv[1])
ledger, metrics = Ledger(place), GatewayMetrics(place)
for number in range(1000):
    with suppress(OSError), (place / "filler").open("ab", 0) as file:
        while True:
            file.write(bytes(4096))
    ledger.take(str(number), 3)
    metrics.requests.labels("/v1/completions", str(number)).inc()
metrics.whole.observe(1.0)
assert {each.stat().st_size for each in place.glob("*.db")} == {RESERVED}
print(metrics.page().decode().count("nimble_http_requests_total{"))
"""


MANY_KEYS = """
import sys
from pathlib import Path
from nimble_coder.gateway.telemetry.metrics import MOST_KEYS, GatewayMetrics
place = Path(sys.argv[1])
metrics = GatewayMetrics(place, per_key=True)
sizes = {each: each.stat().st_size for each in place.glob("*.db")}
try:
    with (place / "filler").open("ab", 0) as file:
        while True:
            file.write(bytes(4096))
except OSError:
    pass
for number in range(MOST_KEYS + 1000):
    metrics.record(10**9, [], f"{number:012x}")
assert sizes == {each: each.stat().st_size for each in place.glob("*.db")}
page = metrics.page().decode()
assert 'nimble_key_requests_total{key="other"}' in page
print(page.count("nimble_key_tokens_total{"))
"""


@pytest.mark.parametrize(("program", "told"), [(FULL_DISK, "1000\n"), (MANY_KEYS, f"{2 * (MOST_KEYS + 1)}\n")])
def test_a_disk_that_fills_up_ends_no_worker(tmp_path: Path, program: str, told: str) -> None:
    mount: list[str | Path] = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", tmp_path]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    subprocess.run(["umount", tmp_path], check=True)
    assert (done.returncode, done.stdout) == (0, told), done.stderr


def test_more_clients_than_there_is_room_for_lose_nobody_elses_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CLIENTS", 16)
    ledger = Ledger()
    for _ in range(3):
        ledger.take("greedy", 3)
    for number in range(7):  # fewer than there are places to look at
        assert ledger.take(f"client {number}", 3) == 0
    assert ledger.take("greedy", 3) > 0


def test_generations_in_flight_are_not_forgotten_for_those_who_only_come_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "CLIENTS", 16)
    ledger = Ledger()
    ledger.add(1, client="busy")
    for number in range(200):
        ledger.take(f"client {number}", 3)
    assert [ledger.add(1, 4, client, 3) for client in ("busy", "idle")] == [False, True]


def take_and_hold(directory: Path, allowed: "multiprocessing.Queue[int]") -> None:
    ledger = Ledger(directory)
    held = sum(ledger.add(1, limit=25, client="client", kept=5) for _ in range(20))
    allowed.put(held)
    allowed.put(sum(ledger.take("client", 6) == 0 for _ in range(20)))


def test_workers_share_one_limit(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    allowed = spawn.Queue()
    workers = [spawn.Process(target=take_and_hold, args=(tmp_path, allowed)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert sum(allowed.get(timeout=5) for _ in range(6)) == 20 + 6
    ledger = Ledger(tmp_path)
    assert ledger.active == 20
    assert [ledger.add(1, 25, client, 5) for client in ("client", "another", "another")] == [False, True, False]
    ledger.add(-20, client="client")
    assert [ledger.add(1, 6, client, 5) for client in ("client", "another")] == [True, False]
    ledger.add(-2)
    assert Ledger(tmp_path).active == 0
