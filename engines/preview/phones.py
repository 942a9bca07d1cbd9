"""Second pass over the speech: which sounds are spoken, by pocketsphinx's English phone loop, in blocks of 30 s.

Speech in other languages gets the nearest English sounds: plausible shapes, not exact ones.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engines.preview.loudness import HOP, SAMPLE_RATE, Levels
from engines.preview.tracks import RATE, Track
from media.audio import read_blocks

BLOCK_SECONDS = 30
SHORTEST = 10  # hundredths; the recogniser makes nothing of less
SEARCH_SECONDS = 5  # a block ends in the quietest moment of its last seconds
PEAK = 0.8  # level the recogniser gets the recording at

_MODEL_FILES = (
    "en-us/cmudict-en-us.dict",
    "en-us/en-us-phone.lm.bin",
    "en-us/en-us/feat.params",
    "en-us/en-us/mdef",
    "en-us/en-us/means",
    "en-us/en-us/noisedict",
    "en-us/en-us/sendump",
    "en-us/en-us/transition_matrices",
    "en-us/en-us/variances",
)

SHAPES = ("jaw", "lip", "wide", "round", "close", "bite")
"""Columns of the shape of a sound, each 0..1."""

_TABLE: tuple[tuple[str, tuple[float, float, float, float, float, float]], ...] = (
    ("P B M", (0.02, 0.0, 0.0, 0.05, 1.0, 0.0)),
    ("F V", (0.08, 0.10, 0.05, 0.0, 0.0, 1.0)),
    ("TH DH", (0.18, 0.35, 0.10, 0.0, 0.0, 0.0)),
    ("T D L N", (0.20, 0.35, 0.12, 0.0, 0.0, 0.0)),
    ("S Z", (0.08, 0.45, 0.35, 0.0, 0.0, 0.0)),
    ("SH ZH CH JH", (0.12, 0.50, 0.0, 0.55, 0.0, 0.0)),
    ("K G NG HH", (0.28, 0.30, 0.08, 0.0, 0.0, 0.0)),
    ("R ER", (0.25, 0.30, 0.0, 0.45, 0.0, 0.0)),
    ("W", (0.10, 0.20, 0.0, 0.95, 0.0, 0.0)),
    ("UW UH", (0.18, 0.25, 0.0, 0.85, 0.0, 0.0)),
    ("OW AO OY", (0.55, 0.30, 0.0, 0.65, 0.0, 0.0)),
    ("AW", (0.75, 0.35, 0.0, 0.30, 0.0, 0.0)),
    ("AA AY", (0.95, 0.40, 0.05, 0.0, 0.0, 0.0)),
    ("AE", (0.85, 0.45, 0.25, 0.0, 0.0, 0.0)),
    ("AH", (0.55, 0.30, 0.0, 0.05, 0.0, 0.0)),
    ("EH EY", (0.50, 0.45, 0.40, 0.0, 0.0, 0.0)),
    ("IH", (0.32, 0.40, 0.35, 0.0, 0.0, 0.0)),
    ("IY Y", (0.20, 0.45, 0.65, 0.0, 0.0, 0.0)),
)


def shape_of(phone: str) -> tuple[float, ...] | None:
    """The mouth of a phone (ARPAbet), one value per SHAPES; None for silence and noises."""
    return next((shape for phones, shape in _TABLE if phone in phones.split()), None)


def recognise(
    path: Path, seconds: float, levels: Levels, check: Callable[[], None], progress: Callable[[float], None]
) -> tuple[NDArray[np.float64], Track]:
    """Shapes (n, 6) of the sounds spoken and, per hundredth of a second, 1 where a sound was recognised.

    Without a working recogniser nothing is recognised, and the spectrum alone moves the mouth. `check` is called for
    every second read and may raise; `progress` gets the share done after every block.
    """
    count = len(levels.loudness)
    shapes, known = np.zeros((count, len(SHAPES))), np.zeros(count)
    decoder = _decoder()
    if decoder is None or levels.gate.max(initial=0.0) == 0.0:
        return shapes, known
    scale = PEAK / max(levels.peak, 1e-4) * 32767
    start = 0
    for block in _blocks(path, seconds, levels, check):
        for phone, first, last in _phones(decoder, (block * scale).astype(np.int16)):
            shape = shape_of(phone)
            if shape is not None:
                shapes[start + first : start + last + 1] = shape
                known[start + first : start + last + 1] = 1
        start += round(len(block) / HOP)
        progress(min(1.0, start / count))
    return shapes, known


def _blocks(path: Path, seconds: float, levels: Levels, check: Callable[[], None]) -> Iterator[NDArray[np.float32]]:
    """The recording in pieces of at most 30 s, cut where it is quiet; all but the last are whole hundredths long."""
    held: list[NDArray[np.float32]] = []
    done = 0  # hundredths already given out
    for second in read_blocks(path, SAMPLE_RATE, seconds=seconds):
        check()
        held.append(second)
        if sum(map(len, held)) >= BLOCK_SECONDS * SAMPLE_RATE:
            first = done + (BLOCK_SECONDS - SEARCH_SECONDS) * RATE
            search = levels.loudness[first : done + BLOCK_SECONDS * RATE - SHORTEST]
            cut = first + int(search.argmin()) - done if len(search) else BLOCK_SECONDS * RATE
            samples = np.concatenate(held)
            yield samples[: cut * HOP]
            held, done = [samples[cut * HOP :]], done + cut
    if held:
        yield np.concatenate(held)


def model_files() -> dict[str, Path]:
    """The files that the recogniser reads for every recording, by name; none where there is no recogniser."""
    try:
        import pocketsphinx  # noqa: PLC0415 - optional: the mouth also moves without it
    except ImportError:
        return {}
    models = Path(pocketsphinx.get_model_path())
    return {f"pocketsphinx/{name}": models / name for name in _MODEL_FILES}


def _decoder() -> Any:
    try:
        import pocketsphinx  # noqa: PLC0415
    except ImportError:
        logging.getLogger(__name__).warning("pocketsphinx cannot be imported: the lips follow the spectrum alone")
        return None
    models = Path(pocketsphinx.get_model_path()) / "en-us"
    return pocketsphinx.Decoder(
        hmm=str(models / "en-us"),
        allphone=str(models / "en-us-phone.lm.bin"),
        allphone_ci=True,
        lw=2.0,
        pip=0.3,
        beam=1e-20,
        pbeam=1e-20,
        loglevel="FATAL",
    )


def _phones(decoder: Any, samples: NDArray[np.int16]) -> Iterator[tuple[str, int, int]]:
    """Phones of one block with their first and last hundredths."""
    decoder.start_utt()
    decoder.process_raw(samples.tobytes(), no_search=False, full_utt=True)
    decoder.end_utt()
    for segment in decoder.seg() or ():  # None where nothing at all was recognised
        yield segment.word, segment.start_frame, segment.end_frame
