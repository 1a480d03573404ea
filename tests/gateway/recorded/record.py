"""Runs clients of structured output against a service and records what they send, for `test_recorded.py` to send again.

Their packages are no part of the test environment:

    python -m venv clients && clients/bin/pip install httpx langchain-openai instructor llm
    npm install --prefix clients ai @ai-sdk/openai @ai-sdk/openai-compatible zod
    clients/bin/python tests/gateway/recorded/record.py http://127.0.0.1:8000 clients [NAME...]

Every client has to read the answer as the object it asked for; one that does not ends the script.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
from pydantic import BaseModel, ConfigDict, Field

HERE = Path(__file__).parent
QUESTION = "Invent a recipe for pancakes."
NOT_SENT_ON = ("host", "content-length", "accept-encoding", "connection")


class Recipe(BaseModel):
    """A recipe."""

    model_config = ConfigDict(extra="forbid")
    title: Annotated[str, Field(max_length=40)]
    minutes: Annotated[int, Field(ge=1, le=600)]
    difficulty: Literal["easy", "hard"]
    steps: Annotated[list[Annotated[str, Field(max_length=60)]], Field(min_length=1, max_length=3)]


class AnyRecipe(BaseModel):
    """What is asked for in words alone, where a client sends no schema: no bounds that only a form holds to."""

    title: str
    minutes: int
    difficulty: str
    steps: list[str]


class Recorder(ThreadingHTTPServer):
    """Passes requests on to the service and keeps the last body."""

    def __init__(self, service: str) -> None:
        super().__init__(("127.0.0.1", 0), Passing)
        self.service = service
        self.sent: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Passing(BaseHTTPRequestHandler):
    """One request."""

    server: Recorder

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.sent.append((self.path, json.loads(body)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in NOT_SENT_ON}
        answer = httpx.post(self.server.service + self.path, content=body, headers=headers, timeout=600)
        self.send_response(answer.status_code)
        self.send_header("content-type", answer.headers["content-type"])
        self.send_header("content-length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def langchain(url: str, recipe: type[BaseModel], api: dict[str, Any] | None = None, **options: Any) -> object:
    from langchain_openai import ChatOpenAI  # noqa: PLC0415

    chat = ChatOpenAI(base_url=url, api_key="none", model="qwen2.5-coder", max_retries=0, temperature=0, **api or {})
    question = f"{QUESTION} Answer in JSON with title, minutes, difficulty (easy or hard) and steps."
    return chat.with_structured_output(recipe, **options).invoke(question)


def instructed(url: str, recipe: type[BaseModel], mode: str) -> object:
    import instructor  # noqa: PLC0415
    from openai import OpenAI  # noqa: PLC0415

    client = instructor.from_openai(OpenAI(base_url=url, api_key="none"), mode=instructor.Mode[mode])
    messages: Any = [{"role": "user", "content": QUESTION}]
    return client.create(model="qwen2.5-coder", response_model=recipe, messages=messages, max_retries=0)


def openai_chat(url: str) -> object:
    from openai import OpenAI  # noqa: PLC0415

    messages: Any = [{"role": "user", "content": QUESTION}]
    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    answer = client.chat.completions.parse(model="qwen2.5-coder", messages=messages, response_format=Recipe)
    return answer.choices[0].message.parsed


def openai_responses(url: str) -> object:
    from openai import OpenAI  # noqa: PLC0415

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    return client.responses.parse(model="qwen2.5-coder", input=QUESTION, text_format=Recipe).output_parsed


def llm(url: str, clients: Path) -> object:
    with tempfile.TemporaryDirectory() as home:
        known = f"- model_id: coder\n  model_name: qwen2.5-coder\n  api_base: {url}\n  supports_schema: true\n"
        (Path(home) / "extra-openai-models.yaml").write_text(known)
        schema = json.dumps(Recipe.model_json_schema())
        command = [str(clients / "bin" / "llm"), "--model", "coder", "--key", "none", "--schema", schema, QUESTION]
        done = subprocess.run(command, env={**os.environ, "LLM_USER_PATH": home}, capture_output=True, check=True)
    return Recipe.model_validate_json(done.stdout)


def ai_sdk(url: str, clients: Path, program: str, api: str) -> object:
    for source in (program, "recipe.mjs"):
        (clients / source).write_text((HERE / source).read_text())
    done = subprocess.run(["node", clients / program, url, QUESTION, api], capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode())
    return Recipe.model_validate_json(done.stdout)


def npm_version(clients: Path, package: str) -> str:
    found: dict[str, str] = json.loads((clients / "node_modules" / package / "package.json").read_text())
    return found["version"]


def main(service: str, folder: str, *names: str) -> None:
    clients = Path(folder)
    recorder = Recorder(service)
    threading.Thread(target=recorder.serve_forever, daemon=True).start()
    url = recorder.url
    pip = {name: f"{name} {version(name)}" for name in ("openai", "langchain-openai", "instructor", "llm")}
    ai = f"ai {npm_version(clients, 'ai')}"
    runs: dict[str, tuple[str, Callable[[], object]]] = {
        "openai-chat-parse": (pip["openai"], lambda: openai_chat(url)),
        "openai-responses-parse": (pip["openai"], lambda: openai_responses(url)),
        "langchain-json-schema": (pip["langchain-openai"], lambda: langchain(url, Recipe, method="json_schema")),
        "langchain-responses": (
            pip["langchain-openai"],
            lambda: langchain(url, Recipe, api={"use_responses_api": True}, method="json_schema"),
        ),
        "langchain-function-calling": (
            pip["langchain-openai"],
            lambda: langchain(url, Recipe, method="function_calling"),
        ),
        "langchain-json-mode": (pip["langchain-openai"], lambda: langchain(url, AnyRecipe, method="json_mode")),
        "instructor-json": (pip["instructor"], lambda: instructed(url, AnyRecipe, "JSON")),
        "instructor-tools": (pip["instructor"], lambda: instructed(url, Recipe, "TOOLS")),
        "instructor-json-schema": (pip["instructor"], lambda: instructed(url, Recipe, "JSON_SCHEMA")),
        "llm-schema": (pip["llm"], lambda: llm(url, clients)),
        "ai-sdk-generate-object": (ai, lambda: ai_sdk(url, clients, "generate_object.mjs", "chat")),
        "ai-sdk-stream-object": (ai, lambda: ai_sdk(url, clients, "stream_object.mjs", "chat")),
        "ai-sdk-responses-generate-object": (ai, lambda: ai_sdk(url, clients, "generate_object.mjs", "responses")),
        "ai-sdk-responses-stream-object": (ai, lambda: ai_sdk(url, clients, "stream_object.mjs", "responses")),
    }
    for name, (client, run) in runs.items():
        if names and name not in names:
            continue
        recorder.sent.clear()
        found = run()
        if not isinstance(found, Recipe | AnyRecipe):
            sys.exit(f"{name}: {found!r}")
        ((path, body),) = recorder.sent
        record = {"client": client, "path": path, "body": body}
        (HERE / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print(name, client, found.model_dump_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
