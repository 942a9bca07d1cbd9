"""Memory on the graphics card, counted without one: `python -m benchmarks.memory` prints a table.

The networks run in their published size on the meta device under `Tracker`, which says what it counts. The window's
size does not depend on the length of the video, and decoding works chunk by chunk: so neither does the memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks import meta
from benchmarks.real_size import META, REAL, rife
from benchmarks.tracker import Tracker
from engines.dice_talk import vae
from engines.dice_talk.interpolation import IFNet, double_rate
from engines.dice_talk.pipeline import T
from engines.dice_talk.windows import WINDOW

SIZES = ((512, 512), (512, 768), (768, 768), (1024, 1024))  # width, height
IMAGE_ENCODER = 632_076_800  # parameters, in half precision on the card, where it comes during preparation
GIB = 1 << 30


def weights() -> int:
    """Bytes of what stays on the card between jobs: networks but the image encoder, emotions' keys and values."""
    return sum(tensor.untyped_storage().nbytes() for tensor in _resident(rife(REAL, META)))


def peak_window(width: int, height: int, low_memory: bool) -> int:
    """Bytes beside the weights while a window is predicted, with the conditions of the job and its context."""
    pipeline = meta.pipeline()

    def work() -> None:
        conditions = meta.conditions(width, height)
        time = meta.empty(1, 4 * REAL.unet.block_out_channels[0])
        scaled = meta.empty(WINDOW, 4, height // 8, width // 8)
        context = pipeline.context(conditions, meta.clips, range(WINDOW), WINDOW, low_memory)
        pipeline.predict(scaled, time, conditions, context, low_memory)

    return _peak(work)


def peak_prepare(width: int, height: int) -> int:
    """Bytes beside the weights while the portrait and the mask are encoded, in either mode: by CLIP before the rest."""
    networks = meta.pipeline().networks

    def work() -> None:
        picture = meta.empty(1, 3, height, width, dtype=torch.float32)
        latents = vae.encode(networks.vae, picture)
        networks.pose_guider(picture.half())
        del latents

    return max(2 * IMAGE_ENCODER, _peak(work))


def peak_decode(width: int, height: int, low_memory: bool) -> int:
    """Bytes beside the weights while frames are decoded chunk by chunk, and doubled; the latents are on the host."""
    network = rife(REAL, META)
    latents = meta.empty(vae.CHUNK, 4, height // 8, width // 8, dtype=torch.float32)

    def run(work: Callable[[bool], T], /) -> T:
        return work(low_memory)

    def work() -> None:
        before = meta.empty(3, height, width, dtype=torch.float32)

        def finish(chunk: Tensor) -> None:
            for _ in double_rate(network.middle, chunk, before):
                pass

        for _ in meta.pipeline().decode(latents, len(latents), finish, run):
            pass

    return _peak(work, latents, network=network)


def _peak(work: Callable[[], object], *host: Tensor, network: IFNet | None = None) -> int:
    with torch.inference_mode(), Tracker([*_resident(network), *host]) as tracker:
        work()
    return tracker.peak


def _resident(network: IFNet | None) -> list[Tensor]:
    networks = meta.pipeline().networks
    modules: list[Any] = [networks.unet, networks.pose_guider, networks.audio_projection, networks.vae]
    held = [tensor for module in [*modules, *([network] if network else [])] for tensor in module.state_dict().values()]
    for layer in networks.emotion_layers:
        held += [*layer.spatial, *layer.temporal]
    return held


def table() -> str:
    """In Markdown: GiB in all, and bytes per pixel beside the weights."""
    lines = [
        "Peak on the card in GiB with the weights, and bytes per pixel of the picture beside them.",
        "",
        "| size | window | window, little memory | prepare | decode and double | the same, little memory |",
        "|---|---|---|---|---|---|",
    ]
    resident = weights()
    for width, height in SIZES:
        peaks = [
            peak_window(width, height, False),
            peak_window(width, height, True),
            peak_prepare(width, height),
            peak_decode(width, height, False),
            peak_decode(width, height, True),
        ]
        cells = [f"{(peak + resident) / GIB:.2f} ({peak / width / height:.0f})" for peak in peaks]
        lines.append(f"| {width}×{height} | " + " | ".join(cells) + " |")
    lines += ["", f"Weights: {resident / GIB:.2f} GiB, and the image encoder's, which come during preparation."]
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
