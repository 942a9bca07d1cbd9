"""Do the fast tests notice small breakages? `python -m benchmarks.mutation` prints it, --save keeps the table.

mutmut breaks the functions of each module in every way it knows, one at a time, and runs that module's own tests. It
does so in a copy. What is outside functions, and functions with decorators such as properties, it leaves alone.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machine import machine

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "mutation.md"
TARGET = 0.9
TESTS = {
    "api/records.py": "tests/test_records.py",
    "api/storage/journal.py": "tests/test_journal.py",
    "api/storage/database.py": "tests/test_journal.py",
    "api/storage/repair.py": "tests/test_journal.py",
    "api/tasks/registry.py": "tests/test_registry.py",
    "api/tasks/attempt.py": "tests/test_attempt.py",
}
COPIED = ("api", "engines", "media", "tests", "config", "examples")
_LOADED = "It is set before anything reads it."
_NO_ID = "No task has such an id."
_BEGUN = "Every transaction is begun explicitly."
_APART = "It only keeps the row apart from the task's own."
# Why nobody can notice a change, by the line that it makes.
EQUIVALENT = {
    "self._tombstones: dict[str, float] = None": _LOADED,
    "self._next_position = None": _LOADED,
    "self._next_position = 2": _LOADED,
    "return self.find(self._requests.get(idempotency_key, None))": _NO_ID,
    "return self.find(self._requests.get(idempotency_key, ))": _NO_ID,
    'return self.find(self._requests.get(idempotency_key, "XXXX"))': _NO_ID,
    "textwrap.shorten(str(reason), 201), len(tasks), backup.name,": "One letter more of a line in the log.",
    "self._connection = sqlite3.connect(path, check_same_thread=False)": _BEGUN,
    "with closing(sqlite3.connect(path, )) as connection:": _BEGUN,
    'return Change(_ADD_TOMBSTONE, (task_id, until), ("XXgoneXX", task_id))': _APART,
    'return Change(_ADD_TOMBSTONE, (task_id, until), ("GONE", task_id))': _APART,
    'message = str(error).encode("UTF-8", "replace").decode()': "Python knows both names.",
    'sha256 = hashlib.file_digest(file, "SHA256").hexdigest()': "hashlib knows both names.",
}


@dataclass(frozen=True, slots=True)
class Survivor:
    """A change that no test noticed."""

    removed: str
    added: str

    @property
    def same_sql(self) -> bool:
        """Whether only the case of SQL's words has changed, which means nothing."""
        return "execute(" in self.removed and self.removed.lower() == self.added.lower()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the mutants of a module."""

    killed: int
    timeouts: int
    survivors: list[Survivor]

    @property
    def mutants(self) -> int:
        return self.killed + self.timeouts + len(self.survivors)

    @property
    def score(self) -> float:
        """The share that was killed; those that only took too long do not count."""
        return self.killed / self.mutants


def copy(directory: Path) -> None:
    """Copy what mutants and their tests need of the project."""
    for name in COPIED:
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))


def mutate(module: str, tests: str, directory: Path) -> Outcome:
    """Break `module` in a copy of the project."""
    shutil.rmtree(directory / "mutants", ignore_errors=True)  # those of another module
    project = (ROOT / "pyproject.toml").read_text()
    (directory / "pyproject.toml").write_text(
        f'{project}\n[tool.mutmut]\nsource_paths = ["api"]\nonly_mutate = ["{module}"]\nalso_copy = {list(COPIED)}\n'
        f'pytest_add_cli_args_test_selection = ["{tests}"]\n'
    )
    _mutmut(directory, "run", "--max-children", str(os.cpu_count()))
    found = re.findall(r"^\s+(\S+): (.+)$", _mutmut(directory, "results", "--all", "True"), re.M)
    counts = Counter(outcome for _, outcome in found)
    if not found or counts["not checked"]:
        raise RuntimeError(f"mutmut did not come to its end: {counts}")
    survived = [name for name, outcome in found if outcome not in ("killed", "timeout")]
    survivors = [_survivor(_mutmut(directory, "show", name)) for name in survived]
    different = [survivor for survivor in survivors if not survivor.same_sql]
    return Outcome(counts["killed"], counts["timeout"], different)


def _mutmut(directory: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, text=True
    )
    if done.returncode != 0:
        raise RuntimeError(f"mutmut {arguments[0]} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def _survivor(difference: str) -> Survivor:
    changed = {sign: " ".join(line[1:].strip() for line in difference.splitlines()
                              if line[:1] == sign and line[:3] != sign * 3) for sign in "-+"}  # fmt: skip
    return Survivor(changed["-"], changed["+"])


def table(modules: list[str]) -> str:
    """Mutate them all and say what came out."""
    with tempfile.TemporaryDirectory() as name:
        copy(Path(name))
        outcomes = {module: mutate(module, TESTS[module], Path(name)) for module in modules}
    lines = [
        "# Mutation testing: what the fast tests notice",
        "",
        f"{machine()}. Made by `python -m benchmarks.mutation --save`.",
        "",
        "mutmut changes the functions of a module in every way it knows, one at a time; a mutant is killed when the "
        "module's own tests fail. It leaves alone what is outside functions, and functions with decorators. Survivors "
        "that only write SQL in other letters, small or capital, are the same program and not counted.",
        "",
        f"| module | tests | mutants | killed | timeouts | survived | score (target at least {TARGET:.0%}) |",
        "|---|---|---|---|---|---|---|",
        *(_row(module, outcome) for module, outcome in outcomes.items()),
        "",
        "## Survivors",
        "",
        "| module | line | mutated | why no test can notice |",
        "|---|---|---|---|",
        *(
            f"| `{module}` | {_code(each.removed)} | {_code(each.added)} | "
            f"{EQUIVALENT.get(each.added, 'not explained')} |"
            for module, outcome in outcomes.items()
            for each in outcome.survivors
        ),
    ]
    return "\n".join(lines) + "\n"


def _row(module: str, outcome: Outcome) -> str:
    figures = (
        f"{outcome.mutants} | {outcome.killed} | {outcome.timeouts} | {len(outcome.survivors)} | {outcome.score:.1%}"
    )
    return f"| `{module}` | `{TESTS[module]}` | {figures} |"


def _code(line: str) -> str:
    return f"`{line}`".replace("|", r"\|")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Do the fast tests notice small breakages?")
    parser.add_argument("modules", nargs="*", default=list(TESTS), help=f"some of {', '.join(TESTS)}")
    parser.add_argument("--save", action="store_true", help="write the table to benchmarks/results/")
    options = parser.parse_args()
    text = table(options.modules)
    print(text)
    if options.save:
        RESULTS.write_text(text)
