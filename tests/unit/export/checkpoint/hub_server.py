"""A model hub on 127.0.0.1: as much of the protocol as the hub's own client needs to download files.

Revisions resolve to commits; weights are redirected to a storage address, as large files are; a `Range` is
answered with 206. A test can take a file away, change it behind a commit, close a repository or break a
transfer, and then read from `requests` what the client asked for.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Literal, Self

Access = Literal["public", "private", "gated"]

_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_STORAGE = re.compile(r"/storage/(?P<sha256>[0-9a-f]{64})")
_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")
_STORED_APART = (".safetensors", ".bin")


@dataclass(frozen=True, slots=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    range: str | None


@dataclass(slots=True)
class _Repository:
    access: Access = "public"
    branches: dict[str, str] = field(default_factory=dict)
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)


class Hub:
    """The server and what it serves; a context manager, listening inside the block."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._repositories: dict[str, _Repository] = {}
        self._breaks: dict[str, int] = {}
        self._failures: dict[str, int] = {}
        self._server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def storage(self) -> str:
        """Where weights are fetched from: another host by name, since clients follow redirects that stay."""
        return f"http://localhost:{self._server.server_address[1]}/storage"

    def commit(self, repo: str, files: Mapping[str, bytes], *, access: Access = "public") -> str:
        """Add a commit to a repository's main branch, make the repository if need be; return its hash."""
        repository = self._repositories.setdefault(repo, _Repository())
        repository.access = access
        name = hashlib.sha1(f"{repo} {len(repository.commits)}".encode()).hexdigest()
        repository.commits[name] = dict(files)
        repository.branches["main"] = name
        return name

    def change(self, repo: str, commit: str, file: str, content: bytes | None) -> None:
        """Replace a file (None: remove it) of a commit that is already there, as no honest hub does."""
        files = self._repositories[repo].commits[commit]
        if content is None:
            del files[file]
        else:
            files[file] = content

    def break_once(self, file: str, after: int) -> None:
        """Close the connection once, `after` bytes into the body of that file."""
        self._breaks[file] = after

    def fail(self, file: str, status: int) -> None:
        """Answer every request for that file with an error of the hub's own."""
        self._failures[file] = status

    def asked(self, file: str, method: str = "GET") -> list[Request]:
        """Return the requests for a file, wherever it is stored."""
        places = {file, *self._storage_paths(file)}
        return [
            request
            for request in self.requests
            if request.method == method and any(request.path.endswith(f"/{place}") for place in places)
        ]

    def _storage_paths(self, file: str) -> list[str]:
        return [_sha256(content) for name, content in self._stored() if name == file]

    def _stored(self) -> list[tuple[str, bytes]]:
        return [
            pair
            for repository in self._repositories.values()
            for files in repository.commits.values()
            for pair in files.items()
        ]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up, and the breaks asked for, are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass

    def _serve(self) -> None:
        self.hub.requests.append(Request(self.command, self.path, self.headers.get("Range")))
        if found := _RESOLVE.fullmatch(self.path):
            self._resolve(**found.groupdict())
        elif found := _STORAGE.fullmatch(self.path):
            self._storage(found["sha256"])
        else:
            self._refuse(404, "NotFound", "no such address")

    def _resolve(self, repo: str, revision: str, file: str) -> None:
        repository = self.hub._repositories.get(repo)
        if repository is None:
            return self._refuse(404, "RepoNotFound", "Repository not found")
        if repository.access == "private":
            return self._refuse(401, "RepoNotFound", "Invalid username or password.")
        if repository.access == "gated":
            return self._refuse(403, "GatedRepo", f"Access to model {repo} is restricted.")
        if file in self.hub._failures:
            return self._refuse(self.hub._failures[file], None, "the hub has a bad day")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        marks = {"X-Repo-Commit": commit}
        content = repository.commits[commit].get(file)
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found", marks)
        if not file.endswith(_STORED_APART):
            return self._send(file, content, {**marks, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'})
        return self._answer(
            302,
            {
                **marks,
                "Location": f"{self.hub.storage}/{_sha256(content)}",
                "X-Linked-ETag": f'"{_sha256(content)}"',
                "X-Linked-Size": str(len(content)),
            },
        )

    def _storage(self, sha256: str) -> None:
        for file, content in self.hub._stored():
            if _sha256(content) == sha256:
                return self._send(file, content, {"ETag": f'"{sha256}"'})
        return self._refuse(404, "NotFound", "no such object")

    def _send(self, file: str, content: bytes, headers: dict[str, str]) -> None:
        headers = {**headers, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
        wanted = _RANGE.fullmatch(self.headers.get("Range") or "")
        if wanted is None:
            return self._answer(200, headers, content, file)
        first, last = int(wanted["first"]), int(wanted["last"] or len(content) - 1)
        if first >= len(content):
            return self._answer(416, {**headers, "Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {first}-{min(last, len(content) - 1)}/{len(content)}"
        return self._answer(206, headers, content[first : last + 1], file)

    def _refuse(
        self, status: int, code: str | None, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        codes = {"X-Error-Code": code} if code is not None else {}
        self._answer(status, {**(headers or {}), **codes, "X-Error-Message": message})

    def _answer(
        self, status: int, headers: Mapping[str, str], body: bytes = b"", file: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        after = self.hub._breaks.pop(file, None) if file is not None else None
        if after is not None:
            body = body[:after]
            self.close_connection = True
        self.wfile.write(body)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
