"""Takes the times and the peaks of memory for benchmarks.dice_talk_gpu, and keeps to its time budget."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from benchmarks import modes
from benchmarks.memory import SIZES
from benchmarks.modes import Mode
from benchmarks.precision import error, outcome, reference
from benchmarks.real_size import REAL, Size, networks, rife
from engines.dice_talk import vae
from engines.dice_talk.device import is_out_of_memory
from engines.dice_talk.pipeline import FPS, T
from engines.dice_talk.windows import WINDOW

GIB = 1 << 30
DOES_NOT_FIT, NO_TIME = "does not fit", "no time left"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    device: torch.device
    dtype: torch.dtype
    size: Size = REAL
    side: int = 512  # of the pictures, in pixels
    steps: int = 25
    clips: tuple[float, ...] = (2, 10, 60)  # seconds; the last in the fastest mode only
    sizes: tuple[tuple[int, int], ...] = SIZES  # width, height, of the table by size
    repeats: int = 3
    compiler: str = "inductor"
    kernels: tuple[str, ...] = tuple(modes.KERNELS)  # of attention, to try
    halves: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)  # to compare with fp32
    deadline: float = float("inf")  # by time.monotonic


class Taken(NamedTuple):
    """Seconds of the first run, and the median of those after it."""

    first: float
    median: float


@dataclass
class Row:
    """One mode's outcome; times in seconds."""

    mode: Mode
    call: Taken | None = None  # one window in three branches, with guidance and Euler step
    decode: float = 0.0  # of a frame
    per_second: dict[float, str] = field(default_factory=dict)  # of video, by the clip's length
    clip_made: bool = False
    peak: tuple[int, int] | None = None  # bytes, allocated and reserved
    note: str = ""  # why there is nothing more


class Bench:
    """Measures; all modes use the same networks."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._cuda = plan.device.type == "cuda"
        started = time.perf_counter()
        made, between = networks(plan.size, plan.device, plan.dtype), rife(plan.size, plan.device)
        self._wait()
        self.build = time.perf_counter() - started
        self.weights = torch.cuda.memory_allocated(plan.device) if self._cuda else None
        self.networks = made
        self.scene = modes.scene(plan.size, made, (plan.side, plan.side), between)
        picture = self.scene.portrait.mask.expand(3, -1, -1).to(plan.device)
        self.prepare = self.seconds(self.scene.prepare).median
        self.pair = self.seconds(lambda: between.middle(picture, picture)).median

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize(self.plan.device)

    def once(self, work: Callable[[], object]) -> float:
        """Seconds."""
        self._wait()
        started = time.perf_counter()
        work()
        self._wait()
        return time.perf_counter() - started

    def seconds(self, work: Callable[[], object]) -> Taken:
        """Of some runs after one to warm up."""
        first, *others = (self.once(work) for _ in range(self.plan.repeats + 1))
        return Taken(first, statistics.median(others))

    def row(self, mode: Mode, left: int) -> Row:
        """A mode with all clips but the longest, in its share of the time when there are so many modes `left`."""
        row, now = Row(mode), time.monotonic()
        if now >= self.plan.deadline:
            row.note, row.per_second = NO_TIME, dict.fromkeys(self.plan.clips, NO_TIME)
            return row
        deadline = now + (self.plan.deadline - now) / left
        with self.peak(row):
            if attempt(lambda: self._pieces(row)) is None:
                row.call, row.note = None, DOES_NOT_FIT
            for length in self.plan.clips[:-1]:
                self.clip(row, length, deadline)
            if row.call is not None and not row.clip_made:  # the peak covers all kinds of work in any case
                attempt(lambda: self.once(lambda: mode.clip(vae.CHUNK, 1)))
        return row

    def _pieces(self, row: Row) -> Taken:
        mode = row.mode
        window, x = mode.window(), self.scene.latents(WINDOW)
        row.call = self.seconds(lambda: window(x))
        chunk = self.scene.latents(vae.CHUNK).to(self.plan.device)
        decode = self.seconds(lambda: vae.decode(self.networks.vae, chunk, low_memory=mode.low_memory))
        row.decode = decode.median / vae.CHUNK
        return row.call

    def longest(self, row: Row, *, run: bool) -> None:
        """The longest clip, made or extrapolated."""
        if run:
            with self.peak(row):
                self.clip(row, self.plan.clips[-1], self.plan.deadline)
        else:
            self.clip(row, self.plan.clips[-1], None)

    def clip(self, row: Row, length: float, deadline: float | None) -> None:
        """Make a clip, or where that would end after the deadline, work out what it would take."""
        if row.call is None:
            row.per_second[length] = row.note
            return
        frames, steps = int(length * FPS), self.plan.steps
        denoise = modes.window_calls(frames, steps) * row.call.median
        decode = modes.decoded_frames(row.mode, frames) * row.decode
        taken = self.prepare + denoise + decode + (frames - 1) * self.pair
        if deadline is None or time.monotonic() + 1.2 * taken > deadline:
            row.per_second[length] = f"{taken / length:.2f} extrapolated"
            return
        made = attempt(lambda: self.once(lambda: row.mode.clip(frames, steps)))
        row.clip_made = row.clip_made or made is not None
        row.per_second[length] = DOES_NOT_FIT if made is None else f"{made / length:.2f}"

    @contextmanager
    def peak(self, row: Row) -> Iterator[None]:
        """Of all that is done inside, and what was done so before."""
        if not self._cuda:
            yield
            return
        free()
        torch.cuda.reset_peak_memory_stats(self.plan.device)
        yield
        of = torch.cuda.max_memory_allocated(self.plan.device), torch.cuda.max_memory_reserved(self.plan.device)
        row.peak = of if row.peak is None else (max(of[0], row.peak[0]), max(of[1], row.peak[1]))

    def best_attention(self) -> str | None:
        """The kernel of attention with which a window is quickest; None: what PyTorch chooses."""
        x = self.scene.latents(WINDOW)
        found: dict[str | None, float] = {}
        for kernel in (None, *self.plan.kernels):
            if time.monotonic() < self.plan.deadline:
                window = modes.product("", self.scene.attending(kernel)).window()
                taken = attempt(lambda: self.seconds(lambda: window(x)))  # noqa: B023  it runs at once
                found |= {} if taken is None else {kernel: taken.median}
        return min(found, key=lambda kernel: found[kernel]) if found else None


def rows(bench: Bench) -> tuple[list[Row], str | None]:
    """All modes side by side, the compiled one last; and the kernel of attention that it uses."""
    scene = bench.scene
    exact = bench.row(modes.product("exact", scene), 2)  # the usual mode comes first, with half the time
    naive = bench.row(modes.plain(modes.NAIVE, scene), 3)
    low = bench.row(modes.product("low_vram", scene, low_memory=True), 2)
    kernel = bench.best_attention()
    with modes.compiled(bench.networks, bench.plan.compiler):
        fast = bench.row(modes.product("exact, compiled", scene.attending(kernel)), 1)
        found = [naive, exact, low, fast]
        fastest = min(found, key=lambda row: float("inf") if row.call is None else row.call.median)
        if fast is fastest:
            bench.longest(fast, run=True)
    for row in found:
        if bench.plan.clips[-1] not in row.per_second:
            bench.longest(row, run=row is fastest)
    return found, kernel


def errors(plan: Plan) -> Mapping[torch.dtype, tuple[float, ...] | None] | None:
    """Relative errors of a call of the UNet and of a decoded chunk against fp32; None where something does not fit."""
    wanted = attempt(lambda: reference(plan.size, plan.device, plan.side))
    if wanted is None:
        return None
    found: dict[torch.dtype, tuple[float, ...] | None] = {}
    for dtype in plan.halves:
        half = attempt(lambda: outcome(plan.size, plan.device, dtype, plan.side))  # noqa: B023  it runs at once
        found[dtype] = None if half is None else tuple(map(error, half, wanted))
    return found


def attempt(work: Callable[[], T]) -> T | None:
    """None when it does not fit."""
    try:
        return work()
    except RuntimeError as failure:
        if not is_out_of_memory(failure):
            raise
    free()  # out here nothing holds the failed attempt's tensors any more
    return None


def free() -> None:
    """Give what is not in use back to the device."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
