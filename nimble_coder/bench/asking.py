"""A running service as a measurement of quality asks it: one question at a time, and every answer kept."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

URL = "http://127.0.0.1:8000"


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    """The service's answer; raises `OSError` where there is none."""
    request = urllib.request.Request(url, json.dumps(body).encode())  # noqa: S310
    request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=600) as answer:  # noqa: S310
        return dict(json.load(answer))


@contextmanager
def asking(url: str) -> Iterator[str]:
    """The URL that paths are put behind; ends the program with one line where the service refuses or is not there."""
    try:
        yield url.rstrip("/")
    except urllib.error.HTTPError as error:
        sys.exit(f"error: {url}: {error.read().decode(errors='replace')[:400]}")
    except OSError as error:
        sys.exit(f"error: {url} does not answer: {error}")


def keep(answers: Sequence["DataclassInstance"], file: Path | None) -> None:
    """Writes the answers as JSON, where a file is named."""
    if file:
        file.write_text(json.dumps([asdict(answer) for answer in answers], indent=1) + "\n", encoding="utf-8")
