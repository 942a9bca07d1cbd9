"""Find the face to animate and its 478 landmarks, with OpenCV's dnn module.

BlazeFace proposes, the face mesh decides: on coins and galaxies the mesh's own face score is below 0.05, on frontal
faces above 0.999. Neither network can tell a covered face from a free one.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import FaceBox, Image, NoFaceError, Portrait, SetupError
from engines.preview import landmarks as lm
from engines.preview import suitability
from engines.preview.detector import OVERLAP, Detection, FaceDetector, overlap
from engines.preview.landmarks import Landmarks
from engines.preview.model import FaceNetworks

MESH_SIZE = 256  # side of the mesh network's input
MIN_FACE_LOGIT = 0.0
REGION_MARGIN = 1.5  # side of the mesh's square region, in box sizes

DIVISORS = (1, 2, 4)  # the whole picture is looked at, then tiles of a half and a quarter of its long side
MAX_FACES = 12  # of a crowd only the largest are looked at

# The mesh's logit of a face that looks at the camera is 12.7-22, small, dark or tilted too; of one that is upside down
# and was taken for upright below 11, of profiles 3-5.
CLEAR_LOGIT = 12.0

NO_FACE = "No face was found in the picture. Please use a photograph with one clear, frontal face."
NEARLY_FACE = (
    "Something like a face is in the picture, but turned too far away, covered or unclear. "
    "Please use a photograph in which the face looks at the camera."
)
BLACK = "The picture is nearly black. Please use a photograph taken in better light."
BLACK_LEVEL = 12  # brightness 0..255 that almost nothing in a black picture exceeds


@dataclass(frozen=True, slots=True)
class Face:
    """A face the mesh confirmed."""

    points: Landmarks
    logit: float  # the mesh's own judgement; above 0 it is a face


@dataclass(frozen=True, slots=True)
class Region:
    """A square of an image, turned by `roll` radians clockwise."""

    x: float
    y: float
    side: float
    roll: float


class FaceFinder:
    """Both networks; may be used from any thread (a cv2.dnn.Net may not, so it lies behind a lock)."""

    def __init__(self, networks: FaceNetworks) -> None:
        """Load the networks. Raises SetupError when OpenCV does not run them as it should."""
        self._lock = threading.Lock()
        try:
            self._detector = FaceDetector(networks.detector)
            self._mesh = cv2.dnn.readNetFromTFLite(np.frombuffer(networks.mesh, np.uint8))
            score, points = self._run_mesh(np.zeros((MESH_SIZE, MESH_SIZE, 3), np.uint8))
        except cv2.error as error:
            raise SetupError(f"OpenCV {cv2.__version__} cannot load the face model: {error}") from error
        # OpenCV 5 returns another tensor under the same name without a word.
        if score.size != 1 or points.size != lm.COUNT * 3:
            raise SetupError(f"OpenCV {cv2.__version__} runs the face model wrongly; install one from 4.14 to below 5.")

    def inspect(self, image: Image) -> Portrait:
        """Choose the face to animate: the largest usable one. Raises NoFaceError with a sentence for the owner."""
        faces: list[Face] = []
        refusals: list[suitability.Refusal] = []  # of faces that came before
        proposals = 0
        clear_when_turned = functools.cache(lambda divisor: self._shows_clear_face(_upside_down(image), divisor))
        for divisor in DIVISORS:
            found, proposed = self._find(image, divisor)
            proposals += proposed
            new = [face for face in found if not any(_same_face(face, other) for other in faces)]
            faces += new
            for face in sorted(new, key=_area, reverse=True):
                refusal = self._refusal(image, face, functools.partial(clear_when_turned, divisor))
                if refusal is None:
                    warnings = _several(len(faces), refusals) + suitability.warnings(image, face.points)
                    return Portrait(_box_of(face.points), tuple(warnings))
                refusals.append(refusal)
            if suitability.UPSIDE_DOWN in refusals:
                break  # so are the smaller faces
        if refusals:
            raise NoFaceError(str(refusals[0]))
        raise NoFaceError(self._why_none(image, proposals, clear_when_turned))

    def landmarks(self, image: Image, face: FaceBox) -> Landmarks:
        """The landmarks of a face that `inspect` returned. Raises NoFaceError when the picture does not show it."""
        found = self._measured(image, face)
        if found is None:
            raise NoFaceError("The picture does not show the face that was found in it before.")
        return found.points

    def _measured(self, image: Image, face: FaceBox) -> Face | None:
        side = max(face.right - face.left, face.bottom - face.top)
        middle = (face.left + face.right) / 2, (face.top + face.bottom) / 2
        return self._refined(image, Region(*middle, REGION_MARGIN * side, face.roll))

    def _refusal(self, image: Image, face: Face, clear_when_turned: Callable[[], bool]) -> suitability.Refusal | None:
        """Why a face cannot be animated; None if it can. `clear_when_turned`: on its head, the picture shows one."""
        if face.logit < CLEAR_LOGIT and clear_when_turned():
            return suitability.UPSIDE_DOWN
        refusal = suitability.refusal(image, face.points)
        if refusal is None and self._measured(image, _box_of(face.points)) is None:
            return suitability.UNCLEAR  # what the job will do must work, or be refused here
        return refusal

    def _why_none(self, image: Image, proposals: int, clear_when_turned: Callable[[int], bool]) -> str:
        """What to tell the owner of a picture in which the mesh confirmed no face."""
        if float(np.percentile(image, 99)) < BLACK_LEVEL:
            return BLACK
        if any(clear_when_turned(divisor) for divisor in (DIVISORS if proposals else DIVISORS[:1])):
            return str(suitability.UPSIDE_DOWN)
        return NEARLY_FACE if proposals else NO_FACE

    def _shows_clear_face(self, image: Image, divisor: int) -> bool:
        faces, _ = self._find(image, divisor)
        return any(face.logit >= CLEAR_LOGIT for face in faces)

    def _find(self, image: Image, divisor: int) -> tuple[list[Face], int]:
        """All faces the mesh confirms, and how many boxes BlazeFace proposed. Small faces need tiles."""
        proposals = self._detector.detect(image, divisor)
        faces: list[Face] = []
        for detection in sorted(proposals, key=_box_area, reverse=True)[:MAX_FACES]:
            face = self._refined(image, _region_of(detection))
            if face is not None and not any(_same_face(face, other) for other in faces):
                faces.append(face)
        return faces, len(proposals)

    def _refined(self, image: Image, region: Region) -> Face | None:
        """Two passes of the mesh, the second on the region of the first; None unless both say it is a face."""
        face: Face | None = None
        for _ in range(2):
            crop, to_image = _cut_out(image, region)
            score, raw = self._run_mesh(crop)
            logit = float(score.reshape(-1)[0])
            if logit < MIN_FACE_LOGIT:
                return None
            in_crop = raw.reshape(lm.COUNT, 3)
            points = np.empty((lm.COUNT, 3), np.float32)
            points[:, :2] = in_crop[:, :2] @ to_image[:, :2].T + to_image[:, 2]
            points[:, 2] = in_crop[:, 2] * (region.side / MESH_SIZE)
            face = Face(points, logit)
            region = _region_around(points)
        return face

    def _run_mesh(self, crop: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The face logit and the landmarks in pixels of a (256, 256, 3) crop."""
        blob = np.ascontiguousarray((crop.astype(np.float32) / 255).transpose(2, 0, 1)[None])
        with self._lock:
            self._mesh.setInput(blob)
            # Copied: the outputs are the network's own memory, and the next call overwrites them.
            logit, points = (np.array(blob, np.float32) for blob in self._mesh.forward(["Identity_1", "Identity"]))
        return logit, points


def _box_area(detection: Detection) -> float:
    left, top, right, bottom = detection.box
    return float((right - left) * (bottom - top))


def _same_face(one: Face, other: Face) -> bool:
    boxes = [_box_of(face.points) for face in (one, other)]
    return overlap(*((box.left, box.top, box.right, box.bottom) for box in boxes)) > OVERLAP


def _upside_down(image: Image) -> Image:
    return np.ascontiguousarray(image[::-1, ::-1])


def _several(count: int, refusals: list[suitability.Refusal]) -> list[str]:
    """What to say of the other faces in the picture."""
    if count < 2:
        return []
    if refusals:
        which = f"the largest one {refusals[0].reason}, so another one is animated"
    else:
        which = "the largest one is animated"
    return [f"{count} faces were found in the picture; {which}."]


def _region_of(detection: Detection) -> Region:
    left, top, right, bottom = detection.box
    side = REGION_MARGIN * max(right - left, bottom - top)
    return Region((left + right) / 2, (top + bottom) / 2, side, detection.roll)


def _region_around(points: Landmarks) -> Region:
    """The square around the face's box in its own axes."""
    roll = suitability.roll_of(points)
    turn = np.array([[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]])
    own = points[:, :2] @ turn.T
    low, high = own.min(axis=0), own.max(axis=0)
    x, y = turn.T @ ((low + high) / 2)
    return Region(float(x), float(y), REGION_MARGIN * float((high - low).max()), roll)


def _cut_out(image: Image, region: Region) -> tuple[Image, NDArray[np.float64]]:
    """The region as a (256, 256, 3) picture, and the (2, 3) map from its pixels to those of the image."""
    step = region.side / MESH_SIZE
    cos, sin = math.cos(region.roll) * step, math.sin(region.roll) * step
    middle = (MESH_SIZE - 1) / 2
    to_image = np.array(
        [
            [cos, -sin, region.x - cos * middle + sin * middle],
            [sin, cos, region.y - sin * middle - cos * middle],
        ]
    )
    # Only the part of the image under the region is touched; a large one is averaged first, or the crop would alias.
    height, width = image.shape[:2]
    reach = region.side * 0.75
    left, top = (int(min(max(value - reach, 0), limit - 1)) for value, limit in ((region.x, width), (region.y, height)))
    right, bottom = (math.ceil(value + reach) for value in (region.x, region.y))
    part = image[top : max(bottom, top + 1), left : max(right, left + 1)]
    factor = int(step)
    scale_x = scale_y = 1.0
    if factor >= 2:
        small = cv2.resize(
            part, (max(1, part.shape[1] // factor), max(1, part.shape[0] // factor)), interpolation=cv2.INTER_AREA
        )
        scale_x, scale_y = small.shape[1] / part.shape[1], small.shape[0] / part.shape[0]
        part = np.asarray(small, np.uint8)
    to_part = to_image - [[0, 0, left], [0, 0, top]]
    to_part = np.diag([scale_x, scale_y]) @ to_part + [[0, 0, (scale_x - 1) / 2], [0, 0, (scale_y - 1) / 2]]
    crop = cv2.warpAffine(
        part,
        to_part,
        (MESH_SIZE, MESH_SIZE),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(crop, np.uint8), to_image


def _box_of(points: Landmarks) -> FaceBox:
    (left, top), (right, bottom) = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return FaceBox(float(left), float(top), float(right), float(bottom), suitability.roll_of(points))


def _area(face: Face) -> float:
    box = _box_of(face.points)
    return (box.right - box.left) * (box.bottom - box.top)
