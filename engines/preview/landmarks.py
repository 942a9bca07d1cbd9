"""Which of the 478 face landmarks is where.

The numbering is that of MediaPipe's face mesh. "Right" and "left" are the subject's: right is on the image's left.
Every list runs from the image's left to its right, or from the outer to the inner end where it says so.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Landmarks = NDArray[np.float32]
"""Shape (478, 3): x, y in pixels of the image they were found in, and depth in the same unit, smaller is nearer."""

COUNT = 478
SKIN_COUNT = 468  # the last ten are the irises

# Lips: four rings from the outer edge (0) to the inner edge (3); first and last of each are the ring's corners.
UPPER_LIP_RINGS: tuple[tuple[int, ...], ...] = (
    (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291),
    (76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306),
    (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292),
    (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308),
)
LOWER_LIP_RINGS: tuple[tuple[int, ...], ...] = (
    (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291),
    (76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306),
    (62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292),
    (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308),
)
UPPER_OUTER, UPPER_INNER = UPPER_LIP_RINGS[0], UPPER_LIP_RINGS[-1]
LOWER_OUTER, LOWER_INNER = LOWER_LIP_RINGS[0], LOWER_LIP_RINGS[-1]

# Eyes, from the image's left to its right: right eye outer to inner, left eye inner to outer.
RIGHT_UPPER_LID = (33, 246, 161, 160, 159, 158, 157, 173, 133)
RIGHT_LOWER_LID = (33, 7, 163, 144, 145, 153, 154, 155, 133)
LEFT_UPPER_LID = (362, 398, 384, 385, 386, 387, 388, 466, 263)
LEFT_LOWER_LID = (362, 382, 381, 380, 374, 373, 390, 249, 263)
EYES = ((RIGHT_UPPER_LID, RIGHT_LOWER_LID), (LEFT_UPPER_LID, LEFT_LOWER_LID))

# Brows, outer to inner end.
RIGHT_BROW_UPPER = (70, 63, 105, 66, 107)
RIGHT_BROW_LOWER = (46, 53, 52, 65, 55)
LEFT_BROW_UPPER = (300, 293, 334, 296, 336)
LEFT_BROW_LOWER = (276, 283, 282, 295, 285)
BROWS = ((RIGHT_BROW_UPPER, RIGHT_BROW_LOWER), (LEFT_BROW_UPPER, LEFT_BROW_LOWER))

OVAL = (
    *(10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377),
    *(152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109),
)

EYE_OUTER_RIGHT, EYE_OUTER_LEFT = 33, 263
EYE_INNER_RIGHT, EYE_INNER_LEFT = 133, 362
FEATURES = (EYE_OUTER_RIGHT, EYE_INNER_RIGHT, EYE_INNER_LEFT, EYE_OUTER_LEFT, *UPPER_OUTER, *LOWER_OUTER)
EAR_RIGHT, EAR_LEFT = 234, 454
FOREHEAD, CHIN = 10, 152
NOSTRIL_RIGHT, NOSTRIL_LEFT = 48, 278

# Clear skin on cheeks, nose, chin and between the brows, for the light on the face.
SKIN_FIELD = (
    *(9, 151, 195, 5, 18, 200, 199, 201, 421, 208, 428),
    *(50, 101, 36, 205, 187, 207, 123, 147, 117, 118, 214, 210, 192),
    *(280, 330, 266, 425, 411, 427, 352, 376, 346, 347, 434, 430, 416),
)

# Lines along which skin creases, the right half of the face and the left one. The nasolabial fold runs from the wing of
# the nose past the corner of the mouth, the other two around the eye from its outer to its inner end.
FOLDS = ((129, 206, 216, 212), (358, 426, 436, 432))
LID_CREASES = ((247, 30, 29, 27, 28, 56, 190), (467, 260, 259, 257, 258, 286, 414))
UNDER_EYES = ((31, 228, 229, 230, 231, 232), (261, 448, 449, 450, 451, 452))
CHEEKS = (50, 205), (280, 425)


def _unshared(one: tuple[tuple[int, ...], ...], other: tuple[tuple[int, ...], ...]) -> NDArray[np.intp]:
    inside = {point for line in one for point in line} - {point for line in other for point in line}
    return np.array(sorted(inside), dtype=np.intp)


def upper_edges() -> NDArray[np.intp]:
    """Points of the upper lip and the upper lids, without the corners."""
    return np.concatenate(
        [_unshared(UPPER_LIP_RINGS, LOWER_LIP_RINGS), *(_unshared((upper,), (lower,)) for upper, lower in EYES)]
    )


def lower_edges() -> NDArray[np.intp]:
    """Points of the lower lip and the lower lids, without the corners."""
    return np.concatenate(
        [_unshared(LOWER_LIP_RINGS, UPPER_LIP_RINGS), *(_unshared((lower,), (upper,)) for upper, lower in EYES)]
    )
