"""What runs in the client's pod, with the standard library alone: a request, a certificate, or load until told to end.

The answer is one line of JSON on standard output; load ends when standard input does.
"""

import http.client
import json
import ssl
import sys
import threading
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 60


def post(url: str, key: str, body: dict[str, Any]) -> tuple[int, str]:
    """Status and text; raises `OSError` and `http.client.HTTPException`."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "https":
        context = ssl._create_unverified_context()  # noqa: S323 - who answers is looked at by `certificate`
        connection = http.client.HTTPSConnection(parts.netloc, timeout=TIMEOUT, context=context)
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT)
    try:
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def complete(url: str, key: str, fields: str) -> tuple[int, Any]:
    """One request; the status is 0 where the service could not be reached."""
    body = {"model": "qwen2.5-coder", "prompt": "def add(a, b):", "max_tokens": 16, **json.loads(fields)}
    try:
        status, text = post(url, key, {name: value for name, value in body.items() if value is not None})
    except (OSError, http.client.HTTPException) as error:
        return 0, {"error": repr(error)}
    try:
        return status, json.loads(text)
    except ValueError:
        return status, {"text": text}


def wrong_with(url: str, key: str, number: int, is_streamed: bool) -> str:
    """What was wrong with one answer; empty where nothing was."""
    body = {"model": "qwen2.5-coder", "prompt": f"def task_{number}(values):", "max_tokens": 16, "ignore_eos": True}
    try:
        status, text = post(url, key, {**body, "stream": is_streamed})
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    if status != 200:
        return f"{status} {text}"
    if is_streamed:
        return "" if text.rstrip().endswith("[DONE]") and '"error"' not in text else f"cut: {text[-200:]}"
    return "" if json.loads(text)["usage"]["completion_tokens"] == 16 else text


def load(url: str, key: str, clients: int) -> list[Any]:
    """How many requests there were, how many streamed, and what was wrong with some."""
    ended, lock = threading.Event(), threading.Lock()
    asked, streamed, wrong = 0, 0, list[str]()

    def ask() -> None:
        nonlocal asked, streamed
        while not ended.is_set():
            with lock:
                asked += 1
                number, is_streamed = asked, asked % 3 == 0
                streamed += is_streamed
            if problem := wrong_with(url, key, number, is_streamed):
                wrong.append(f"{number}: {problem}")

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    print("asking", flush=True)
    sys.stdin.read()
    ended.set()
    for thread in threads:
        thread.join()
    return [asked, streamed, wrong]


def main(what: str, url: str, *more: str) -> None:
    if what == "load":
        print(json.dumps(load(url, more[0], int(more[1]))))
    elif what == "certificate":
        parts = urlsplit(url)
        shown = ssl.get_server_certificate((str(parts.hostname), parts.port or 443), timeout=TIMEOUT)
        print(json.dumps({"status": 0, "body": {"certificate": shown}}))
    else:
        status, body = complete(url, *more)
        print(json.dumps({"status": status, "body": body}))


if __name__ == "__main__":
    main(*sys.argv[1:])
