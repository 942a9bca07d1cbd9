"""Chooses and builds the engine: the only place that names one. Engines are imported when they are needed."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from api.settings import Settings
from engines.base import Engine, SetupError

logger = logging.getLogger("api.engine")

_ON_A_CPU = "On a CPU DICE-Talk takes hours for a video; to run it there on purpose, set"


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine that is not loaded yet, and why it is this one (None: the settings name it).

    `fallback` gives another one, told why this one could not be loaded (None: there is no other).
    """

    engine: Engine
    reason: str | None = None
    fallback: Callable[[str], Choice] | None = None


def choose_engine(settings: Settings) -> Choice:
    """Follow `synthesis.engine`. Raises SetupError when the engine it names cannot work here."""

    def preview_instead(reason: str) -> Choice:
        return Choice(_preview(settings), f"The preview engine is in use. {reason}")

    match settings.synthesis.engine:
        case "preview":
            return Choice(_preview(settings))
        case "dice_talk":
            return Choice(_dice_talk(settings))
        case "auto":
            try:
                return Choice(_dice_talk_on_gpu(settings), fallback=preview_instead)
            except SetupError as error:
                return preview_instead(str(error))


def missing_packages(error: ImportError) -> SetupError:
    """What to tell the person who runs the service when an engine cannot be imported."""
    name = error.name or "A Python package"
    problem = "is not installed"
    if not isinstance(error, ModuleNotFoundError):
        problem = "cannot be imported (the service's log says why)"
        logger.warning("%s cannot be imported", name, exc_info=error)
    return SetupError(
        f"{name} {problem}, which the engine needs. Install it with pip install -r requirements.txt; "
        "./start_server.sh does so itself where it sees a GPU or is given --engine dice_talk."
    )


def _preview(settings: Settings) -> Engine:
    from engines.preview.engine import PreviewEngine  # noqa: PLC0415

    return PreviewEngine(settings.files.checkpoint_dir / "preview")


def _dice_talk_on_gpu(settings: Settings) -> Engine:
    """For `auto`: nobody is to wait for hours who has not asked for it."""
    _check_checkpoints(settings.files.checkpoint_dir)
    if settings.gpu.device_id < 0:
        raise SetupError(f"gpu.device_id is -1. {_ON_A_CPU} synthesis.engine to dice_talk.")
    return _dice_talk(settings)


def _dice_talk(settings: Settings) -> Engine:
    gpu = settings.gpu
    _check_checkpoints(settings.files.checkpoint_dir)
    try:
        if gpu.device_id >= 0:
            _check_gpu(gpu.device_id)
        from engines.dice_talk.engine import DiceTalkEngine  # noqa: PLC0415
    except ImportError as error:
        raise missing_packages(error) from error
    return DiceTalkEngine(
        settings.files.checkpoint_dir,
        device_id=gpu.device_id,
        dtype=gpu.dtype,
        low_vram=gpu.low_vram,
        interpolate=gpu.enable_interpolate_frame,
    )


def _check_gpu(device_id: int) -> None:
    problem = why_no_cuda(device_id)
    if problem is not None:
        raise SetupError(f"{problem} {_ON_A_CPU} synthesis.engine to dice_talk and gpu.device_id to -1.")


def _check_checkpoints(directory: Path) -> None:
    from engines.dice_talk.checkpoints import missing_files  # noqa: PLC0415

    missing = missing_files(directory)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SetupError(
            f"DICE-Talk's checkpoints are not complete: {', '.join(missing[:3])}{more} "
            f"{'is' if len(missing) == 1 else 'are'} missing under {directory.name}/. "
            "Fetch them with ./start_server.sh download, or set synthesis.engine to preview."
        )


class ServiceState(StrEnum):
    """What the service is doing as a whole."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SETUP_FAILED = "setup_failed"
    GPU_FAILED = "gpu_failed"


_BROKEN = "The engine could not be loaded; the service's log says why."


class EngineLoader:
    """Holds the one engine. `state` is STARTING, then READY or SETUP_FAILED; `reason` says why.

    `on_loaded` is called before READY.
    """

    def __init__(self, choose: Callable[[], Choice], on_loaded: Callable[[], None] = lambda: None) -> None:
        self._choose = choose
        self._on_loaded = on_loaded
        self._engine: Engine | None = None
        self.done = threading.Event()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []
        self._lock = threading.Lock()
        self.state = ServiceState.STARTING
        self.reason: str | None = "The engine is being loaded."
        self.name: str | None = None

    def start(self) -> None:
        """Begin to load."""
        threading.Thread(target=self._load, name="engine-loader", daemon=True).start()

    @property
    def engine(self) -> Engine:
        """The loaded engine. Raises SetupError while there is none."""
        if self._engine is None:
            raise SetupError(self.reason or "")
        return self._engine

    async def wait(self, seconds: float) -> bool:
        """Wait until loading has ended, well or not; False when it takes longer."""
        waiter = (asyncio.get_running_loop(), asyncio.Event())
        with self._lock:
            if self.done.is_set():
                return True
            self._waiters.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter[1].wait()
        except TimeoutError:
            with self._lock:
                self._waiters = [other for other in self._waiters if other is not waiter]
            return False
        return True

    def close(self) -> None:
        """Close the engine, if there is one."""
        if self._engine is not None:
            self._engine.close()

    def _load(self) -> None:
        try:
            choice: Choice | None = self._choose()
            while choice is not None:
                choice = self._try(choice)
        except SetupError as error:
            self._end(ServiceState.SETUP_FAILED, str(error))
            logger.error("Setup failed: %s", error)  # noqa: TRY400  the sentence says it all
        except Exception:
            self._end(ServiceState.SETUP_FAILED, _BROKEN)
            logger.exception("Setup failed")

    def _try(self, choice: Choice) -> Choice | None:
        """Load this engine. None when it is ready, otherwise what to try instead; raises when there is nothing."""
        self.name = choice.engine.name
        try:
            _load_engine(choice.engine)
        except Exception as error:
            if choice.fallback is None:
                raise
            expected = isinstance(error, SetupError)
            why = str(error) if expected else f"The {self.name} engine could not be loaded; the service's log says why."
            logger.warning("Engine %s: %s", choice.engine.name, why, exc_info=None if expected else error)
            return choice.fallback(why)
        self._engine = choice.engine
        if choice.reason:
            logger.warning("%s", choice.reason)
        self._on_loaded()
        self._end(ServiceState.READY, choice.reason)
        logger.info("Engine %s is ready", choice.engine.name)
        return None

    def _end(self, state: ServiceState, reason: str | None) -> None:
        with self._lock:
            self.state, self.reason = state, reason
            self.done.set()
            for loop, ended in self._waiters:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(ended.set)
            self._waiters.clear()


def _load_engine(engine: Engine) -> None:
    try:
        engine.load()
    except ImportError as error:  # engines import what is large when they load
        raise missing_packages(error) from error


def why_no_cuda(device_id: int) -> str | None:
    """Why PyTorch cannot use this GPU, in a sentence; None when it can. Raises ImportError where there is no PyTorch.

    NVML cannot tell: containers often lack it beside a GPU that works, and it numbers the GPUs in its own way.
    """
    try:
        import torch  # noqa: PLC0415  seconds, and only needed for DICE-Talk
    except OSError as error:  # a library that PyTorch loads is missing
        raise ImportError(str(error), name="torch") from error
    if torch.version.cuda is None:
        return f"The installed PyTorch, {torch.__version__}, is built without CUDA."
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "PyTorch finds no CUDA GPU on this machine."
    if device_id >= count:
        return f"gpu.device_id is {device_id}, but PyTorch finds {count} CUDA GPU{'s' * (count > 1)}, counted from 0."
    return None
