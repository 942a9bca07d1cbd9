"""What can be wrong with a media file, in sentences for the person who sent it."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar


class CodedError(Exception):
    """An error with a stable `code` for programs and an English message for people."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str = "", **facts: Any) -> None:
        super().__init__(message.format(**facts) if facts else message)
        self.template = message
        self.facts = MappingProxyType(facts)


class MediaError(CodedError):
    """A file that cannot be used; `code` is stable, the text is for people."""


class UnsupportedMediaError(MediaError):
    """The bytes are of no allowed kind, whatever the file is called."""

    code = "unsupported_media_type"


class InvalidImageError(MediaError):
    """A JPEG or PNG, but broken or out of range."""

    code = "invalid_image"


class InvalidAudioError(MediaError):
    """A WAV or MP3, but broken or out of range."""

    code = "invalid_audio"


class EncoderError(MediaError):
    """The finished video did not pass its checks."""

    code = "encoder_failed"
