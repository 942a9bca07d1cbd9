"""From the detector's rows to faces: which are kept, which is the largest, and where they are in the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from engines.dice_talk.face import FaceDetector, faces, grid, network_input, network_size

unhurried = settings(deadline=None)
SIZE = 416, 416


def row(
    x: float, y: float, width: float, height: float, objectness: float = 0.9, face: float = 1.0
) -> NDArray[np.float32]:
    """One row of the network: a box by its centre; the landmarks stand at the centre too."""
    return np.array([x, y, width, height, objectness, *[x, y] * 5, face], np.float32)


def rows(*found: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.stack(found) if found else np.zeros((0, 16), np.float32)


def overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Intersection over union of two boxes x, y, width, height."""
    near, far = np.maximum(first[:2], second[:2]), np.minimum(first[:2] + first[2:], second[:2] + second[2:])
    shared = float(np.clip(far - near, 0, None).prod())
    union = float(first[2:].prod() + second[2:].prod()) - shared
    return shared / union if union else 0.0


def test_the_largest_of_several() -> None:
    found = faces(rows(row(50, 50, 40, 40, 0.95), row(200, 200, 60, 90, 0.7), row(350, 50, 70, 70)), SIZE, SIZE)
    assert found.scores == pytest.approx([0.95, 0.9, 0.7])
    assert found.largest() == 2
    assert found.boxes[2] == pytest.approx([170, 155, 60, 90])


def test_the_surest_of_equally_large() -> None:
    found = faces(rows(row(50, 50, 40, 60, 0.6), row(300, 300, 60, 40, 0.8)), SIZE, SIZE)
    assert found.largest() == 0
    assert found.boxes[0] == pytest.approx([270, 280, 60, 40])


@pytest.mark.parametrize(
    "nothing",
    [
        rows(),
        rows(row(50, 50, 40, 40, objectness=0.5)),
        rows(row(50, 50, 40, 40, objectness=0.5, face=1.2)),
        rows(row(50, 50, 40, 40, objectness=0.8, face=0.6)),
        rows(row(50, 50, 40, 40, objectness=1.0, face=0.5)),
    ],
    ids=["no rows", "objectness at the threshold", "the objectness counts by itself", "product", "at the threshold"],
)
def test_no_face(nothing: NDArray[np.float32]) -> None:
    found = faces(nothing, SIZE, SIZE)
    assert found.largest() is None
    assert (found.boxes.shape, found.landmarks.shape, found.scores.shape) == ((0, 4), (0, 5, 2), (0,))


def test_of_equal_boxes_the_surest_stays_and_of_equally_sure_ones_the_first() -> None:
    found = faces(rows(row(100, 100, 40, 40, 0.7), row(100, 100, 40, 40, 0.9)), SIZE, SIZE)
    assert found.scores == pytest.approx([0.9])
    found = faces(rows(row(101, 100, 40, 40), row(100, 100, 40, 40), row(102, 100, 40, 40)), SIZE, SIZE)
    assert found.boxes[:, 0] == pytest.approx([81])


def test_equally_sure_faces_stay_in_the_order_of_the_rows() -> None:
    places = [(40 * column + 20, 40 * line + 20) for line in range(10) for column in range(10)]
    found = faces(rows(*(row(x, y, 30, 30, 0.9 if x % 80 == 20 else 0.8) for x, y in places)), SIZE, SIZE)
    expected = [place for place in places if place[0] % 80 == 20] + [place for place in places if place[0] % 80 != 20]
    assert found.landmarks[:, 0] == pytest.approx(np.array(expected))


def test_boxes_may_overlap_up_to_the_threshold() -> None:
    # 100 wide, 38 apart: 62 shared of 138 is 0.449; 37 apart: 63 of 137 is 0.460.
    assert len(faces(rows(row(100, 100, 100, 50), row(138, 100, 100, 50)), SIZE, SIZE).boxes) == 2
    assert len(faces(rows(row(100, 100, 100, 50), row(137, 100, 100, 50)), SIZE, SIZE).boxes) == 1


def test_who_was_dropped_drops_nobody() -> None:
    chain = rows(row(100, 100, 100, 50, 0.9), row(130, 100, 100, 50, 0.8), row(160, 100, 100, 50, 0.7))
    assert faces(chain, SIZE, SIZE).scores == pytest.approx([0.9, 0.7])


boxes = st.builds(
    row,
    st.floats(0, 416, width=32), st.floats(0, 416, width=32), st.floats(1, 300, width=32), st.floats(1, 300, width=32),
    st.sampled_from([0.4, 0.51, 0.6, 0.7, 0.99]), st.sampled_from([0.6, 0.99, 1.0]),
)  # fmt: skip


@unhurried
@given(st.lists(boxes, max_size=12))
def test_who_is_kept(found: list[NDArray[np.float32]]) -> None:
    kept = faces(rows(*found), SIZE, SIZE)
    assert np.all(np.diff(kept.scores) <= 0), "the surest first"
    assert np.all(kept.scores > 0.5)
    pairs = [(a, b) for a in range(len(kept.boxes)) for b in range(a)]
    assert all(overlap(kept.boxes[a], kept.boxes[b]) <= 0.45 + 1e-9 for a, b in pairs)
    for candidate in found:
        score = float(candidate[4]) * float(candidate[15])
        if candidate[4] > 0.5 and score > 0.5:
            box = np.array([*(candidate[:2] - candidate[2:4].astype(float) / 2), *candidate[2:4]], np.float64)
            surer = kept.boxes[kept.scores >= score - 1e-9]
            assert any(overlap(box, other) > 0.45 - 1e-9 or np.allclose(box, other) for other in surer)


@unhurried
@given(st.integers(64, 8192), st.integers(64, 8192))
def test_boxes_and_landmarks_are_in_pixels_of_the_image(width: int, height: int) -> None:
    found = faces(rows(row(104, 208, 52, 26)), (416, 832), (height, width))
    scale = np.array([width / 832, height / 416])
    assert found.boxes[0] == pytest.approx(np.array([78, 195, 52, 26]) * np.tile(scale, 2))
    assert found.landmarks[0] == pytest.approx(np.tile(np.array([104, 208]) * scale, (5, 1)))


@unhurried
@given(st.integers(64, 8192), st.integers(64, 8192))
def test_the_networks_picture_keeps_the_aspect_but_for_a_row(height: int, width: int) -> None:
    size = network_size(height, width)
    assert min(size) == 416
    for side, original in zip(size, (height, width), strict=True):
        assert side % 32 == 0
        assert -1 <= side - original * 416 / min(height, width) < 32


class Network:
    """Finds one face at a place given in parts of the picture; remembers what it was shown."""

    def __init__(self) -> None:
        self.shown: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def __call__(self, picture: torch.Tensor, grids: list[torch.Tensor]) -> torch.Tensor:
        self.shown.append((picture, grids))
        height, width = picture.shape[-2:]
        return torch.from_numpy(rows(row(width / 2, height / 4, width / 10, height / 5)))[None]


@pytest.mark.parametrize(("height", "width"), [(300, 300), (64, 192), (1000, 613)])
def test_finds_the_face_where_it_is_in_the_image(height: int, width: int) -> None:
    network: Any = Network()
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0] = 255
    found = FaceDetector(network).find(image)
    assert found.boxes[0] == pytest.approx([0.45 * width, 0.15 * height, 0.1 * width, 0.2 * height], rel=1e-5)
    ((picture, grids),) = network.shown
    assert picture.shape == (1, 3, *network_size(height, width))
    assert (picture.amin((0, 2, 3)).tolist(), picture.amax((0, 2, 3)).tolist()) == ([1, 0, 0], [1, 0, 0]), "RGB, 0..1"
    assert [tuple(grid.shape[2:4]) for grid in grids] == [
        (picture.shape[2] // stride, picture.shape[3] // stride) for stride in (8, 16, 32)
    ]


def test_a_cell_of_the_grid_is_its_column_and_row() -> None:
    cells = grid((64, 96), 16)
    assert cells.shape == (1, 1, 4, 6, 2)
    assert cells[0, 0, 3, 5].tolist() == [5, 3]
    assert cells[0, 0, 0, 1].tolist() == [1, 0]


def test_the_picture_of_its_own_size_is_not_changed() -> None:
    image = np.random.default_rng(1).integers(0, 256, (416, 448, 3), dtype=np.uint8)
    shown = network_input(image, (416, 448))
    assert torch.equal((shown[0] * 255).round().byte().permute(1, 2, 0), torch.from_numpy(image))
