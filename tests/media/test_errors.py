"""Coded errors: message templates, their values as data, copies."""

from __future__ import annotations

import copy
import pickle

import pytest

from media.errors import (
    CodedError,
    EncoderError,
    InvalidAudioError,
    InvalidImageError,
    MediaError,
    UnsupportedMediaError,
)


def test_message_with_facts_is_formatted() -> None:
    error = CodedError("{width}×{height} pixels, {share:.1f} %", width=3, height=4, share=0.25)
    assert str(error) == "3×4 pixels, 0.2 %"
    assert error.template == "{width}×{height} pixels, {share:.1f} %"
    assert error.facts == {"width": 3, "height": 4, "share": 0.25}


@pytest.mark.parametrize("message", ["", "plain", "{braces} {0} {"])
def test_message_without_facts_is_verbatim(message: str) -> None:
    error = CodedError(message)
    assert (str(error), error.template, error.facts) == (message, message, {})


def test_braces_in_facts_are_not_formatted() -> None:
    assert str(CodedError("{name} is missing", name="{name} {0}")) == "{name} {0} is missing"


def test_default_message_is_empty() -> None:
    assert str(CodedError()) == ""


def test_missing_fact_raises_key_error() -> None:
    with pytest.raises(KeyError, match="height"):
        CodedError("{width}×{height}", width=3)


@pytest.mark.parametrize(
    "error", [InvalidImageError("{width} pixels {{}}", width=3), EncoderError("{ verbatim"), CodedError()]
)
def test_copies_keep_text_template_and_facts(error: CodedError) -> None:
    for twin in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert type(twin) is type(error)
        assert (str(twin), twin.template, twin.facts) == (str(error), error.template, error.facts)


def test_media_error_codes() -> None:
    kinds = (CodedError, MediaError, UnsupportedMediaError, InvalidImageError, InvalidAudioError, EncoderError)
    assert [kind.code for kind in kinds] == [
        "internal", "internal", "unsupported_media_type", "invalid_image", "invalid_audio", "encoder_failed",
    ]  # fmt: skip
