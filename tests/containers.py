"""How many things the containers hold that can be reached from an object."""

from __future__ import annotations

import asyncio
import types
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from queue import SimpleQueue

_LEAVES = (type, types.ModuleType, asyncio.AbstractEventLoop, str, bytes, bytearray, int, float, Path)


def lengths(root: object, name: str) -> dict[str, int]:
    """Path → number of items, such as {"service.task_manager._registry._tasks": 3}; added up over items."""
    found: dict[str, int] = {}
    seen: set[int] = set()
    kept: list[object] = []  # so that no id is given twice
    left: list[tuple[str, object]] = [(name, root)]
    while left:
        path, thing = left.pop()
        if id(thing) in seen or isinstance(thing, _LEAVES):
            continue
        seen.add(id(thing))
        kept.append(thing)
        if isinstance(thing, SimpleQueue):
            found[path] = found.get(path, 0) + thing.qsize()
        elif isinstance(thing, (Mapping, list, tuple, set, frozenset, deque)):
            found[path] = found.get(path, 0) + len(thing)
        left += _parts(path, thing)
    return found


def _parts(path: str, thing: object) -> Iterator[tuple[str, object]]:
    """What a thing holds."""
    if isinstance(thing, Mapping):
        for value in list(thing.values()):
            yield f"{path}[]", value
    elif isinstance(thing, (list, tuple, set, frozenset, deque)):
        for value in list(thing):
            yield f"{path}[]", value
    elif isinstance(thing, types.MethodType):
        yield path, thing.__self__
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            yield f"{path}()", cell.cell_contents
    if isinstance(thing, Executor):
        return  # its threads are counted otherwise
    for name, value in list(getattr(thing, "__dict__", {}).items()):
        yield f"{path}.{name}", value
    for kind in type(thing).__mro__:
        for name in _slots(kind):
            if hasattr(thing, name):
                yield f"{path}.{name}", getattr(thing, name)


def _slots(kind: type) -> tuple[str, ...]:
    names: str | tuple[str, ...] = kind.__dict__.get("__slots__", ())
    return (names,) if isinstance(names, str) else tuple(names)
