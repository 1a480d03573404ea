"""The service that is measured, by HTTP or by gRPC: one prompt to it, and when what came back."""

import time
from abc import abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from nimble_coder.bench.load.drafting import Drafting
from nimble_coder.bench.load.scenarios import Prompt
from nimble_coder.client.grpc import CompletionClient, CompletionError
from nimble_coder.client.http import HttpClient


@dataclass
class Sample:
    """One request. Times are in seconds of `time.perf_counter`."""

    prompt: str
    """Its name."""
    sent: float
    first: float = 0.0
    last: float = 0.0
    gaps: list[float] = field(default_factory=list)
    """Between two pieces of the answer, each of which has the tokens of one or several steps."""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, known by HTTP only."""
    tokens: int = 0
    accepted: int = 0
    drafted: int = 0
    text: str = ""
    lookahead: str = ""
    """What the gateway says that it was decoded with."""
    error: str = ""

    def arrived(self) -> None:
        """Notes a piece of the answer."""
        now = time.perf_counter()
        if self.first:
            self.gaps.append(now - self.last)
        else:
            self.first = now
        self.last = now


class Target(Protocol):
    """Where requests go; `ask` may be called by many threads at once."""

    @abstractmethod
    def ask(self, prompt: Prompt, max_tokens: int, drafting: Drafting) -> Sample:
        """Sends one request and reads its answer; what went wrong is in the sample."""


@dataclass(frozen=True)
class HttpTarget:
    """A service's OpenAI endpoints."""

    url: str
    api_key: str | None = None
    ca_file: Path | None = None

    def ask(self, prompt: Prompt, max_tokens: int, drafting: Drafting) -> Sample:
        client = HttpClient(self.url, self.api_key, self.ca_file)
        fields = {"temperature": 0, **drafting.fields}
        sample = Sample(prompt.name, time.perf_counter())
        try:
            if prompt.question:
                pieces = client.chat(prompt.question, max_tokens, fields=fields)
            else:
                pieces = client.complete(prompt.prefix, prompt.suffix, max_tokens, fields=fields)
            for piece in pieces:
                if piece:
                    sample.text += piece
                    sample.arrived()
        except CompletionError as error:
            sample.error = str(error)
        usage = client.usage
        sample.prompt_tokens = usage.get("prompt_tokens", 0)
        sample.cached_tokens = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        sample.tokens, sample.accepted, sample.drafted = client.counts
        sample.lookahead = client.headers.get("x-nimble-lookahead", "")
        return sample


@dataclass(frozen=True)
class GrpcTarget:
    """A service's KServe endpoint, which takes texts."""

    url: str
    api_key: str | None = None
    ca_file: Path | None = None

    def ask(self, prompt: Prompt, max_tokens: int, drafting: Drafting) -> Sample:
        sample = Sample(prompt.name, time.perf_counter())
        try:
            if drafting.draft_tokens is not None or drafting.drafting:
                raise CompletionError("draft:N and drafters by name are fields of HTTP requests: give an http:// URL")
            with (
                CompletionClient(self.url, self.api_key, ca_file=self.ca_file) as client,
                client.stream(prompt.text, max_tokens, drafting.lookahead) as stream,
            ):
                for chunk in stream:
                    sample.arrived()
                    sample.text += chunk.text
                done = stream.completion
                sample.prompt_tokens, sample.tokens = done.prompt_tokens, len(done.token_ids)
                sample.accepted, sample.drafted = done.accepted_draft_tokens, done.draft_tokens
        except CompletionError as error:
            sample.error = str(error)
        return sample


def target_of(url: str, api_key: str | None = None, ca_file: Path | None = None) -> Target:
    """By `http://`, `https://` or `grpc://HOST:PORT`. Raises `CompletionError` for what is none of these."""
    if url.startswith("grpc://"):
        return GrpcTarget(url.removeprefix("grpc://"), api_key, ca_file)
    HttpClient(url, api_key, ca_file)
    return HttpTarget(url, api_key, ca_file)
