"""Loading in the background: waiting for it, and what is said when it fails."""

from __future__ import annotations

import asyncio

import pytest

from api.engine import Choice, EngineLoader, ServiceState
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
    ("failure", "says"), [(SetupError("No weights."), "No weights."), (RuntimeError("secret"), "see the server log")]
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


def loaded(choice: Choice) -> EngineLoader:
    loader = EngineLoader(lambda: choice)
    loader.start()
    assert loader.done.wait(10)
    return loader


class Failing(ScriptedEngine):
    """Cannot be loaded."""

    name = "dice_talk"

    def __init__(self, failure: Exception) -> None:
        super().__init__()
        self.failure = failure

    def load(self) -> None:
        raise self.failure


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (SetupError("unet.pth is damaged."), "unet.pth is damaged."),
        (RuntimeError("secret"), "see the server log"),
        (
            ModuleNotFoundError("No module named 'diffusers'", name="diffusers"),
            "diffusers, which is not installed",
        ),
    ],
)
def test_when_the_first_choice_cannot_be_loaded_another_may_take_its_place(
    failure: Exception, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    spare = ScriptedEngine()
    loader = loaded(Choice(Failing(failure), fallback=lambda why: Choice(spare, f"The spare. {why}")))
    assert (loader.state, loader.name) == (ServiceState.READY, "preview")
    assert loader.engine is spare
    assert (loader.reason or "").startswith("The spare. ")
    assert says in (loader.reason or "")
    assert "secret" not in (loader.reason or "")
    assert any(record.levelname == "WARNING" and says in record.message for record in caplog.records)

    alone = loaded(Choice(Failing(failure)))
    assert alone.state is ServiceState.SETUP_FAILED
    assert says in (alone.reason or "")


def test_when_the_second_choice_fails_too_the_service_is_not_set_up() -> None:
    spare = ScriptedEngine(load_error="No face model.")
    loader = loaded(Choice(Failing(SetupError("No GPU.")), fallback=lambda why: Choice(spare, why)))
    assert (loader.state, loader.reason) == (ServiceState.SETUP_FAILED, "No face model.")
