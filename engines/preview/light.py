"""The light on a face, measured on its skin."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.shape import FaceShape

LUMA = np.array([0.299, 0.587, 0.114])
USUAL_SKIN = (205, 165, 143)  # RGB under good light; its tint counts as white light
FULL_COLOUR = 24  # between the strongest and the weakest channel of skin in a colour photograph, at the least
MAX_SLOPE = 1.6  # of the logarithm of brightness, per face unit: a hard light from one side
SKIN_BLUR = 0.02  # face units; pores and noise are not light
FIT_STEPS, FIT_SPREAD = 5, 0.12  # glasses, hair and shadows of the nose count less the further off the plane they lie
HIGHLIGHT_PERCENTILE = 98


@dataclass(frozen=True, slots=True)
class Light:
    """Brightness is 0..255, places are in face units about the mouth."""

    skin: NDArray[np.float64]  # colour (3,) of the skin
    level: float  # brightness of the skin at the mouth
    across: float  # how the logarithm of the brightness grows to the image's right, per face unit
    down: float  # and to the chin
    highlight: float  # brightness of the face's brightest parts

    @property
    def tint(self) -> NDArray[np.float64]:
        """The light's colour (3,) as factors about 1, judged by the skin."""
        usual = np.array(USUAL_SKIN, np.float64)
        tint = (np.maximum(self.skin, 1) / max(self.skin @ LUMA, 1)) / (usual / (usual @ LUMA))
        return np.asarray(np.clip(tint**0.6, 0.75, 1.25))

    @property
    def saturation(self) -> float:
        """0 for a black and white portrait, which stays one, 1 for one in full colour."""
        return min(1.0, float(np.ptp(self.skin)) / FULL_COLOUR)


def measure(shape: FaceShape, picture: Image) -> Light:
    """Measure the light on a face; `picture` is what the shape was measured in."""
    height, width = picture.shape[:2]
    smooth = cv2.GaussianBlur(picture, (0, 0), max(0.5, SKIN_BLUR * shape.unit))
    points = shape.points[list(lm.SKIN_FIELD)]
    places = shape.to_pixels(points).round().astype(int)
    inside = ((places >= 0) & (places < (width, height))).all(axis=1)
    colours = smooth[places[inside, 1], places[inside, 0]].astype(np.float64)
    if len(colours) < len(places) / 2:  # the picture cuts most of the face off
        usual = np.array(USUAL_SKIN, np.float64)
        return Light(usual, float(usual @ LUMA), 0.0, 0.0, 255.0)
    logs = np.log(np.maximum(colours @ LUMA, 1))
    plane = np.column_stack([np.ones(len(logs)), points[inside]])
    weights = np.ones(len(logs))
    fit = np.zeros(3)
    for _ in range(FIT_STEPS):
        fit = np.linalg.lstsq(plane * weights[:, None], logs * weights, rcond=None)[0]
        weights = 1 / (1 + ((logs - plane @ fit) / FIT_SPREAD) ** 2)
    across, down = (float(np.clip(slope, -MAX_SLOPE, MAX_SLOPE)) for slope in fit[1:])
    oval = np.zeros((height, width), np.uint8)
    cv2.fillPoly(oval, [shape.to_pixels(shape.points[list(lm.OVAL)]).round().astype(np.int32)], (1,))
    brightest = np.percentile(smooth[oval > 0] @ LUMA, HIGHLIGHT_PERCENTILE)
    return Light(np.median(colours, axis=0), float(np.exp(fit[0])), across, down, float(brightest))
