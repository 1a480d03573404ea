"""Settings under NIM's names reach the processes they are for."""

import json
import shutil
import ssl
import subprocess
from pathlib import Path

import grpc
import httpx
import pytest
import tritonclient.grpc as triton_grpc

from build_engine.artifact import Artifact
from nimble_coder.processes.serving import served_repository
from tests.standin.certificate import make_certificate
from tests.supervisor.conftest import COMMAND, Service, Start, environment_of

HIDDEN = {"HF_TOKEN": "hub-secret", "NIMBLE_API_KEY": "client-secret", "NGC_API_KEY": "ngc-secret"}
"""Secrets that nothing that runs has a use for."""


def certificate(place: Path, name: str, authority: Path | None = None) -> Path:
    """PEM files NAME.crt and NAME.key; signed by itself or by an authority."""
    signed: list[str | Path] = ["-CA", authority, "-CAkey", authority.with_suffix(".key")] if authority else []
    own = ("-days", "1", "-addext", "subjectAltName=IP:127.0.0.1")
    return make_certificate(place / f"{name}.crt", name, *own, *signed)


def test_tls_for_known_clients_json_lines_names_and_a_shorter_context(
    start: Start, artifact: Artifact, tmp_path: Path
) -> None:
    authority = certificate(tmp_path, "authority")
    server, client = certificate(tmp_path, "server"), certificate(tmp_path, "client", authority)
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", artifact.directory, moved], check=True)
    service = start(
        NIMBLE_BAKED_ARTIFACT=moved,
        NIM_CACHE_PATH=tmp_path / "nothing",
        NIM_SSL_MODE="MTLS",
        NIM_SSL_CERTS_PATH=server,
        NIM_SSL_KEY_PATH=server.with_suffix(".key"),
        NIM_SSL_CA_CERTS_PATH=authority,
        NIM_JSONL_LOGGING="1",
        NIM_SERVED_MODEL_NAME="coder",
        NIM_MAX_MODEL_LEN="64",
        NIM_ENABLE_KV_CACHE_REUSE="0",
        NIM_NOTHING="1",
        NIMBLE_API_KEYS="very-secret",
        OTEL_EXPORTER_OTLP_HEADERS="api-key=collector-secret",
        **HIDDEN,
    )
    service.wait_ready()
    check_http(service, server, client)
    check_grpc(service, server, client)
    check_secrets(service)
    health = [*COMMAND, "health", "--ready"]
    environment = environment_of(service.addresses)
    assert subprocess.run(health, env=environment, check=True, capture_output=True).stdout == b"Service is ready.\n"
    service.process.terminate()
    assert service.process.wait(30) == 0
    assert subprocess.run(health, env=environment, check=False, capture_output=True).returncode == 1
    check_log(service)
    assert not (tmp_path / "nothing").exists()


def check_secrets(service: Service) -> None:
    """Each process has those in its environment that it needs: the gateway its own, and no other any."""
    gateways = service.children("nimble_coder.gateway.server")
    for pid in service.children(""):
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        found = {
            secret for secret in ("very-secret", "collector-secret", *HIDDEN.values()) if secret.encode() in environment
        }
        assert found == ({"very-secret", "collector-secret"} if pid in gateways else set())


def check_http(service: Service, server: Path, client: Path) -> None:
    """With a certificate of the authority, the key, and no more than 64 tokens."""
    context = ssl.create_default_context(cafile=server)
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://127.0.0.1:{service.addresses.http_port}/v1/health/live", verify=context)
    context.load_cert_chain(client, client.with_suffix(".key"))
    url, headers = f"https://127.0.0.1:{service.addresses.http_port}/v1", {"authorization": "Bearer very-secret"}
    with httpx.Client(verify=context, headers=headers, timeout=30) as http:
        models = http.get(f"{url}/models").json()["data"]
        assert [(model["id"], model["max_model_len"]) for model in models] == [("coder", 64)]
        long = http.post(f"{url}/completions", json={"prompt": "x = 1\n" * 40})
        assert (long.status_code, long.json()["error"]["code"]) == (400, "context_length_exceeded")
        short = http.post(f"{url}/completions", json={"prompt": "import os\n", "max_tokens": 200, "ignore_eos": True})
        assert short.json()["usage"]["total_tokens"] == 64


def check_grpc(service: Service, server: Path, client: Path) -> None:
    """The same certificates."""
    pair = {"private_key": client.with_suffix(".key").read_bytes(), "certificate_chain": client.read_bytes()}
    for given, is_let_in in ((pair, True), ({}, False)):
        credentials = grpc.ssl_channel_credentials(server.read_bytes(), **given)
        address = f"127.0.0.1:{service.addresses.grpc_port}"
        with triton_grpc.InferenceServerClient(address, ssl=True, creds=credentials) as triton:
            if is_let_in:
                assert triton.is_server_live()
            else:
                with pytest.raises(Exception, match="UNAVAILABLE"):
                    triton.is_server_live()


def check_log(service: Service) -> None:
    """One object a line, from all processes, without secrets."""
    lines = [json.loads(line) for line in service.output]
    assert {line["process"] for line in lines} == {"supervisor", "triton", "gateway"}
    assert all({"time", "level", "message"} <= set(line) for line in lines)
    assert any(line["level"] == "warning" and "NIM_NOTHING is not a setting" in line["message"] for line in lines)
    assert lines[-1]["message"] == "stopped"
    assert "very-secret" not in service.log.read_text()


def test_what_the_profile_says_of_serving_can_be_otherwise(artifact: Artifact, tmp_path: Path) -> None:
    profile = artifact.manifest.profile
    same = {"kv_cache_reuse": profile.kv_cache_reuse, "kv_cache_fraction": profile.kv_cache_fraction}
    assert served_repository(artifact, same, tmp_path / "a") == artifact.repository
    other = served_repository(artifact, {**same, "kv_cache_reuse": False, "kv_cache_fraction": 0.5}, tmp_path / "b")
    config = (other / "tensorrt_llm" / "config.pbtxt").read_text()
    assert '"enable_kv_cache_reuse" value: { string_value: "false" }' in config
    assert '"kv_cache_free_gpu_mem_fraction" value: { string_value: "0.5" }' in config
    assert str(artifact.engine) in config


def test_what_was_moved_or_rendered_by_an_older_release_is_rendered_anew(artifact: Artifact, tmp_path: Path) -> None:
    moved = Artifact.open(Path(shutil.copytree(artifact.directory, tmp_path / "moved")))
    found = served_repository(moved, {}, tmp_path / "a")
    assert found == tmp_path / "a"
    assert str(moved.engine) in (found / "tensorrt_llm" / "config.pbtxt").read_text()
    shutil.rmtree(moved.repository)
    shutil.copytree(found, moved.repository)
    assert served_repository(moved, {}, tmp_path / "b") == moved.repository
    (moved.repository / "preprocessing" / "1" / "model.py").write_text("# of an older release\n")
    assert served_repository(moved, {}, tmp_path / "c") == tmp_path / "c"
