"""From a multipart request to a task: receive the form, validate it, check both files, store them, enqueue."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from anyio import CapacityLimiter, to_thread
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
# Submissions whose files are checked concurrently. While they are decoded, the largest portraits take 400 MB each, and
# progressive and CMYK ones 800 MB.
CHECKS_AT_ONCE = 2


def form_defaults(settings: Settings) -> dict[str, Any]:
    """Defaults of the optional text fields."""
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


class Submissions:
    """Handles the requests of `start`. For one event loop."""

    def __init__(self, service: Service) -> None:
        self.keys_in_use = idempotency.KeysInUse()
        self._service = service
        self._checks = CapacityLimiter(CHECKS_AT_ONCE)
        self._defaults = form_defaults(service.settings)

    async def submit(self, request: Request) -> tuple[Task, bool]:
        """Accept a request; returns its task, and whether the task is that of an earlier idempotent request.

        Raises ApiError, CodedError, OSError.
        """
        key = idempotency.key_of(request.headers)
        if key is None:
            return await self._receive(request, None)
        with self.keys_in_use.claim(key):
            return await self._receive(request, key)

    async def _receive(self, request: Request, key: str | None) -> tuple[Task, bool]:
        service = self._service
        known = service.task_manager.of_request(key) if key is not None else None
        # Replays are served even while new tasks are rejected.
        if known is None:
            service.check_open()
        files = service.settings.files
        async with receive_form(request, files.upload_dir, frozenset(TEXT_FIELDS), files.upload_limits) as form:
            # Browsers send empty optional fields: they count as omitted.
            given = tuple(sorted(name for name, text in form.texts.items() if text != "" or name not in self._defaults))
            fields = self._validate(form, given)
            identity = None
            if key is not None:
                identity = Idempotency(key, idempotency.fingerprint(form.hashes(), fields, given))
            if known is not None:
                if known.submission.idempotency != identity:
                    raise idempotency.key_reused_error()
                return known, True
            await service.engine_ready()
            valid = _ValidRequest(form, fields.params(), given, request.state.request_id, identity)
            report = await to_thread.run_sync(_check_and_enqueue, service, valid, limiter=self._checks)
            return report.task, False

    def _validate(self, form: Form, given: tuple[str, ...]) -> StartForm:
        """The text fields with their defaults. Raises FormError with all invalid fields."""
        errors = list(form.errors)
        errors += [FieldError(field=name, message="Field required") for name in FILE_FIELDS if name not in form.files]
        fields: StartForm | None = None
        try:
            fields = StartForm.model_validate(self._defaults | {name: form.texts[name] for name in given})
        except ValidationError as error:
            for problem in error.errors():
                name = str(problem["loc"][0])
                if name not in {known.field for known in errors}:
                    message = "Field required" if problem["type"] == "missing" else problem["msg"]
                    errors.append(FieldError(field=name, message=message))
        if errors or fields is None:
            raise FormError(errors, (*FILE_FIELDS, *TEXT_FIELDS))
        return fields


@dataclass(frozen=True, slots=True)
class _ValidRequest:
    """A form with valid fields, whose files are not checked yet."""

    form: Form
    params: SynthesisParams
    given: tuple[str, ...]
    request_id: str
    idempotency: Idempotency | None


def _check_and_enqueue(service: Service, request: _ValidRequest) -> TaskReport:
    engine = service.loader.engine
    picture, speech = request.form.files["image"], request.form.files["audio"]
    # Cheap checks of both files before the slow one.
    image.probe(picture.path)
    seconds = audio.probe(speech.path).seconds
    pixels = image.load(picture.path)
    portrait = engine.inspect(pixels)
    height, width = pixels.shape[:2]
    with ExitStack() as held:
        for part in (picture, speech):
            service.uploads.adopt(part.path, part.sha256)
            held.callback(service.uploads.release, part.sha256)
        report = service.task_manager.submit(
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
        # The task holds the references now.
        held.pop_all()
        return report
