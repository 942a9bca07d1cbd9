"""What the tests of the scripts do with a checkout: run its scripts, watch them, see what they installed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from signal import SIGKILL, Signals

REPOSITORY = Path(__file__).resolve().parents[2]
DEADLINE = 60.0


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true before the deadline."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


class Script:
    """A script that runs in a process group of its own."""

    def __init__(self, command: list[str | Path], environment: dict[str, str], directory: Path, log: Path) -> None:
        self._log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
                start_new_session=True,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def await_text(self, text: str) -> None:
        assert eventually(lambda: text in self.output or self.process.poll() is not None), self.output
        assert text in self.output, self.output

    def await_end(self) -> int:
        """The exit code; nothing of its group may be left."""
        code = self.process.wait(DEADLINE)
        assert eventually(lambda: not self._group_lives()), "processes are left"
        return code

    def signal(self, number: Signals) -> None:
        self.process.send_signal(number)

    def signal_group(self, number: Signals) -> None:
        os.killpg(self.process.pid, number)

    def end(self) -> None:
        if self._group_lives():
            self.signal_group(SIGKILL)
        self.process.wait(DEADLINE)

    def _group_lives(self) -> bool:
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True


class Checkout:
    """A copy of the repository with an environment whose installers only take notes in `notes`."""

    def __init__(self, root: Path, environment: dict[str, str], venv: Path, notes: Path) -> None:
        self.root = root
        self.environment = environment
        self.venv = venv
        self.notes = notes
        self._scripts: list[Script] = []

    @property
    def port(self) -> str:
        return self.environment["DICE_TALK_SERVER__PORT"]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def calls(self) -> list[str]:
        """What pip and uv were asked for."""
        file = self.notes / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def stamp(self, name: str) -> None:
        """Make the environment one that holds a requirements file."""
        wanted = (self.root / "requirements_api.txt").read_text() + (self.root / name).read_text()
        (self.venv / f".installed-{name}").write_text(wanted)

    def launch(self, *words: str, **environment: str) -> Script:
        """Start ./start_server.sh from somewhere else."""
        return self.launch_command([self.root / "start_server.sh", *words], **environment)

    def launch_command(self, command: list[str | Path], **environment: str) -> Script:
        log = self.notes / f"output {len(self._scripts)}"
        script = Script(command, self.environment | environment, self.notes, log)
        self._scripts.append(script)
        return script

    def run(self, *words: str, **environment: str) -> tuple[int, str]:
        """Run ./start_server.sh to its end: exit code and output."""
        script = self.launch(*words, **environment)
        return script.await_end(), script.output

    def run_command(self, command: list[str | Path], **environment: str) -> tuple[int, str]:
        script = self.launch_command(command, **environment)
        return script.await_end(), script.output

    def run_client(self, *words: str) -> tuple[int, str]:
        """Run test_api.py against the checkout's service."""
        command: list[str | Path] = [self.venv / "bin" / "python", self.root / "test_api.py", "--url", self.url]
        return self.run_command([*command, *words])

    def end_all(self) -> None:
        for script in self._scripts:
            script.end()
