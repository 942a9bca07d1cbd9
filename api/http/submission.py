"""From a multipart request to a task: receive, check, store, enqueue."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from anyio import to_thread
from pydantic import ValidationError
from starlette.requests import Request

from api.http import idempotency
from api.http.errors import FieldError, FormError
from api.http.multipart import Form, receive_form
from api.models import StartForm
from api.records import Idempotency, Submission, Task, TaskReport
from api.service import Service
from api.settings import Settings
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


async def submit(service: Service, request: Request) -> tuple[Task, bool]:
    """Accept one request; or give the task of an earlier one with the same Idempotency-Key, and True.

    Raises ApiError, MediaError, NoFaceError, TooLargeError, OSError (disk full).
    """
    key = idempotency.key_of(request.headers)
    if key is None:
        return await _receive(service, request, None)
    with service.keys_in_use.claim(key):
        return await _receive(service, request, key)


async def _receive(service: Service, request: Request, key: str | None) -> tuple[Task, bool]:
    known = service.tasks.of_request(key) if key is not None else None
    if known is None:
        service.check_open()
    files = service.settings.files
    limits = {"image": round(files.max_image_mb * 2**20), "audio": round(files.max_audio_mb * 2**20)}
    async with receive_form(request, files.upload_dir, frozenset(TEXT_FIELDS), limits) as form:
        defaults = form_defaults(service.settings)
        # An empty optional field counts as left out: browsers send those.
        given = tuple(sorted(name for name, text in form.texts.items() if text != "" or name not in defaults))
        fields = _validate(form, defaults, given)
        request_print = None
        if key is not None:
            request_print = Idempotency(key, idempotency.print_of(form.hashes(), fields, given))
        if known is not None:
            if known.submission.idempotency != request_print:
                raise idempotency.reused()
            return known, True
        await service.engine_ready()
        checked = _Checked(form, fields.params(), given, request.state.request_id, request_print)
        report = await to_thread.run_sync(_check_and_enqueue, service, checked, limiter=service.checks)
        return report.task, False


@dataclass(frozen=True, slots=True)
class _Checked:
    """A form whose fields are right; the content of its files is not looked at yet."""

    form: Form
    params: SynthesisParams
    given: tuple[str, ...]
    request_id: str
    idempotency: Idempotency | None


def _validate(form: Form, defaults: dict[str, Any], given: tuple[str, ...]) -> StartForm:
    errors = list(form.errors)
    errors += [FieldError(field=name, message="is required") for name in FILE_FIELDS if name not in form.files]
    fields: StartForm | None = None
    try:
        fields = StartForm.model_validate(defaults | {name: form.texts[name] for name in given})
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0])
            if name not in {known.field for known in errors}:
                message = "is required" if problem["type"] == "missing" else problem["msg"]
                errors.append(FieldError(field=name, message=message))
    if errors or fields is None:
        raise FormError(errors, (*FILE_FIELDS, *TEXT_FIELDS))
    return fields


def _check_and_enqueue(service: Service, request: _Checked) -> TaskReport:
    engine = service.loader.engine
    picture, speech = request.form.files["image"], request.form.files["audio"]
    # The kinds of both files are checked before the slow part.
    image.probe(picture.path)
    seconds = audio.probe(speech.path).seconds
    pixels = image.load(picture.path)
    portrait = engine.inspect(pixels)
    height, width = pixels.shape[:2]
    with ExitStack() as held:
        for part in (picture, speech):
            service.uploads.adopt(part.path, part.sha256)
            held.callback(service.uploads.release, part.sha256)
        report = service.tasks.submit(
            Submission(
                image=picture.sha256,
                audio=speech.sha256,
                seconds=min(seconds, request.params.duration or seconds),
                size=(width, height),
                face=portrait.face,
                params=request.params,
                given=request.given,
                warnings=portrait.warnings,
                request_id=request.request_id,
                idempotency=request.idempotency,
            )
        )
        held.pop_all()  # the task holds them now
        return report
