"""The command line: what it prints, and that mistakes are told in one line."""

import json
import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from build_engine.artifact import Artifact
from nimble_coder.processes.triton import TritonServer
from tests.conftest import EMBEDDED, MakeCheckpoint
from tests.standin.in_process import call


def run(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    return call(Path(), *arguments, stdin=stdin)


def test_complete_streams_the_text_and_nothing_else_to_standard_output(triton: TritonServer) -> None:
    done = run("complete", "import os\nimport", "--max-tokens", "12", "--url", triton.addresses.grpc)
    assert done.returncode == 0
    assert done.stdout.strip()
    assert done.stderr == ""


def test_stats_tell_speed_and_acceptance(triton: TritonServer) -> None:
    url = triton.addresses.grpc
    fast = run("complete", "def fib(", "--max-tokens", "40", "--stats", "--lookahead", "4,3,4", "--url", url)
    plain = run("complete", "def fib(", "--max-tokens", "40", "--stats", "--no-lookahead", "--url", url)
    assert "tokens per step" in fast.stderr
    assert "1.00 tokens per step, 0 drafts accepted" in plain.stderr
    assert fast.stdout == plain.stdout


def test_the_prompt_can_come_from_standard_input(triton: TritonServer) -> None:
    url = triton.addresses.grpc
    piped = run("complete", "-", "--max-tokens", "8", "--url", url, stdin="import os\nimport")
    assert piped.stdout == run("complete", "import os\nimport", "--max-tokens", "8", "--url", url).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "reason"),
    [
        (["complete", "x", "--lookahead", "9,9"], 2, "such as 8,8,8"),
        (["complete", "x", "--lookahead", "4,3,4", "--no-lookahead"], 2, "exclude each other"),
        (["complete", "x", "--chat", "--suffix", "y"], 2, "exclude each other"),
        (["complete", "x", "--openai", "--http-url", "foo"], 2, "is not a service's URL"),
        (["complete", "x", "--chat", "--http-url", "http://127.0.0.1:port"], 2, "is not a service's URL"),
        (["complete", "x", "--url", "http://127.0.0.1:8001"], 2, "is not the host:port of a gRPC endpoint"),
        (["complete", "x", "--ca-file", "/nowhere"], 2, "the certificates /nowhere cannot be read"),
        (["complete", "x", "--max-tokens", "0"], 2, "greater than or equal to 1"),
        (["complete", "x", "--url", "a:b"], 1, "error: a:b: "),
        (["complete", "x", "--url", "127.0.0.1:1"], 1, "failed to connect"),
        (["build-engine", "--profile", "nothing"], 2, "there is no profile 'nothing'"),
        (["build-engine", "--precision", "int3"], 2, "not one of fp32, bf16, fp16"),
        (["build-engine", "--lookahead", "2,1,0"], 2, "N = 1 needs W = 1"),
        (["build-engine", "--lookahead", "1,4,1", "--workers", "0"], 2, "greater than or equal to 1"),
        (["build-engine", "--cache", "/proc/x", "-p", "demo"], 9, "the cache /proc/x cannot be made there"),
        (["build-engine", "--model", "/nowhere"], 4, "/nowhere does not exist"),
        (["build-engine", "--model", "qwen2.5-coder-0.5b-instruct"], 4, "is named by --model-name"),
        (["build-engine", "--model-name", "/nowhere"], 4, "/nowhere does not exist"),
        (["build-engine", "-p", "demo", "--model-name", "nosuch"], 2, "leave out --model-name nosuch"),
        (["create-model-store", "-p", "demo", "-m", "/etc"], 2, "/etc is not empty"),
        (["create-model-store", "-p", "demo", "-m", "/etc/passwd"], 2, "/etc/passwd is a file"),
        (["create-model-store", "-p", "demo", "-m", "/proc/x"], 2, "/proc/x cannot be made"),
        (["create-model-store", "-p", "demo", "-m", "/nowhere/x", "--mounted-at", "x"], 2, "x is no absolute path"),
        (
            ["create-model-store", "-p", "demo", "-m", "/nowhere/x", "--gpus-per-node", "0"],
            2,
            "leave gpus_per_node out",
        ),
        (["cache", "list", "--cache", "/nowhere"], 2, "there is no cache /nowhere"),
        (["cache", "prune", "--cache", "/nowhere"], 2, "there is no cache /nowhere"),
        (["cache", "verify", "--cache", "/etc/passwd"], 2, "there is no cache /etc/passwd"),
        (["plan", "/nowhere", "--rate", "2"], 2, "/nowhere cannot be read"),
        (["plan", "/nowhere", "--rate", "2", "--replicas", "0"], 2, "greater than or equal to 1"),
        (["cache", "prune", "--cache", ""], 2, "--cache is empty: give a value, or leave it out"),
        (["build-engine", "--lookahead="], 2, "--lookahead is empty"),
        (["list-model-profiles", "--model-name", ""], 2, "--model-name is empty"),
        (["tune", ""], 2, "an argument is empty"),
        (["build-engine", "--model", "\udcff"], 2, "an argument is no UTF-8 text"),
        (["build-engine", "--model", "m" * 300], 4, "does not exist"),
        (["build-engine", "-p", "demo", "--skip-verify", "--cache", "/" + "c" * 300], 9, "File name too long"),
        (["cache", "list", "--cache", "/" + "c" * 300], 2, "there is no cache"),
        (["cache", "list", "--cache", "~nobody-of-that-name/x"], 2, "is in the home of nobody here"),
        (["create-model-store", "-p", "demo", "-m", "/etc/" + "s" * 250], 2, "cannot be made: File name too long"),
        (["tune", "/" + "a" * 300], 8, "does not exist"),
        (["complete", "\udcff"], 2, "an argument is no UTF-8 text"),
        (["complete", "x", "--lookahead", ""], 2, "such as 8,8,8"),
        (["complete", "x", "--max-tokens", "99999999999"], 2, "less than or equal to"),
        (["complete", "x", "--http-url", "http://127.0.0.1:1"], 2, "--http-url is for HTTP: add --openai"),
        (["complete", "x", "--openai", "--url", "127.0.0.1:1"], 2, "--url is for gRPC"),
        (["complete", "x", "--chat", "--tls"], 2, "--tls is for gRPC"),
        (["serve", ""], 2, "it should be a path, or not given at all"),
        (["serve", "/nowhere"], 8, "a profile is named by --model-profile, a model by --model-name"),
        (["serve", str(EMBEDDED)], 8, "`nimble-coder build-engine --model"),
        (["serve", "--no-such-setting", "1"], 2, "unrecognized arguments: --no-such-setting"),
        (["serve", "--workers", "0"], 2, "greater than or equal to 1"),
        (["version", "--check-container", "25.06-trtllm-python-py3"], 3, "#5451"),
        (["version", "--check-container", "24.12"], 3, "no lookahead parameters"),
        (["version", "--check-container", "25.08-trtllm-python-py3"], 3, "nobody has reported"),
        (["version", "--check-container", "latest"], 3, "names no release"),
        (["bench", "everything"], 2, "no benchmark 'everything'"),
    ],
)
def test_mistakes_are_told_in_one_line(arguments: list[str], code: int, reason: str) -> None:
    done = run(*arguments)
    assert done.returncode == code
    assert reason in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "command", [["cache", "list"], ["doctor"], ["list-model-profiles"], ["plan", "x"], ["version"]]
)
def test_every_command_that_has_formats_refuses_others(command: list[str]) -> None:
    done = run(*command, "--format", "xml")
    assert done.returncode == 2
    assert "'xml' is not one of" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--url", "127.0.0.1:PORT"], "answers, but not in gRPC: give the gRPC port"),
        (["--tls", "--url", "127.0.0.1:PORT"], "answers, but not in TLS"),
        (["--openai", "--http-url", "https://127.0.0.1:PORT"], "answers, but not in TLS: give its URL with http://"),
    ],
)
def test_the_plain_http_port_in_the_place_of_another_is_told(arguments: list[str], told: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        for _ in range(4):  # gRPC tries again
            refusal = b"HTTP/1.1 400 Bad Request\r\n\r\n"
            threading.Thread(target=answer_once, args=(server, refusal), daemon=True).start()
        port = str(server.getsockname()[1])
        done = run("complete", "x", *(argument.replace("PORT", port) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.endswith(f"{told}\n")


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
PIECE = b'data: {"choices": [{"text": "half"}]}\n\n'


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\r\n", "give the URL of the HTTP port"),
        (b"", "ended the connection"),
        (HEAD, "ended the connection"),
        (HEAD + b"\r\n" + PIECE, "ended the connection"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(PIECE), PIECE), "ended the connection"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s" % (len(PIECE), PIECE[:-5]), "ended the connection"),
        (HEAD + b"content-length: 500\r\n\r\n" + PIECE, "ended the connection"),
    ],
    ids=["no HTTP", "nothing", "head", "half", "chunk", "half a chunk", "less than its length"],
)
@pytest.mark.parametrize("is_reset", [False, True], ids=["closed", "reset"])
def test_an_answer_that_is_none_or_half_of_one_is_told(answer: bytes, told: str, is_reset: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=answer_once, args=(server, answer, is_reset), daemon=True).start()
        done = run("complete", "x", "--openai", "--http-url", f"http://127.0.0.1:{server.getsockname()[1]}")
    assert done.returncode == 1
    assert told in done.stderr or (is_reset and done.stderr.endswith("ended the connection\n"))
    assert done.stderr.rstrip("\n").isprintable()


def answer_once(server: socket.socket, answer: bytes, is_reset: bool = False) -> None:
    """Reads a whole request and answers it, since what is left unread has the kernel reset the connection."""
    connection, _ = server.accept()
    with connection:
        connection.settimeout(0.3)
        with suppress(TimeoutError):
            while connection.recv(65536):
                pass
        connection.sendall(answer)
        if is_reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize(("missing", "arguments"), [("safetensors", ["cache", "list"]), ("yaml", ["serve"])])
def test_a_missing_extra_is_told_in_one_line(missing: str, arguments: list[str]) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from nimble_coder.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'nimble-coder[serve]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_number_beyond_32_bits_is_told(triton: TritonServer) -> None:
    done = run("complete", "x", "--lookahead", "99999999999,3,4", "--url", triton.addresses.grpc)
    assert (done.returncode, "takes numbers of 32 bits" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("redirection", "told"),
    [
        ("<&-", "standard input, which is closed"),
        ("< <(printf 'a\\377')", "standard input is no UTF-8 text"),
    ],
)
def test_a_standard_input_that_is_no_text_is_told(redirection: str, told: str) -> None:
    done = in_shell(f"complete - {redirection}")
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


@pytest.mark.parametrize(
    ("name", "unfit"), [("caché", "letters beyond ASCII"), ("my cache", "blanks or signs that a shell reads")]
)
def test_a_place_that_tritons_python_cannot_open_is_refused_before_anything_is_built(
    artifact: Artifact, tmp_path: Path, name: str, unfit: str
) -> None:
    place = tmp_path / name / "artifacts" / artifact.directory.name
    built = run("build-engine", "-p", "demo", "--cache", str(tmp_path / name))
    assert (built.returncode, f"has {unfit}" in built.stderr) == (3, True)
    assert not (tmp_path / name).exists()
    shutil.copytree(artifact.directory, place)
    served = run("serve", str(place), "--dry-run")
    assert (served.returncode, f"has {unfit}" in served.stderr) == (3, True)


@pytest.mark.parametrize("key", ["sécret-key", "secret-key\n"])
@pytest.mark.parametrize("way", ["--openai", "--stats"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, key: str, way: str
) -> None:
    monkeypatch.setenv("NIMBLE_API_KEY", key)
    done = run("complete", "x", way)
    assert (done.returncode, "NIMBLE_API_KEY has letters" in done.stderr) == (2, True)
    assert "cret-key" not in done.stderr


@pytest.mark.parametrize(
    "command", ["build-engine -p demo --dry-run", "serve --model-profile demo --dry-run", "version"]
)
def test_an_output_that_nobody_reads_or_that_is_full_ends_the_command_in_one_line(command: str) -> None:
    unread = in_shell(f"{command} | true; exit ${{PIPESTATUS[0]}}", NIMBLE_CACHE_PATH="/nowhere")
    assert (unread.returncode, unread.stderr) in ((1, ""), (0, ""))  # it may have been quicker than its reader's end
    full = in_shell(f"{command} > /dev/full", NIMBLE_CACHE_PATH="/nowhere")
    assert (full.returncode, full.stderr) == (1, "error: the output cannot be written: No space left on device\n")


def test_a_terminal_that_lacks_letters_gets_a_sign_for_them(make_checkpoint: MakeCheckpoint, tmp_path: Path) -> None:
    home = tmp_path / "cach😀"
    build = f"build-engine -p demo --model {make_checkpoint(max_position_embeddings=8192)} --skip-verify"
    done = in_shell(f"{build} --cache {home}", PYTHONIOENCODING="latin-1")
    assert done.returncode == 0, done.stderr
    assert "/cach?/artifacts/demo-" in done.stdout


def test_an_interrupt_while_the_command_is_loaded_ends_it_without_a_traceback() -> None:
    code = """
import os, signal, sys
class Interrupting:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from nimble_coder.cli import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code, "version"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def in_shell(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """What bash makes of it, in a process of its own."""
    line = f"{shlex.quote(sys.executable)} -m nimble_coder.cli {command}"
    return subprocess.run(
        ["bash", "-c", line], env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=60
    )


def test_the_servers_refusal_reaches_the_person(triton: TritonServer) -> None:
    done = run("complete", "def f(x):", "--lookahead", "9,8,8", "--url", triton.addresses.grpc)
    assert done.returncode == 1
    assert "exceeds the engine's (8,8,8)" in done.stderr


def test_build_engine_prints_the_artefact_of_any_local_checkpoint(
    make_checkpoint: MakeCheckpoint, tmp_path: Path
) -> None:
    options = ["--max-input-len", "256", "--max-seq-len", "400", "--lookahead", "4,3,4", "--precision", "bf16"]
    options.append("--skip-verify")  # random weights in 16 bits have near ties in plenty
    done = run("build-engine", "--model", str(make_checkpoint()), "--cache", str(tmp_path / "cache"), *options)
    assert done.returncode == 0, done.stderr
    artifact = Artifact.open(Path(done.stdout.strip()))
    assert str(artifact.manifest.profile.lookahead) == "(4,3,4)"
    assert artifact.manifest.profile.precision == "bf16"


@pytest.mark.parametrize(
    "tag", ["25.05", "25.05-trtllm-python-py3", "nvcr.io/nvidia/tritonserver:25.05-trtllm-python-py3"]
)
def test_the_container_that_works_is_accepted(tag: str) -> None:
    assert run("version", "--check-container", tag).returncode == 0
    assert run("version", "--check-container", "25.08", "--allow-unproven").returncode == 0


def test_the_versions_of_everything_are_told() -> None:
    found = json.loads(run("version", "--format", "json").stdout)
    assert set(found) == {"nimble-coder", "python", "torch", "tensorrt_llm", "triton", "container"}
    assert found["triton"].startswith("2.51.0")
    assert found["tensorrt_llm"] is None
    assert "nimble-coder" in run("version").stdout


def test_health_of_nobody_is_bad(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIMBLE_METRICS_PORT", "1")
    done = run("health")
    assert done.returncode == 1
    assert "does not answer" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_serve_helps_with_every_setting() -> None:
    done = run("serve", "--help")
    assert done.returncode == 0
    assert all(option in done.stdout for option in ("--dry-run", "--config", "--http-port", "NIM_SERVER_PORT"))


def test_help_lists_the_subcommands() -> None:
    done = run("--help")
    assert all(
        name in done.stdout for name in ("build-engine", "serve", "complete", "doctor", "health", "version", "bench")
    )
