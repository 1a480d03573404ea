"""A client for the service's OpenAI endpoints, with nothing but the standard library: text as it comes.

client = HttpClient("http://127.0.0.1:8000")
for text in client.chat("How do I sort a dictionary?"):
    print(text, end="")
"""

import http.client
import json
import ssl
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import SplitResult, urlsplit

from build_engine.lookahead import LookaheadConfig
from nimble_coder.client.grpc import AddressError, CompletionError


class HttpClient:
    """Streams answers from a service at `url` (`http://` or `https://`, without a path)."""

    def __init__(
        self, url: str, api_key: str | None = None, ca_file: Path | None = None, timeout: float = 600.0
    ) -> None:
        """`ca_file` holds the PEM certificates to trust under TLS, the system's where None; `timeout` is in seconds,
        for each piece of the answer. Raises `AddressError` for a URL that is none, or an unreadable file."""
        parts = parts_of(url)
        self.url = url
        self._host, self._port = parts.hostname or "", parts.port
        self._tls = trust(ca_file) if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {api_key}"} if api_key else {}
        )
        self._timeout = timeout
        self.usage: dict[str, Any] = {}
        """OpenAI's usage object of the last answer that was read to its end."""
        self.headers: dict[str, str] = {}
        """Of the last answer, names in small letters."""

    @property
    def counts(self) -> tuple[int, int, int]:
        """Of the last answer: its tokens, the drafts that were accepted, and all drafts."""
        details = self.usage.get("completion_tokens_details") or {}
        accepted = details.get("accepted_prediction_tokens", 0)
        tokens: int = self.usage.get("completion_tokens", 0)
        return tokens, accepted, accepted + details.get("rejected_prediction_tokens", 0)

    def complete(
        self,
        prompt: str,
        suffix: str | None = None,
        max_tokens: int = 128,
        lookahead: LookaheadConfig | None = None,
        stop: tuple[str, ...] = (),
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> Generator[str, None, None]:
        """Continues a text, or fills in between it and a suffix; `fields` are further ones of the request's body.

        Raises `CompletionError`.
        """
        asked = {"prompt": prompt, "suffix": suffix}
        for choice in self._stream("/v1/completions", asked, max_tokens, lookahead, stop, fields):
            yield choice["text"]

    def chat(
        self,
        question: str,
        max_tokens: int = 128,
        lookahead: LookaheadConfig | None = None,
        stop: tuple[str, ...] = (),
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> Generator[str, None, None]:
        """Answers a question; `fields` as above. Raises `CompletionError`."""
        asked = {"messages": [{"role": "user", "content": question}]}
        for choice in self._stream("/v1/chat/completions", asked, max_tokens, lookahead, stop, fields):
            yield choice["delta"].get("content") or ""

    def _stream(
        self,
        path: str,
        asked: dict[str, Any],
        max_tokens: int,
        lookahead: LookaheadConfig | None,
        stop: tuple[str, ...],
        fields: Mapping[str, Any],
    ) -> Iterator[dict[str, Any]]:
        body: dict[str, Any] = {
            **asked,
            "max_tokens": max_tokens,
            "stop": list(stop),
            "stream": True,
            "stream_options": {"include_usage": True},
            **fields,
        }
        if lookahead is not None:
            body["lookahead"] = [lookahead.window_size, lookahead.ngram_size, lookahead.verification_set_size]
        connection = self._connect()
        try:
            connection.request("POST", self._prefix + path, json.dumps(body).encode(), self._headers)
            response = connection.getresponse()
            self.headers = {name.lower(): value for name, value in response.getheaders()}
            yield from self._events(response)
        except (ConnectionResetError, BrokenPipeError, http.client.IncompleteRead):
            raise CompletionError(f"{self.url} ended the connection") from None
        except http.client.BadStatusLine:  # whose text is all that came
            what = "answers, but not in HTTP: give the URL of the HTTP port"
            raise CompletionError(f"{self.url} {what}") from None
        except ssl.SSLError as error:
            is_plain = error.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE")
            what = " answers, but not in TLS: give its URL with http://" if is_plain else f": {error}"
            raise CompletionError(f"{self.url}{what}") from None
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            raise CompletionError(f"{self.url}: {error}") from None
        finally:
            connection.close()  # leaving early cancels the request on the server

    def _connect(self) -> http.client.HTTPConnection:
        if self._tls:
            return http.client.HTTPSConnection(self._host, self._port, timeout=self._timeout, context=self._tls)
        return http.client.HTTPConnection(self._host, self._port, timeout=self._timeout)

    def _events(self, response: http.client.HTTPResponse) -> Iterator[dict[str, Any]]:
        if response.status != 200:
            raise CompletionError(f"{self.url}: {message_of(response.read()) or response.reason}")
        for line in response:
            data = line.strip().removeprefix(b"data: ")
            if data == b"[DONE]":
                return
            if not line.startswith(b"data: "):
                continue
            event = json.loads(data)
            if "error" in event:
                raise CompletionError(f"{self.url}: {event['error']['message']}")
            self.usage = event.get("usage") or self.usage
            yield from event["choices"]
        raise http.client.IncompleteRead(b"")


def parts_of(url: str) -> SplitResult:
    """Of a URL with a host, and a port that is a number or absent; raises `AddressError` for anything else."""
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return parts
    except ValueError:  # of a port that is none, as soon as it is read
        pass
    raise AddressError(f"{url!r} is not a service's URL such as http://127.0.0.1:8000")


def trust(ca_file: Path | None) -> ssl.SSLContext:
    """The certificates a connection goes by; raises `AddressError` where the file has none."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise AddressError(f"the certificates {ca_file} cannot be read: {error.strerror or error}") from None


def message_of(body: bytes) -> str:
    """The message of OpenAI's error object; empty where the body is none."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""
