"""The DICE-Talk engine: implements the engine contract with the networks and the pipeline of this package."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from engines.base import (
    Cancelled,
    Estimate,
    FaceBox,
    Image,
    NoFaceError,
    Portrait,
    Report,
    SetupError,
    Stage,
    SynthesisJob,
    SynthesisParams,
    TooLargeError,
)
from engines.dice_talk import audio_features, portrait
from engines.dice_talk.cost import GIB, CostModel, device_memory, host_memory, latent_bytes
from engines.dice_talk.device import is_out_of_memory
from engines.dice_talk.face import Faces
from engines.dice_talk.networks import Loaded, load, model_files
from engines.dice_talk.synthesis import Plan, Shared, Synthesis
from engines.fingerprint import Fingerprint

logger = logging.getLogger("engines.dice_talk")

DType = Literal["auto", "fp16", "bf16", "fp32"]
LowVram = Literal["auto", "on", "off"]

_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_LATENTS_SHARE = 0.5  # of the main memory that one job's latents may take
_SMALL_SHARE = 1 / 8  # of the shorter side: 64 pixels in a video of 512


class DiceTalkEngine:
    """Denoises on the GPU. Several jobs may run at once: the device works on one piece of one job at a time, and one
    job after the other is denoised, while others are prepared, decoded and encoded.
    """

    name = "dice_talk"
    one_at_a_time = True
    ignored_fields: Mapping[str, str] = MappingProxyType({})
    stage_weights: Mapping[Stage, float] = MappingProxyType(
        {Stage.PREPARING: 0.04, Stage.DENOISING: 0.85, Stage.DECODING: 0.10, Stage.ENCODING: 0.01}
    )

    def __init__(
        self, checkpoint_dir: Path, *, device_id: int, dtype: DType, low_vram: LowVram, interpolate: bool
    ) -> None:
        """`device_id`: the CUDA device, -1 the CPU. `interpolate`: 25 native frames a second instead of 12.5.

        Nothing is read before `load`.
        """
        self._directory = checkpoint_dir
        self._device = torch.device("cpu") if device_id < 0 else torch.device("cuda", device_id)
        if dtype == "auto":
            dtype = "fp32" if device_id < 0 else "fp16"
        self._dtype = _DTYPES[dtype]
        self._low_vram = low_vram
        self._interpolate = interpolate
        self._loaded: Loaded | None = None
        self._cost: CostModel | None = None
        self._memory = 0
        self._shared = Shared(self._device)
        self.checkpoint = ""
        self.version = f"1-{dtype}-{'25' if interpolate else '12.5'}"

    def load(self) -> None:
        """Read the checkpoints onto the device. Raises SetupError."""
        try:
            self._load()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        else:
            return
        self.close()  # out here, where nothing holds the tensors any more
        raise SetupError(
            "The GPU has too little memory for DICE-Talk's weights, or other programs hold it: "
            f"{self._memory / GIB:.1f} GiB were free."
        )

    def _load(self) -> None:
        if self._device.type == "cuda" and not torch.cuda.is_available():
            raise SetupError("PyTorch finds no CUDA GPU. Set gpu.device_id to -1 to use the CPU, which takes hours.")
        self._memory = device_memory(self._device)
        names = model_files(interpolate=self._interpolate)
        with Fingerprint({name: self._directory / name for name in names}) as fingerprint:
            loaded = load(self._directory, self._device, self._dtype, interpolate=self._interpolate)
            cost = CostModel.of(loaded.networks.unet, _bytes_on(self._device, loaded))
            self.checkpoint = fingerprint.result()
        self._loaded, self._cost = loaded, cost
        logger.info(
            "DICE-Talk is loaded on %s in %s: %.2f GiB of weights, %.1f GiB free before",
            self._device, self._dtype, cost.weights / GIB, self._memory / GIB,
        )  # fmt: skip

    def inspect(self, image: Image) -> Portrait:
        """Find the largest face. Raises NoFaceError."""
        loaded, _ = self._ready()
        faces = loaded.detector.find(image)
        largest = faces.largest()
        height, width = image.shape[:2]
        if largest is None:
            raise NoFaceError("No face was found in the portrait. It should show one face, from the front.")
        box = _box(faces, largest)
        top, bottom, left, right = portrait.mask_rectangle(box, width, height)
        if top >= bottom or left >= right:
            raise NoFaceError("The face lies outside of the portrait.")
        return Portrait(box, tuple(_warnings(faces, box, width, height)))

    def estimate(self, params: SynthesisParams, seconds: float, size: tuple[int, int]) -> Estimate:
        """Predict the cost of `seconds` of video of a portrait of `size` (width, height). Raises TooLargeError."""
        _, cost = self._ready()
        short = params.min_resolution
        target = (short, short) if params.crop else portrait.video_size(*size, short)
        least = cost.peak_bytes(target, low_memory=self._low_vram != "off")
        if least > self._memory:
            kind = "GPU" if self._device.type == "cuda" else "machine"
            advice = "smaller min_resolution" if params.crop else "smaller min_resolution, or crop=true"
            raise TooLargeError(
                f"A video of {target[0]}×{target[1]} pixels needs about {least / GIB:.1f} GiB of memory, "
                f"and this {kind} has {self._memory / GIB:.1f} GiB for it. Choose a {advice}."
            )
        frames = audio_features.frame_count(round(seconds * audio_features.RATE))
        latents, room = latent_bytes(target, frames), _LATENTS_SHARE * host_memory()
        if latents > room:
            raise TooLargeError(
                f"{frames} frames of {target[0]}×{target[1]} pixels need {latents / GIB:.1f} GiB of main memory; this "
                f"machine can give {room / GIB:.1f} GiB to a video. Choose a shorter duration or a smaller "
                "min_resolution."
            )
        peak = cost.peak_bytes(target, low_memory=self._low_memory(cost, target))
        return Estimate(cost.seconds(target, frames, params.inference_steps), peak)

    def synthesize(self, job: SynthesisJob, report: Report, cancelled: Cancelled) -> None:
        """Make the video; `job.output` exists only when it is whole.

        Raises EngineError, MediaError, OSError (disk full).
        """
        loaded, cost = self._ready()

        comment = f"Synthetic video: DICE-Talk, engine {self.name} {self.version}, emotion {job.params.emotion}."
        plan = Plan(
            low_memory=lambda size: self._low_memory(cost, size),
            window_seconds=cost.window_seconds,
            comment=comment,
        )
        Synthesis(loaded, self._shared, plan, job=job, report=report, cancelled=cancelled).run()

    def close(self) -> None:
        """Give back what `load` took."""
        self._loaded = self._cost = None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _ready(self) -> tuple[Loaded, CostModel]:
        if self._loaded is None or self._cost is None:
            raise SetupError("The DICE-Talk engine is not loaded.")
        return self._loaded, self._cost

    def _low_memory(self, cost: CostModel, size: tuple[int, int]) -> bool:
        if self._low_vram == "auto":
            return cost.peak_bytes(size, low_memory=False) > self._memory
        return self._low_vram == "on"


def _bytes_on(device: torch.device, loaded: Loaded) -> int:
    """What is kept there between jobs."""
    networks = loaded.networks
    modules: list[Any] = [
        networks.unet, networks.vae, networks.pose_guider, networks.audio_projection,
        *([] if loaded.interpolation is None else [loaded.interpolation]),
    ]  # fmt: skip
    held = [tensor for module in modules for tensor in module.parameters()]
    held += [tensor for layer in networks.emotion_layers for rows in layer for tensor in rows]
    return sum(tensor.nbytes for tensor in held if tensor.device == device)


def _box(faces: Faces, number: int) -> FaceBox:
    x, y, width, height = faces.boxes[number].tolist()
    (right_x, right_y), (left_x, left_y) = faces.landmarks[number, :2].tolist()
    return FaceBox(x, y, x + width, y + height, math.atan2(left_y - right_y, left_x - right_x))


def _warnings(faces: Faces, box: FaceBox, width: int, height: int) -> Iterator[str]:
    if len(faces.boxes) > 1:
        yield f"{len(faces.boxes)} faces were found in the picture; the largest one is animated."
    share = (box.right - box.left) / min(width, height)
    if share < _SMALL_SHARE:
        yield f"The face is small: {share:.0%} of the picture's shorter side. With crop=true the video shows it larger."
