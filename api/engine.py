"""Selects, builds and loads the engine: the only module that imports engines, and only when needed."""

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

_CPU_HINT = "DICE-Talk takes hours per video on a CPU; to run it there anyway, set"
_LOAD_FAILED = "The engine could not be loaded; see the server log."


@dataclass(frozen=True, slots=True)
class Choice:
    """An engine that is not loaded yet.

    reason: why it was selected; None if the settings name it.
    fallback: called with the reason why this engine could not be loaded, returns another one; None if there is none.
    """

    engine: Engine
    reason: str | None = None
    fallback: Callable[[str], Choice] | None = None


def choose_engine(settings: Settings) -> Choice:
    """Select the engine according to `synthesis.engine`. Raises SetupError if the named engine cannot work here."""

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
    """The error for an engine that cannot be imported, with what to install."""
    name = error.name or "a Python package"
    problem = "is not installed"
    if not isinstance(error, ModuleNotFoundError):
        problem = "cannot be imported (see the server log)"
        logger.warning("Cannot import %s", name, exc_info=error)
    return SetupError(
        f"The engine needs {name}, which {problem}. Run pip install -r requirements.txt, or "
        "./start_server.sh --engine dice_talk to install it."
    )


def _preview(settings: Settings) -> Engine:
    from engines.preview.engine import PreviewEngine  # noqa: PLC0415

    return PreviewEngine(settings.files.checkpoint_dir / "preview")


def _dice_talk_on_gpu(settings: Settings) -> Engine:
    """For `auto`, which never selects DICE-Talk on a CPU: it takes hours there."""
    _check_checkpoints(settings.files.checkpoint_dir)
    if settings.gpu.device_id < 0:
        raise SetupError(f"gpu.device_id is -1. {_CPU_HINT} synthesis.engine to dice_talk.")
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
    problem = cuda_problem(device_id)
    if problem is not None:
        raise SetupError(f"{problem} {_CPU_HINT} synthesis.engine to dice_talk and gpu.device_id to -1.")


def _check_checkpoints(directory: Path) -> None:
    from engines.dice_talk.checkpoints import missing_files  # noqa: PLC0415

    missing = missing_files(directory)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise SetupError(
            f"DICE-Talk weights are missing in {directory.name}/: {', '.join(missing[:3])}{more}. "
            "Run ./start_server.sh download, or set synthesis.engine to preview."
        )


class ServiceState(StrEnum):
    """State of the service."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"
    SETUP_FAILED = "setup_failed"
    GPU_FAILED = "gpu_failed"


class EngineLoader:
    """Loads the selected engine in a background thread, so that the server is reachable at once.

    `on_loaded` is called before `state` becomes READY.

    engines: the loaded engines by name; `engine` is the selected one.
    state: STARTING, then READY or SETUP_FAILED.
    reason: why the state is what it is, or why this engine was selected.
    name: of the selected engine; None until the selection is made.
    done: set when loading has finished, successfully or not.
    """

    def __init__(self, choose: Callable[[], Choice], on_loaded: Callable[[], None] = lambda: None) -> None:
        self._choose = choose
        self._on_loaded = on_loaded
        self.engines: dict[str, Engine] = {}
        self.state = ServiceState.STARTING
        self.reason: str | None = "The engine is still loading."
        self.name: str | None = None
        self.done = threading.Event()
        # Guards the end of loading and its waiters.
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    def start(self) -> None:
        """Start loading."""
        threading.Thread(target=self._load, name="engine-loader", daemon=True).start()

    @property
    def engine(self) -> Engine:
        """The selected engine. Raises SetupError unless it is loaded."""
        engine = self.engines.get(self.name or "")
        if engine is None:
            raise SetupError(self.reason or "")
        return engine

    @property
    def model_loaded(self) -> bool:
        """Whether the DICE-Talk networks are loaded."""
        return "dice_talk" in self.engines and self.state is ServiceState.READY

    async def wait(self, seconds: float) -> bool:
        """Wait until loading has finished; False if it takes longer."""
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
        """Close the loaded engines."""
        for engine in self.engines.values():
            engine.close()

    def _load(self) -> None:
        try:
            choice: Choice | None = self._choose()
            while choice is not None:
                choice = self._load_choice(choice)
        except SetupError as error:
            self._finish(ServiceState.SETUP_FAILED, str(error))
            # The message is enough: no traceback.
            logger.error("Setup failed: %s", error)  # noqa: TRY400
        except Exception:
            self._finish(ServiceState.SETUP_FAILED, _LOAD_FAILED)
            logger.exception("Setup failed")

    def _load_choice(self, choice: Choice) -> Choice | None:
        """Load this engine. Returns None on success, otherwise the fallback; raises if there is none."""
        self.name = choice.engine.name
        try:
            _load_engine(choice.engine)
        except Exception as error:
            if choice.fallback is None:
                raise
            expected = isinstance(error, SetupError)
            why = str(error) if expected else f"The {self.name} engine could not be loaded; see the server log."
            logger.warning("Engine %s failed to load: %s", self.name, why, exc_info=None if expected else error)
            return choice.fallback(why)
        self.engines[choice.engine.name] = choice.engine
        if choice.reason:
            logger.warning("%s", choice.reason)
        self._on_loaded()
        self._finish(ServiceState.READY, choice.reason)
        logger.info("Engine %s is ready", choice.engine.name)
        return None

    def _finish(self, state: ServiceState, reason: str | None) -> None:
        with self._lock:
            self.state, self.reason = state, reason
            self.done.set()
            for loop, ended in self._waiters:
                if not loop.is_closed():
                    loop.call_soon_threadsafe(ended.set)
            self._waiters.clear()


def _load_engine(engine: Engine) -> None:
    # Engines import large packages only when they load.
    try:
        engine.load()
    except ImportError as error:
        raise missing_packages(error) from error


def cuda_problem(device_id: int) -> str | None:
    """Why PyTorch cannot use this GPU; None if it can. Raises ImportError without PyTorch.

    NVML does not know: containers often lack it although their GPU works, and its numbering differs from CUDA's.
    """
    # The import takes seconds, and only DICE-Talk needs it. OSError: a shared library of PyTorch is missing.
    try:
        import torch  # noqa: PLC0415
    except OSError as error:
        raise ImportError(str(error), name="torch") from error
    if torch.version.cuda is None:
        return f"The installed PyTorch {torch.__version__} is built without CUDA."
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count == 0:
        return "PyTorch finds no CUDA GPU on this machine."
    if device_id >= count:
        return f"gpu.device_id is {device_id}, but PyTorch finds only {count}, numbered from 0."
    return None
