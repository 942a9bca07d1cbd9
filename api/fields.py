"""Types and ranges of the synthesis parameters, the same for form fields and for their defaults in the settings."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

GuidanceScale = Annotated[float, Field(ge=0, le=10, allow_inf_nan=False)]
InferenceSteps = Annotated[int, Field(ge=8, le=50)]
Seconds = Annotated[float, Field(ge=0.1, le=600, allow_inf_nan=False)]
FramesPerSecond = Annotated[int, Field(ge=8, le=60)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]
DynamicScale = Annotated[float, Field(ge=0.1, le=3, allow_inf_nan=False)]
Resolution = Annotated[int, Field(ge=256, le=1024, multiple_of=64)]
ExpandRatio = Annotated[float, Field(ge=0.1, le=2, allow_inf_nan=False)]
