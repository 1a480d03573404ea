"""A container that serves, seen from outside through the clients that people use."""

import http.client
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing

from openai import OpenAI

from nimble_coder.client.grpc import CompletionClient
from tests.images.podman import Container

MODEL = "qwen2.5-coder"


def get(url: str) -> tuple[int, str]:
    """Status and body; status 0 where nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except (urllib.error.URLError, OSError):
        return 0, ""


def wait_ready(container: Container, timeout: float = 60.0) -> float:
    """Seconds from `podman run` until it is ready; raises `TimeoutError`, or `AssertionError` where it has ended."""
    url = f"http://{container.address}:8000/v1/health/ready"
    while (waited := time.monotonic() - container.started) < timeout:
        if get(url)[0] == 200:
            return waited
        assert container.is_running, container.log
        time.sleep(0.05)
    raise TimeoutError(f"not ready after {timeout:.0f} s:\n{container.log}")


def complete_over_grpc(container: Container, prompt: str, tokens: int) -> str:
    return complete_over_grpc_at(f"{container.address}:8001", prompt, tokens)


def complete_over_grpc_at(url: str, prompt: str, tokens: int) -> str:
    with CompletionClient(url) as client:
        return "".join(chunk.text for chunk in client.stream(prompt, tokens))


def complete_over_http(container: Container, prompt: str, tokens: int) -> str:
    with OpenAI(base_url=f"http://{container.address}:8000/v1", api_key="none", max_retries=0) as client:
        answer = client.completions.create(model=MODEL, prompt=prompt, max_tokens=tokens, temperature=0)
    return answer.choices[0].text


def stream(container: Container, prompt: str, tokens: int) -> Iterator[str]:
    """Events of one streamed completion, as they come, up to and including `[DONE]`."""
    body = json.dumps({"model": MODEL, "prompt": prompt, "max_tokens": tokens, "stream": True, "ignore_eos": True})
    with closing(http.client.HTTPConnection(container.address, 8000, timeout=60)) as connection:
        connection.request("POST", "/v1/completions", body, {"content-type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 200, answer.read()
        for line in answer:
            if line.startswith(b"data: "):
                yield line[6:].decode().strip()
