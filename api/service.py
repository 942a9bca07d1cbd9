"""One running service: its parts, its state, and its shutdown."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from pathlib import Path

from api.device import DeviceMonitor
from api.engine import Choice, EngineLoader, ServiceState
from api.settings import Settings, SettingsError, TaskSettings, naming_setting
from api.storage.errors import JournalError
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.storage.workspaces import Workspaces
from api.task_manager import TaskManager, new_task_id
from api.tasks.errors import (
    DrainingError,
    GpuUnavailableError,
    JournalFailedError,
    LowDiskSpaceError,
    SetupFailedError,
    StartingError,
    UnavailableError,
)
from api.tasks.events import EventHub
from api.tasks.queue import TaskQueue
from api.tasks.registry import TaskListener, TaskRegistry
from api.tasks.scheduler import SYSTEM_CLOCKS, Clocks, Scheduler, new_workers
from engines.base import Engine

# How long a submission waits for an engine that is still loading.
ENGINE_WAIT_SECONDS = 30.0
# Below `files.output_dir`: a job that finds no space for its temporary files has none for its video either.
_WORKSPACES = "workspaces"


class Service:
    """The parts of one service. Raises SettingsError when a directory cannot be used.

    `choose` selects the engine, which is loaded by `loader.start()`; `disk_free` returns the free bytes of the disk
    that a directory is on; `events` is notified of all changes of tasks.
    """

    def __init__(
        self, settings: Settings, choose: Callable[[], Choice], disk_free: Callable[[Path], int], events: EventHub
    ) -> None:
        self.settings = settings
        self.events = events
        self.engine_wait_seconds = ENGINE_WAIT_SECONDS
        self._disk_free = disk_free
        with naming_setting("files.upload_dir"):
            self.uploads = FileStore(settings.files.upload_dir)
        with naming_setting("files.output_dir"):
            self.outputs = FileStore(settings.files.output_dir)
        self.journal = _open_journal(settings.files.data_dir)
        workspaces = Workspaces(settings.files.output_dir / _WORKSPACES)
        self.task_manager = build_task_manager(
            lambda: self.loader.engine,
            settings.tasks,
            journal=self.journal,
            uploads=self.uploads,
            outputs=self.outputs,
            workspaces=workspaces,
            listener=self.events,
        )
        self.loader = EngineLoader(choose, on_loaded=self.task_manager.resume)
        self._remove_leftovers(workspaces)
        self.device = DeviceMonitor(settings.gpu.device_id)
        self._draining = False
        self._drain_lock = threading.Lock()
        self._stopped: bool | None = None

    @property
    def state(self) -> ServiceState:
        """State of the service."""
        if self._draining:
            return ServiceState.DRAINING
        return self.loader.state if self.task_manager.gpu_failure is None else ServiceState.GPU_FAILED

    @property
    def model_loaded(self) -> bool:
        """Whether the DICE-Talk networks are loaded and their GPU works."""
        return self.loader.model_loaded and self.task_manager.gpu_failure is None

    def problems(self) -> Iterator[UnavailableError]:
        """Yield the reasons why tasks are not accepted, most severe first. A full queue is not one: it is temporary."""
        failure = self.task_manager.gpu_failure
        if self._draining:
            yield DrainingError()
        elif failure is not None:
            yield GpuUnavailableError(failure)
        elif self.loader.state is ServiceState.STARTING:
            yield StartingError()
        elif self.loader.state is ServiceState.SETUP_FAILED:
            yield SetupFailedError(self.loader.reason)
        yield from self._disk_space_problem()
        if self.journal.failing is not None:
            yield JournalFailedError(self.journal.failing)

    def check_open(self) -> None:
        """Raise UnavailableError when a submission would be refused now.

        A loading engine does not count: `engine_ready` waits for it. Neither does a failing journal: the submission's
        own write may succeed.
        """
        if self.state is ServiceState.SETUP_FAILED:
            raise SetupFailedError(self.loader.reason)
        self.task_manager.check_open()
        for problem in self._disk_space_problem():
            raise problem

    async def engine_ready(self) -> None:
        """Wait until the engine is loaded. Raises UnavailableError."""
        if not await self.loader.wait(self.engine_wait_seconds):
            raise StartingError
        self.check_open()

    def disk_free_bytes(self) -> int | None:
        """Free space for videos; None if it cannot be determined."""
        return self._free(self.outputs.directory)

    def drain(self) -> bool:
        """Shut the tasks down: see TaskManager.shutdown. Blocks; later calls wait for the first.

        Returns whether all workers have stopped. After a GPU failure `state` stays GPU_FAILED, and tasks get no grace.
        """
        gpu_failed = self.task_manager.gpu_failure is not None
        self._draining = self._draining or not gpu_failed
        with self._drain_lock:
            if self._stopped is None:
                self._stopped = self.task_manager.shutdown(0 if gpu_failed else self.settings.tasks.shutdown_grace)
                # Last, so that clients receive the final events of their tasks.
                self.events.close()
        return self._stopped

    def close(self) -> None:
        """Release engine, journal and directories; only once no worker is running."""
        # Closing an engine on a GPU that failed would fail too. The end of the process releases it.
        if self.loader.state is ServiceState.READY and self.task_manager.gpu_failure is None:
            self.loader.close()
        self.journal.close()
        self.uploads.close()
        self.outputs.close()

    def _remove_leftovers(self, workspaces: Workspaces) -> None:
        """Delete files that no task references, except those older than the journal until their retention is over.

        An older file may belong to a task of a journal that was moved or damaged.
        """
        workspaces.remove_leftovers()
        for key, store in (("upload_dir", self.uploads), ("output_dir", self.outputs)):
            with naming_setting(f"files.{key}"):
                store.remove_parts()
                store.remove_leftovers(self.settings.tasks.retention_seconds, self.journal.created_at)

    def _disk_space_problem(self) -> Iterator[LowDiskSpaceError]:
        directories = (self.uploads.directory, self.outputs.directory, self.journal.directory)
        known = [free for free in map(self._free, directories) if free is not None]
        required = self.settings.files.min_free_bytes
        if known and min(known) < required:
            yield LowDiskSpaceError(min(known), required)

    def _free(self, directory: Path) -> int | None:
        try:
            return self._disk_free(directory)
        except OSError:
            return None


def build_task_manager(
    engine: Callable[[], Engine],
    settings: TaskSettings,
    *,
    journal: Journal,
    uploads: FileStore,
    outputs: FileStore,
    workspaces: Workspaces,
    listener: TaskListener,
    clocks: Clocks = SYSTEM_CLOCKS,
    new_id: Callable[[], str] = new_task_id,
    new_executor: Callable[[int], Executor] = new_workers,
) -> TaskManager:
    """Connect the parts that run tasks. `engine` returns the loaded engine, once `TaskManager.resume` is called."""
    lock = threading.Condition()
    queue = TaskQueue(settings.max_workers, clocks.now)
    registry = TaskRegistry(journal, queue, listener, uploads=uploads, outputs=outputs, workspaces=workspaces)
    scheduler = Scheduler(registry, queue, engine, settings, lock=lock, clocks=clocks, new_executor=new_executor)
    return TaskManager(registry, scheduler, queue, engine, settings, lock=lock, now=clocks.now, new_id=new_id)


def disk_free_bytes(directory: Path) -> int:
    """Free bytes on the disk that the directory is on. Raises OSError."""
    return shutil.disk_usage(directory).free


def _open_journal(directory: Path) -> Journal:
    try:
        with naming_setting("files.data_dir"):
            return Journal(directory)
    except JournalError as error:
        raise SettingsError(f"files.data_dir: {error}") from error
