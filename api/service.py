"""The parts of one running service; `create_app` builds it and keeps it on `app.state`."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from anyio import CapacityLimiter
from starlette.requests import Request

from api.device import DeviceMonitor
from api.engine import Choice, EngineLoader, ServiceState
from api.http.errors import STORAGE_RETRY_SECONDS, UnavailableError
from api.http.idempotency import KeysInUse
from api.models import VERSION, Health, QueueView
from api.settings import Settings, SettingsError, used_as
from api.storage.files import FileStore
from api.storage.journal import Journal, JournalError
from api.task_manager import TaskManager
from api.tasks.events import EventHub

_ENGINE_WAIT_SECONDS = 30.0  # that a submission waits for an engine that is being loaded
RETRY_SECONDS = 30.0
_CHECKS_AT_ONCE = 2  # the largest portraits take 400 MB each while they are decoded, progressive and CMYK ones 800


class Service:
    """Settings, files, journal, engine and queue. Raises SettingsError (a directory cannot be used)."""

    def __init__(self, settings: Settings, choose: Callable[[], Choice], disk_free: Callable[[Path], int]) -> None:
        self.settings = settings
        self._disk_free = disk_free
        with used_as("files.upload_dir"):
            self.uploads = FileStore(settings.files.upload_dir)
        with used_as("files.output_dir"):
            self.outputs = FileStore(settings.files.output_dir)
        self.journal = _journal(settings.files.data_dir)
        self.events = EventHub()
        self.keys_in_use = KeysInUse()
        self.loader = EngineLoader(choose, self._engine_loaded)
        self.tasks = TaskManager(
            lambda: self.loader.engine,
            settings.tasks,
            self.uploads,
            self.outputs,
            self.journal,
            events=self.events,
        )
        self._remove_leftovers()
        self.device = DeviceMonitor(settings.gpu.device_id)
        self.checks = CapacityLimiter(_CHECKS_AT_ONCE)
        self.engine_wait_seconds = _ENGINE_WAIT_SECONDS
        self._draining = False
        self._drain_lock = threading.Lock()
        self._stopped: bool | None = None

    @property
    def state(self) -> ServiceState:
        """What the service is doing."""
        if self._draining:
            return ServiceState.DRAINING
        return self.loader.state if self.tasks.gpu_failure is None else ServiceState.GPU_FAILED

    @property
    def reason(self) -> str | None:
        """Why the service is not ready, or why this engine was chosen."""
        if self._draining:
            return "The service is stopping."
        failure = self.tasks.gpu_failure
        if failure is not None:
            return f"{failure} The service ends, to be started again."
        troubles = (self._short_of_room(), self.journal.failing)
        return " ".join(filter(None, (*troubles, self.loader.reason, self.journal.damage))) or None

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now."""
        if self.state is ServiceState.SETUP_FAILED:
            raise UnavailableError("setup_failed", self.loader.reason or "The engine cannot start.", RETRY_SECONDS)
        self.tasks.check_open()
        self._check_room()

    def check_disk(self) -> None:
        """Raise UnavailableError when the disk takes no tasks: no room, or the journal could not be written."""
        self._check_room()
        if self.journal.failing is not None:
            raise UnavailableError("journal_failed", self.journal.failing, STORAGE_RETRY_SECONDS)

    async def engine_ready(self) -> None:
        """Wait until the engine is loaded. Raises UnavailableError."""
        if not await self.loader.wait(self.engine_wait_seconds):
            raise UnavailableError("starting", "The engine is still being loaded.", RETRY_SECONDS)
        self.check_open()

    def health(self) -> Health:
        """All figures of GET /api/health."""
        running, waiting = self.tasks.counts()
        device = self.device.read()
        state = self.state
        well = state is ServiceState.READY and self._short_of_room() is None and self.journal.failing is None
        return Health(
            status="healthy" if well else "unhealthy",
            gpu_available=device is not None,
            model_loaded=self.loader.name == "dice_talk" and self._engine_works(),
            version=VERSION,
            engine=self.loader.name,
            state=state,
            reason=self.reason,
            device=device,
            queue=QueueView(
                running=running,
                waiting=waiting,
                max_workers=self.settings.tasks.max_workers,
                max_queue=self.settings.tasks.max_queue,
            ),
            disk_free_bytes=self._free(self.outputs.directory),
        )

    def drain(self) -> bool:
        """Stop: see TaskManager.shutdown. Blocks; later calls wait for the first. True when all workers stopped.

        Called because the GPU failed, it leaves `state` at that, and has nothing to wait for.
        """
        lost = self.tasks.gpu_failure is not None
        self._draining = self._draining or not lost
        with self._drain_lock:
            if self._stopped is None:
                self._stopped = self.tasks.shutdown(0 if lost else self.settings.tasks.shutdown_grace)
                self.events.close()
            return self._stopped

    def close(self) -> None:
        """Give back the engine and the directories."""
        if self._engine_works():  # on a GPU that failed, tidying up fails too; the end of the process does it
            self.loader.close()
        self.journal.close()
        self.uploads.close()
        self.outputs.close()

    def _engine_loaded(self) -> None:
        self.tasks.resume()

    def _engine_works(self) -> bool:
        return self.loader.state is ServiceState.READY and self.tasks.gpu_failure is None

    def _remove_leftovers(self) -> None:
        """Files that no task holds go at once, but for those older than the journal: what knew their tasks may be
        elsewhere, or was damaged.
        """
        retention = self.settings.tasks.retention_hours * 3600
        for key, store in (("upload_dir", self.uploads), ("output_dir", self.outputs)):
            with used_as(f"files.{key}"):
                store.remove_parts()
                store.remove_leftovers(retention, self.journal.begun)

    def _check_room(self) -> None:
        shortage = self._short_of_room()
        if shortage is not None:
            raise UnavailableError("storage_full", shortage, STORAGE_RETRY_SECONDS)

    def _short_of_room(self) -> str | None:
        """A sentence when a disk has less room than `files.min_free_mb`."""
        least = self.settings.files.min_free_mb
        free = [self._free(place) for place in (self.uploads.directory, self.outputs.directory, self.journal.directory)]
        room = min((bytes_free for bytes_free in free if bytes_free is not None), default=None)
        if room is None or room >= least * 2**20:
            return None
        return f"The service's disk has {room / 2**20:.0f} MB left, and takes new tasks only with {least:g} MB."

    def _free(self, directory: Path) -> int | None:
        try:
            return self._disk_free(directory)
        except OSError:
            return None


def disk_free_bytes(directory: Path) -> int:
    """Room on the disk that the directory is on. Raises OSError."""
    return shutil.disk_usage(directory).free


def _journal(directory: Path) -> Journal:
    try:
        with used_as("files.data_dir"):
            return Journal(directory)
    except JournalError as error:
        raise SettingsError(f"files.data_dir: {error}") from error


async def service_of(request: Request) -> Service:
    """The service that a request is for; a FastAPI dependency (a plain function would run in a thread, at 0.1 ms)."""
    service: Service = request.app.state.service
    return service
