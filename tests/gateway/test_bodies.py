"""Bodies as large as they may be, and larger: no model is harmed, and the memory comes back."""

import json

import httpx
import pytest

from nimble_coder.processes import triton_stack as stack
from nimble_coder.processes.serving import Serving

MODELS = ("preprocessing", "postprocessing", "tensorrt_llm_bls", "ensemble", "tensorrt_llm")


def padded(body: dict[str, object], field: str, size: int) -> bytes:
    """JSON of exactly `size` bytes, for which one field is filled up with text."""
    room = size - len(json.dumps({**body, field: ""}))
    return json.dumps({**body, field: "x" * room}).encode()


def nested(size: int) -> bytes:
    """JSON of exactly `size` bytes, nested as deeply as they allow."""
    depth = (size - len('{"id":}')) // 2
    return ('{"id":' + "[" * depth + "]" * depth + "}").encode().ljust(size)


TENSOR = '{"inputs":[{"name":"QUERY","shape":[1,1],"datatype":"BYTES","data":["%s"]}]}'


def bodies(size: int) -> list[bytes]:
    """What has that many bytes."""
    fields = ("id", "text_input", "QUERY", "unknown", "model_name")
    flat = [padded({}, field, size) for field in fields]
    tensors = [padded({"inputs": []}, field, size) for field in ("id", "parameters", "outputs")]
    in_tensor = (TENSOR % ("x" * (size - len(TENSOR) + 2))).encode()
    shallow = ('{"id":' + "[" * 200 + "1," * ((size - 410) // 2) + "1" + "]" * 200 + "}").encode()[:size].ljust(size)
    return [*flat, *tensors, in_tensor, shallow, nested(size), b"[" * size]


@pytest.mark.parametrize("verb", ["infer", "generate"])
def test_bodies_of_the_largest_size_harm_no_model(gateway: Serving, verb: str) -> None:
    cap = stack.largest_body()
    with httpx.Client(base_url=gateway.addresses.http, timeout=60) as http:
        for model in MODELS:
            route = f"/v2/models/{model}/{verb}"
            for body in bodies(cap):
                assert len(body) == cap
                answer = http.post(route, content=body)
                assert answer.status_code in (200, 400), answer.text[:200]
            refused = http.post(route, content=b"x" * (cap + 1))
            assert (refused.status_code, str(cap) in refused.text) == (413, True)
    gateway.check()
