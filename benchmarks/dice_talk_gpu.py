"""Speed, memory and precision of the diffusion engine on a GPU: `python -m benchmarks.dice_talk_gpu`.

The networks have their published size and random weights, so that no checkpoint is needed, and of packages only
torch, diffusers and numpy. Prints one table and keeps it in benchmarks/results/. What does not fit the time budget is
extrapolated from what was measured, and marked so; what does not fit the memory is said, and the rest goes on.
`--device cpu --tiny` runs all of it but the table by size, with small networks.
"""

from __future__ import annotations

import argparse
import platform
import time
from datetime import UTC, datetime
from pathlib import Path

import diffusers
import torch

from benchmarks import sizes
from benchmarks.measure import DOES_NOT_FIT, GIB, Bench, Plan, Row, errors, rows
from benchmarks.memory import IMAGE_ENCODER
from benchmarks.real_size import REAL, TINY

RESULTS = Path(__file__).resolve().parent / "results"


@torch.inference_mode()
def report(plan: Plan) -> str:
    """Measure everything; in Markdown."""
    precision = _precision(plan)
    bench = Bench(plan)
    found = sizes.by_size(bench)
    held = sizes.beside(plan.device)
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
        + " | peak GiB, allocated (reserved) |",
        "|---" * (4 + len(plan.clips)) + "|",
        *(_line(row, plan) for row in measured),
        "",
        *(f"- {remark}" for remark in _remarks(bench, measured[-1], kernel)),
        "",
        *_by_size(found),
        *_beside(held),
        *precision,
    ]
    return "\n".join(lines) + "\n"


def _line(row: Row, plan: Plan) -> str:
    if row.call is None:
        times = f"{row.note} | {row.note}"
    else:
        times = f"{row.call.median * 1000:.1f} ms | {row.decode * 1000:.1f} ms"
    clips = " | ".join(row.per_second[length] for length in plan.clips)
    peak = "–" if row.peak is None else f"{row.peak[0] / GIB:.2f} ({row.peak[1] / GIB:.2f})"
    return f"| {row.mode.name} | {times} | {clips} | {peak} |"


def _remarks(bench: Bench, fast: Row, kernel: str | None) -> list[str]:
    visitor = 2 * IMAGE_ENCODER / GIB
    beside = "" if bench.weights is None else f", beside {bench.weights / GIB:.2f} GiB of weights that stay"
    compiling = "" if fast.call is None else (
        f" Its first window took {fast.call.first - fast.call.median:.1f} s longer, for compiling: within the time "
        "budget, not in the table."
    )  # fmt: skip
    return [
        "A clip is prepared, denoised and decoded, its rate is doubled, and the pictures go to the host. Listening to "
        "the speech, CLIP and the encoding of the video are left out. The naive mode denoises as the published form "
        "does and decodes the padding, too; what else that form repeats is left out.",
        "The peak is that of all that a mode does: preparation, windows, decoding, RIFE, and at least one clip, be it "
        "a small one; with the weights of all networks but CLIP. A mode that does not fit shows how far it came.",
        f"CLIP is a stand-in, as it needs transformers: its {IMAGE_ENCODER:,} parameters, {visitor:.2f} GiB in half "
        f"precision, visit the device during preparation{beside}.",
        f"Preparation without CLIP {bench.prepare * 1000:.1f} ms, a frame between two {bench.pair * 1000:.1f} ms, in "
        f"all modes; building with random weights {bench.build:.1f} s.",
        "The compiled mode compiles the UNet's blocks, with channels last and the quickest attention in the UNet: "
        f"{kernel or 'as PyTorch chooses'}. Its decoding is that of the exact mode, neither compiled nor with "
        f"channels last.{compiling}",
    ]


def _by_size(found: list[sizes.Sized]) -> list[str]:
    if not found:
        return []
    what = (
        "By size, and in brackets what the service expects, with which it refuses what would not fit or take too long:"
    )
    return [what, "", *sizes.table(found), ""]


def _beside(held: int | None) -> list[str]:
    if held is None:
        return []
    return [f"CUDA and its libraries, and what else was on the card, held {held / GIB:.2f} GiB beside that.", ""]


def _precision(plan: Plan) -> list[str]:
    found = errors(plan)
    if found is None:
        return [f"Precision: the reference in fp32 {DOES_NOT_FIT}."]
    lines = [
        "Against fp32, without TF32:",
        "",
        "| precision | error of a call of the UNet | error of decoding |",
        "|---|---|---|",
    ]
    for dtype, outcome in found.items():
        cells = (DOES_NOT_FIT,) * 2 if outcome is None else tuple(f"{error:.1e}" for error in outcome)
        lines.append(f"| {str(dtype).removeprefix('torch.')} | {' | '.join(cells)} |")
    return lines


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
        plan = Plan(
            device, dtype, TINY, side=64, steps=1, clips=(0.08, 0.16), sizes=(), repeats=1,
            compiler="eager", kernels=("flash",), halves=(torch.bfloat16,), deadline=deadline,
        )  # fmt: skip
    else:
        plan = Plan(device, dtype, deadline=deadline)
    text = report(plan)
    print(text)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / f"dice_talk_{name.lower().replace(' ', '_')}.md").write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
