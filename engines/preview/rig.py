"""The rig: for every movement of the face, a dense field of displacements over the moving window.

The fields are splines through the landmarks, evaluated twice: once without the lower lip and the lower lids (the upper
layer) and once without the upper ones (the lower layer), so that lips and lids can part without tearing anything. Away
from them both layers are the same, and at the window's rim nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from engines.preview import landmarks as lm
from engines.preview.bases import FACE_BASES, HEAD_BASES, Values, face_bases, smoothstep
from engines.preview.frame import Still
from engines.preview.lattice import NODES, Field, Lattice, rim
from engines.preview.shape import FaceShape, Points, measure
from engines.preview.spline import Spline

BASES = FACE_BASES + HEAD_BASES
"""Names of the weights of a pose, in their order."""

EYE_REACH, MOUTH_REACH = 0.13, 0.30  # over these lengths beyond lids and lips the lower layer becomes the upper one
RELIEF_BLUR = 0.12  # face units; the steep sides of the face would fold under a turn of the head
OVAL_FADE = (0.10, 0.55)  # the skin's movements end between these distances outside the face's oval
FACE_RIM, HEAD_RIM = 0.12, 0.16  # and inside these shares of the window's side at its rim
MIN_RIM = 0.40  # face units: where a tight picture cuts the head off, a shorter fade would fold it


@dataclass(frozen=True, slots=True)
class Displacement:
    """Where every node goes under a pose."""

    upper: Field  # skin, upper lip and upper lids
    lower: Field  # skin, lower lip and lower lids
    skull: Field  # what only the head moves
    eyes: Field  # the eyeballs; the same object as `skull` when they move with it


@dataclass(frozen=True, slots=True)
class Rig:
    """A face that can be posed."""

    lattice: Lattice
    layers: NDArray[np.float32]  # (bases, 2 · NODES, NODES, 2): upper layer, then lower layer
    head: NDArray[np.float32]  # (head bases, NODES, NODES, 2)
    eyes: Field  # `lid_raise` inside the eyes, where it widens the eyeball with the lids

    @property
    def shape(self) -> FaceShape:
        """The face, in pixels of the window."""
        return self.lattice.shape

    def displace(self, weights: NDArray[np.float32]) -> Displacement:
        """Move the face by a pose, one weight per basis; no BLAS in here, its threads would cost more than the sum."""
        both = np.zeros(self.layers.shape[1:], np.float32)
        for index in np.flatnonzero(weights):
            cv2.scaleAdd(self.layers[index], float(weights[index]), both, both)
        skull = np.zeros((NODES, NODES, 2), np.float32)
        for index in np.flatnonzero(weights[len(FACE_BASES) :]):
            cv2.scaleAdd(self.head[index], float(weights[len(FACE_BASES) + index]), skull, skull)
        raised = float(weights[FACE_BASES.index("lid_raise")])
        eyes = np.asarray(cv2.scaleAdd(self.eyes, raised, skull), np.float32) if raised else skull
        return Displacement(both[:NODES], both[NODES:], skull, eyes)


def build(still: Still) -> Rig:
    """Make the rig of a portrait; 0.2-0.3 s."""
    window = still.window
    local = still.landmarks.copy()
    local[:, :2] -= (window.left, window.top)
    shape = measure(local, window.of(still.picture))
    lattice = Lattice(shape, window.side)
    nodes, to_steps = lattice.nodes, lattice.from_units

    bases = face_bases(shape)
    least = MIN_RIM * shape.unit / window.side
    fade = smoothstep(*OVAL_FADE[::-1], lattice.distance(shape.points[list(lm.OVAL)])) * rim(max(FACE_RIM, least))
    head_mask = _head_mask(shape, nodes) * rim(max(HEAD_RIM, least))
    eye_mask = np.maximum(*(lattice.near(upper, lower, EYE_REACH) for upper, lower in lm.EYES))
    part_mask = np.maximum(eye_mask, lattice.near(lm.UPPER_OUTER, lm.LOWER_OUTER, MOUTH_REACH))

    spline, anchors = _spline(shape, window.side)
    skin = np.arange(lm.SKIN_COUNT)
    wanted = np.column_stack([bases[name] for name in FACE_BASES] + [shape.depth])
    wanted = np.pad(wanted, ((0, len(anchors)), (0, 0)))
    reached = (fade > 0) | (head_mask > 0)
    without = (lm.lower_edges(), lm.upper_edges())
    found = np.zeros((2, NODES, NODES, wanted.shape[1]))
    found[:, reached] = spline.evaluate(
        nodes[reached], [(np.append(np.setdiff1d(skin, edges), anchors), wanted) for edges in without]
    )
    face = found[..., :-1] * fade[..., None]
    face[1] = face[0] + part_mask[..., None] * (face[1] - face[0])
    face = face.reshape(2, NODES, NODES, len(FACE_BASES), 2) @ to_steps
    relief = cv2.GaussianBlur(found[0, ..., -1], (0, 0), RELIEF_BLUR * shape.unit / lattice.step)
    head = _head_fields(shape, nodes, np.asarray(relief, np.float64)) * head_mask[..., None, None] @ to_steps

    layers = np.empty((len(BASES), 2 * NODES, NODES, 2), np.float32)
    layers[: len(FACE_BASES)] = np.moveaxis(face.reshape(2 * NODES, NODES, -1, 2), 2, 0)
    layers[len(FACE_BASES) :] = np.moveaxis(np.concatenate([head, head]), 2, 0)
    head_fields = np.ascontiguousarray(np.moveaxis(head, 2, 0), np.float32)

    # Raised lids show more of the eye than the portrait has: the eyeball is stretched with them.
    eyes = np.zeros((NODES, NODES, 2))
    column = 2 * FACE_BASES.index("lid_raise")
    (eyes[eye_mask > 0],) = spline.evaluate(
        nodes[eye_mask > 0], [(np.append(skin, anchors), wanted[:, column : column + 2])]
    )
    eyes = eyes * (eye_mask * fade)[..., None] @ to_steps
    return Rig(lattice, layers, head_fields, eyes.astype(np.float32))


def _spline(shape: FaceShape, side: int) -> tuple[Spline, NDArray[np.intp]]:
    """A spline through the landmarks and through anchors around the face and on the window's rim; which are anchors."""
    oval = shape.points[list(lm.OVAL)]
    centre = oval.mean(axis=0)
    edge = np.linspace(0, side - 1, 14)
    border = [(x, y) for x in edge for y in edge if {x, y} & {edge[0], edge[-1]}]
    # Close anchors hold hair and ears; under the jaw they would leave the neck no room to give way.
    close = oval[oval[:, 1] < 0]
    around = [centre + (close - centre) * 1.30, centre + (oval - centre) * 1.60]
    centres = np.concatenate([shape.points, *around, shape.to_units(np.array(border))])
    return Spline(centres), np.arange(lm.COUNT, len(centres))


def _head_mask(shape: FaceShape, nodes: Points) -> Values:
    """1 on the head, 0 on shoulders and background."""
    oval = shape.points[list(lm.OVAL)]
    offset = nodes - ((oval.min(axis=0) + oval.max(axis=0)) / 2 - (0, 0.22))
    height = np.where(offset[..., 1] < 0, 1.55, 1.25)
    return smoothstep(1.75, 0.85, np.hypot(offset[..., 0] / 1.30, offset[..., 1] / height))


def _head_fields(shape: FaceShape, nodes: Points, depth: Values) -> Values:
    """Displacements (NODES, NODES, head bases, 2) in face units: what is near moves, the ears do not."""
    zero, one = np.zeros_like(depth), np.ones_like(depth)
    pivot = shape.points[lm.CHIN] + (0, 0.15)
    du, dv = nodes[..., 0] - pivot[0], nodes[..., 1] - pivot[1]
    fields = [(-depth, zero), (zero, -depth), (-dv, du), (one, zero), (zero, one)]
    return np.stack([np.stack(field, axis=-1) for field in fields], axis=2)
