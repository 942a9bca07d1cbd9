"""Types and ranges of the synthesis parameters, shared by the form fields and their defaults in the settings."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def _plain(value: object) -> object:
    """Reject what Python would read as a number and a person would not: `2_5`, or digits of other scripts."""
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        raise PydanticCustomError("plain_number", "Input should be a plain number, such as 25 or 0.5")
    return value


_Plain = BeforeValidator(_plain)

GuidanceScale = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False), _Plain]
InferenceSteps = Annotated[int, Field(ge=8, le=50), _Plain]
Seconds = Annotated[float, Field(ge=0.1, le=600, allow_inf_nan=False), _Plain]
FramesPerSecond = Annotated[int, Field(ge=8, le=60), _Plain]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), _Plain]
DynamicScale = Annotated[float, Field(ge=0.1, le=3, allow_inf_nan=False), _Plain]
Resolution = Annotated[int, Field(ge=256, le=1024, multiple_of=64), _Plain]
ExpandRatio = Annotated[float, Field(ge=0.1, le=2, allow_inf_nan=False), _Plain]
