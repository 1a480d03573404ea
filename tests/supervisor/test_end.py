"""How a service ends: drained when it is told to, at once and with the reason when a part of it dies."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

import httpx
import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.triton import Addresses
from nimble_coder.processes.work_directory import OWNER
from tests.supervisor.conftest import COMMAND, Service, Start, environment_of, is_alive

LONG: dict[str, Any] = {"prompt": "import os\nimport ", "max_tokens": 6000, "ignore_eos": True, "stream": True}
SEEN_OUT = 2000
"""Tokens of a stream that goes on for seconds, and whose end is waited for."""
SHORT = {"prompt": "import os\nimport ", "max_tokens": 2}


@contextmanager
def one_stream(served: Service, tokens: int = LONG["max_tokens"]) -> Iterator[tuple[httpx.Client, Iterator[str]]]:
    """A client, and the lines of its running stream from the second on."""
    with (
        httpx.Client(base_url=served.addresses.http, timeout=60) as http,
        http.stream("POST", "/v1/completions", json={**LONG, "max_tokens": tokens}) as stream,
    ):
        lines = stream.iter_lines()  # kept, since the response is closed with it
        next(lines)
        yield http, lines


def test_sigterm_lets_a_stream_finish_refuses_new_work_and_ends_with_0(served: Service) -> None:
    with one_stream(served, SEEN_OUT) as (http, lines):
        served.process.send_signal(signal.SIGTERM)
        served.wait_until(lambda: served.status("/v1/health/ready") == 503)
        refused = http.post("/v1/completions", json=SHORT)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        assert served.status("/v1/health/live") == 200
        assert [line for line in lines if line][-1] == "data: [DONE]"
    assert served.process.wait(60) == 0
    assert served.last_line == "[supervisor] stopped"


def test_a_gateway_that_is_killed_ends_all_with_the_reason_last(served: Service) -> None:
    everything = served.children("")
    with one_stream(served):
        os.kill(served.children("nimble_coder.gateway.server")[0], signal.SIGKILL)
        assert served.process.wait(60) == 14
    assert "the gateway was killed by SIGKILL" in served.last_line
    assert [pid for pid in everything if is_alive(pid)] == []


def events_of(base_url: str, told: "Queue[str]", lines: list[str]) -> None:
    """Reads a stream to its end."""
    with (
        httpx.Client(base_url=base_url, timeout=60) as http,
        http.stream("POST", "/v1/completions", json=LONG) as stream,
    ):
        for line in stream.iter_lines():
            if not lines:
                told.put("begun")
            lines.append(line)


@contextmanager
def streams(served: Service, count: int) -> Iterator[list[list[str]]]:
    """So many running streams; at the end they are read to theirs."""
    told, read = Queue[str](), [list[str]() for _ in range(count)]
    threads = [Thread(target=events_of, args=(served.addresses.http, told, lines)) for lines in read]
    for thread in threads:
        thread.start()
    for _ in threads:
        told.get(timeout=60)
    yield read
    for thread in threads:
        thread.join(60)


def end_of(lines: list[str]) -> str:
    """The code of the error event that a stream ends with."""
    *_, error, done = [line for line in lines if line.startswith("data: ")]
    assert done == "data: [DONE]"
    return str(json.loads(error.removeprefix("data: "))["error"]["code"])


@pytest.mark.parametrize(
    ("victim", "codes", "reason"),
    [
        ("/preprocessing/1/", {"draining"}, "model.py has ended"),
        ("/postprocessing/1/", {"draining"}, "model.py has ended"),
        ("/tensorrt_llm/1/", {"draining", "engine_lost", "engine_unavailable"}, "has "),
        ("bin/tritonserver", {"engine_unavailable"}, "tritonserver was killed by SIGKILL"),
    ],
)
def test_whatever_dies_every_stream_gets_its_error_event_and_all_end_with_the_reason_last(
    served: Service, victim: str, codes: set[str], reason: str
) -> None:
    everything = served.children("")
    with streams(served, 16) as read:
        os.kill(served.children(victim)[0], signal.SIGKILL)
    assert {end_of(lines) for lines in read} <= codes
    assert served.process.wait(10) == 13
    assert reason in served.last_line
    assert [pid for pid in everything if is_alive(pid)] == []


def test_streams_that_the_drain_does_not_wait_for_are_told(start: Start, artifact: Artifact) -> None:
    service = start(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_DRAIN_SECONDS=0)
    service.wait_ready()
    with streams(service, 4) as read:
        service.process.terminate()
    assert {end_of(lines) for lines in read} == {"draining"}


def test_streams_that_a_second_signal_ends_are_told_by_a_gateway_that_has_got_no_time_for_a_while(
    served: Service,
) -> None:
    gateway = served.children("nimble_coder.gateway.server")[0]
    with streams(served, 4) as read:
        served.process.terminate()
        served.wait_until(lambda: any("stopping" in line for line in served.output))
        os.kill(gateway, signal.SIGSTOP)
        served.process.terminate()
        time.sleep(2)
        os.kill(gateway, signal.SIGCONT)
    assert {end_of(lines) for lines in read} == {"draining"}
    assert served.process.wait(15) == 130  # the drain has 20


def test_an_engine_that_does_not_run_any_more_ends_the_service_and_is_named(served: Service) -> None:
    engine = served.children("/tensorrt_llm/1/")[0]
    os.kill(engine, signal.SIGSTOP)
    try:
        with httpx.Client(base_url=served.addresses.http, timeout=60) as http:
            refused = http.post("/v1/completions", json=SHORT)
            assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_lost")
            for path in ("/v1/health/ready", "/v2/health/ready"):
                try:
                    assert http.get(path).status_code == 503
                except httpx.TransportError:  # it has ended already
                    continue
        assert served.process.wait(20) == 13
    finally:
        with suppress(ProcessLookupError):
            os.kill(engine, signal.SIGCONT)
    assert "the engine's process" in served.last_line


def assert_nothing_outlives_the_supervisor(service: Service) -> None:
    everything = service.children("")
    assert len(everything) >= 3
    os.kill(service.process.pid, signal.SIGKILL)
    service.process.wait()
    deadline = time.monotonic() + 60
    while left := [pid for pid in everything if is_alive(pid)]:
        assert time.monotonic() < deadline, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.1)


def test_nothing_outlives_a_supervisor_that_is_killed(served: Service) -> None:
    assert_nothing_outlives_the_supervisor(served)


def test_nothing_outlives_a_supervisor_that_is_killed_while_models_load(
    start: Start, artifact: Artifact, tmp_path: Path
) -> None:
    service = start(NIMBLE_ARTIFACT=artifact.directory, TMPDIR=tmp_path)
    service.wait_until(lambda: bool(service.children("/tensorrt_llm/1/")))
    # Triton's C++ code in it may wait with Python's lock held, at no moment that a test could choose.
    os.kill(service.children("/tensorrt_llm/1/")[0], signal.SIGSTOP)
    assert_nothing_outlives_the_supervisor(service)
    assert [path.name for path in tmp_path.glob("nimble-*")] == []


def test_the_folders_of_a_supervisor_that_is_killed_are_gone_after_the_next_start(
    start: Start, artifact: Artifact, tmp_path: Path
) -> None:
    def folders() -> set[str]:
        return {path.name for path in tmp_path.glob("nimble-*")}

    first = start(NIMBLE_ARTIFACT=artifact.directory, TMPDIR=tmp_path)
    first.wait_until(lambda: len([*tmp_path.glob(f"nimble-*/{OWNER}")]) == 3)  # not between a folder and its mark
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait()
    left = folders()
    second = start(NIMBLE_ARTIFACT=artifact.directory, TMPDIR=tmp_path)
    second.wait_until(lambda: len(folders() - left) == 3)
    assert not folders() & left
    second.process.terminate()
    second.process.wait(40)
    assert folders() == set()


def test_sigterm_before_it_is_ready_ends_it_with_130(start: Start, artifact: Artifact) -> None:
    service = start(NIMBLE_ARTIFACT=artifact.directory)
    service.wait_until(lambda: bool(service.children("bin/tritonserver")))
    assert service.status("/v1/health/live") == 200
    service.process.terminate()
    assert service.process.wait(60) == 130
    assert service.last_line == "[supervisor] interrupted"


def test_a_service_whose_log_nobody_reads_any_more_ends_as_any_other(artifact: Artifact) -> None:
    addresses = Addresses.free()
    environment = environment_of(addresses, NIMBLE_ARTIFACT=artifact.directory)
    with subprocess.Popen([*COMMAND, "serve"], env=environment, stderr=subprocess.PIPE) as process:
        service = Service(process, addresses, Path(os.devnull))
        assert process.stderr is not None
        assert any(b"ready after" in line for line in process.stderr)
        process.stderr.close()
        with one_stream(service, SEEN_OUT) as (_, lines):
            process.terminate()
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert process.wait(60) == 0


def test_a_second_signal_does_not_wait_for_what_runs(served: Service) -> None:
    with one_stream(served):
        served.process.terminate()
        served.wait_until(lambda: any("stopping" in line for line in served.output))
        served.process.terminate()
        assert served.process.wait(60) == 130


def test_a_process_that_dies_while_the_service_drains_is_no_clean_end(served: Service) -> None:
    with one_stream(served):
        served.process.terminate()
        served.wait_until(lambda: any("stopping" in line for line in served.output))
        os.kill(served.children("bin/tritonserver")[0], signal.SIGKILL)
        assert served.process.wait(60) == 13
    assert "ended before the last request had finished" in served.last_line


def test_a_gateway_that_stands_still_while_the_service_drains_is_named(start: Start, artifact: Artifact) -> None:
    service = start(NIMBLE_ARTIFACT=artifact.directory, NIMBLE_DRAIN_SECONDS=0)
    service.wait_ready()
    (gateway,) = service.children("nimble_coder.gateway.server")
    os.kill(gateway, signal.SIGSTOP)
    service.process.terminate()
    assert service.process.wait(15) == 14  # within the 10 s that an orchestrator gives beside the drain, and a little
    assert f"the gateway (process {gateway}) stood still, and was killed" in service.last_line
