"""A disk that runs full: said, survived, and forgotten as soon as there is room again. On a small disk of its own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from tests.chaos.engine import WAITS
from tests.chaos.invariants import Invariants
from tests.chaos.ledger import LIST, Ledger, portrait, recording
from tests.chaos.server import Server, serving
from tests.process import START
from tests.server import wait_for

_SIZE = 24  # MB
_LONG = 64.0  # seconds of a recording of 6 MB


class Disk:
    """A small disk, and a file that takes the room of others."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, megabytes: float | None = None) -> None:
        """Take so much, or all there is."""
        with self._filler.open("ab", buffering=0) as file, suppress(OSError):
            if megabytes is not None:
                file.write(bytes(round(megabytes * 2**20)))
            while megabytes is None:
                assert file.write(bytes(1 << 16)) > 0

    def clear(self) -> None:
        self._filler.unlink()

    def serving(self, directory: Path, **settings: object) -> AbstractContextManager[Server]:
        """A service with its files on this disk, and its log elsewhere."""
        places = {f"FILES__{name.upper()}_DIR": self.path / f"{name}s" for name in ("upload", "output")}
        return serving(directory, **places, FILES__DATA_DIR=self.path / "data", **settings)

    def names(self, directory: str) -> set[str]:
        return {path.name for path in (self.path / directory).iterdir()}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_SIZE}m", "tmpfs", str(path)]
    try:
        subprocess.run(mount, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {getattr(error, 'stderr', None) or error}")
    try:
        yield Disk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def refused(server: Server) -> bool:
    """Whether a task is refused as it must be, or else accepted."""
    files = {"image": portrait(0), "audio": recording(1.0)}
    answer = server.client.post(START, data={"emotion": "happy", "duration": 0.2}, files=files)
    if answer.status_code == 202:
        return False
    assert (answer.status_code, answer.json()["code"]) == (503, "storage_full"), answer.text
    assert int(answer.headers["Retry-After"]) >= 1
    return True


def test_with_little_room_nothing_new_is_taken_until_somebody_makes_room(tmp_path: Path, disk: Disk) -> None:
    ledger = Ledger()
    with disk.serving(tmp_path, FILES__MIN_FREE_MB=8) as server:
        ledger.use(server.client)
        large = ledger.start(recording=_LONG)
        ledger.finish(large)
        disk.fill(12)
        assert refused(server)
        health = server.client.get("/api/health").json()
        assert health["status"] == "unhealthy"
        assert "new tasks need at least 8 MiB" in health["reason"]
        ledger.download(large)  # all else goes on

        ledger.delete(large)
        assert not refused(server)
        assert server.client.get("/api/health").json()["status"] == "healthy"

        disk.fill(6)
        assert refused(server)
        disk.clear()
        assert not refused(server)


def test_a_task_that_finds_no_room_fails_and_its_end_is_written_as_soon_as_there_is_some(
    tmp_path: Path, disk: Disk
) -> None:
    ledger = Ledger()
    invariants = Invariants(ledger, disk.path)
    with disk.serving(tmp_path, FILES__MIN_FREE_MB=0) as server:
        ledger.use(server.client)
        running = ledger.start(base=WAITS)
        wait_for(lambda: ledger.status(running)["status"] == "PROCESSING")
        disk.fill()
        server.hold(False)
        assert ledger.finish(running)["error_code"] == "storage_full"
        refusal = server.client.get(f"{LIST}/{running.id}/download")
        assert (refusal.status_code, refusal.json()["code"]) == (409, "storage_full")
        assert refused(server)
        assert [record["id"] for record in invariants.at_work()] == [running.id]  # its end is not in the journal yet
        disk.clear()
        wait_for(lambda: invariants.at_work() == [])
        assert not refused(server)
        videos = {f"{task_id}-1.mp4" for task_id in ledger.all()}
        assert disk.names("outputs") - {"workspaces"} <= videos
    with disk.serving(tmp_path) as server:  # the other was killed
        ledger.use(server.client)
        failed = ledger.status(running)
        assert (failed["status"], failed["error_code"], failed["attempt"]) == ("FAILED", "storage_full", 1)


def test_a_service_starts_on_a_full_disk_and_comes_to_itself_with_room(tmp_path: Path, disk: Disk) -> None:
    ledger = Ledger()
    with disk.serving(tmp_path, FILES__MIN_FREE_MB=0) as server:
        ledger.use(server.client)
        before = ledger.start()
        server.hold(False)
        ledger.finish(before)
        ledger.download(before)
        server.hold(True)
        running, waiting = ledger.start(base=WAITS), ledger.start(base=WAITS)
        wait_for(lambda: ledger.status(running)["status"] == "PROCESSING")
        disk.fill()
    with disk.serving(tmp_path, FILES__MIN_FREE_MB=0) as server:
        ledger.use(server.client)
        ledger.download(before)
        assert refused(server)
        server.hold(False)
        told = [ledger.finish(request) for request in (running, waiting)]
        assert [body["error_code"] for body in told] == ["storage_full"] * 2
        disk.clear()
        again = ledger.retry(running)
        assert ledger.finish(again)["status"] == "COMPLETED"
    with disk.serving(tmp_path) as server:
        ledger.use(server.client)
        ledger.download(before)
        ledger.download(again)
        assert [ledger.status(request) for request in (running, waiting)] == told


def test_deleting_makes_room_on_a_full_disk_for_good(tmp_path: Path, disk: Disk) -> None:
    ledger = Ledger()
    with disk.serving(tmp_path, FILES__MIN_FREE_MB=0) as server:
        ledger.use(server.client)
        server.hold(False)
        large = ledger.start(recording=_LONG)
        ledger.finish(large)
        disk.fill()
        assert refused(server)
        ledger.delete(large)
        again = ledger.start()
        assert ledger.finish(again)["status"] == "COMPLETED"
    with disk.serving(tmp_path) as server:  # the other was killed
        ledger.use(server.client)
        assert set(ledger.all()) == {again.id}
        ledger.download(again)
