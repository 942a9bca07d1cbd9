"""Each form field reaches the engine, and what is left out is as the settings say."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from api.http.submission import FILE_FIELDS, TEXT_FIELDS
from engines.base import SynthesisJob, SynthesisParams
from tests.http.conftest import Client, png
from tests.media.speech import tone, write_wav
from tests.scripted_engine import ScriptedEngine
from tests.server import make_settings, running

# For each text field two values as a client sends them, and what the engine is to be given.
TEXTS: dict[str, dict[str, Any]] = {
    "emotion": {"sad": "sad", "fear": "fear"},
    "ref_scale": {"0": 0.0, "9.5": 9.5},
    "emo_scale": {"0": 0.0, "7.25": 7.25},
    "crop": {"true": True, "false": False},
    "inference_steps": {"8": 8, "50": 50},
    "duration": {"0.1": 0.1, "0.5": 0.5},
    "fps": {"8": 8, "60": 60},
    "seed": {"0": 0, "4294967295": 2**32 - 1},
    "dynamic_scale": {"0.1": 0.1, "3": 3.0},
    "min_resolution": {"256": 256, "1024": 1024},
    "expand_ratio": {"0.1": 0.1, "2": 2.0},
}
# Where the default of a field is set; the others have one of their own.
SETTINGS = {"ref_scale": "default_ref_scale", "emo_scale": "default_emo_scale"} | {
    name: name for name in ("inference_steps", "fps", "seed", "min_resolution", "expand_ratio")
}
OWN_DEFAULTS = {"crop": False, "duration": None, "dynamic_scale": 1.0}
OTHER_SETTINGS = {
    "default_ref_scale": 1.0, "default_emo_scale": 2.0, "inference_steps": 9, "fps": 10, "seed": 3,
    "min_resolution": 320, "expand_ratio": 0.7,
}  # fmt: skip


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory, wav: bytes) -> Iterator[Client]:
    """A server with another default for every field that has one in the settings."""
    engine = ScriptedEngine()
    settings = make_settings(tmp_path_factory.mktemp("other"), synthesis=OTHER_SETTINGS)
    with running(settings, engine) as run:
        yield Client(run, engine, wav)


def job_of(client: Client, **sent: Any) -> tuple[SynthesisJob, dict[str, Any]]:
    """The job that the engine was given for a request, and the status of the finished task."""
    before = len(client.engine.jobs)
    status = client.finish(client.start(**sent))
    (job,) = client.engine.jobs[before:]
    return job, status


def test_every_field_of_the_form_has_its_row(shared: Client) -> None:
    form = shared.http.get("/openapi.json").json()["components"]["schemas"]["StartForm"]
    assert set(TEXTS) == set(TEXT_FIELDS) == {field.name for field in fields(SynthesisParams)}
    assert {*TEXTS, *FILE_FIELDS} == set(form["properties"])
    assert {*SETTINGS, *OWN_DEFAULTS} == set(form["properties"]) - set(form["required"])


@pytest.mark.parametrize("field", TEXTS)
def test_two_values_of_a_text_field_reach_the_engine(shared: Client, field: str) -> None:
    # With a seed of its own no request equals that of another test, whose video it would share.
    beside = {} if field == "seed" else {"seed": 100 + list(TEXTS).index(field)}
    given: list[dict[str, Any]] = []
    for text, value in TEXTS[field].items():
        job, status = job_of(shared, **beside, **{field: text})
        assert getattr(job.params, field) == value
        assert job.seconds == pytest.approx(value if field == "duration" else 1.0)
        assert status["parameters"] == asdict(job.params)
        given.append(asdict(job.params))
    one, two = given
    assert {name for name in one if one[name] != two[name]} == {field}


def test_two_images_reach_the_engine(shared: Client) -> None:
    for content, width, height in ((png(70, 90, seed=1), 70, 90), (png(80, 64, seed=2), 80, 64)):
        job, _ = job_of(shared, image=content)
        assert job.image.read_bytes() == content
        assert (job.face.right, job.face.bottom) == (width, height)  # of this engine: the face is all of the portrait


def test_two_recordings_reach_the_engine(shared: Client, tmp_path: Path) -> None:
    for seconds in (0.5, 0.75):
        content = write_wav(tmp_path / "s.wav", tone(seconds, 16000), 16000).read_bytes()
        job, _ = job_of(shared, audio=content)
        assert job.audio.read_bytes() == content
        assert job.seconds == pytest.approx(seconds)


@pytest.mark.parametrize("field", [*SETTINGS, *OWN_DEFAULTS])
def test_what_is_left_out_or_empty_is_as_the_settings_say(shared: Client, other: Client, field: str) -> None:
    required: dict[str, Any] = {"emotion": "happy"}
    for client in (shared, other):
        synthesis = client.run.service.settings.synthesis
        defaults = OWN_DEFAULTS | {name: getattr(synthesis, key) for name, key in SETTINGS.items()}
        for sent in ({}, {field: ""}):
            # All else has another value than it would have by itself.
            rest: dict[str, Any] = {name: next(iter(values)) for name, values in TEXTS.items()}
            del rest[field]
            status = client.finish(client.start(**{**rest, **required, **sent}))
            assert status["parameters"][field] == defaults[field]
        job = client.engine.jobs[-1]
        assert getattr(job.params, field) == defaults[field]
        form = client.http.get("/openapi.json").json()["components"]["schemas"]["StartForm"]["properties"]
        assert form[field].get("default") == defaults[field]
    if field in SETTINGS:
        assert shared.engine.jobs[-1].params != other.engine.jobs[-1].params


@pytest.mark.parametrize(("duration", "seconds"), [(0.4, 0.4), (1.0, 1.0), (600, 1.0)])
def test_duration_takes_the_first_seconds_of_what_there_is(shared: Client, duration: float, seconds: float) -> None:
    job, _ = job_of(shared, duration=duration, seed=500)
    assert job.seconds == pytest.approx(seconds)
