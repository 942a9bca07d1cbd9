"""A server on loopback that speaks as much of the hub's protocol as downloads need, and serves the emotion priors."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import re
import socket
import struct
import termios
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from engines.base import Emotion
from engines.dice_talk.sources import REPOSITORIES

COMMIT = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_of_an_account_that_accepted_the_licence"

_API = re.compile(r"/api/models/(?P<repo>[^/]+/[^/]+)/(?P<kind>revision|tree)/(?P<revision>[^/]+)")
_RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


@dataclass(frozen=True)
class Request:
    """What a client asked for."""

    method: str
    path: str
    range: str | None
    authorization: str | None


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    priors: dict[str, bytes] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    tells_why_gated: bool = True  # mirrors may drop that header
    announced: dict[str, int] = field(default_factory=dict)  # sizes that the list of files claims
    cuts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)  # file: after how many bytes, and how
    status: dict[str, list[int]] = field(default_factory=dict)  # file: what the next GETs of it answer
    understands_ranges: bool = True
    requests: list[Request] = field(default_factory=list)
    url: str = ""

    def got(self, name: str) -> list[Request]:
        """The GET requests for the bytes of a file."""
        return [request for request in self.requests if request.method == "GET" and request.path.endswith(name)]

    def bytes_asked_for(self) -> list[Request]:
        """Every GET for the bytes of any file."""
        return [request for request in self.requests if request.method == "GET" and "/api/" not in request.path]

    def adapt(self, sources: Path) -> None:
        """Make a copy of `sources.json` expect the priors of this hub."""
        content = json.loads(sources.read_text())
        content["emotions"]["url"] = f"{self.url}/emo"
        for name, prior in self.priors.items():
            content["emotions"]["sha256"][name.removesuffix(".npy")] = hashlib.sha256(prior).hexdigest()
        sources.write_text(json.dumps(content))

    def environment(self, home: Path, given: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The variables `given`, for a program that is to know this hub alone."""
        mine = {
            name: value
            for name, value in given.items()
            if not name.startswith("HF_") and not name.lower().endswith("_proxy")
        }
        return mine | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "*"}


def complete_hub() -> Hub:
    """One that has every file of the sources, small, each with content of its own."""
    draw = random.Random(1)
    repositories = {
        repository.name: {file: draw.randbytes(draw.randrange(1, 5000)) for file in repository.files}
        for repository in REPOSITORIES
    }
    return Hub(repositories, {f"{emotion}.npy": draw.randbytes(1403) for emotion in Emotion})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - its name in the library
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.partition("?")[0]
        authorization = self.headers["Authorization"]
        self.hub.requests.append(Request(self.command, path, self.headers["Range"], authorization))
        if match := _API.fullmatch(path):
            self._describe(match["repo"], match["kind"])
        elif match := _RESOLVE.fullmatch(path):
            self._resolve(match["repo"], match["file"], authorization)
        elif path.startswith("/cdn/"):
            repo, _, file = path.removeprefix("/cdn/").partition("//")
            self._send_file(file, self.hub.repositories[repo][file])
        elif path.startswith("/emo/") and path.removeprefix("/emo/") in self.hub.priors:
            name = path.removeprefix("/emo/")
            self._send_file(name, self.hub.priors[name])
        else:
            self._send(404, {}, b"nothing here")

    def _describe(self, repo: str, kind: str) -> None:
        if repo not in self.hub.repositories:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}")
        elif kind == "revision":
            self._send(200, {}, json.dumps({"id": repo, "sha": COMMIT}).encode())
        else:
            entries = [self._entry(path, content) for path, content in self.hub.repositories[repo].items()]
            self._send(
                200, {}, json.dumps([{"type": "directory", "path": "x", "oid": "0", "size": 0}, *entries]).encode()
            )

    def _entry(self, path: str, content: bytes) -> dict[str, Any]:
        size = self.hub.announced.get(path, len(content))
        entry = {"type": "file", "path": path, "size": size, "oid": git_blob(content)}
        if not path.endswith(".json"):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 130}
        return entry

    def _resolve(self, repo: str, file: str, authorization: str | None) -> None:
        if repo in self.hub.gated and authorization != f"Bearer {TOKEN}":
            status = 403 if authorization else 401
            self._send(status, {"X-Error-Code": "GatedRepo"} if self.hub.tells_why_gated else {}, b"{}")
            return
        content = self.hub.repositories.get(repo, {}).get(file)
        if content is None:
            self._send(404, {"X-Error-Code": "EntryNotFound"}, b"")
        elif file.endswith(".json"):
            self._send_file(file, content, {"ETag": f'"{git_blob(content)}"', "X-Repo-Commit": COMMIT})
        else:  # as the hub does: elsewhere, to a host that must not see the token
            elsewhere = self.hub.url.replace("127.0.0.1", "localhost")
            headers = {
                "Location": f"{elsewhere}/cdn/{repo}//{file}",
                "X-Linked-ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
                "X-Repo-Commit": COMMIT,
            }
            self._send(302, headers, b"")

    def _send_file(self, name: str, content: bytes, headers: dict[str, str] | None = None) -> None:
        status, headers = 200, dict(headers or {})
        if self.command == "GET" and self.hub.status.get(name):
            self._send(self.hub.status[name].pop(0), {}, b"not now")
            return
        if self.headers["Range"] and self.hub.understands_ranges:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
            status, content = 206, content[start:]
        cuts = self.hub.cuts.get(name)
        if self.command == "GET" and cuts:
            self._send(status, headers, content, *cuts.pop(0))
        else:
            self._send(status, headers, content)

    def _send(
        self, status: int, headers: dict[str, str], content: bytes, end: int | None = None, how: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(content if end is None else content[:end])
            if how == "stall":
                self.rfile.read(1)  # until the client goes away
        except OSError:
            pass
        if how == "reset":
            self._await_acknowledgement()  # a reset throws away what is still to be sent
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = end is not None

    def _await_acknowledgement(self) -> None:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            (unsent,) = struct.unpack("i", fcntl.ioctl(self.connection, termios.TIOCOUTQ, bytes(4)))
            if not unsent:
                return
            time.sleep(0.01)


def git_blob(content: bytes) -> str:
    """The id that git gives this content."""
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content), usedforsecurity=False).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are part of the tests."""


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve it until the end of the block."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Server(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
