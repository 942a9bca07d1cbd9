"""What it costs that nothing is lost: `python -m benchmarks.journal` prints it, --save keeps the tables.

The journal beside the same registry without one; answers of a server whose worker is busy, with and without listeners
to its events; and how long a service takes to know its tasks again. Files are on the disk of the temporary directory.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from api.records import Task
from api.storage.files import FileStore
from api.storage.journal import Journal
from api.tasks.registry import TaskRegistry
from benchmarks.journal_listeners import LISTENERS, Answers, Load, measure
from benchmarks.journal_recovery import COUNTS, TARGET_SECONDS, Recovery, recover
from benchmarks.machine import machine
from tests.process import EXAMPLES
from tests.records import pending
from tests.registries import make_registry

RESULTS = Path(__file__).resolve().parent / "results" / "journal.md"
CHANGES, ACCEPTANCES = 2000, 300
SLOWDOWN_TARGET = 1.2


class Forgetful(Journal):
    """Keeps nothing."""

    def add(self, task: Task) -> None:
        pass

    def save(self, task: Task) -> None:
        pass

    def remove(self, task_id: str) -> None:
        pass


class Normal(Journal):
    """Waits for the disk only when the log is written into the file, so a loss of power may cost the last changes."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._database._connection.execute("PRAGMA synchronous = NORMAL")


class Unflushed(FileStore):
    """Takes files as they are, which a loss of power may still cost."""

    def adopt(self, source: Path, name: str) -> Path:
        source.replace(self.path(name))
        self.hold(name)
        return self.path(name)


KINDS: dict[str, tuple[type[Journal], type[FileStore]]] = {
    "in memory alone, no file flushed": (Forgetful, Unflushed),
    "journalled, as the service does it (synchronous FULL)": (Journal, FileStore),
    "journalled, for information: synchronous NORMAL": (Normal, FileStore),
}


@contextmanager
def registry(
    journal: type[Journal], store: type[FileStore] = FileStore
) -> Iterator[tuple[TaskRegistry, FileStore, Path]]:
    """A registry, its uploads, and a directory on the same disk."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        directory = Path(name)
        opened = journal(directory / "data")
        uploads, outputs = store(directory / "uploads"), store(directory / "outputs")
        for close in (opened.close, uploads.close, outputs.close):
            stack.callback(close)
        tasks = make_registry(directory, opened, uploads, outputs)
        tasks.restore()
        yield tasks, uploads, directory


def changes(journal: type[Journal], store: type[FileStore], count: int) -> list[float]:
    """Seconds of each change of a state."""
    with registry(journal, store) as (tasks, _, _):
        task = pending()
        tasks.add(task)
        seconds = []
        for number in range(count):
            task = task.requeued(task.updated_at + 1) if number % 2 else task.started(task.updated_at + 1)
            seconds.append(timed(tasks.update, task))
        return seconds


def acceptances(journal: type[Journal], store: type[FileStore], count: int) -> list[float]:
    """Seconds to take each task with its two files, which were received already."""
    with registry(journal, store) as (tasks, uploads, directory):
        seconds = []
        for number in range(count):
            task = pending(number)
            parts = []
            for kind, file in (("image", "portrait.jpg"), ("audio", "speech_en.wav")):
                parts.append((directory / f"{kind}.part", f"{kind}-{number}"))
                shutil.copy(EXAMPLES / file, parts[-1][0])
            image, audio = (name for _, name in parts)
            task = replace(task, submission=replace(task.submission, image=image, audio=audio))
            seconds.append(timed(_accept, tasks, uploads, parts, task))
        return seconds


def _accept(tasks: TaskRegistry, uploads: FileStore, parts: list[tuple[Path, str]], task: Task) -> None:
    for part, name in parts:
        uploads.adopt(part, name)
    tasks.add(task)


def timed(function: Callable[..., object], *arguments: object) -> float:
    """Seconds of a call."""
    started = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - started


def costs(run: Callable[[type[Journal], type[FileStore], int], list[float]], count: int) -> list[str]:
    """Rows of a table; the first is the baseline."""
    found = {name: sorted(run(*kind, count)) for name, kind in KINDS.items()}
    base = statistics.median(next(iter(found.values())))
    return [
        f"| {name} | {_us(statistics.median(seconds))} | {_us(seconds[len(seconds) * 99 // 100])} | "
        f"{statistics.median(seconds) / base:.0f} |"
        for name, seconds in found.items()
    ]


def _us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} µs"


def answers_table(found: dict[Load, Answers]) -> list[str]:
    """What a busy service answers, by who listens."""
    base = found[Load.NOBODY]
    rows = []
    for load, answers in found.items():
        slowdown = base.steps / answers.steps
        rows.append(
            f"| {load} | {answers.polls:.0f} | {answers.polls / base.polls:.2f} | {answers.steps:.1f} | "
            f"{slowdown:.2f} | {answers.events:.0f} |"
        )
    return rows


def recovery_table(found: dict[int, Recovery]) -> list[str]:
    """Seconds until tasks are known again, by how many there are."""
    base = found[0]
    return [
        f"| {count} | {each.registry:.2f} s | {each.service:.2f} s | {each.service / base.service:.2f} |"
        for count, each in found.items()
    ]


def text(rounds: int) -> str:
    """Measure everything and say what came out."""
    changed, accepted = costs(changes, CHANGES), costs(acceptances, ACCEPTANCES)
    answers = measure(rounds)
    recovered = {count: recover(count, rounds) for count in (0, *COUNTS)}
    lines = [
        "# What it costs that nothing is lost",
        "",
        f"{machine()}. Made by `python -m benchmarks.journal --save`.",
        "",
        "## A task changes its state",
        "",
        f"{CHANGES} changes of one task, each written before anybody is told of it.",
        "",
        "| registry | median | 99 of 100 within | ratio |",
        "|---|---|---|---|",
        *changed,
        "",
        "## A task is accepted",
        "",
        f"{ACCEPTANCES} tasks, each with a portrait and a recording, which are moved to the store and flushed to the "
        "disk with their names.",
        "",
        "| registry | median | 99 of 100 within | ratio |",
        "|---|---|---|---|",
        *accepted,
        "",
        "## A worker is busy, and clients listen",
        "",
        f"One server process. Its worker does equal steps of work and reports each; {LISTENERS} clients read the "
        "events of its task, and one more opens the stream and reads nothing. The clients are one other process. "
        f"Medians of {rounds} rounds; steps are counted while nobody polls.",
        "",
        "| who listens | status polls a second | ratio | steps of the worker a second | slowdown of the worker (target "
        f"at most {SLOWDOWN_TARGET}) | events read a second |",
        "|---|---|---|---|---|---|",
        *answers_table(answers),
        "",
        "## A service starts again",
        "",
        "Ended tasks, nine of ten with a video, each with files of its own. The journal is read in this process; the "
        "service is `python -m api.server`, from its start until it answers for the newest task, which includes "
        f"starting Python. Medians of {rounds} rounds.",
        "",
        f"| tasks | journal and registry | service (target < {TARGET_SECONDS:g} s) | ratio |",
        "|---|---|---|---|",
        *recovery_table(recovered),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="What it costs that nothing is lost.")
    parser.add_argument("--save", action="store_true", help="write the tables to benchmarks/results/")
    parser.add_argument("--rounds", type=int, default=5, help="of each measurement with a server")
    options = parser.parse_args()
    found = text(options.rounds)
    print(found)
    if options.save:
        RESULTS.write_text(found)
