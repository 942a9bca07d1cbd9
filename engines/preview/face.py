"""Find the face to animate and its 478 landmarks, with OpenCV's dnn module.

BlazeFace proposes, the face mesh decides: on coins and galaxies the mesh's own face score is below 0.05, on frontal
faces above 0.999. Neither network can tell a covered face from a free one.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.base import FaceBox, Image, NoFaceError, Portrait, SetupError
from engines.preview import landmarks as lm
from engines.preview.detector import OVERLAP, Detection, FaceDetector, overlap, sigmoid
from engines.preview.model import FaceNetworks

MESH_SIZE = 256  # side of the mesh network's input
MIN_FACE_SCORE = 0.5
REGION_MARGIN = 1.5  # side of the mesh's square region, in box sizes

MAX_YAW, WARN_YAW = math.radians(40), math.radians(25)
MIN_EYE_RATIO = 0.27  # eye distance / face height: frontal faces have 0.34-0.41, a profile 0.22
MIN_EYE_PIXELS, WARN_EYE_PIXELS = 12, 24
MAX_FACES = 12  # of a crowd only the largest are looked at

UNCLEAR = (
    "Something like a face is in the picture, but turned too far away, covered or unclear. "
    "Please use a photograph in which the face looks at the camera."
)

Landmarks = NDArray[np.float32]
"""Shape (478, 3): x, y in pixels of the image they were found in, and depth in the same unit, smaller is nearer."""


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
        """Choose the face to animate. Raises NoFaceError with a sentence for the owner of the picture."""
        faces, proposals = self._find(image)
        if not faces:
            if proposals:
                raise NoFaceError(UNCLEAR)
            raise NoFaceError("No face was found in the picture. Please use a photograph with one clear, frontal face.")
        points = max(faces, key=_area)
        warnings = []
        if len(faces) > 1:
            warnings.append(f"{len(faces)} faces were found in the picture; the largest one is animated.")
        yaw, eye_pixels, eye_ratio = _pose(points)
        if abs(yaw) > MAX_YAW or eye_ratio < MIN_EYE_RATIO:
            raise NoFaceError(
                f"The face in the picture is turned away by about {abs(math.degrees(yaw)):.0f} degrees. "
                "Please use a photograph in which the face looks at the camera."
            )
        if eye_pixels < MIN_EYE_PIXELS:
            raise NoFaceError(
                f"The face in the picture is too small: its eyes are {eye_pixels:.1f} pixels apart, "
                f"at least {MIN_EYE_PIXELS} are needed. Please use a closer or larger photograph."
            )
        if abs(yaw) > WARN_YAW:
            warnings.append(
                f"The face is turned by about {abs(math.degrees(yaw)):.0f} degrees; a frontal one moves more naturally."
            )
        if eye_pixels < WARN_EYE_PIXELS:
            warnings.append(f"The face is small (eyes {eye_pixels:.0f} pixels apart); the video will be blurred.")
        face = _box_of(points)
        if self._landmarks(image, face) is None:  # what the job will do must work, or be refused here
            raise NoFaceError(UNCLEAR)
        return Portrait(face=face, warnings=tuple(warnings))

    def landmarks(self, image: Image, face: FaceBox) -> Landmarks:
        """The landmarks of a face that `inspect` returned. Raises NoFaceError when the picture does not show it."""
        points = self._landmarks(image, face)
        if points is None:
            raise NoFaceError("The picture does not show the face that was found in it before.")
        return points

    def _landmarks(self, image: Image, face: FaceBox) -> Landmarks | None:
        side = max(face.right - face.left, face.bottom - face.top)
        middle = (face.left + face.right) / 2, (face.top + face.bottom) / 2
        return self._refined(image, Region(*middle, REGION_MARGIN * side, face.roll))

    def _find(self, image: Image) -> tuple[list[Landmarks], int]:
        """All faces the mesh confirms, and how many boxes BlazeFace proposed. Small faces need tiles."""
        proposals = 0
        for divisor in (1, 2, 4):
            found = self._detector.detect(image, divisor)
            proposals += len(found)
            faces: list[Landmarks] = []
            for detection in sorted(found, key=_box_area, reverse=True)[:MAX_FACES]:
                points = self._refined(image, _region_of(detection))
                if points is not None and not any(_same_face(points, other) for other in faces):
                    faces.append(points)
            if faces:
                return faces, proposals
        return [], proposals

    def _refined(self, image: Image, region: Region) -> Landmarks | None:
        """Two passes of the mesh, the second on the region of the first; None unless both say it is a face."""
        points: Landmarks | None = None
        for _ in range(2):
            crop, to_image = _cut_out(image, region)
            logit, raw = self._run_mesh(crop)
            if sigmoid(logit.reshape(-1))[0] < MIN_FACE_SCORE:
                return None
            in_crop = raw.reshape(lm.COUNT, 3)
            points = np.empty((lm.COUNT, 3), np.float32)
            points[:, :2] = in_crop[:, :2] @ to_image[:, :2].T + to_image[:, 2]
            points[:, 2] = in_crop[:, 2] * (region.side / MESH_SIZE)
            region = _region_around(points)
        return points

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


def _same_face(one: Landmarks, other: Landmarks) -> bool:
    boxes = [_box_of(points) for points in (one, other)]
    return overlap(*((box.left, box.top, box.right, box.bottom) for box in boxes)) > OVERLAP


def _region_of(detection: Detection) -> Region:
    left, top, right, bottom = detection.box
    side = REGION_MARGIN * max(right - left, bottom - top)
    return Region((left + right) / 2, (top + bottom) / 2, side, detection.roll)


def _region_around(points: Landmarks) -> Region:
    """The square around the face's box in its own axes."""
    roll = _roll(points)
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


def _roll(points: Landmarks) -> float:
    across = points[lm.EYE_OUTER_LEFT, :2] - points[lm.EYE_OUTER_RIGHT, :2]
    return math.atan2(across[1], across[0])


def _box_of(points: Landmarks) -> FaceBox:
    (left, top), (right, bottom) = points[:, :2].min(axis=0), points[:, :2].max(axis=0)
    return FaceBox(float(left), float(top), float(right), float(bottom), _roll(points))


def _area(points: Landmarks) -> float:
    box = _box_of(points)
    return (box.right - box.left) * (box.bottom - box.top)


def _pose(points: Landmarks) -> tuple[float, float, float]:
    """Yaw in radians, distance of the eye centres in pixels, and that distance over the face's height."""
    ears = points[lm.EAR_LEFT] - points[lm.EAR_RIGHT]
    yaw = math.atan2(float(ears[2]), float(np.hypot(ears[0], ears[1])))
    right = (points[lm.EYE_OUTER_RIGHT, :2] + points[lm.EYE_INNER_RIGHT, :2]) / 2
    left = (points[lm.EYE_OUTER_LEFT, :2] + points[lm.EYE_INNER_LEFT, :2]) / 2
    eyes = float(np.linalg.norm(left - right))
    height = float(np.linalg.norm(points[lm.FOREHEAD, :2] - points[lm.CHIN, :2]))
    return yaw, eyes, eyes / max(height, 1e-6)
