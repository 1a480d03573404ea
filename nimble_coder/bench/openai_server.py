"""A server of OpenAI's API as a peer: token ids in, greedily, one prompt at a time. Such a peer runs in an environment
of its own, as vLLM has to."""

import json
import time
import urllib.request
from collections.abc import Iterator
from typing import Any


class OpenAIServer:
    """A server that runs. Raises `OSError` where there is none."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        with urllib.request.urlopen(f"{self._url}/v1/models", timeout=30) as answer:  # noqa: S310
            self._model = json.load(answer)["data"][0]["id"]

    def decoding(self, count: int, ids: list[int]) -> float:
        """Tokens per second behind a prompt, from the first to the last of `count`; raises `ValueError` where all of
        them come at once."""
        times = list(self._stream(count, ids))
        if len(times) < 2:
            raise ValueError(f"all {count} tokens came at once: ask for more")
        (first, at_first), (last, at_last) = times[0], times[-1]
        return (at_last - at_first) / (last - first)

    def read(self, ids: list[int]) -> None:
        """Computes a prompt, up to its first token."""
        list(self._stream(1, ids))

    def _stream(self, count: int, ids: list[int]) -> Iterator[tuple[float, int]]:
        """When a piece of the answer came, and how many tokens there were then."""
        options = {"include_usage": True, "continuous_usage_stats": True}
        asked = {"model": self._model, "prompt": ids, "max_tokens": count, "temperature": 0, "ignore_eos": True}
        body = json.dumps({**asked, "stream": True, "stream_options": options}).encode()
        request = urllib.request.Request(f"{self._url}/v1/completions", body)  # noqa: S310
        request.add_header("content-type", "application/json")
        tokens = 0
        with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
            for line in answer:
                if line.startswith(b"data: {"):
                    piece: dict[str, Any] = json.loads(line[6:])
                    now = piece["usage"]["completion_tokens"] if piece.get("usage") else tokens
                    if now > tokens:
                        tokens = now
                        yield time.perf_counter(), tokens
