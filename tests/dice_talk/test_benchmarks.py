"""The GPU benchmark runs, small and on the CPU, with few packages; without a GPU it says that it needs one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import dice_talk_gpu

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
    modes = [line.split("|")[1].strip() for line in table.splitlines() if line.count("|") == 8]
    assert modes == ["mode", "---", "naive", "exact", "exact, compiled", "low_vram"]
    naive = next(line for line in table.splitlines() if line.startswith("| naive"))
    assert naive.count("extrapolated") == 3  # never passed off as measured
    assert "random weights of small networks" in table


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert dice_talk_gpu.main(["--results", str(tmp_path)]) == 1
    assert "needs a GPU" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())
