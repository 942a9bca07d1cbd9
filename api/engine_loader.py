"""Loads the engine in the background, so that the port answers at once."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable

from api.engine_factory import Choice, missing_packages
from api.models import ServiceState
from engines.base import Engine, SetupError

logger = logging.getLogger("api.engine")

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
            _load(choice.engine)
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


def _load(engine: Engine) -> None:
    try:
        engine.load()
    except ImportError as error:  # engines import what is large when they load
        raise missing_packages(error) from error
