"""How a service ends: drained when it is told to, at once and with the reason when a part of it dies."""

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from build_engine.build import Artifact
from tests.supervisor.conftest import Service, Start, is_alive

LONG = {"prompt": "import os\nimport ", "max_tokens": 6000, "ignore_eos": True, "stream": True}
SHORT = {"prompt": "import os\nimport ", "max_tokens": 2}


def test_sigterm_lets_a_stream_finish_refuses_new_work_and_ends_with_0(served: Service) -> None:
    with (
        httpx.Client(base_url=served.addresses.http, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=LONG) as stream,
    ):
        lines = stream.iter_lines()
        next(lines)
        told = time.monotonic()
        served.process.send_signal(signal.SIGTERM)
        served.wait_until(lambda: served.status("/v1/health/ready") == 503, 3)
        refused = http.post("/v1/completions", json=SHORT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert served.status("/v1/health/live") == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.wait(25) == 0
    assert time.monotonic() - told < 25
    assert served.last_line == "[supervisor] stopped"


@pytest.mark.parametrize(
    ("victim", "code", "reason"),
    [
        ("bin/tritonserver", 13, "tritonserver was killed by SIGKILL"),
        ("triton_python_backend_stub", 13, "model.py has ended"),
        ("nimble_coder.gateway.server", 14, "the gateway was killed by SIGKILL"),
    ],
)
def test_a_process_that_is_killed_ends_all_within_5_seconds_with_the_reason_last(
    served: Service, victim: str, code: int, reason: str
) -> None:
    everything = served.children("")
    with (
        httpx.Client(base_url=served.addresses.http, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=LONG) as stream,
    ):
        lines = stream.iter_lines()  # kept, since the response is closed with it
        next(lines)
        killed = time.monotonic()
        os.kill(served.children(victim)[0], signal.SIGKILL)
        assert served.process.wait(5) == code
    assert time.monotonic() - killed < 5
    assert reason in served.last_line
    assert [pid for pid in everything if is_alive(pid)] == []


def test_nothing_outlives_a_supervisor_that_is_killed(served: Service) -> None:
    everything = served.children("")
    assert len(everything) >= 3
    os.kill(served.process.pid, signal.SIGKILL)
    served.process.wait()
    deadline = time.monotonic() + 25  # Triton waits 10 s for what will not end
    while left := [pid for pid in everything if is_alive(pid)]:
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.1)


def test_sigterm_before_it_is_ready_ends_it_with_130(start: Start, artifact: Artifact) -> None:
    service = start(NIMBLE_ARTIFACT=artifact.directory)
    service.wait_until(lambda: bool(service.children("bin/tritonserver")))
    assert service.status("/v1/health/live") == 200
    service.process.terminate()
    assert service.process.wait(20) == 130
    assert service.last_line == "[supervisor] interrupted"


def test_a_second_signal_does_not_wait_for_what_runs(served: Service) -> None:
    with (
        httpx.Client(base_url=served.addresses.http, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=LONG) as stream,
    ):
        lines = stream.iter_lines()  # kept, since the response is closed with it
        next(lines)
        served.process.terminate()
        served.wait_until(lambda: any("stopping" in line for line in served.output), 5)
        served.process.terminate()
        assert served.process.wait(8) == 130


def test_a_process_that_dies_while_the_service_drains_is_no_clean_end(served: Service) -> None:
    with (
        httpx.Client(base_url=served.addresses.http, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=LONG) as stream,
    ):
        lines = stream.iter_lines()  # kept, since the response is closed with it
        next(lines)
        served.process.terminate()
        served.wait_until(lambda: any("stopping" in line for line in served.output), 5)
        os.kill(served.children("bin/tritonserver")[0], signal.SIGKILL)
        assert served.process.wait(10) == 13
    assert "ended before the last request had finished" in served.last_line
