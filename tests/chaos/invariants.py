"""What must be true of a service that was killed and started again, as its clients and its directories see it."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av

from api.storage.database import FILE_NAME
from media import video
from tests.chaos.engine import SIDE
from tests.chaos.ledger import ENDED, FPS, LIST, SECONDS, Ledger, Request, Wish
from tests.server import wait_for

MAX_ATTEMPTS = 2
_SOON = timedelta(hours=1)


class Invariants:
    """Checks a directory's service, round after round; counts what it checked."""

    def __init__(self, ledger: Ledger, directory: Path) -> None:
        self._ledger = ledger
        self._directory = directory
        self._whole: set[str] = set()  # hashes of videos that were decoded
        self.again = self.answers = self.videos = 0

    def at_work(self) -> list[dict[str, Any]]:
        """What the journal holds of the tasks that are being worked off, or were when the service was killed."""
        with tempfile.TemporaryDirectory() as copy:
            for path in (self._directory / "data").glob(f"{FILE_NAME}*"):
                shutil.copy(path, copy)
            with closing(sqlite3.connect(Path(copy) / FILE_NAME)) as connection:
                records = [json.loads(record) for (record,) in connection.execute("SELECT record FROM tasks")]
        return [record for record in records if record["status"] == "PROCESSING"]

    def check(self, killed: Sequence[dict[str, Any]] = ()) -> None:
        """Raises AssertionError. `killed` is what was at work at each kill, as the method of that name told."""
        attempts = {record["id"]: record["attempt"] for record in killed if not record["cancelled"]}
        self.again += len(attempts)
        self._send_again()
        wait_for(self._settled, 60)
        tasks = self._ledger.all()
        self._adopt_unanswered(tasks)
        for request in self._ledger.requests:
            self._check_request(request, tasks)
        for task_id, attempt in attempts.items():
            if task_id in tasks:
                assert tasks[task_id]["attempt"] == min(attempt + 1, MAX_ATTEMPTS), "an attempt was not counted"
        manifests = [self._manifest(task_id) for task_id in tasks]
        wait_for(lambda: self._no_orphans(manifests), 10)

    def _send_again(self) -> None:
        """A client that got no answer asks again, with the same Idempotency-Key: it never gets a second task."""
        for request in self._ledger.requests:
            if request.id is None and request.key is not None:
                self._ledger.send(request)
                answer = self._ledger.send(request)
                assert answer.headers["Idempotent-Replayed"] == "true"

    def _settled(self) -> bool:
        """All have ended by themselves, and those that were to expire have expired."""
        soon = datetime.now(UTC) + _SOON
        return all(
            body["status"] in ENDED and datetime.fromisoformat(body["expires_at"]) > soon
            for body in self._ledger.all().values()
        )

    def _adopt_unanswered(self, tasks: dict[str, dict[str, Any]]) -> None:
        """There is no task that nobody asked for; a request without an answer may have made one."""
        known = {request.id for request in self._ledger.requests}
        for task_id, body in tasks.items():
            if task_id not in known:
                seed = body["parameters"]["seed"]
                asked = [one for one in self._ledger.requests if one.id is None and one.seed == seed]
                assert asked, f"nobody asked for {task_id}, seed {seed}"
                asked[0].id = task_id
        self._ledger.requests = [request for request in self._ledger.requests if request.id is not None]

    def _check_request(self, request: Request, tasks: dict[str, dict[str, Any]]) -> None:
        answer = self._ledger.call("GET", request.status_url)
        self.answers += 1
        if request.may_expire and request.id not in tasks:
            assert answer.status_code in (404, 410), answer.text
            return
        if request.delete is Wish.ANSWERED or (request.delete is Wish.SENT and request.id not in tasks):
            assert (answer.status_code, request.id in tasks) == (404, False), answer.text
            request.delete = Wish.ANSWERED
            return
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body == tasks[str(request.id)]
        assert request.attempt <= body["attempt"] <= MAX_ATTEMPTS
        request.attempt = body["attempt"]
        if body["status"] == "COMPLETED":
            assert request.cancel is not Wish.ANSWERED, "it was cancelled"
            self._check_video(request)
            return
        assert request.etag is None, "it was completed"
        if body["error_code"] == "cancelled":
            assert request.cancel is not Wish.NONE, "nobody cancelled it"
            request.cancel = Wish.ANSWERED
        else:
            assert (body["error_code"], body["attempt"]) == ("interrupted", MAX_ATTEMPTS), body
            assert request.cancel is not Wish.ANSWERED, "it was cancelled"
        refused = self._ledger.call("GET", f"{LIST}/{request.id}/download")
        assert (refused.status_code, refused.json()["code"]) == (409, body["error_code"])

    def _check_video(self, request: Request) -> None:
        content = self._ledger.download(request)
        sha256 = hashlib.sha256(content).hexdigest()
        output = self._manifest(str(request.id))["output"]
        assert output == {"sha256": sha256, "bytes": len(content)}
        if sha256 not in self._whole:
            check_whole(content, (SIDE, SIDE), video.frame_count(SECONDS, FPS))
            self._whole.add(sha256)
        self.videos += 1

    def _manifest(self, task_id: str) -> dict[str, Any]:
        return dict(self._ledger.call("GET", f"{LIST}/{task_id}/manifest").json())

    def _no_orphans(self, manifests: list[dict[str, Any]]) -> bool:
        """The directories hold what the tasks need, and nothing else."""
        uploads = {manifest["inputs"][name]["sha256"] for manifest in manifests for name in ("image", "audio")}
        outputs = {manifest["output"]["sha256"] for manifest in manifests if manifest["output"] is not None}
        return (
            set(self._names("uploads")) == uploads
            and Counter(hashlib.sha256(content).hexdigest() for content in self._outputs()) == Counter(outputs)
            and {FILE_NAME} <= set(self._names("data")) <= {FILE_NAME, f"{FILE_NAME}-wal"}
        )

    def _names(self, directory: str) -> Iterator[str]:
        return (path.name for path in (self._directory / directory).iterdir())

    def _outputs(self) -> Iterator[bytes]:
        return (path.read_bytes() for path in (self._directory / "outputs").iterdir())


def check_whole(content: bytes, size: tuple[int, int], frames: int) -> None:
    """Every frame of the video can be decoded, and its header says the same."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "result.mp4"
        path.write_bytes(content)
        info = video.probe(path)
        assert (info.width, info.height, info.frames) == (*size, frames)
        with av.open(str(path)) as container:
            assert sum(1 for _ in container.decode(video=0)) == frames
