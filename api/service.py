"""The parts of one running service; `create_app` builds it and keeps it on `app.state`."""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from anyio import CapacityLimiter
from starlette.requests import Request

from api.device import DeviceMonitor
from api.engine_factory import Choice
from api.engine_loader import EngineLoader
from api.errors import UnavailableError
from api.file_store import FileStore
from api.models import Health, QueueView, ServiceState
from api.settings import Settings, used_as
from api.task_manager import TaskManager

VERSION = "0.1.0"
_ENGINE_WAIT_SECONDS = 30.0  # that a submission waits for an engine that is being loaded
RETRY_SECONDS = 30.0
_CHECKS_AT_ONCE = 2  # the largest portraits take 400 MB each while they are decoded, progressive and CMYK ones 800


class Service:
    """Settings, files, engine and queue. Raises SettingsError (a directory cannot be used)."""

    def __init__(self, settings: Settings, choose: Callable[[], Choice]) -> None:
        self.settings = settings
        with used_as("files.upload_dir"):
            self.uploads = _store(settings.files.upload_dir)
        with used_as("files.output_dir"):
            self.outputs = _store(settings.files.output_dir)
        self._remove_leftovers()
        self.loader = EngineLoader(choose)
        self.tasks = TaskManager(lambda: self.loader.engine, settings.tasks, self.uploads, self.outputs)
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
        return self.loader.reason if failure is None else f"{failure} The service ends, to be started again."

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now."""
        if self.state is ServiceState.SETUP_FAILED:
            raise UnavailableError("setup_failed", self.loader.reason or "The engine cannot start.", RETRY_SECONDS)
        self.tasks.check_open()

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
        return Health(
            status="healthy" if state is ServiceState.READY else "unhealthy",
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
            disk_free_bytes=_disk_free(self.outputs.directory),
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
            return self._stopped

    def close(self) -> None:
        """Give back the engine and the directories."""
        if self._engine_works():  # on a GPU that failed, tidying up fails too; the end of the process does it
            self.loader.close()
        self.uploads.close()
        self.outputs.close()

    def _engine_works(self) -> bool:
        return self.loader.state is ServiceState.READY and self.tasks.gpu_failure is None

    def _remove_leftovers(self) -> None:
        """Tasks do not outlive a service: its uploads are of no more use, its videos are kept for their time."""
        kept = {
            "upload_dir": (self.uploads, 0.0),
            "output_dir": (self.outputs, self.settings.tasks.retention_hours * 3600),
        }
        for key, (store, seconds) in kept.items():
            with used_as(f"files.{key}"):
                store.remove_parts()
                store.remove_leftovers(seconds)


def _store(directory: Path) -> FileStore:
    store = FileStore(directory)
    try:
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:  # better now than when the first client sends its files
        raise OSError(error.errno, f"no file can be made here ({error.strerror})", str(directory)) from error
    return store


def _disk_free(directory: Path) -> int | None:
    try:
        return shutil.disk_usage(directory).free
    except OSError:
        return None


async def service_of(request: Request) -> Service:
    """The service that a request is for; a FastAPI dependency (a plain function would run in a thread, at 0.1 ms)."""
    service: Service = request.app.state.service
    return service
