"""What the whole test run shares."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.world import World

# Before torch is imported, here and in the servers that tests start: networks this small gain nothing from more
# threads, which would only spin beside those of others.
os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--goldens", metavar="DIR", help="check this set of goldens instead of the committed one")


@pytest.fixture
def loggers_as_before() -> Iterator[None]:
    """Leave the process's loggers as they were."""
    names = ("", "api", "engines", "media", "uvicorn", "python_multipart")
    before = {name: logging.getLogger(name).level for name in names}
    handlers = logging.root.handlers[:]
    yield
    for handler in set(logging.root.handlers) - set(handlers):
        handler.close()
    logging.root.handlers[:] = handlers
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete checkpoint directory with small networks; tests that change it take a copy."""
    from tests import tiny_checkpoint  # noqa: PLC0415  seconds, and most tests do without

    return tiny_checkpoint.write(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A task manager with one worker."""
    from tests.world import World  # noqa: PLC0415  as above

    world = World(tmp_path)
    yield world
    world.engine.go_on()
    world.manager.shutdown(10)
