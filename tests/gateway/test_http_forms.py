"""Requests in forms that HTTP allows: HEAD, a slash at the end, compressed bodies, a byte order mark."""

import gzip
import json
import zlib
from codecs import BOM_UTF8
from typing import Any

import httpx
import pytest

from nimble_coder.gateway.apis.routes import ROUTES
from nimble_coder.processes.serving import Serving
from tests.gateway.completing import BODIES

BODY = json.dumps({"prompt": "import os\nimport ", "max_tokens": 2}).encode()
KSERVE = b'{"text_input": "import os", "max_tokens": 2}'
TENSORS = (
    b'{"inputs":[{"name":"QUERY","shape":[1,1],"datatype":"BYTES","data":["import os"]},'
    b'{"name":"REQUEST_OUTPUT_LEN","shape":[1,1],"datatype":"INT32","data":[4]}]}'
)
READ = [route.path for route in ROUTES if route.method == "GET" and "{" not in route.path]
BY_NAME = ["/v1/models/demo", "/v2/models/ensemble", "/v2/models/ensemble/ready", "/v2/models/ensemble/config"]


@pytest.mark.parametrize("path", [*READ, *BY_NAME])
def test_head_and_a_slash_at_the_end_are_answered_as_get_is(gateway: Serving, path: str) -> None:
    with httpx.Client(base_url=gateway.addresses.http, timeout=30) as http:
        expected = http.get(path)
        for answer in (http.head(path), http.get(f"{path}/"), http.head(f"{path}//")):
            assert (answer.status_code, answer.headers["content-type"]) == (
                expected.status_code,
                expected.headers["content-type"],
            )
        assert http.head(path).content == b""


def test_administrative_calls_are_open_to_no_other_form(gateway: Serving) -> None:
    with httpx.Client(base_url=gateway.addresses.http, timeout=30) as http:
        for path in ("/v2/repository/index", "/v2/logging/", "/v2/systemsharedmemory/status"):
            for method in ("HEAD", "GET", "POST"):
                assert http.request(method, path).status_code == 403


@pytest.mark.parametrize("path", ["/metrics/", "/v1/health/ready/", "/v1/health/live"])
def test_the_metrics_port_takes_them_too(gateway: Serving, path: str) -> None:
    url = f"http://{gateway.addresses.host}:{gateway.addresses.metrics_port}{path}"
    assert (httpx.get(url).status_code, httpx.head(url).status_code) == (200, 200)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", BODY),
        ("/v1/completions/", BODY),
        ("/completion", BODY),
        ("/tokenize", BODY),
        ("/v1/completions/render", BODY),
        ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"hi"}],"max_tokens":2}'),
        ("/infill", b'{"input_prefix":"import ","input_suffix":"","n_predict":2}'),
        ("/v2/models/ensemble/generate", KSERVE),
        ("/v2/models/preprocessing/infer", TENSORS),
    ],
)
def test_bodies_are_read_compressed_and_with_a_byte_order_mark(http: httpx.Client, path: str, body: bytes) -> None:
    forms = [
        (None, BOM_UTF8 + body),
        ("gzip", gzip.compress(body)),
        ("GZIP", gzip.compress(BOM_UTF8 + body)),
        ("x-gzip", gzip.compress(body)),
        ("deflate", zlib.compress(body)),
        ("identity", body),
    ]
    for encoding, content in forms:
        headers = {"content-encoding": encoding} if encoding else {}
        answer = http.post(path, content=content, headers=headers)
        assert answer.status_code == 200, (encoding, answer.text)


@pytest.mark.parametrize(
    ("path", "body"), [*BODIES.items(), ("/tokenize", {"prompt": "x"}), ("/v1/responses", {"input": "x"})]
)
def test_a_text_that_is_cut_within_an_emoji_is_read(strict: httpx.Client, path: str, body: dict[str, Any]) -> None:
    limit = {} if path == "/tokenize" else {"max_output_tokens" if path == "/v1/responses" else "n_predict": 1}
    cut = json.dumps({**body, **limit}).replace('"x"', r'"\ude00 x \ud83d"').replace("import os", r"\ude00 x \ud83d")
    assert r"\ude00 x" in cut
    answer = strict.post(path, content=cut.encode())
    assert answer.status_code == 200, answer.text


def test_a_byte_order_mark_counts_in_the_length_of_json_before_binary_data(http: httpx.Client) -> None:
    headers = {"inference-header-content-length": str(len(BOM_UTF8 + TENSORS))}
    assert http.post("/v2/models/preprocessing/infer", content=BOM_UTF8 + TENSORS, headers=headers).status_code == 200


@pytest.mark.parametrize("path", ["/v1/completions", "/tokenize", "/v2/models/ensemble/generate"])
@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip, gzip", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY)[:-4], 400),
        ("gzip", gzip.compress(b" " * (9 << 20)), 413),
    ],
    ids=["unknown", "twice", "none", "cut", "bomb"],
)
def test_what_cannot_be_uncompressed_is_refused(
    gateway: Serving, path: str, encoding: str, body: bytes, status: int
) -> None:
    url = f"{gateway.addresses.http}{path}"
    assert httpx.post(url, content=body, headers={"content-encoding": encoding}).status_code == status
