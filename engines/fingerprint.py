"""The fingerprint of an engine's model files: one sha256 over the names and the content of all of them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType

from engines.base import SetupError

_THREADS = 4
_CHUNK = 16 << 20  # bytes; Python's lock is free for loading meanwhile, and takes up to 5 ms to get back after each


class Fingerprint:
    """Hashes files in threads of its own, while the `with` block loads them.

    The fingerprint is what `sha256sum NAME... | sha256sum` prints for the names in order. Where the files lie and when
    they were written makes no difference.
    """

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` by the names they have in the fingerprint."""
        self._files = files
        self._stop = threading.Event()

    def __enter__(self) -> Fingerprint:
        self._before = self._states()
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="fingerprint")
        # The largest first: no other work is left for the threads beside it if it is the last.
        names = sorted(self._files, key=lambda name: self._before[name][2], reverse=True)
        self._digests = {name: self._pool.submit(self._sha256, self._files[name]) for name in names}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def result(self) -> str:
        """The fingerprint, in hex, once the files were loaded.

        Raises SetupError when one of them changed meanwhile, so that it may not be the one that was loaded.
        """
        wait(self._digests.values())
        after = self._states()
        for name, state in self._before.items():
            if after[name] != state:
                raise SetupError(f"{name} was changed while it was loaded. Start again when all files are in place.")
        try:
            lines = [f"{self._digests[name].result()}  {name}\n" for name in sorted(self._files)]
        except OSError as error:
            raise SetupError(f"{error.filename} cannot be read ({error.strerror}).") from error
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def _states(self) -> dict[str, tuple[int, ...]]:
        """What changes whenever a file is written or replaced."""
        states: dict[str, tuple[int, ...]] = {}
        for name, path in self._files.items():
            try:
                state = path.stat()
            except OSError:  # loading it says what is wrong
                states[name] = (0,) * 5
            else:
                states[name] = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
        return states

    def _sha256(self, path: Path) -> str:
        digest = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(min(_CHUNK, path.stat().st_size + 1)))
            while count := file.readinto(buffer):
                if self._stop.is_set():
                    raise CancelledError
                digest.update(buffer[:count])
        return digest.hexdigest()
