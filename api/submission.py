"""From a multipart request to a task: receive, check, store, enqueue."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from anyio import to_thread
from pydantic import ValidationError
from starlette.requests import Request

from api.errors import FieldError, FormError
from api.models import StartForm
from api.service import Service
from api.settings import Settings
from api.tasks import Submission, TaskReport
from api.uploads import Form, receive_form
from engines.base import SynthesisParams
from media import audio, image

FILE_FIELDS = ("image", "audio")
TEXT_FIELDS = tuple(StartForm.model_fields)


def form_defaults(settings: Settings) -> dict[str, Any]:
    """The value of each text field that a client may leave out."""
    synthesis = settings.synthesis
    own = {name: field.default for name, field in StartForm.model_fields.items() if not field.is_required()}
    return own | {
        "ref_scale": synthesis.default_ref_scale,
        "emo_scale": synthesis.default_emo_scale,
        "inference_steps": synthesis.inference_steps,
        "fps": synthesis.fps,
        "seed": synthesis.seed,
        "min_resolution": synthesis.min_resolution,
        "expand_ratio": synthesis.expand_ratio,
    }


async def submit(service: Service, request: Request) -> TaskReport:
    """Accept one request. Raises ApiError, MediaError, NoFaceError, TooLargeError, OSError (disk full)."""
    service.check_open()
    files = service.settings.files
    limits = {"image": round(files.max_image_mb * 2**20), "audio": round(files.max_audio_mb * 2**20)}
    async with receive_form(request, files.upload_dir, frozenset(TEXT_FIELDS), limits) as form:
        fields = _validate(form, form_defaults(service.settings))
        await service.engine_ready()
        arguments = service, form, fields.params(), request.state.request_id
        return await to_thread.run_sync(_check_and_enqueue, *arguments, limiter=service.checks)


def _validate(form: Form, defaults: dict[str, Any]) -> StartForm:
    errors = list(form.errors)
    errors += [FieldError(field=name, message="is required") for name in FILE_FIELDS if name not in form.files]
    # An empty optional field counts as left out: browsers send those.
    given = {name: text for name, text in form.texts.items() if text != "" or name not in defaults}
    fields: StartForm | None = None
    try:
        fields = StartForm.model_validate(defaults | given)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0])
            if name not in {known.field for known in errors}:
                message = "is required" if problem["type"] == "missing" else problem["msg"]
                errors.append(FieldError(field=name, message=message))
    if errors or fields is None:
        raise FormError(errors, (*FILE_FIELDS, *TEXT_FIELDS))
    return fields


def _check_and_enqueue(service: Service, form: Form, params: SynthesisParams, request_id: str) -> TaskReport:
    engine = service.loader.engine
    picture, speech = form.files["image"], form.files["audio"]
    # The kinds of both files are checked before the slow part.
    image.probe(picture.path)
    seconds = audio.probe(speech.path).seconds
    pixels = image.load(picture.path)
    portrait = engine.inspect(pixels)
    height, width = pixels.shape[:2]
    ignored = [warning for name, warning in engine.ignored_fields.items() if form.texts.get(name)]
    with ExitStack() as held:
        for part in (picture, speech):
            service.uploads.adopt(part.path, part.sha256)
            held.callback(service.uploads.release, part.sha256)
        report = service.tasks.submit(
            Submission(
                image=picture.sha256,
                audio=speech.sha256,
                seconds=min(seconds, params.duration or seconds),
                size=(width, height),
                face=portrait.face,
                params=params,
                warnings=(*portrait.warnings, *ignored),
                request_id=request_id,
            )
        )
        held.pop_all()  # the task holds them now
        return report
