"""The examples that send a start again get one task, whether or not the first answer reaches them."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest

from tests.docs.conftest import Run, Service
from tests.docs.documents import ALL_BLOCKS, Block

BLOCKS = [block for block in ALL_BLOCKS if block.kind in ("bash", "python") and "Idempotency-Key" in block.code]


class Breaks(ThreadingTCPServer):
    """Stands before a service, and closes the first connection when the answer comes instead of passing it on."""

    daemon_threads = True

    def __init__(self, service: str) -> None:
        super().__init__(("127.0.0.1", 0), Between)
        self.service = urlsplit(service)
        self.broken: list[bytes] = []


class Between(BaseRequestHandler):
    """One connection."""

    server: Breaks

    def handle(self) -> None:
        """Pass on what comes from either side, until one of them ends."""
        with socket.create_connection((self.server.service.hostname, self.server.service.port)) as service:
            forth = Thread(target=self._forward, args=(self.request, service))
            forth.start()
            while answer := service.recv(1 << 16):
                if not self.server.broken:
                    self.server.broken.append(answer)
                    break
                self.request.sendall(answer)
            self.request.shutdown(socket.SHUT_RDWR)
            forth.join()

    @staticmethod
    def _forward(client: socket.socket, service: socket.socket) -> None:
        while data := client.recv(1 << 16):
            service.sendall(data)


@contextmanager
def breaking(service: Service) -> Iterator[tuple[Service, list[bytes]]]:
    with Breaks(service.url) as between:
        thread = Thread(target=between.serve_forever)
        thread.start()
        try:
            yield Service(f"http://127.0.0.1:{between.server_address[1]}", service.log), between.broken
        finally:
            between.shutdown()
            thread.join()


def ids(service: Service) -> set[str]:
    answer = httpx.get(f"{service.url}/api/v1/synthesis", params={"limit": 100}).json()
    assert not answer["has_more"]
    return {task["task_id"] for task in answer["data"]}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_start_whose_answer_is_lost_is_sent_again_and_makes_one_task(
    block: Block, service: Service, run: Run
) -> None:
    before = ids(service)
    with breaking(service) as (between, broken):
        said = run(block, between)
    assert broken[0].startswith(b"HTTP/1.1 202 ")
    (made,) = ids(service) - before
    assert re.search(rf"\b{made}\b", said) or "task_id" not in block.code


def test_there_are_such_examples() -> None:
    assert {(block.document, block.kind) for block in BLOCKS} >= {
        ("README_API.md", "python"), ("doc/api_docs.md", "bash"), ("doc/api_docs.md", "python"),
    }  # fmt: skip
