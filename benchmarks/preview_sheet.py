"""Pictures to judge the preview engine by: `python -m benchmarks.preview_sheet` draws portraits under all emotions.

--strip EMOTION draws consecutive frames of one emotion instead: the face, the mouth close up, and the loudness below.
Frames come straight from the renderer, without the encoder's loss.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

if TYPE_CHECKING:
    from engines.base import Emotion, SynthesisParams
    from engines.preview.face import FaceFinder
    from engines.preview.mouth import MouthTracks
    from engines.preview.rig import Rig

ROOT = Path(__file__).resolve().parent.parent
SPEECH, SECONDS = ROOT / "examples" / "speech_en.wav", 8.0
FPS, SEED = 25, 1
SIZE, TILE, CAPTION = 512, 256, 28  # pixels: of the video, of a picture on the sheet, of the line under it
ORDER = ("neutral", "happy", "sad", "angry", "surprised", "disgusted", "fear", "contempt")
EXPAND = 0.35  # room around the face
OPEN_PERCENTILE = 80  # of the mouth's opening over the clip: the moment a contact sheet shows
STRIP_FRAMES, STRIP_START = 10, 26
QUALITY = 88

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Scene:
    """A portrait that is ready to speak."""

    frames: Any  # Renderer
    rig: Rig
    corner: NDArray[np.intp]  # of the moving window in the frame
    params: SynthesisParams
    tracks: MouthTracks  # one value per frame

    @classmethod
    def of(cls, portrait: Picture, finder: FaceFinder, tracks: MouthTracks) -> Scene:
        """Find the face and build its rig."""
        from engines.base import Emotion, SynthesisParams  # noqa: PLC0415
        from engines.preview import frame, rig  # noqa: PLC0415
        from engines.preview.render import Renderer  # noqa: PLC0415

        params = SynthesisParams(Emotion.NEUTRAL, 3.0, 6.0, True, 25, None, FPS, SEED, 1.0, SIZE, EXPAND)
        face = finder.inspect(portrait).face
        still = frame.make_still(portrait, face, finder.landmarks(portrait, face), params)
        puppet = rig.build(still)
        corner = np.array([still.window.left, still.window.top])
        return cls(Renderer(still, puppet), puppet, corner, params, tracks)

    def poses(self, emotion: Emotion, emo_scale: float) -> NDArray[np.float32]:
        """The pose of every frame under an emotion."""
        from engines.preview import motion  # noqa: PLC0415

        params = replace(self.params, emotion=emotion, emo_scale=emo_scale)
        return motion.perform(self.tracks, self.rig.shape, params, len(self.tracks.jaw))

    def mouth(self, picture: Picture) -> Picture:
        """The mouth of a frame, close up."""
        shape = self.rig.shape
        x, y = (shape.origin + self.corner).round().astype(int)
        reach = round(0.62 * shape.unit)
        part = picture[max(0, y - reach) : y + reach, max(0, x - reach) : x + reach]
        return _resized(part, TILE)


def listen() -> MouthTracks:
    """The mouth over the example speech, one value per frame."""
    from engines.preview import mouth  # noqa: PLC0415

    return mouth.analyse(SPEECH, SECONDS).resampled(round(SECONDS * FPS), FPS)


def speaking(tracks: MouthTracks, poses: NDArray[np.float32]) -> int:
    """A frame with the mouth well open and the eyes not blinking."""
    from engines.preview.rig import BASES  # noqa: PLC0415

    opening = tracks.jaw + 0.3 * tracks.lip
    blink = poses[:, BASES.index("blink")]
    usable = (np.arange(len(opening)) > FPS) & (blink <= np.median(blink[FPS:]) + 0.05)
    distance = np.abs(opening - np.percentile(opening[FPS:], OPEN_PERCENTILE))
    return int(np.where(usable, distance, np.inf).argmin())


def sheet(portraits: dict[str, Picture], finder: FaceFinder, tracks: MouthTracks, emo_scale: float) -> Picture:
    """Every portrait under the eight emotions: a row each, or two rows of four when there is but one."""
    from engines.base import Emotion  # noqa: PLC0415

    tiles = []
    for name, portrait in portraits.items():
        scene = Scene.of(portrait, finder, tracks)
        for emotion in map(Emotion, ORDER):
            poses = scene.poses(emotion, emo_scale)
            picture = _resized(scene.frames.frame(poses[speaking(tracks, poses)]), TILE)
            tiles.append(_captioned(picture, emotion.value if len(portraits) == 1 else f"{name}: {emotion.value}"))
    columns = 4 if len(portraits) == 1 else 8
    return np.vstack([np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)])


def strip(
    portrait: Picture, finder: FaceFinder, tracks: MouthTracks, emotion: Emotion, *, emo_scale: float, start: int
) -> Picture:
    """Consecutive frames of one emotion, the mouth close up below each, and a bar as high as the sound is loud."""
    scene = Scene.of(portrait, finder, tracks)
    poses = scene.poses(emotion, emo_scale)
    columns = []
    for number in range(start, start + STRIP_FRAMES):
        picture = scene.frames.frame(poses[number])
        bar = np.full((60, TILE, 3), 255, np.uint8)
        bar[60 - int(60 * min(tracks.loudness[number], 1)) :, TILE // 4 : -TILE // 4] = (70, 110, 160)
        column = np.vstack([_resized(picture, TILE), scene.mouth(picture), bar])
        columns.append(_captioned(column, f"{number / FPS:.2f} s"))
    return np.hstack(columns)


def _resized(picture: Picture, side: int) -> Picture:
    shrinks = picture.shape[1] > side
    return np.asarray(
        cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC), np.uint8
    )


def _captioned(picture: Picture, text: str) -> Picture:
    """The picture with a line of text under it."""
    band = Pillow.new("RGB", (picture.shape[1], CAPTION), "white")
    font = ImageFont.load_default(17)
    ImageDraw.Draw(band).text((picture.shape[1] / 2, CAPTION / 2), text, fill=(40, 40, 40), font=font, anchor="mm")
    return np.vstack([picture, np.asarray(band, np.uint8)])


def main() -> None:
    """Parse the command line, draw, save."""
    parser = argparse.ArgumentParser(description="Contact sheets and strips of the preview engine.")
    parser.add_argument("--portrait", type=Path, help="a picture; else the example and another photograph")
    parser.add_argument("--variants", metavar="NAME", help="all variants of `example` or `hopper`")
    parser.add_argument("--strip", metavar="EMOTION", help="consecutive frames of one emotion, of the first portrait")
    parser.add_argument("--start", type=int, default=STRIP_START, metavar="FRAME", help="first frame of the strip")
    parser.add_argument("--emo-scale", type=float, default=6.0)
    parser.add_argument("--out", type=Path, default=Path("preview_sheet.jpg"))
    options = parser.parse_args()

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from benchmarks.portraits import VARIANTS, sources  # noqa: PLC0415
    from engines.base import Emotion  # noqa: PLC0415
    from engines.preview import model  # noqa: PLC0415
    from engines.preview.face import FaceFinder  # noqa: PLC0415
    from media import image  # noqa: PLC0415

    cv2.setNumThreads(1)
    finder = FaceFinder(model.read(ROOT / "checkpoints" / "preview" / model.FILE_NAME))
    if options.portrait:
        portraits = {options.portrait.stem: image.load(options.portrait)}
    elif options.variants:
        portraits = {name: vary(sources()[options.variants]) for name, vary in VARIANTS.items()}
    else:
        portraits = sources()
    if options.strip:
        portrait = next(iter(portraits.values()))
        emotion = Emotion(options.strip)
        drawn = strip(portrait, finder, listen(), emotion, emo_scale=options.emo_scale, start=options.start)
    else:
        drawn = sheet(portraits, finder, listen(), options.emo_scale)
    Pillow.fromarray(drawn).save(options.out, quality=QUALITY, optimize=True)
    print(f"{options.out}: {drawn.shape[1]} x {drawn.shape[0]} pixels")


if __name__ == "__main__":
    main()
