"""Speed, memory and precision of the diffusion engine on a GPU: `python -m benchmarks.dice_talk_gpu`.

The networks have their published size and random weights, so that no checkpoint is needed, and of packages only
torch, diffusers and numpy. Prints one table and keeps it in benchmarks/results/. What does not fit the time budget is
extrapolated from what was measured, and marked so. `--device cpu --tiny` runs all of it with small networks.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import diffusers
import torch
from torch import Tensor

from benchmarks import modes
from benchmarks.real_size import REAL, TINY, Size, networks, rife
from engines.dice_talk import vae
from engines.dice_talk.interpolation import IFNet, double_rate
from engines.dice_talk.pipeline import FPS, PADDING, Sampling, T
from engines.dice_talk.windows import WINDOW, windows

RESULTS = Path(__file__).resolve().parent / "results"
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    device: torch.device
    dtype: torch.dtype
    size: Size
    side: int = 512  # of the pictures, in pixels
    steps: int = 25
    clips: tuple[float, ...] = (2, 10, 60)  # seconds; the last in the fastest mode only
    repeats: int = 3
    compiler: str = "inductor"
    halves: tuple[torch.dtype, ...] = (torch.float16, torch.bfloat16)  # to compare with fp32
    deadline: float = float("inf")  # by time.monotonic

    def latents(self, frames: int) -> Tensor:
        """Noisy ones, on the host."""
        return torch.randn(frames, 4, self.side // 8, self.side // 8, generator=torch.Generator().manual_seed(3))


@dataclass
class Row:
    """One mode's outcome; times in seconds."""

    mode: str
    call: float  # one window in three branches, with guidance and Euler step
    decode: float  # of a frame
    per_second: dict[float, str] = field(default_factory=dict)  # of video, by the clip's length
    peak: float | None = None  # GiB


class Bench:
    """Measures; all modes use the same networks, so those that change them come last."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        started = time.perf_counter()
        self.networks = networks(plan.size, plan.device, plan.dtype)
        self.rife: IFNet = rife(plan.size, plan.device)
        self._wait()
        self.load = time.perf_counter() - started
        self.scene = modes.scene(plan.size, self.networks, plan.side)
        picture = torch.rand(1, 3, plan.side, plan.side, device=plan.device)
        self.encode = self.seconds(lambda: vae.encode(self.networks.vae, picture))
        self.pair = self.seconds(lambda: self.rife.middle(picture[0], picture[0]))

    def _wait(self) -> None:
        if self.plan.device.type == "cuda":
            torch.cuda.synchronize(self.plan.device)

    def seconds(self, work: Callable[[], object]) -> float:
        """The median of some runs after one to warm up."""
        taken = []
        for _ in range(self.plan.repeats + 1):
            self._wait()
            started = time.perf_counter()
            work()
            self._wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken[1:])

    def row(self, mode: str, window: Callable[[Tensor], Tensor], *, low_memory: bool = False) -> Row:
        """A mode's times, clips aside, and its peak of memory."""
        if self.plan.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.plan.device)
        x, chunk = self.plan.latents(WINDOW), self.plan.latents(vae.CHUNK).to(self.plan.device)
        call = self.seconds(lambda: window(x))
        decode = self.seconds(lambda: vae.decode(self.networks.vae, chunk, low_memory=low_memory)) / vae.CHUNK
        peak = torch.cuda.max_memory_allocated(self.plan.device) / GIB if self.plan.device.type == "cuda" else None
        return Row(mode, call, decode, peak=peak)

    def clip(self, row: Row, length: float, *, run: bool, low_memory: bool = False) -> None:
        """Make a clip, or where time is short or it is not to be run, work out what it would take."""
        frames = int(length * FPS)
        calls = sum(len(windows(frames + PADDING, step)) for step in range(self.plan.steps))
        decoded = frames + PADDING if row.mode == "naive" else sum(map(len, vae.chunks(frames)))
        taken = self.encode + calls * row.call + decoded * row.decode + (frames - 1) * self.pair
        run = run and time.monotonic() + 1.2 * taken < self.plan.deadline
        if run:
            taken = self.encode + self._made(frames, low_memory)
        row.per_second[length] = f"{taken / length:.2f}" + ("" if run else " extrapolated")

    def _made(self, frames: int, low_memory: bool) -> float:
        scene = self.scene

        def order(work: Callable[[bool], T], /) -> T:
            return work(low_memory)

        self._wait()
        started = time.perf_counter()
        noise, sampling = self.plan.latents(frames + PADDING), Sampling(self.plan.steps)
        latents = scene.pipeline.denoise(scene.conditions, noise, scene.clips, sampling, run=order)
        before: Tensor | None = None

        def finish(chunk: Tensor) -> None:
            nonlocal before
            for frame in double_rate(self.rife.middle, chunk, before):
                frame.mul(255).round().to(torch.uint8).cpu()
            before = chunk[-1].clone()

        for _ in scene.pipeline.decode(latents, frames, finish, order):
            pass
        return time.perf_counter() - started


def rows(bench: Bench) -> tuple[list[Row], str | None]:
    """All modes side by side, and the kernel of attention that the compiled one used."""
    plan = bench.plan
    *short, longest = plan.clips
    naive = bench.row("naive", modes.naive_window(bench.scene, plan.side))
    exact = bench.row("exact", modes.window(bench.scene, low_memory=False))
    low = bench.row("low_vram", modes.window(bench.scene, low_memory=True), low_memory=True)
    for length in short:
        bench.clip(naive, length, run=False)
        bench.clip(exact, length, run=True)
        bench.clip(low, length, run=True, low_memory=True)
    x = plan.latents(WINDOW)
    kernel = modes.best_attention(lambda: modes.window(bench.scene, low_memory=False)(x), bench.seconds)
    modes.use_attention(kernel)
    modes.compile_regions(bench.networks, plan.compiler)
    fast = bench.row("exact, compiled", modes.window(bench.scene, low_memory=False))
    for length in short:
        bench.clip(fast, length, run=True)
    bench.clip(fast, longest, run=fast.call <= exact.call)
    for row, low_memory in ((naive, False), (exact, False), (low, True)):
        bench.clip(row, longest, run=False, low_memory=low_memory)
    return [naive, exact, fast, low], kernel


@torch.inference_mode()
def errors(plan: Plan) -> dict[torch.dtype, tuple[float, float]]:
    """Relative errors of a call of the UNet and of a decoded chunk against fp32, rounding of the weights included."""

    def outcome(dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        made = networks(plan.size, plan.device, dtype)
        v = modes.predict(modes.scene(plan.size, made, plan.side), plan.latents(WINDOW), low_memory=True)
        chunk = plan.latents(vae.CHUNK).to(plan.device)
        return v.cpu(), vae.decode(made.vae, chunk, low_memory=True).cpu()

    wanted = outcome(torch.float32)
    found = {}
    for dtype in plan.halves:
        call, decoded = (
            float((half - full).norm() / full.norm()) for half, full in zip(outcome(dtype), wanted, strict=True)
        )
        found[dtype] = call, decoded
    return found


@torch.inference_mode()
def report(plan: Plan) -> str:
    """Measure everything; in Markdown."""
    precision = errors(plan)
    bench = Bench(plan)
    measured, kernel = rows(bench)
    name = torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else platform.machine()
    kind = str(plan.dtype).removeprefix("torch.")
    lines = [
        f"# Diffusion engine on {name}",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; torch {torch.__version__}, CUDA {torch.version.cuda}, diffusers "
        f"{diffusers.__version__}, Python {platform.python_version()}. {plan.side}×{plan.side} pixels, {plan.steps} "
        f"steps, {kind}, random weights{'' if plan.size is REAL else ' of small networks'}. "
        "Made by `python -m benchmarks.dice_talk_gpu`.",
        "",
        "| mode | a window of a step | decode, a frame | "
        + " | ".join(f"{length} s clip: s per s" for length in plan.clips)
        + " | peak GiB |",
        "|---" * (4 + len(plan.clips)) + "|",
    ]
    for row in measured:
        cells = [row.per_second[length] for length in plan.clips]
        peak = "–" if row.peak is None else f"{row.peak:.2f}"
        lines.append(
            f"| {row.mode} | {row.call * 1000:.1f} ms | {row.decode * 1000:.1f} ms | {' | '.join(cells)} | {peak} |"
        )
    lines += [
        "",
        f"Building with random weights {bench.load:.1f} s, encoding {bench.encode * 1000:.1f} ms, a frame between two "
        f"{bench.pair * 1000:.1f} ms. Quickest attention: {kernel or 'as PyTorch chooses'}; the compiled mode uses it, "
        "with channels last.",
        "",
        "| precision | error of a call of the UNet | error of decoding |",
        "|---|---|---|",
        *(f"| {str(dtype).removeprefix('torch.')} | {call:.1e} | {decoded:.1e} |"
          for dtype, (call, decoded) in precision.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def main(arguments: list[str] | None = None) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(description="Speed, memory and precision of the diffusion engine on a GPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), default="float16")
    parser.add_argument("--tiny", action="store_true", help="small networks and short clips, to try the script")
    parser.add_argument("--seconds", type=float, default=540, help="time budget; default %(default)s")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to keep the table in")
    options = parser.parse_args(arguments)
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    if not options.tiny and not (device.type == "cuda" and torch.cuda.is_available()):
        print("This benchmark needs a GPU; --device cpu --tiny tries it with small networks.")
        return 1
    deadline = time.monotonic() + options.seconds
    if options.tiny:
        plan = Plan(device, dtype, TINY, 64, 1, (0.08, 0.16, 0.24), 1, "eager", (torch.bfloat16,), deadline)
    else:
        plan = Plan(device, dtype, REAL, deadline=deadline)
    text = report(plan)
    print(text)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"dice_talk_{name.lower().replace(' ', '_')}.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
