"""Errors about media files, and the base class of all errors with a code."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

Fact = str | int | float
"""A value in the message of an error."""


class CodedError(Exception):
    """An error with a stable `code` for programs and an English message for people.

    `message` is a template in the syntax of `str.format`; `facts` are its values, kept as data so that a caller can
    render the message in another language. Without facts, the message is used verbatim and may contain braces.
    `str(error)` is the formatted English text. Raises KeyError if the template names a value that `facts` lacks.
    """

    code: ClassVar[str] = "internal"

    template: str
    facts: Mapping[str, Fact]

    def __init__(self, message: str = "", **facts: Fact) -> None:
        # The only exception argument is the formatted text: `copy` and `pickle` call the class with it, then restore
        # `template` and `facts` from the instance dictionary.
        super().__init__(message.format_map(facts) if facts else message)
        self.template = message
        self.facts = facts


class MediaError(CodedError):
    """Base class of errors about media files. The message is written for the person who uploaded the file."""


class UnsupportedMediaError(MediaError):
    """The content is not of a supported file type; the file name and the declared type are ignored."""

    code = "unsupported_media_type"


class InvalidImageError(MediaError):
    """A JPEG or PNG file that is damaged or exceeds a limit."""

    code = "invalid_image"


class InvalidAudioError(MediaError):
    """A WAV or MP3 file that is damaged or exceeds a limit."""

    code = "invalid_audio"


class EncoderError(MediaError):
    """The video could not be encoded, or the encoded file failed verification."""

    code = "encoder_failed"
