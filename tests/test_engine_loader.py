"""Loading in the background: waiting for it, and what is said when it fails."""

from __future__ import annotations

import asyncio

import pytest

from api.engine_factory import Choice
from api.engine_loader import EngineLoader
from api.models import ServiceState
from engines.base import SetupError
from tests.scripted_engine import ScriptedEngine


def test_waiting_ends_with_the_loading_or_with_patience() -> None:
    engine = ScriptedEngine()
    engine.loading.clear()
    loader = EngineLoader(lambda: Choice(engine, "because"))
    loader.start()

    async def scenario() -> list[bool]:
        too_soon = await loader.wait(0.01)
        waiting = [asyncio.create_task(loader.wait(10)) for _ in range(3)]
        await asyncio.sleep(0)
        engine.loading.set()
        return [too_soon, *await asyncio.gather(*waiting), await loader.wait(0)]

    assert asyncio.run(scenario()) == [False, True, True, True, True]
    assert (loader.state, loader.reason, loader.name) == (ServiceState.READY, "because", "preview")
    assert loader.engine is engine
    loader.close()
    assert engine.closed


@pytest.mark.parametrize(
    ("failure", "says"), [(SetupError("No weights."), "No weights."), (RuntimeError("secret"), "log says why")]
)
def test_a_failure_is_told_in_words(failure: Exception, says: str) -> None:
    def choose() -> Choice:
        raise failure

    loader = EngineLoader(choose)
    loader.start()
    assert loader.done.wait(10)
    assert loader.state is ServiceState.SETUP_FAILED
    assert says in (loader.reason or "")
    assert "secret" not in (loader.reason or "")
    with pytest.raises(SetupError, match=says):
        _ = loader.engine
