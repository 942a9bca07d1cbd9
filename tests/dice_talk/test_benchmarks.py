"""The GPU benchmark runs, small and on the CPU, with few packages; what it cannot do, it says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import dice_talk_gpu, measure, modes, sizes
from benchmarks.measure import Bench, Plan
from benchmarks.modes import Mode
from benchmarks.precision import full_precision
from benchmarks.real_size import TINY
from engines.dice_talk.cost import GIB, CostModel
from engines.dice_talk.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "transformers", "librosa", "cv2", "av", "fastapi", "pydantic", "onnxruntime"


def test_it_runs_small_with_torch_diffusers_and_numpy(tmp_path: Path) -> None:
    code = (
        f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\n"
        "from benchmarks.dice_talk_gpu import main\n"
        f"sys.exit(main(['--device', 'cpu', '--tiny', '--dtype', 'float32', '--results', {str(tmp_path)!r}]))"
    )
    one_thread = os.environ | {"OMP_NUM_THREADS": "1"}  # on busy cores, threads mostly wait for each other
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=one_thread, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["dice_talk_cpu.md"]
    table = (tmp_path / "dice_talk_cpu.md").read_text()
    assert table in ended.stdout
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.count("|") == 7]
    assert [row[0] for row in rows] == ["mode", "---", "naive", "exact", "low_vram", "exact, compiled"]
    assert not any("extrapolated" in row[3] for row in rows[2:])  # made in every mode
    assert sum("extrapolated" in row[4] for row in rows[2:]) == 3  # made in the fastest; never passed off as measured
    assert "random weights of small networks" in table
    assert "longer, for compiling" in table


@pytest.fixture(scope="module")
def bench() -> Bench:
    with torch.inference_mode():
        return Bench(Plan(torch.device("cpu"), torch.float32, TINY, 64, 1, (0.08, 0.16), ((64, 64), (64, 128)), 1))


def full(*_: object) -> Any:
    raise torch.OutOfMemoryError("CUDA out of memory")


def test_what_does_not_fit_is_said_and_ends_nothing(bench: Bench) -> None:
    row = bench.row(Mode("large", lambda: full, full), 1)
    bench.longest(row, run=True)
    assert (row.call, row.per_second) == (None, dict.fromkeys((0.08, 0.16), "does not fit"))
    row = bench.row(Mode("large clips", lambda: torch.clone, full), 1)
    bench.longest(row, run=False)
    assert row.call is not None
    assert row.per_second[0.08] == "does not fit"
    assert row.per_second[0.16].endswith(" extrapolated")


def test_another_error_is_not_taken_for_memory() -> None:
    def wrong() -> None:
        raise RuntimeError("sizes must match")

    with pytest.raises(RuntimeError, match="sizes"):
        measure.attempt(wrong)


def test_a_mode_after_the_deadline_is_left_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "plan", replace(bench.plan, deadline=0))
    monkeypatch.setattr(modes, "compiled", lambda *_: nullcontext())  # nothing to compile
    late, kernel = measure.rows(bench)
    assert kernel is None
    assert [row.note for row in late] == ["no time left"] * 4
    assert all(row.per_second == dict.fromkeys((0.08, 0.16), "no time left") for row in late)


def test_a_clip_that_would_end_too_late_is_extrapolated(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a small one is made, so that the peak of memory covers everything."""
    monkeypatch.setattr(bench, "prepare", 1000.0)
    monkeypatch.setattr(bench, "plan", replace(bench.plan, deadline=time.monotonic() + 500))
    made = []
    row = bench.row(Mode("slow", lambda: torch.clone, lambda frames, steps: made.append((frames, steps))), 1)
    assert row.per_second[0.08].endswith(" extrapolated")
    assert made == [(10, 1)]


def test_the_table_by_size_says_what_was_expected(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window costs 2 FLOP per pixel here. The larger size does not fit in the normal mode."""
    cost = CostModel(window=(0.0, 2.0, 0.0), flops_per_second=8192.0, weights=GIB, width=320, item=2)
    monkeypatch.setattr(CostModel, "of", lambda *_: cost)
    made = []

    def product(name: str, scene: modes.Scene, *, low_memory: bool) -> Mode:
        def clip(frames: int, steps: int) -> None:
            made.append((*scene.portrait.mask.shape, low_memory))
            if made[-1] == (128, 64, False):
                full()

        return Mode(name, lambda: torch.clone, clip, low_memory)

    monkeypatch.setattr(modes, "product", product)
    with torch.inference_mode():
        small, large = (line.split(" | ") for line in sizes.table(sizes.by_size(bench))[2:])
    assert made == [(64, 64, False), (64, 64, True), (128, 64, False), (128, 64, True)]
    assert small[0] == "| 64×64"
    assert small[1].endswith(" ms (1000.0)")
    assert small[2] == "– (2.25)"  # a visitor of 1.25 GiB beside the weights
    assert large[1] == "does not fit (2000.0)"
    assert large[3].endswith(" ms (2000.0)")


def test_the_kernel_of_attention_holds_for_the_unet_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def predict(*_: object) -> Tensor:
        seen.append((torch.backends.cuda.flash_sdp_enabled(), torch.backends.cuda.mem_efficient_sdp_enabled()))
        return torch.zeros(())

    monkeypatch.setattr(Pipeline, "predict", predict)
    made = bench.scene.attending("flash")
    modes.predict(made, made.latents(25), low_memory=False)
    assert seen == [(True, False)]
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_the_reference_does_without_tf32() -> None:
    before = torch.backends.cudnn.allow_tf32
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32 == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dice_talk_gpu.main(["--results", str(tmp_path)]) == 1
    assert "needs a GPU" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
