"""The page about the DICE-Talk engine says what the code does: its files are there, its numbers are the code's."""

from __future__ import annotations

import re
from dataclasses import fields

from engines.dice_talk import audio_features, pipeline, portrait, sampler, vae, windows
from engines.dice_talk.pipeline import Sampling
from tests.process import ROOT

PAGE = (ROOT / "doc" / "dice_talk.md").read_text()
CODE = ROOT / "engines" / "dice_talk"

NUMBERS = {
    "WINDOW": windows.WINDOW,
    "SHIFT": windows.SHIFT,
    "PADDING": pipeline.PADDING,
    "FPS": pipeline.FPS,
    "MOTION_BUCKET": pipeline.MOTION_BUCKET,
    "MOTION_BUCKET_EXP": pipeline.MOTION_BUCKET_EXP,
    "CHUNK": vae.CHUNK,
    "SCALING": vae.SCALING,
    "CLIP_TOKENS": audio_features.CLIP_TOKENS,
    "MASK_AREA": portrait.MASK_AREA,
    "SIGMA_MIN": sampler.SIGMA_MIN,
    "SIGMA_MAX": sampler.SIGMA_MAX,
    **{field.name: field.default for field in fields(Sampling) if field.name != "motion"},
}


def test_the_files_it_names_are_there() -> None:
    named = set(re.findall(r"`(\w+\.py)`", PAGE))
    assert len(named) > 15
    assert {name for name in named if not (CODE / name).is_file()} == set()


def test_its_numbers_are_those_of_the_code() -> None:
    given = re.findall(r"`(\w+) = ([\d.]+)`", PAGE)
    assert {name for name, _ in given} == set(NUMBERS)
    for name, number in given:
        assert float(number) == NUMBERS[name], name


def test_it_has_the_sections_that_the_code_refers_to() -> None:
    """As `specification, section 6.3`."""
    referred = {
        number
        for file in CODE.glob("*.py")
        for sections in re.findall(r"[Ss]pecification, sections? ([^):;]+)[):;]", file.read_text())
        for number in re.findall(r"\d+(?:\.\d)?", sections.partition(", item")[0])
    }
    assert "6.4" in referred
    there = set(re.findall(r"^(?:## |\*\*)(\d+(?:\.\d)?)\W", PAGE, re.M))
    assert referred <= there, referred - there
