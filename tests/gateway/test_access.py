"""Keys, rate limit, concurrency, TLS, CORS, draining: each on a gateway of its own over the shared Triton."""

import os
import re
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
from openai import OpenAI
from tritonclient.utils import InferenceServerException

from build_engine.artifact import Artifact
from nimble_coder.client.grpc import CompletionClient, CompletionError, tensors
from nimble_coder.client.http import HttpClient
from nimble_coder.gateway.access.keys import ApiKeys
from nimble_coder.gateway.apis.routes import ROUTES
from nimble_coder.gateway.errors import ApiError
from nimble_coder.processes.gateway import GatewayError, GatewayProcesses
from nimble_coder.processes.serving import Serving
from nimble_coder.processes.triton import Addresses
from tests.gateway.conformance import CheckingClient
from tests.gateway.conftest import wait_until
from tests.gateway.test_kserve import generation
from tests.standin.busy import no_file_to_open
from tests.standin.certificate import make_certificate

BODY = {"prompt": "import os\nimport ", "max_tokens": 2}


@contextmanager
def gateway_with(artifact: Artifact, serving: Serving, log: Path, **settings: object) -> Iterator[GatewayProcesses]:
    names = {f"NIMBLE_{name.upper()}": str(value) for name, value in settings.items()}
    triton = serving.triton.addresses
    with GatewayProcesses(artifact.directory, triton, Addresses.free(), log=log, settings=names) as gateways:
        gateways.wait_ready()
        yield gateways


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "gateway.log"


def test_keys_are_asked_for_on_http_and_grpc(artifact: Artifact, gateway: Serving, log: Path) -> None:
    with gateway_with(artifact, gateway, log, api_keys="first, second", admin_key="boss") as g:
        with CheckingClient(base_url=g.addresses.http) as http:
            assert http.post("/v1/completions", json=BODY).status_code == 401
            assert http.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
            for headers in (
                {"Authorization": "Bearer first"},
                {"x-api-key": "second"},
                {"authorization": "bearer boss"},
            ):
                assert http.post("/v1/completions", json=BODY, headers=headers).status_code == 200
            for route in ROUTES:
                status = http.request(route.method, route.path).status_code
                assert status == (200 if route.is_open else 401), route
            open_paths = {route.path for route in ROUTES if route.is_open}
            assert open_paths >= {"/v1/health/live", "/metrics", "/", "/docs", "/v2/health/live", "/v2/health/ready"}
            unload = "/v2/repository/models/ensemble/unload"
            assert http.post(unload, headers={"x-api-key": "first"}).status_code == 403
            assert http.post(unload, headers={"x-api-key": "boss"}).status_code != 403
            assert http.get("/v2/models/ensemble").status_code == 401
            assert http.post("/v2/health/live").status_code == 401
        client = triton_grpc.InferenceServerClient(g.addresses.grpc)
        assert client.is_server_live()
        assert health_of(g) == SERVING
        with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
            client.get_server_metadata()
        assert client.get_server_metadata(headers={"authorization": "Bearer first"}).name == "triton"
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            client.unload_model("ensemble", headers={"authorization": "Bearer first"})
        client.close()
        OpenAI(base_url=f"{g.addresses.http}/v1", api_key="first").models.list()
    text = log.read_text()
    assert not any(secret in text for secret in ("first", "second", "boss", "wrong"))


def test_an_address_of_ipv6_is_listened_on_and_with_it_ipv4(artifact: Artifact, gateway: Serving, log: Path) -> None:
    everywhere = replace(Addresses.free(), host="::")
    with GatewayProcesses(artifact.directory, gateway.triton.addresses, everywhere, log=log) as g:
        g.wait_ready()
        for host in ("127.0.0.1", "[::1]"):
            assert httpx.get(f"http://{host}:{everywhere.http_port}/v1/models").status_code == 200
            with CompletionClient(f"{host}:{everywhere.grpc_port}") as client:
                assert client.complete("import os\nimport ", 2)


def test_administrative_calls_need_the_admin_key_even_in_an_open_service(gateway: Serving, http: httpx.Client) -> None:
    for path in (
        "/v2/repository/index",
        "/v2/systemsharedmemory/region/x/register",
        "/v2/logging",
        "/v2/trace/setting",
    ):
        assert http.post(path, json={}).status_code == 403
    client = triton_grpc.InferenceServerClient(gateway.addresses.grpc)
    for call in (client.get_model_repository_index, client.get_log_settings, client.get_system_shared_memory_status):
        with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
            call()
    client.close()


def test_keys_in_a_file_are_rotated_without_a_restart(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# clients\none  # laptop\n\ntwo\n")
    keys = ApiKeys([], file)
    assert keys.check("Bearer one") != keys.check("Bearer two")
    file.write_text("three\n")
    keys.check("Bearer three")
    for authorization in ("Bearer one", "Bearer # clients", "Bearer ", "Basic three", None, "Bearer \udcff"):
        with pytest.raises(ApiError, match="API key"):
            keys.check(authorization)
    file.unlink()
    keys.check("Bearer three")


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\0n\0e\0w", b"new\x80\n", "schlüssel\nnew".encode(), bytes(range(128, 256))]
)
def test_a_key_file_rotated_to_bytes_that_are_no_text_leaves_the_old_keys(tmp_path: Path, content: bytes) -> None:
    failures: list[int] = []
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = ApiKeys([], file, on_unreadable=lambda: failures.append(1))
    file.write_bytes(content)
    for _ in range(3):
        keys.check("Bearer old")
        with pytest.raises(ApiError, match="not valid"):
            keys.check("Bearer new")
    assert len(failures) == 1  # once for each version, however many requests come
    file.write_text("new\n")
    keys.check("Bearer new")
    with pytest.raises(ApiError, match="not valid"):
        keys.check("Bearer old")
    file.unlink()
    keys.check("Bearer new")
    assert len(failures) == 2
    with pytest.raises(ValueError, match="cannot be read"):
        file.write_bytes(content)
        ApiKeys([], file)


def test_a_keys_file_that_could_not_be_opened_just_now_is_read_without_another_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = ApiKeys([], file)
    file.write_text("new\n")
    monkeypatch.setattr("nimble_coder.gateway.access.keys.RETRY_SECONDS", 0.0)
    with no_file_to_open():
        for _ in range(3):
            keys.check("Bearer old")
    assert caplog.text.count("cannot be read") == 1
    keys.check("Bearer new")
    with pytest.raises(ApiError, match="not valid"):
        keys.check("Bearer old")


def test_a_keys_file_that_is_emptied_lets_nobody_in_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "keys"
    file.write_text("old\n")
    keys = ApiKeys([], file)
    file.write_text("")
    for _ in range(2):
        with pytest.raises(ApiError, match="not valid"):
            keys.check("Bearer old")
    assert caplog.text.count("holds no key any more") == 1


def test_a_keys_file_that_cannot_be_read_shows_in_the_metrics(
    artifact: Artifact, gateway: Serving, log: Path, tmp_path: Path
) -> None:
    file = tmp_path / "keys"
    file.write_text("old")
    with gateway_with(artifact, gateway, log, api_keys_file=file) as g:
        file.write_bytes(b"\xff")
        answer = httpx.get(f"{g.addresses.http}/v1/models", headers={"x-api-key": "old"})
        assert answer.status_code == 200
        assert "nimble_api_keys_unreadable_total 1.0" in httpx.get(g.addresses.metrics).text
    assert "the keys read before stay valid" in log.read_text()


def test_a_key_file_that_is_missing_or_empty_does_not_open_the_service(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        ApiKeys([], tmp_path / "none")
    empty = tmp_path / "empty"
    empty.write_text("# none yet\n")
    with pytest.raises(ApiError, match="API key"):
        ApiKeys([], empty).check("Bearer x")
    assert f"NIMBLE_API_KEYS_FILE {empty} holds no key: nobody has access until it does" in caplog.messages


def test_the_rate_limit_holds_on_http_and_grpc(artifact: Artifact, gateway: Serving, log: Path) -> None:
    with (
        gateway_with(artifact, gateway, log, requests_per_minute=3) as g,
        CheckingClient(base_url=g.addresses.http) as h,
    ):
        answers = [h.post("/v1/completions", json=BODY) for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert int(answers[-1].headers["retry-after"]) > 0
        assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
        assert h.get("/v1/models").status_code == 200
        with CompletionClient(g.addresses.grpc) as client, pytest.raises(CompletionError, match="wait"):
            for _ in range(2):  # two calls each; the address that gRPC sees is another client's
                client.complete("import os", 2)


def test_more_than_the_limit_at_once_are_sent_away(artifact: Artifact, gateway: Serving, log: Path) -> None:
    endless = {"prompt": "import os\nimport ", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    with (
        gateway_with(artifact, gateway, log, max_concurrent_requests=2) as g,
        CheckingClient(base_url=g.addresses.http, timeout=30) as http,
        http.stream("POST", "/v1/completions", json=endless) as first,
        http.stream("POST", "/v1/completions", json=endless) as second,
    ):
        assert (first.status_code, second.status_code) == (200, 200)
        third = http.post("/v1/completions", json=BODY)
        assert (third.status_code, third.headers["retry-after"]) == (429, "1")


def test_a_key_that_floods_the_service_leaves_room_for_another(artifact: Artifact, gateway: Serving, log: Path) -> None:
    first, second = {"authorization": "Bearer first"}, {"authorization": "Bearer second"}
    endless = {"prompt": "import os\nimport ", "max_tokens": 3000, "ignore_eos": True, "stream": True}
    kserve = {"text_input": "import os", "max_tokens": 3000, "stream": True}
    with (
        gateway_with(artifact, gateway, log, max_concurrent_requests=3, api_keys="first,second") as g,
        CheckingClient(base_url=g.addresses.http, timeout=30) as http,
        triton_grpc.InferenceServerClient(g.addresses.grpc) as client,
        http.stream("POST", "/v1/completions", json=endless, headers=first) as one,
        http.stream("POST", "/v2/models/ensemble/generate_stream", json=kserve, headers=first) as other,
    ):
        assert (one.status_code, other.status_code) == (200, 200)
        refused = http.post("/v1/completions", json=BODY, headers=first)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert "1 of them for clients who have none" in refused.json()["error"]["message"]
        with pytest.raises(InferenceServerException, match="1 of them for clients who have none"):
            client.infer("tensorrt_llm", generation([300] * 20, 2), headers=first)
        assert http.post("/v1/completions", json=BODY, headers=second).status_code == 200
        client.infer("tensorrt_llm", generation([300] * 20, 2), headers=second)


def test_more_answers_than_the_limit_are_refused_for_good(artifact: Artifact, gateway: Serving, log: Path) -> None:
    with gateway_with(artifact, gateway, log, max_concurrent_requests=2) as g:
        for path, body, param in (
            ("/v1/completions", {**BODY, "n": 5}, "n"),
            ("/v1/completions", {**BODY, "prompt": ["a", "b", "c"]}, "prompt"),
            ("/v1/completions/render", {**BODY, "prompt": ["a", "b"], "n": 2}, "n"),
            ("/completion", {"prompt": ["a", "b", "c"], "n_predict": 1}, "prompt"),
            ("/infill", {"input_prefix": "a", "n_predict": 1, "n_cmpl": 3}, "n_cmpl"),
        ):
            refused = httpx.post(f"{g.addresses.http}{path}", json=body)
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
            assert "2 generations at once is the limit" in refused.json()["error"]["message"]
            assert "retry-after" not in refused.headers


SERVING, NOT_SERVING = b"\x08\x01", b"\x08\x02"


def health_of(g: GatewayProcesses) -> bytes:
    """The answer to `grpc.health.v1`, which probes of Kubernetes and load balancers ask."""
    with grpc.insecure_channel(g.addresses.grpc) as channel:
        answer: bytes = channel.unary_unary("/grpc.health.v1.Health/Check")(b"")
        return answer


class OpenStream:
    """A KServe stream that stays open, and what came back on it."""

    def __init__(self, address: str) -> None:
        self._client = triton_grpc.InferenceServerClient(address)
        self.answers: list[tuple[str, bool]] = []
        """Request id, and whether it was the final response."""
        self.errors: list[str] = []
        self._client.start_stream(self._take)

    def _take(self, result: Any, error: InferenceServerException | None) -> None:
        if error is not None:
            self.errors.append(str(error))
        else:
            response = result.get_response()
            self.answers.append((response.id, response.parameters["triton_final_response"].bool_param))

    def send(self, request_id: str, max_tokens: int, **more: object) -> None:
        arrays = {name: np.array([[value]]) for name, value in more.items()}
        inputs = [*generation([300] * 20, max_tokens), *tensors(arrays)]
        self.send_inputs(request_id, inputs)

    def send_inputs(self, request_id: str, inputs: list[Any]) -> None:
        self._client.async_stream_infer("tensorrt_llm", inputs, request_id=request_id)

    @property
    def finished(self) -> set[str]:
        return {request_id for request_id, is_final in self.answers if is_final}

    def close(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


@contextmanager
def open_streams(g: GatewayProcesses, count: int) -> Iterator[list[OpenStream]]:
    streams = [OpenStream(g.addresses.grpc) for _ in range(count)]
    yield streams
    for stream in streams:
        stream.close()


def running(http: httpx.Client) -> int:
    page = http.get("/metrics").text
    return int(float(re.findall(r"^num_requests_running(?:{.*})? (.*)$", page, re.MULTILINE)[0]))


def test_every_request_of_a_stream_counts_until_its_last_response(
    artifact: Artifact, gateway: Serving, log: Path
) -> None:
    with (
        gateway_with(artifact, gateway, log, max_concurrent_requests=2) as g,
        CheckingClient(base_url=g.addresses.http) as http,
        open_streams(g, 2) as (stream, idle),
    ):
        for number in range(10):
            stream.send(str(number), 3000)
        assert wait_until(lambda: len(stream.errors) == 8)
        assert all("2 is the limit" in error for error in stream.errors)
        assert wait_until(lambda: {request_id for request_id, _ in stream.answers} == {"0", "1"})
        assert running(http) == 2
        assert http.post("/v1/completions", json=BODY).status_code == 429
        idle.send("other", 1)
        assert wait_until(lambda: len(idle.errors) == 1)
        stream.send("0", 1, stop=True)  # generates nothing, and so needs no place
        assert wait_until(lambda: running(http) == 1)
        idle.send("again", 1)
        assert wait_until(lambda: idle.finished == {"again"})
        stream.send("1", 1, stop=True)
        assert wait_until(lambda: running(http) == 0)
        assert http.post("/v1/completions", json={**BODY, "n": 2}).status_code == 200  # both streams are still open
        assert len(idle.errors) == 1
        assert all("cancelled" in error for error in stream.errors[8:])


def test_the_end_of_a_stream_gives_its_places_back(artifact: Artifact, gateway: Serving, log: Path) -> None:
    with (
        gateway_with(artifact, gateway, log, max_concurrent_requests=2) as g,
        CheckingClient(base_url=g.addresses.http) as http,
    ):
        with open_streams(g, 1) as (stream,):
            stream.send("0", 3000)
            stream.send("1", 3000)
            assert wait_until(lambda: running(http) == 2)
        assert wait_until(lambda: running(http) == 0)


def test_sigterm_ends_idle_streams_at_once_and_the_others_when_they_have_finished(
    artifact: Artifact, gateway: Serving, log: Path
) -> None:
    with gateway_with(artifact, gateway, log) as g, open_streams(g, 3) as (first, second, busy):
        first.send("0", 1)
        busy.send("long", 2000)
        assert wait_until(lambda: first.finished == {"0"} and bool(busy.answers))
        g.processes[0].terminate()
        assert wait_until(lambda: bool(first.errors and second.errors))
        assert not busy.finished
        assert health_of(g) == NOT_SERVING
        with triton_grpc.InferenceServerClient(g.addresses.grpc) as client:
            assert not client.is_server_ready()
        assert httpx.get(f"{g.addresses.http}/v2/health/ready").status_code == 503
        assert httpx.get(f"{g.addresses.http}/v2/health/live").status_code == 200
        assert all("shutting down" in error for error in first.errors + second.errors)
        assert wait_until(lambda: busy.finished == {"long"})
        assert wait_until(lambda: bool(busy.errors))
        assert g.processes[0].wait(60) == 0


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for this host; its key lies beside it with the suffix `.key`."""
    own = ("-days", "1", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    return make_certificate(tmp_path / "tls.crt", "localhost", *own, key=["rsa:2048"])


def test_tls_and_a_key_on_http_and_grpc(artifact: Artifact, gateway: Serving, log: Path, certificate: Path) -> None:
    tls = {"tls_certificate": certificate, "tls_key": certificate.with_suffix(".key")}
    with gateway_with(artifact, gateway, log, api_keys="k", **tls) as g:
        url = f"https://127.0.0.1:{g.addresses.http_port}"
        trusted = ssl.create_default_context(cafile=certificate)
        answer = httpx.post(f"{url}/v1/completions", json=BODY, verify=trusted, headers={"x-api-key": "k"})
        assert answer.status_code == 200
        expected = answer.json()["choices"][0]["text"]
        with CompletionClient(g.addresses.grpc, "k", ca_file=certificate) as client:
            assert client.complete(str(BODY["prompt"]), 2).text == expected
        assert "".join(HttpClient(url, "k", certificate).complete(str(BODY["prompt"]), max_tokens=2)) == expected
        wrong = CompletionClient(g.addresses.grpc, "wrong", ca_file=certificate)
        with wrong, pytest.raises(CompletionError, match="the API key is not valid"):
            wrong.complete("x", 2)
        for untrusting in (CompletionClient(g.addresses.grpc, "k", tls=True), CompletionClient(g.addresses.grpc, "k")):
            with untrusting, pytest.raises(CompletionError):
                untrusting.complete("x", 2)
        command = [sys.executable, "-m", "nimble_coder.cli", "complete", "import os", "--max-tokens", "2"]
        asked = [*command, "--url", g.addresses.grpc, "--ca-file", str(certificate)]
        done = subprocess.run(asked, env={**os.environ, "NIMBLE_API_KEY": "k"}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{g.addresses.http_port}/health")


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    missing = tmp_path / "none.pem"
    with pytest.raises(CompletionError, match=r"none.pem cannot be read"):
        CompletionClient(ca_file=missing)
    with pytest.raises(CompletionError, match=r"none.pem cannot be read"):
        HttpClient("https://127.0.0.1:1", ca_file=missing)


def test_cors_is_off_by_default(http: httpx.Client) -> None:
    answer = http.get("/v1/models", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_cors_for_the_origins_that_are_configured(artifact: Artifact, gateway: Serving, log: Path) -> None:
    with gateway_with(artifact, gateway, log, cors_origins="https://a.example", api_keys="k") as g:
        url = f"{g.addresses.http}/v1/completions"
        asked = {"origin": "https://a.example", "access-control-request-headers": "authorization,x-stainless-os"}
        preflight = httpx.options(url, headers=asked)
        assert preflight.status_code == 204
        assert preflight.headers["access-control-allow-origin"] == "https://a.example"
        assert "x-stainless-os" in preflight.headers["access-control-allow-headers"]
        refused = httpx.post(url, json=BODY, headers={"origin": "https://a.example"})
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://a.example")
        assert "access-control-allow-origin" not in httpx.options(url, headers={"origin": "https://b.example"}).headers


def test_sigterm_lets_running_requests_finish_and_sends_new_ones_away(
    artifact: Artifact, gateway: Serving, log: Path
) -> None:
    long = {"prompt": "import os\nimport ", "max_tokens": 2000, "ignore_eos": True, "stream": True}
    with gateway_with(artifact, gateway, log) as g, CheckingClient(base_url=g.addresses.http, timeout=60) as http:
        with http.stream("POST", "/v1/completions", json=long) as stream:
            lines = stream.iter_lines()
            next(lines)
            g.processes[0].terminate()
            assert wait_until(lambda: http.get("/v1/health/ready").status_code == 503)
            refused = http.post("/v1/completions", json=BODY)
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert [line for line in lines if line][-1] == "data: [DONE]"
        assert g.processes[0].wait(60) == 0


def test_two_workers_share_the_ports_and_the_limits(artifact: Artifact, gateway: Serving, log: Path) -> None:
    settings = {"NIMBLE_API_KEYS": "k", "NIMBLE_REQUESTS_PER_MINUTE": "12"}
    workers = GatewayProcesses(artifact.directory, gateway.triton.addresses, Addresses.free(), 2, log, settings)
    with workers as g:
        g.wait_ready()
        time.sleep(1)
        answers: list[int] = []

        def ask() -> None:  # each on a connection of its own, which the kernel gives to either worker
            answer = httpx.post(f"{g.addresses.http}/v1/completions", json=BODY, timeout=30, headers={"x-api-key": "k"})
            answers.append(answer.status_code)

        threads = [threading.Thread(target=ask) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers) == [200] * 12 + [429] * 8
        page = httpx.get(g.addresses.metrics).text
        assert 'nimble_http_requests_total{route="/v1/completions",status="200"} 12.0' in page


def test_settings_that_cannot_be_used_end_the_process_with_one_line(
    artifact: Artifact, gateway: Serving, log: Path
) -> None:
    for settings in ({"api_keys_file": "/nowhere"}, {"tls_certificate": "/nowhere"}, {"max_body_bytes": 1}):
        log.write_text("")
        with pytest.raises(GatewayError, match="ended with code 1"), gateway_with(artifact, gateway, log, **settings):
            pass
        assert "nimble-coder gateway: " in log.read_text()
        assert "Traceback" not in log.read_text()
