"""The performance: one pose per video frame, from the mouth's tracks, the emotion, blinks and the life of a head."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from engines.base import Emotion, SynthesisParams
from engines.preview.bases import smoothstep
from engines.preview.mouth import MouthTracks
from engines.preview.rig import BASES
from engines.preview.shape import FaceShape
from engines.preview.tracks import Track, follow

Poses = NDArray[np.float32]
"""One weight per frame and basis, shape (frames, len(BASES))."""

EXPRESSIONS: Mapping[Emotion, Mapping[str, float]] = MappingProxyType(
    {
        Emotion.NEUTRAL: {},
        Emotion.HAPPY: {"smile": 0.85, "squint": 0.45, "brow_up": 0.12, "wide": 0.05},
        Emotion.SAD: {
            **{"frown": 0.85, "brow_in": 0.70, "blink": 0.20, "upper_lip": -0.40, "press": 0.15},
            **{"pitch": 0.045, "roll": 0.02},
        },
        Emotion.ANGRY: {
            **{"brow_down": 0.95, "squint": 0.35, "frown": 0.35, "press": 0.30, "lid_raise": 0.25, "nose": 0.25},
            "pitch": 0.03,
        },
        Emotion.SURPRISED: {"brow_up": 0.85, "lid_raise": 0.9, "jaw": 0.22, "lip": 0.15, "pitch": -0.03},
        Emotion.DISGUSTED: {"nose": 0.9, "upper_lip": 0.75, "brow_down": 0.55, "squint": 0.5, "frown": 0.35},
        Emotion.FEAR: {
            **{"brow_up": 0.5, "brow_in": 0.75, "lid_raise": 0.95, "stretch": 0.55, "jaw": 0.10, "lip": 0.10},
        },
        Emotion.CONTEMPT: {
            **{"smirk": 1.1, "frown": 0.2, "brow_one": 0.45, "blink": 0.18, "squint": 0.2, "upper_lip": -0.30},
            **{"press": 0.2, "pitch": -0.03, "roll": 0.03},
        },
    }
)
"""The pose an emotion holds at default scales."""

MOUTH_FACTOR = MappingProxyType({Emotion.SAD: 0.75, Emotion.ANGRY: 1.1, Emotion.DISGUSTED: 0.9, Emotion.CONTEMPT: 0.75})
"""How far the mouth moves in speech under an emotion; 1 where none is given."""

HEAD_SPEED = MappingProxyType({Emotion.SAD: 0.6, Emotion.FEAR: 1.4})
"""How quickly the head moves under an emotion; 1 where none is given."""

UNSMILE = MappingProxyType(
    {Emotion.SAD: 0.95, Emotion.ANGRY: 0.85, Emotion.DISGUSTED: 0.75, Emotion.FEAR: 0.75, Emotion.CONTEMPT: 1.0}
)
"""How much of a smile in the portrait these emotions take back; without it a smiling face cannot look sad."""

SMILE_THERE = 0.4  # share of a smile that a broad smile in the portrait makes up for
MAX_GAIN = 1.4  # expressions beyond this would fold the skin
BLINK_CLOSE, BLINK_HOLD, BLINK_OPEN = 0.09, 0.04, 0.16  # seconds


def perform(mouth: MouthTracks, shape: FaceShape, params: SynthesisParams, frames: int) -> Poses:
    """The pose of every frame; `mouth` must be resampled to the frames. Frame 0 is the portrait itself, all zero."""
    random = np.random.Generator(np.random.PCG64(params.seed))
    time = np.arange(frames) / params.fps
    gain = expression_gain(params) * smoothstep(0, 0.5, time) * (1 + 0.06 * _noise(random, time, 1.3))
    poses = {name: np.zeros(frames) for name in BASES}
    _express(poses, params.emotion, shape, np.clip(gain, 0, MAX_GAIN), mouth.close)
    _speak(poses, mouth, shape, params, time)
    _nod(poses, mouth, params, time, random)
    _blink(poses, time, random)
    return np.stack([poses[name] for name in BASES], axis=1).astype(np.float32)


def expression_gain(params: SynthesisParams) -> float:
    """How strongly the emotion shows: 1 at the default scales, more with emo_scale, less with ref_scale."""
    return min(min(params.emo_scale / 6, 1.5) * (1.15 - 0.05 * params.ref_scale), MAX_GAIN)


def mouth_gain(params: SynthesisParams) -> float:
    """How far the mouth moves in speech: 1 at the default scales without an emotion."""
    # Identity holds the mouth back a little; emo_scale drives it too, so that it acts on a neutral face as well.
    scales = (1.06 - 0.02 * params.ref_scale) * (0.85 + 0.025 * params.emo_scale)
    return MOUTH_FACTOR.get(params.emotion, 1.0) * scales


def _express(poses: dict[str, Track], emotion: Emotion, shape: FaceShape, gain: Track, close: Track) -> None:
    smile = shape.smile_share
    for name, weight in EXPRESSIONS[emotion].items():
        # Lips meet for M, B and P under every emotion.
        yielding = {"jaw": 0.9, "lip": 0.9, "upper_lip": 0.7}.get(name, 0.0)
        there = SMILE_THERE * smile if name == "smile" else 0.0
        poses[name] += weight * gain * (1 - yielding * close) * (1 - there)
    poses["smile"] -= UNSMILE.get(emotion, 0.0) * smile * np.minimum(gain, 1)


def _speak(poses: dict[str, Track], mouth: MouthTracks, shape: FaceShape, params: SynthesisParams, time: Track) -> None:
    amount = mouth_gain(params) * smoothstep(0, 0.10, time)
    poses["jaw"] += 0.85 * amount * mouth.jaw
    poses["lip"] += amount * mouth.lip
    poses["wide"] += 0.90 * amount * mouth.wide
    poses["round"] += 0.90 * amount * mouth.round
    poses["press"] += 0.80 * amount * mouth.close
    poses["bite"] += 0.90 * amount * mouth.bite
    if shape.mouth_open:
        poses["close"] += smoothstep(0, 0.30, time)


def _nod(
    poses: dict[str, Track], mouth: MouthTracks, params: SynthesisParams, time: Track, random: np.random.Generator
) -> None:
    """Head movement: slow wandering and a nod with the voice; brows lift on the loudest syllables."""
    speed = HEAD_SPEED.get(params.emotion, 1.0)
    ease = smoothstep(0, 0.6, time)
    amount = params.dynamic_scale * ease
    quick, slow = (follow(mouth.loudness, tau, tau, params.fps) for tau in (0.18, 0.8))
    stress = quick - slow
    for name, size, seconds in (("yaw", 0.050, 1.5), ("pitch", 0.022, 1.2), ("roll", 0.014, 1.9)):
        poses[name] += amount * size * _noise(random, time, seconds / speed)
    poses["pitch"] += amount * 0.07 * stress
    for name, size in (("shift_x", 0.012), ("shift_y", 0.010)):
        poses[name] += amount * size * _noise(random, time, 1.6 / speed)
    poses["brow_up"] += 0.18 * ease * np.clip((stress - 0.12) / 0.25, 0, 1)


def _blink(poses: dict[str, Track], time: Track, random: np.random.Generator) -> None:
    """Blinks every few seconds; lids that already hang or squint close only what is left."""
    closed = np.zeros(len(time))
    start = random.uniform(0.9, 2.0)
    while start < (time[-1] if len(time) else 0):
        since = time - start
        down = smoothstep(0, BLINK_CLOSE, since)
        up = smoothstep(BLINK_CLOSE + BLINK_HOLD, BLINK_CLOSE + BLINK_HOLD + BLINK_OPEN, since)
        closed = np.maximum(closed, down - up)
        start += random.uniform(2.2, 4.8)
    poses["lid_raise"] *= 1 - closed
    left = 1 + 0.28 * poses["lid_raise"] - 0.45 * poses["squint"]
    poses["blink"] = np.maximum(poses["blink"], 0) * (1 - closed) + closed
    poses["blink"] = np.minimum(poses["blink"], 1) * np.clip(left, 0.2, 1)


def _noise(random: np.random.Generator, time: Track, seconds: float) -> Track:
    """Smooth noise of about unit size, within ±1.8, that changes its mind every `seconds`."""
    knots = int((time[-1] if len(time) else 0) / seconds) + 4
    values = np.clip(random.standard_normal(knots), -1.8, 1.8)
    place = time / seconds
    index = place.astype(np.intp)
    t = place - index
    before, start, end, after = (values[index + offset] for offset in range(4))
    # Uniform cubic B-spline: two continuous derivatives, never beyond its knots.
    blend = (1 - t) ** 3 * before + (3 * t**3 - 6 * t**2 + 4) * start
    blend += (-3 * t**3 + 3 * t**2 + 3 * t + 1) * end + t**3 * after
    return np.asarray(blend / 6 * 1.4)
