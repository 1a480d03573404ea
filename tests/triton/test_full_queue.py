"""Who is refused where the engine's queue is full of requests that nobody wants any more."""

import json
import threading
from typing import Any

import numpy as np
import pytest

from nimble_coder.contract.fields import CALL
from nimble_coder.triton import bridge as bridge_module
from nimble_coder.triton.bridge import Bridge
from tests.engine.conftest import LoadEngine, hold, load_engine

__all__ = ["load_engine"]

NAMES = ("output_ids", "sequence_length")


class Client:
    """A request as Triton's Python module has it, and what becomes of it."""

    def __init__(self, triton: "Triton", name: str = "", stops: bool = False, call: str = "") -> None:
        """`name` is the client's own, `call` the gateway's."""
        self._triton, self._name, self._stops, self._call = triton, name, stops, call
        self.gone = False
        self.ended = threading.Event()
        self.outcome: Any = None
        """The tensors of the last response, or the status of its error."""

    def inputs(self) -> list[Any]:
        if self._stops:
            return [self._triton.Tensor("stop", np.array([[True]]))]
        numbers = {"input_ids": [[9, 8, 7]], "input_lengths": [[3]], "request_output_len": [[2]]}
        return [self._triton.Tensor(name, np.array(value, np.int32)) for name, value in numbers.items()]

    def request_id(self) -> str:
        return self._name

    def parameters(self) -> str:
        return json.dumps({CALL: self._call}) if self._call else ""

    def requested_output_names(self) -> list[str]:
        return [*NAMES]

    def get_response_sender(self) -> "Client":
        return self

    def is_cancelled(self) -> bool:
        return self.gone

    def send(self, response: Any = None, flags: int = 0) -> None:
        self.outcome = response
        if flags:
            self.ended.set()


class Triton:
    """The part of Triton's Python module that the bridge uses."""

    TRITONSERVER_RESPONSE_COMPLETE_FINAL = 1

    class Tensor:
        def __init__(self, name: str, array: Any) -> None:
            self._name, self._array = name, array

        def name(self) -> str:
            return self._name

        def as_numpy(self) -> Any:
            return self._array

    class TritonError:
        INVALID_ARG, UNAVAILABLE, CANCELLED, INTERNAL = "invalid", "unavailable", "cancelled", "internal"

        def __new__(cls, _message: str, code: str) -> Any:
            return code

    @staticmethod
    def InferenceResponse(tensors: Any = None, error: Any = None) -> Any:  # noqa: N802, Triton's name
        return error or tensors


def test_a_full_queue_is_looked_through_before_anyone_is_refused(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = Triton()
    engine = load_engine(max_batch_size=1, max_queue_size=2)
    begun, end = hold(engine, monkeypatch)
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.2)

    def take() -> Client:
        client = Client(triton)
        bridge.take(client)
        return client

    running = take()
    begun.wait()
    left = [take(), take()]
    for client in left:
        client.gone = True
    wanted = [take(), take(), take()]
    wanted[2].ended.wait(20)
    assert wanted[2].outcome == "unavailable"
    end.set()
    for client in (running, *wanted[:2]):
        assert client.ended.wait(20)
        assert [tensor.name() for tensor in client.outcome] == [*NAMES]
    assert [client.outcome for client in left] == ["cancelled", "cancelled"]
    end.clear()
    begun.clear()
    last = [take()]
    begun.wait()
    last += [take(), take(), take()]
    end.set()
    bridge.close()
    assert all(client.ended.is_set() for client in last)


class LostClient(Client):
    """Nothing reaches it, as where Triton's shared memory is full."""

    def send(self, response: Any = None, flags: int = 0) -> None:  # noqa: ARG002
        self.ended.set()
        raise RuntimeError("Failed to increase the shared memory pool size")


def test_who_is_held_can_be_stopped_or_leave_and_a_refusal_that_is_lost_harms_nobody(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    triton = Triton()
    engine = load_engine(max_batch_size=1, max_queue_size=1)
    begun, end = hold(engine, monkeypatch)
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.02)
    running, waiting = Client(triton), Client(triton)
    bridge.take(running)
    begun.wait()
    stopped, stop, left, lost = Client(triton, "held"), Client(triton, "held", True), Client(triton), LostClient(triton)
    for client in (waiting, stopped, lost, left, stop):
        bridge.take(client)
    left.gone = True
    for client in (stopped, stop, lost, left):
        assert client.ended.wait(20)
    assert (stopped.outcome, stop.outcome, left.outcome) == ([], [], "cancelled")
    end.set()
    for client in (running, waiting):
        assert client.ended.wait(20)  # until then there may be no place in the queue for one more
    bridge.take(last := Client(triton))
    assert last.ended.wait(20)
    for client in (running, waiting, last):
        assert [tensor.name() for tensor in client.outcome] == [*NAMES]
    bridge.close()


def test_the_gateway_ends_a_request_by_its_own_name_also_one_that_is_still_to_come(
    load_engine: LoadEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients give the same id to many requests; a request may be overtaken by the word that nobody wants it."""
    triton = Triton()
    monkeypatch.setattr(bridge_module, "LEFT_CALLS", 2)
    engine = load_engine(max_batch_size=1, max_queue_size=2)
    begun, end = hold(engine, monkeypatch)
    bridge = Bridge(engine, triton, exclude_input=True, cancel_check_seconds=0.02)

    def take(call: str, stops: bool = False) -> Client:
        client = Client(triton, "everyone's", stops, call)
        bridge.take(client)
        return client

    running = take("running")
    begun.wait()
    queued, wanted, held = take("queued"), take("wanted"), take("held")
    for name in ("queued", "held", "forgotten", "early", "late"):
        assert take(name, stops=True).outcome == []
    assert held.ended.wait(20)
    early = [take("late"), take("early")]
    assert [client.outcome for client in (held, *early)] == [[], [], []]
    end.set()
    for client in (running, wanted, queued):
        assert client.ended.wait(20)
    assert all(client.outcome[0].as_numpy().size for client in (running, wanted))
    for name in ("forgotten", "early", "late"):
        assert (client := take(name)).ended.wait(20)
        assert client.outcome[0].as_numpy().size
    bridge.close()
