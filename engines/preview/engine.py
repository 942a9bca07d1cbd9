"""The preview engine: implements the engine contract with the rig, the mouth and the renderer of this package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import cv2

from engines.ahead import ahead
from engines.base import (
    Cancelled,
    Estimate,
    Image,
    JobCancelledError,
    Portrait,
    Report,
    SetupError,
    Stage,
    SynthesisJob,
    SynthesisParams,
)
from engines.fingerprint import Fingerprint
from engines.preview import frame, model, motion, mouth, phones, rig
from engines.preview.face import FaceFinder
from engines.preview.render import Renderer
from media import image as images
from media.video import VideoWriter, frame_count

QUEUE_FRAMES = 8  # rendered but not yet encoded
REPORT_EVERY = 5  # frames

# Measured on two 2.x GHz cores, with a margin for a neighbour on them.
SETUP_SECONDS = 0.6
AUDIO_SECONDS_PER_SECOND = 0.07
FRAME_SECONDS = 3.0e-3
PIXEL_SECONDS = 16e-9  # per pixel of every frame, drawn and encoded side by side
BASE_BYTES = 150 << 20
PIXEL_BYTES = 150  # per pixel of the video: the still, frames in the queue and in the encoder


class PreviewEngine:
    """Animates the portrait's own pixels on the CPU. Several jobs may run at once, each in its caller's thread."""

    name = "preview"
    version = "3"
    one_at_a_time = False
    ignored_fields: Mapping[str, str] = MappingProxyType(
        {"inference_steps": "inference_steps has no effect: the preview engine does not denoise."}
    )
    stage_weights: Mapping[Stage, float] = MappingProxyType(
        {Stage.PREPARING: 0.24, Stage.RENDERING: 0.75, Stage.ENCODING: 0.01}
    )

    def __init__(self, model_dir: Path) -> None:
        """`model_dir` holds the face model file; nothing is read before `load`."""
        self._model_dir = model_dir
        self._finder: FaceFinder | None = None
        self.checkpoint = ""

    def load(self) -> None:
        """Read the face model. Raises SetupError."""
        cv2.setNumThreads(1)  # OpenCV's own threads only get in the way of the encoder's
        face = self._model_dir / model.FILE_NAME
        with Fingerprint({model.FILE_NAME: face, **phones.model_files()}) as fingerprint:
            finder = FaceFinder(model.read(face))
            self.checkpoint = fingerprint.result()
        self._finder = finder

    def inspect(self, image: Image) -> Portrait:
        """Find the face to animate. Raises NoFaceError."""
        return self._loaded().inspect(image)

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        """Predict the cost of `seconds` of video of a portrait of `size` (width, height)."""
        width, height = frame.video_size(params, size)
        frames = frame_count(seconds, params.fps)
        per_frame = FRAME_SECONDS + PIXEL_SECONDS * width * height
        cost = SETUP_SECONDS + AUDIO_SECONDS_PER_SECOND * seconds + per_frame * frames
        return Estimate(cost, BASE_BYTES + PIXEL_BYTES * width * height + 3 * size[0] * size[1])

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        """Make the video; `job.output` exists only when it is whole.

        Raises EngineError, MediaError, OSError (disk full).
        """
        finder = self._loaded()

        def check() -> None:
            if cancelled():
                raise JobCancelledError("The job was cancelled.")

        check()
        report(Stage.PREPARING, 0.0, "Measuring the face")
        picture = images.load(job.image)
        still = frame.make_still(picture, job.face, finder.landmarks(picture, job.face), job.params)
        del picture
        check()
        puppet = rig.build(still)
        check()
        report(Stage.PREPARING, 0.3, "Listening to the speech")
        frames = frame_count(job.seconds, job.params.fps)
        tracks = mouth.analyse(
            job.audio,
            job.seconds,
            check,
            lambda fraction: report(Stage.PREPARING, 0.3 + 0.7 * fraction, "Listening to the speech"),
        ).resampled(frames, job.params.fps)
        poses = motion.perform(tracks, puppet.shape, job.params, frames)
        report(Stage.PREPARING, 1.0, "Ready to render")

        height, width = still.picture.shape[:2]
        renderer = Renderer(still, puppet)
        with (
            VideoWriter(
                job.output,
                width=width,
                height=height,
                fps=job.params.fps,
                audio=job.audio,
                seconds=job.seconds,
                comment=f"Preview by the {self.name} engine {self.version}: an animated photograph, not DICE-Talk.",
            ) as writer,
            ahead((renderer.frame(pose) for pose in poses), QUEUE_FRAMES) as rendered,
        ):
            for number, picture in enumerate(rendered, 1):
                check()
                writer.write(picture)
                if number % REPORT_EVERY == 0 or number == frames:
                    report(Stage.RENDERING, number / frames, f"Rendering frame {number} of {frames}")
            report(Stage.ENCODING, 0.0, "Finishing the video file")
        report(Stage.ENCODING, 1.0, "The video is finished")

    def close(self) -> None:
        """Give back what `load` took."""
        self._finder = None

    def _loaded(self) -> FaceFinder:
        finder = self._finder
        if finder is None:
            raise SetupError("The preview engine is not loaded.")
        return finder
