"""When the engine fails, clients are told, in the stream too, and readiness says so."""

import ast
import asyncio
import inspect
import json
import os
import shutil
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import msgspec
import pytest
from openai import APIError, OpenAI

from build_engine import lookahead
from build_engine.artifact import Artifact
from build_engine.lookahead import PLAIN
from nimble_coder.client.grpc import Completion, CompletionClient, CompletionError
from nimble_coder.contract import decoding as tensors
from nimble_coder.engine import protocol, torch_engine
from nimble_coder.gateway.errors import ApiError, from_triton
from nimble_coder.gateway.exchange import Exchange, Message
from nimble_coder.gateway.kserve.http_proxy import refusal
from nimble_coder.processes.errors import TritonError
from nimble_coder.processes.gateway import GatewayError
from nimble_coder.processes.triton import TritonServer
from nimble_coder.text import element
from nimble_coder.triton import bls, bridge, text_models
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import running_service, wait_until

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
        ("Stub process 'tensorrt_llm_0_0' is not healthy.", 503, "engine_lost"),
        ("Failed to extract lookahead_ngram_size", 400, "invalid_input"),
        ("inference request batch-size must be <= 8 for 'ensemble'", 400, "invalid_input"),
        ("invalid value for 'priority', expected value >= 0.", 400, "invalid_input"),
        ("parameter keys starting with 'triton_' are reserved for Triton usage. Only", 400, "invalid_input"),
        ("incomplete string length indicator for inference input 'x' for model 'ensemble'", 400, "invalid_input"),
        (
            "unexpected number of string elements 2 for inference input 'x' for model 'ensemble', expecting 1",
            400,
            "invalid_input",
        ),
        (
            "invalid model version specified '-1' , version should be an integral value > 0",
            400,
            "invalid_input",
        ),
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


def refusals() -> list[str]:
    """The texts of all refusals of the portable engine and the text models, from their sources, with 7 for values."""
    modules = (lookahead, bridge, bls, tensors, element, text_models, protocol, torch_engine)
    calls = [
        node.exc.args[0]
        for module in modules
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args
        if ast.unparse(node.exc.func) in ("RequestError", "ValueError", "LookaheadError")
    ]
    parts = [call.values if isinstance(call, ast.JoinedStr) else [call] for call in calls]
    return ["".join(str(p.value) if isinstance(p, ast.Constant) else "7" for p in each) for each in parts]


NAMES = {"is not present": "input_ids", "has a word from": "bad_words_list", "is missing": "lookahead_ngram_size"}
"""What stands for the value that such a refusal begins with."""


def test_every_refusal_of_our_own_models_is_the_clients_mistake() -> None:
    texts = [text for text in refusals() if text != "7"]  # that repeats one of the others
    assert len(texts) > 20
    for text in texts:
        name = next((name for words, name in NAMES.items() if text.startswith(f"7 {words}")), "7")
        assert (from_triton(text.replace("7", name, 1)).status, text) == (400, text)


def test_a_full_queue_behind_another_model_is_no_mistake_of_the_client() -> None:
    """To Triton's HTTP side what a model of text was told is one."""
    text = (
        "Model tensorrt_llm - Error when running inference: Maximum queue size of 32 has been reached, please try again"
    )
    refused = refusal(400, msgspec.json.encode({"error": text}))
    assert (refused.status, refused.retry_after) == (429, 1)
    assert refusal(400, b'{"error": "no such input"}').status == 400


def test_grpc_statuses_say_the_same() -> None:
    assert ApiError(429, "x").grpc_status == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert ApiError(500, "x").grpc_status == grpc.StatusCode.INTERNAL


def test_a_body_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(0.02)
        return {"type": "http.request", "body": b"x", "more_body": True}

    async def send(message: Message) -> None:
        sent.append(message)

    async def ask() -> None:
        scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
        exchange = Exchange(scope, receive, send)
        with pytest.raises(ApiError, match="has not arrived") as caught:
            await exchange.body(1 << 20)
        await exchange.fail(caught.value)

    monkeypatch.setattr("nimble_coder.gateway.exchange.BODY_SECONDS", 0.1)
    asyncio.run(ask())
    assert sent[0]["status"] == 408
    assert (b"connection", b"close") in sent[0]["headers"]


def test_a_triton_that_dies_is_told_in_the_stream_and_found_again_when_it_is_back(
    artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    log = tmp_path_factory.mktemp("failing") / "log"
    with running_service(artifact.directory, log) as serving:
        http = CheckingClient(base_url=serving.addresses.http, timeout=20)
        openai = OpenAI(base_url=f"{serving.addresses.http}/v1", api_key="x", max_retries=0)
        extra = {"ignore_eos": True}
        stream = openai.completions.create(model="demo", prompt=PROMPT, max_tokens=6000, stream=True, extra_body=extra)
        next(stream)
        chunks = CompletionClient(serving.addresses.grpc).stream(PROMPT, max_tokens=6000)
        next(chunks)
        os.killpg(serving.triton.pid, signal.SIGKILL)
        with pytest.raises(APIError, match="lost: send the request again") as caught:
            for _ in stream:
                pass
        with pytest.raises(CompletionError, match="send the request again"):
            chunks.finish()
        assert caught.value.code == "engine_unavailable"
        refused = http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2, "stream": True})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert json.loads(refused.text)["error"]["code"] == "engine_unavailable"
        assert http.get("/v2/models/ensemble").status_code == 503
        assert wait_until(lambda: http.get("/v1/health/ready").status_code == 503)
        assert http.get("/v1/health/live").status_code == 200
        metrics = http.get("/metrics").text
        assert "num_requests_running 0.0" in metrics
        assert "nimble_ready 0.0" in metrics
        with TritonServer(artifact.repository, serving.triton.addresses, log) as again:
            again.wait_ready()
            assert wait_until(lambda: http.get("/v1/health/ready").status_code == 200)
            assert http.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 2}).status_code == 200
            again.stop(grace=0.0)
        http.close()
        openai.close()


def engine_process(triton: TritonServer) -> int:
    """The process of the model `tensorrt_llm`."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--sid", str(triton.pid)], capture_output=True, text=True, check=True
    )
    return next(
        int(line.split()[0]) for line in listed.stdout.splitlines() if "stub" in line and "/tensorrt_llm/1/" in line
    )


def run_on(client: CompletionClient) -> Completion:
    return client.stream_tokens([300] * 20, 6000, PLAIN).finish()


def test_an_engine_that_dies_ends_what_it_ran_and_the_service(
    artifact: Artifact, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Triton says nothing of it: without the gateway its clients would wait for ever."""
    log = tmp_path_factory.mktemp("dying") / "log"
    endless = {"prompt": PROMPT, "max_tokens": 6000, "ignore_eos": True, "lookahead": False}
    with (
        running_service(artifact.directory, log) as serving,
        CheckingClient(base_url=serving.addresses.http, timeout=30) as http,
        CompletionClient(serving.addresses.grpc) as client,
        ThreadPoolExecutor() as clients,
    ):
        whole = clients.submit(http.post, "/v1/completions", json=endless)
        streamed = clients.submit(http.post, "/v1/completions", json={**endless, "stream": True})
        over_grpc = clients.submit(run_on, client)
        assert wait_until(lambda: "num_requests_running 3.0" in http.get("/metrics").text)
        os.kill(engine_process(serving.triton), signal.SIGKILL)
        # Now and then the death takes Triton along, which ends the connection.
        told = ("engine_lost", "engine_unavailable")
        assert (whole.result(20).status_code, whole.result().headers["retry-after"]) == (503, "1")
        assert whole.result().json()["error"]["code"] in told
        assert any(code in streamed.result(20).text for code in told)
        with pytest.raises(CompletionError):
            over_grpc.result(20)
        with pytest.raises((GatewayError, TritonError)):
            serving.wait()
    assert "Traceback" not in log.read_text(errors="replace")


def test_an_artefact_that_goes_while_it_is_served_is_missed_by_no_first_request(
    artifact: Artifact, tmp_path: Path
) -> None:
    directory = tmp_path / "artefact"
    shutil.copytree(artifact.directory, directory)
    with running_service(directory, tmp_path / "serving.log") as serving:
        shutil.rmtree(directory)
        bodies: dict[str, dict[str, object]] = {
            "/v1/completions": {"prompt": PROMPT, "max_tokens": 4, "response_format": {"type": "json_object"}},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
            "/infill": {"input_prefix": "def ", "input_suffix": "return", "n_predict": 4},
            "/v2/models/ensemble/generate": {"text_input": PROMPT, "max_tokens": 4},
            "/v2/models/tensorrt_llm_bls/generate": {"text_input": PROMPT, "max_tokens": 4},
            "/v2/models/ensemble/generate_stream": {"text_input": PROMPT, "max_tokens": 4, "stream": True},
        }
        with CheckingClient(base_url=serving.addresses.http, timeout=60) as http:
            answers = {path: http.post(path, json=body) for path, body in bodies.items()}
            answers |= {path: http.get(path) for path in ("/v1/models", "/v1/manifest", "/v2/models/ensemble", "/")}
        with CompletionClient(serving.addresses.grpc) as client:
            assert client.stream(PROMPT, 4).finish().text
    assert {path: answer.text for path, answer in answers.items() if answer.status_code != 200} == {}
