"""A model hub on loopback that speaks the hub's protocol to the real huggingface_hub, and fails as hubs fail.

Protocol: the routes and headers that huggingface_hub asks for (hf_api.py, file_download.py): model info, tree, resolve
with redirects to a store for large files, ETags, ranges, `X-Error-Code`.
"""

import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Fault:
    """What happens to the next `times` requests whose method and path match."""

    match: str
    kind: str
    """`status`, `cut` (the connection closes after half of the bytes), `stall` (nothing comes after that half), `short`
    (fewer bytes than the file has, as if that were all), `corrupt` (other bytes)."""
    times: int = 1
    status: int = 503
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Hub:
    """Serves one repository from a directory."""

    repo: str
    directory: Path
    token: str | None = None
    """The token without which the repository does not exist."""
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    """Method, path and headers of everything that was asked."""

    def __enter__(self) -> "Hub":
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                Answer(hub, self).send()

            do_HEAD = do_GET

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def store(self) -> str:
        """Another host, as the real one is: the client sends no token there."""
        return f"http://localhost:{self._server.server_address[1]}"

    def downloads(self, name: str) -> list[dict[str, str]]:
        """Headers of the requests that fetched a file's content."""
        place = f"/store/{name}" if self.is_large(name) else f"/{self.repo}/resolve/{COMMIT}/{name}"
        return [headers for method, path, headers in self.requests if (method, path) == ("GET", place)]

    def is_large(self, name: str) -> bool:
        """Large files are kept elsewhere and named by SHA-256."""
        return name.endswith(".safetensors")

    def files(self) -> list[str]:
        return sorted(path.name for path in self.directory.iterdir())

    def entry(self, name: str) -> dict[str, object]:
        content = (self.directory / name).read_bytes()
        sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        sha256 = hashlib.sha256(content).hexdigest()
        return {"size": len(content), "sha1": sha1, "sha256": sha256 if self.is_large(name) else None}


@dataclass
class Answer:
    """The answer to one request."""

    hub: Hub
    http: BaseHTTPRequestHandler

    def send(self) -> None:
        path = self.http.path.split("?")[0]
        self.hub.requests.append((self.http.command, path, dict(self.http.headers.items())))
        fault = self._fault(path)
        if fault and fault.kind == "status":
            return self._error(fault.status, "the hub is unwell", fault.headers)
        if path.startswith("/store/"):
            return self._content(path.removeprefix("/store/"), fault, {})
        if self.hub.token and self.http.headers.get("Authorization") != f"Bearer {self.hub.token}":
            return self._error(401, "Invalid username or password.", {"X-Error-Code": "RepoNotFound"})
        route = re.fullmatch(rf"/api/models/{re.escape(self.hub.repo)}/(revision|tree)/([^/]+)", path)
        if route:
            return self._describe(*route.groups())
        route = re.fullmatch(rf"/{re.escape(self.hub.repo)}/resolve/[^/]+/(.+)", path)
        if route:
            return self._resolve(route[1], fault)
        return self._error(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})

    def _fault(self, path: str) -> Fault | None:
        for fault in self.hub.faults:
            if fault.times and re.search(fault.match, f"{self.http.command} {path}"):
                fault.times -= 1
                return fault
        return None

    def _describe(self, kind: str, revision: str) -> None:
        if revision not in ("main", COMMIT):
            return self._error(404, "Invalid rev id", {"X-Error-Code": "RevisionNotFound"})
        entries = {name: self.hub.entry(name) for name in self.hub.files()}
        if kind == "revision":
            siblings = [self._sibling(name, entry) for name, entry in entries.items()]
            info = {"id": self.hub.repo, "modelId": self.hub.repo, "sha": COMMIT, "siblings": siblings}
            return self._json({**info, "private": False, "tags": [], "downloads": 0, "likes": 0})
        return self._json([self._tree(name, entry) for name, entry in entries.items()])

    def _sibling(self, name: str, entry: dict[str, object]) -> dict[str, object]:
        lfs = {"sha256": entry["sha256"], "size": entry["size"], "pointerSize": 134}
        large = {"lfs": lfs} if entry["sha256"] else {}
        return {"rfilename": name, "size": entry["size"], "blobId": entry["sha1"], **large}

    def _tree(self, name: str, entry: dict[str, object]) -> dict[str, object]:
        lfs = {"oid": entry["sha256"], "size": entry["size"], "pointerSize": 134}
        large = {"lfs": lfs} if entry["sha256"] else {}
        return {"type": "file", "path": name, "size": entry["size"], "oid": entry["sha1"], **large}

    def _resolve(self, name: str, fault: Fault | None) -> None:
        if name not in self.hub.files():
            return self._error(404, "Entry not found", {"X-Error-Code": "EntryNotFound"})
        entry = self.hub.entry(name)
        if not self.hub.is_large(name):
            return self._content(name, fault, {"X-Repo-Commit": COMMIT, "ETag": f'"{entry["sha1"]}"'})
        linked = {"X-Linked-Etag": f'"{entry["sha256"]}"', "X-Linked-Size": str(entry["size"])}
        location = {"Location": f"{self.hub.store}/store/{name}", "X-Repo-Commit": COMMIT}
        return self._write(302, b"", {**linked, **location})

    def _content(self, name: str, fault: Fault | None, headers: dict[str, str]) -> None:
        content = (self.hub.directory / name).read_bytes()
        if fault and fault.kind == "short":
            content = content[: len(content) // 2]
        if fault and fault.kind == "corrupt":
            content = bytes(255 - byte for byte in content)
        status, total = 200, len(content)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.http.headers.get("Range", ""))
        if asked:
            content = content[int(asked[1]) : int(asked[2]) + 1 if asked[2] else None]
            headers |= {"Content-Range": f"bytes {asked[1]}-{int(asked[1]) + len(content) - 1}/{total}"}
            status = 206
        self._write(status, content, headers, fault.kind if fault else "")

    def _json(self, content: object) -> None:
        self._write(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, headers: dict[str, str]) -> None:
        body = json.dumps({"error": message}).encode()
        self._write(status, body, {"X-Error-Message": message, "Content-Type": "application/json", **headers})

    def _write(self, status: int, body: bytes, headers: dict[str, str], fault: str = "") -> None:
        http = self.http
        http.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body)), "Accept-Ranges": "bytes"}.items():
            http.send_header(name, value)
        http.end_headers()
        if http.command == "HEAD":
            return
        http.wfile.write(body[: len(body) // 2] if fault in ("cut", "stall") else body)
        if fault == "stall":
            http.rfile.read(1)  # until the client goes away
        if fault in ("cut", "stall"):
            http.close_connection = True
            http.wfile.flush()
            http.connection.close()
