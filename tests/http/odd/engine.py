"""The service with the preview engine, for files by the thousand: `python -m tests.http.odd.engine`.

What is checked before a task is accepted is all as usual. Only tasks whose seed says so are rendered; the files of the
others are read to their end, as an engine would. With ODD_RENDERS=0 none are rendered.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from api.server import main
from engines.base import Cancelled, Report, SynthesisJob
from engines.preview.engine import PreviewEngine
from media import audio, image
from tests.http.odd.case import RENDERED_SEED, ROOT

_RATE = 16000  # Hz


class SamplingEngine(PreviewEngine):
    """Renders few jobs."""

    def __init__(self, model_dir: Path, *, renders: bool) -> None:
        super().__init__(model_dir)
        self._renders = renders

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        """Make the video, or prove that it could be made."""
        if self._renders and job.params.seed == RENDERED_SEED:
            super().synthesize(job, report, cancelled)
            return
        image.load(job.image)
        samples = sum(map(len, audio.read_blocks(job.audio, _RATE, seconds=job.seconds)))
        if abs(samples - job.seconds * _RATE) > 0.02 * _RATE:
            raise RuntimeError(f"{samples / _RATE} s of sound instead of {job.seconds}")
        job.output.write_bytes(b"read")


if __name__ == "__main__":
    engine = SamplingEngine(ROOT / "checkpoints" / "preview", renders=os.environ.get("ODD_RENDERS") != "0")
    sys.exit(main(engine=engine))
