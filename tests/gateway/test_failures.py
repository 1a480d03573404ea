"""When the engine fails, clients are told, in the stream too, and readiness says so."""

import json
import os
import signal

import grpc
import httpx
import pytest
from openai import APIError, OpenAI

from build_engine.build import Artifact
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.serving import Serving
from nimble_coder.triton.server import Addresses, TritonServer
from tests.gateway.conftest import wait_until

PROMPT = "import os\nimport sys\n\ndef main(argv):\n    "


@pytest.mark.parametrize(
    ("text", "status", "code"),
    [
        ("Prompt length (9000) exceeds maximum input length (6144). Set log level", 400, "context_length_exceeded"),
        ("Maximum queue size of 128 has been reached, please try again later", 429, "engine_queue_full"),
        (
            "Executor failed process requestId 7 due to the following error: Encountered an error in forward",
            500,
            "engine_error",
        ),
        ("Failed to extract lookahead_ngram_size", 400, "invalid_input"),
        ("Streaming is only supported if model is deployed using decoupled mode.", 400, "unsupported"),
        ("the connection to 127.0.0.1:1 was lost", 503, "engine_unavailable"),
        ("model is not ready", 503, "engine_unavailable"),
        ("something nobody has seen", 500, "engine_error"),
    ],
)
def test_tritons_texts_become_statuses(text: str, status: int, code: str) -> None:
    error = from_triton(text)
    assert (error.status, error.code) == (status, code)
    assert (error.retry_after is not None) == (status in (429, 503))
    assert "requestId" not in error.message


def test_grpc_statuses_say_the_same() -> None:
    assert ApiError(429, "x").grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ApiError(500, "x").grpc_status == grpc.StatusCode.INTERNAL


def test_a_triton_that_dies_is_told_in_the_stream_and_found_again_when_it_is_back(
    artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("failing") / "log"
    with Serving(artifact.directory, Addresses.free(), log=log) as serving:
        serving.wait_ready()
        http = httpx.Client(base_url=serving.addresses.http, timeout=20)
        openai = OpenAI(base_url=f"{serving.addresses.http}/v1", api_key="x", max_retries=0)
        extra = {"ignore_eos": True}
        stream = openai.completions.create(model="demo", prompt=PROMPT, max_tokens=6000, stream=True, extra_body=extra)
        next(stream)
        os.killpg(serving.triton.pid, signal.SIGKILL)
        with pytest.raises(APIError, match="lost") as caught:
            for _ in stream:
                pass
        assert caught.value.code == "engine_unavailable"
        refused = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2, "stream": True})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.text)["error"]["code"] == "engine_unavailable"
        assert http.get("/v2/models/ensemble").status_code == 503
        assert wait_until(lambda: http.get("/v1/health/ready").status_code == 503)
        assert http.get("/v1/health/live").status_code == 200
        assert "num_requests_running 0.0" in http.get("/metrics").text
        with TritonServer(artifact.repository, serving.triton.addresses, log) as again:
            again.wait_ready()
            assert wait_until(lambda: http.get("/v1/health/ready").status_code == 200, 20)
            assert http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2}).status_code == 200
        http.close()
        openai.close()
