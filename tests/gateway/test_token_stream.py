"""What becomes of a generation that nobody waits for any more."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2

from nimble_coder.contract.encoding import Generation
from nimble_coder.contract.fields import CALL
from nimble_coder.gateway.upstream import token_stream
from nimble_coder.gateway.upstream.token_stream import METHOD, TokenStreams


class Triton(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers without end until it is told to stop, which it hears only the second time."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.stops: list[str] = []
        self.is_reset = False
        self.ended = threading.Event()

    def service(self, details: Any) -> Any:
        return grpc.stream_stream_rpc_method_handler(self._infer) if details.method == METHOD else None

    def _infer(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        request = service_pb2.ModelInferRequest.FromString(next(requests))
        assert request.parameters[CALL].string_param == request.id
        if any(tensor.name == "stop" for tensor in request.inputs):
            self.stops.append(request.id)
            yield answer(is_final=True)
            return
        self.asked.append(request.id)
        while self.stops.count(request.id) < 2:
            self.is_reset |= not context.is_active()
            yield answer(is_final=False)
        yield answer(is_final=True)
        self.ended.set()


def answer(is_final: bool) -> bytes:
    response = service_pb2.ModelStreamInferResponse()
    response.infer_response.parameters["triton_final_response"].bool_param = is_final
    content: bytes = response.SerializeToString()
    return content


@contextmanager
def served(triton: Triton) -> Iterator[int]:
    """A server's port."""
    server = grpc.server(ThreadPoolExecutor(8), handlers=[triton])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None).wait()


def test_a_request_that_is_left_is_stopped_by_a_name_of_its_own_and_never_reset(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Triton (2.51) may free a request twice that is reset while its last response comes."""
    monkeypatch.setattr(token_stream, "STOP_SECONDS", 0.01)
    triton = Triton()

    async def leave(port: int) -> None:
        streams = TokenStreams("127.0.0.1", port)
        for _ in range(2):
            async with aclosing(streams.generate(Generation([5], 9, ()), "asked")) as steps:
                async for _ in steps:
                    break
            assert await asyncio.to_thread(triton.ended.wait, 20)
            triton.ended.clear()
        streams.close()

    with served(triton) as port:
        asyncio.run(leave(port))
    assert not triton.is_reset
    assert len({*triton.asked}) == len(triton.asked) == 2
    assert triton.stops[:2] == [triton.asked[0]] * 2
    assert all(name.startswith("asked-") for name in triton.asked)
