"""Each form field, sent to a service with the preview engine, changes the video as the documents say."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import av
import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pictures

from api.http.submission import FILE_FIELDS, TEXT_FIELDS
from engines.base import Image
from engines.preview import landmarks as lm
from engines.preview.engine import PreviewEngine
from engines.preview.face import FaceFinder
from engines.preview.landmarks import Landmarks
from media import video
from tests.media.speech import write_wav
from tests.preview.conftest import MODEL_DIR, PORTRAIT, SPEECH, decode
from tests.process import START, finish
from tests.server import make_settings, running

MOUTH = [*lm.UPPER_OUTER, *lm.LOWER_OUTER, *lm.UPPER_INNER, *lm.LOWER_INNER]
CORNERS, MIDDLE = [lm.UPPER_INNER[0], lm.UPPER_INNER[-1]], [lm.UPPER_INNER[5], lm.LOWER_INNER[5]]
HEAD = [lm.EYE_OUTER_RIGHT, lm.EYE_INNER_RIGHT, lm.EYE_INNER_LEFT, lm.EYE_OUTER_LEFT]
ENCODER = 3  # grey levels by which a whole picture may differ that was encoded


@dataclass
class Made:
    """A finished video, and what was measured on its frames. Lengths in the face are in distances of the eyes."""

    path: Path
    warnings: list[str]
    finder: FaceFinder

    @cached_property
    def info(self) -> video.VideoInfo:
        return video.probe(self.path)

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        return decode(self.path)[0]

    @cached_property
    def points(self) -> list[Landmarks]:
        """Of the first frame, and of ten from the second half, when the face has come to its expression."""
        face = self.finder.inspect(self.frames[0]).face
        places = [0, *np.linspace(len(self.frames) / 2, len(self.frames) - 1, 10).astype(int)]
        return [self.finder.landmarks(self.frames[place], face) for place in places]

    @property
    def expression(self) -> float:
        """How far the mouth is from how it is in the portrait, the head's motion taken out."""
        first, *others = map(in_own_axes, self.points)
        return float(np.mean([np.linalg.norm((face - first)[MOUTH], axis=1).mean() for face in others]))

    @property
    def smile(self) -> float:
        """How much higher the corners of the mouth are than its middle."""
        faces = list(map(in_own_axes, self.points[1:]))
        return float(np.mean([face[MIDDLE, 1].mean() - face[CORNERS, 1].mean() for face in faces]))

    @property
    def gap(self) -> float:
        """The widest that the lips come apart, beyond how they are in the portrait."""
        gaps = [np.linalg.norm(np.diff(in_own_axes(points)[MIDDLE], axis=0)) for points in self.points]
        return float(max(gaps[1:]) - gaps[0])

    @property
    def head_motion(self) -> float:
        """The farthest that the eyes come from where they are in the portrait."""
        first, *others = (points[HEAD, :2].mean(axis=0) for points in self.points)
        farthest = max(float(np.linalg.norm(place - first)) for place in others)
        return farthest / eye_distance(self.points[0])

    @property
    def face_share(self) -> float:
        """The width of the face in that of the picture."""
        face = self.finder.inspect(self.frames[0]).face
        return float((face.right - face.left) / self.frames.shape[2])

    @property
    def face_place(self) -> NDArray[np.float64]:
        """The middle of the face, as shares of the picture's width and height."""
        face = self.finder.inspect(self.frames[0]).face
        height, width = self.frames.shape[1:3]
        return np.array([(face.left + face.right) / 2 / width, (face.top + face.bottom) / 2 / height])


def eye_distance(points: Landmarks) -> float:
    return float(np.linalg.norm(points[lm.EYE_OUTER_LEFT, :2] - points[lm.EYE_OUTER_RIGHT, :2]))


def in_own_axes(points: Landmarks) -> NDArray[np.float64]:
    """The face as it would be with the middle between the eyes at 0, upright, and the eyes at a distance of 1."""
    right, left = points[lm.EYE_OUTER_RIGHT, :2], points[lm.EYE_OUTER_LEFT, :2]
    across = (left - right) / eye_distance(points) ** 2
    turn = np.array([across, [-across[1], across[0]]])
    return np.asarray((points[:, :2] - (left + right) / 2) @ turn.T, np.float64)


def difference(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """In grey levels, over the whole of both."""
    return float(np.abs(one.astype(int) - other).mean())


class Studio:
    """Sends forms and gives the finished videos: by default a happy face in silence, as small as can be."""

    def __init__(self, client: httpx.Client, finder: FaceFinder, directory: Path) -> None:
        self._client, self._finder, self._directory = client, finder, directory
        self._silence = write_wav(directory / "silence.wav", np.zeros(16000), 16000).read_bytes()
        self._made: dict[str, Made] = {}

    def make(self, **fields: Any) -> Made:
        form = {"emotion": "happy", "duration": 0.8, "min_resolution": 256, **fields}
        key = repr(sorted(form.items()))
        if key not in self._made:
            self._made[key] = self._order(form)
        return self._made[key]

    def _order(self, form: dict[str, Any]) -> Made:
        files = {"image": PORTRAIT.read_bytes(), "audio": self._silence}
        files |= {name: form[name] for name in FILE_FIELDS if name in form}
        texts = {name: value for name, value in form.items() if name not in FILE_FIELDS}
        accepted = self._client.post(START, data=texts, files=files)
        assert accepted.status_code == 202, accepted.text
        status = finish(self._client, accepted.json())
        assert status["status"] == "COMPLETED", status
        path = self._directory / f"{status['task_id']}.mp4"
        path.write_bytes(self._client.get(accepted.json()["download_url"]).content)
        return Made(path, status["warnings"], self._finder)


@pytest.fixture(scope="module")
def studio(finder: FaceFinder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studio]:
    directory = tmp_path_factory.mktemp("studio")
    # An engine of its own: the service closes it in the end.
    with running(make_settings(directory), PreviewEngine(MODEL_DIR)) as run:
        yield Studio(run.client, finder, directory)


def begin_alike_and_go_apart(one: Made, other: Made) -> None:
    assert difference(one.frames[0], other.frames[0]) < ENCODER
    apart = np.abs(one.frames[10:].astype(int) - other.frames[10:])
    assert apart.max(axis=0).max() > 40


def check_emotion(happy: Made, sad: Made) -> None:
    begin_alike_and_go_apart(happy, sad)
    assert happy.smile > sad.smile + 0.05


def check_ref_scale(low: Made, high: Made) -> None:
    begin_alike_and_go_apart(low, high)
    assert low.expression > 1.15 * high.expression


def check_emo_scale(low: Made, high: Made) -> None:
    begin_alike_and_go_apart(low, high)
    assert high.expression > 1.3 * low.expression
    assert high.smile > low.smile + 0.01


def check_crop(whole: Made, cropped: Made) -> None:
    assert whole.frames.shape[1:3] == (320, 256)  # as the portrait, 310 × 248
    assert cropped.frames.shape[1:3] == (256, 256)
    assert cropped.face_share > 1.05 * whole.face_share
    assert np.abs(cropped.face_place - 0.5).max() < 0.03


def check_expand_ratio(near: Made, far: Made) -> None:
    assert near.frames.shape == far.frames.shape
    # The face is 1 / (1 + 2 × expand_ratio) of a crop that the portrait has room for.
    assert near.face_share / far.face_share == pytest.approx((1 + 2 * 0.4) / (1 + 2 * 0.1), rel=0.15)


def check_duration(short: Made, long: Made) -> None:
    assert (short.info.frames, long.info.frames) == (5, 15)
    assert short.info.audio_seconds == pytest.approx(0.2, abs=0.05)
    assert long.info.audio_seconds == pytest.approx(0.6, abs=0.05)


def check_fps(slow: Made, quick: Made) -> None:
    assert (slow.info.fps, quick.info.fps) == (12, 60)
    assert (slow.info.frames, quick.info.frames) == (9, 45)
    assert slow.info.video_seconds == quick.info.video_seconds == pytest.approx(0.75)
    for place, frame in enumerate(slow.frames):  # the same motion, seen more often
        assert difference(frame, quick.frames[5 * place]) < 2
    moving = quick.frames[5:25]
    assert all(not np.array_equal(one, other) for one, other in itertools.pairwise(moving))


def check_dynamic_scale(calm: Made, lively: Made) -> None:
    begin_alike_and_go_apart(calm, lively)
    assert lively.head_motion > 4 * calm.head_motion
    assert lively.head_motion > 0.05


def check_min_resolution(small: Made, large: Made) -> None:
    assert (small.info.width, small.info.height) == (256, 320)
    assert (large.info.width, large.info.height) == (320, 400)


def check_inference_steps(few: Made, many: Made) -> None:
    """No effect, which each is told; made twice, so that equal input and equal seed are seen to give equal bytes."""
    assert few.path != many.path
    assert few.path.read_bytes() == many.path.read_bytes()
    for made in (few, many):
        assert len(made.warnings) == 1
        assert made.warnings[0].startswith("inference_steps has no effect")


def check_image(one: Made, other: Made) -> None:
    shown, mirrored = picture(PORTRAIT.read_bytes()), picture(mirror())
    for made, its, not_its in ((one, shown, mirrored), (other, mirrored, shown)):
        assert difference(made.frames[0], its) < difference(made.frames[0], not_its) / 3


def check_audio(silence: Made, speech: Made) -> None:
    assert speech.gap > silence.gap + 0.03
    assert loudness(silence.path) < 1e-3
    assert loudness(speech.path) > 1e-2


def loudness(path: Path) -> float:
    """Of the whole video's sound, where 1 is full scale."""
    with av.open(str(path)) as container:
        return float(np.mean([np.abs(frame.to_ndarray()).mean() for frame in container.decode(audio=0)]))


def mirror() -> bytes:
    buffer = io.BytesIO()
    Pictures.open(PORTRAIT).transpose(Pictures.Transpose.FLIP_LEFT_RIGHT).save(buffer, "PNG")
    return buffer.getvalue()


def picture(content: bytes) -> Image:
    """As the first frame should show it."""
    with Pictures.open(io.BytesIO(content)) as opened:
        return np.asarray(opened.convert("RGB").resize((256, 320)), np.uint8)


@dataclass(frozen=True)
class Row:
    """Two values of a field, what must be seen of the two videos, and what else is sent with both."""

    first: Any
    second: Any
    check: Callable[[Made, Made], None]
    beside: dict[str, Any]


def row(first: Any, second: Any, check: Callable[[Made, Made], None], **beside: Any) -> Row:
    return Row(first, second, check, beside)


ROWS = {
    "image": row(PORTRAIT.read_bytes(), mirror(), check_image, duration=0.1),
    "audio": row(None, SPEECH.read_bytes(), check_audio),
    "emotion": row("happy", "sad", check_emotion),
    "ref_scale": row(0, 10, check_ref_scale),
    "emo_scale": row(1, 10, check_emo_scale),
    "crop": row("false", "true", check_crop, duration=0.1),
    "inference_steps": row(8, 50, check_inference_steps, duration=0.3),
    "duration": row(0.2, 0.6, check_duration),
    "fps": row(12, 60, check_fps, duration=0.75),
    "seed": row(1, 2, begin_alike_and_go_apart),
    "dynamic_scale": row(0.1, 3.0, check_dynamic_scale, emotion="neutral"),
    "min_resolution": row(256, 320, check_min_resolution, duration=0.1),
    "expand_ratio": row(0.1, 0.4, check_expand_ratio, crop="true", duration=0.1),
}


def test_every_field_of_the_form_has_its_row() -> None:
    assert set(ROWS) == {*FILE_FIELDS, *TEXT_FIELDS}


@pytest.mark.parametrize("field", ROWS)
def test_a_field_changes_the_video_as_documented(studio: Studio, field: str) -> None:
    case = ROWS[field]
    one, other = (
        studio.make(**case.beside, **({} if value is None else {field: value})) for value in (case.first, case.second)
    )
    case.check(one, other)


def test_nobody_is_warned_of_steps_they_did_not_ask_for(studio: Studio) -> None:
    assert studio.make().warnings == []
