"""A Triton that gives up a model that is loading, as where the machine stands still for a second, begins again."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import CompletionClient
from nimble_coder.processes import stubs
from nimble_coder.processes.children import session_commands
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.stubs import LoadWatch, stubs_of
from nimble_coder.processes.triton import LOADS, Addresses, TritonServer
from nimble_coder.processes.triton_installation import STUB

AGAIN = "while it was loading, as on a machine that stood still for a second; it is started again"


@pytest.fixture
def server(artifact: Artifact, tmp_path: Path) -> Iterator[TritonServer]:
    """Of the token-level model alone, still loading."""
    shutil.copytree(artifact.repository / "tensorrt_llm", tmp_path / "repository" / "tensorrt_llm")
    with TritonServer(tmp_path / "repository", Addresses.free(), tmp_path / "log") as server:
        yield server
        server.stop(grace=0.0)


@contextmanager
def beside(what: Callable[[], None]) -> Iterator[None]:
    """Does something in a thread while the block runs."""
    thread = threading.Thread(target=what)
    thread.start()
    yield
    thread.join()


def stub_of(server: TritonServer, *others: int) -> int:
    """The process of the model, once it has been started; another one than those."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if new := stubs_of(server.pid).keys() - set(others):
            return new.pop()
        time.sleep(0.01)
    raise TimeoutError("no model's process has been started")


def complete(server: TritonServer) -> int:
    with CompletionClient(server.addresses.grpc) as client:
        return len(client.stream_tokens([*range(100, 110)], 4).finish().token_ids)


def log_of(server: TritonServer) -> str:
    assert isinstance(server.log, Path)
    return server.log.read_text()


@pytest.mark.parametrize("delay", [0.1, 0.3])
def test_a_model_that_stands_still_while_it_loads_is_served(server: TritonServer, delay: float) -> None:
    """Triton dies of it, waits for ever, or is content, as the moment wants it: it is the real one."""

    def stand_still() -> None:
        pid = stub_of(server)
        time.sleep(delay)
        os.kill(pid, signal.SIGSTOP)
        time.sleep(2.5)
        os.kill(pid, signal.SIGCONT)

    with beside(stand_still):
        server.wait_ready(60)
    assert complete(server) == 4


def test_a_triton_that_aborts_is_started_again(server: TritonServer) -> None:
    def abort() -> None:
        stub_of(server)
        os.kill(server.pid, signal.SIGABRT)

    first = server.pid
    with beside(abort):
        server.wait_ready()
    assert f"tritonserver was killed by SIGABRT {AGAIN}\n" in log_of(server)
    assert server.pid != first
    assert not session_commands(first)
    server.check()
    assert complete(server) == 4


def test_one_that_always_aborts_is_not(server: TritonServer) -> None:
    def abort() -> None:
        seen: list[int] = []
        for _ in range(LOADS):
            seen.append(stub_of(server, *seen))
            os.kill(server.pid, signal.SIGABRT)

    with beside(abort), pytest.raises(TritonError, match="was killed by SIGABRT while it was loading"):
        server.wait_ready()
    assert log_of(server).count(AGAIN) == LOADS - 1


def test_nor_one_that_was_killed_otherwise(server: TritonServer) -> None:
    def kill() -> None:
        stub_of(server)
        os.kill(server.pid, signal.SIGKILL)

    with beside(kill), pytest.raises(TritonError, match="was killed by SIGKILL while it was loading"):
        server.wait_ready()
    assert AGAIN not in log_of(server)


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[int]:
    """A process of its own session that waits for what looks like a model's, which does not end."""
    (tmp_path / STUB).symlink_to(shutil.which("sleep") or "")
    code = f"import subprocess; subprocess.run([{str(tmp_path / STUB)!r}, '60'])"
    with subprocess.Popen([sys.executable, "-c", code], start_new_session=True) as process:
        yield process.pid
        os.killpg(process.pid, signal.SIGKILL)


def test_a_wait_without_end_is_seen(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(stubs, "END_SECONDS", 1.0)
    watch, started = LoadWatch(waiting), time.monotonic()
    while not (model := watch.stuck()):
        assert time.monotonic() - started < 20
        time.sleep(0.02)
    assert time.monotonic() - started > 1.0
    assert model == "60"


def test_one_that_is_ended_in_time_is_none(waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stubs, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(stubs, "END_SECONDS", 1.0)
    watch = LoadWatch(waiting)
    while not (pids := stubs_of(waiting)):
        time.sleep(0.02)
    time.sleep(1.2)
    assert not watch.stuck(), "it is seen to be waited for now, whenever it was looked for before"
    os.kill(min(pids), signal.SIGKILL)
    time.sleep(1.2)
    assert not watch.stuck()
