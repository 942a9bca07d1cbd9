"""FastAPI dependencies of the routes. They are async: FastAPI runs others in a thread, which costs 0.1 ms."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from api.http.submission import Submissions
from api.service import Service


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _submissions(request: Request) -> Submissions:
    submissions: Submissions = request.app.state.submissions
    return submissions


ServiceDep = Annotated[Service, Depends(_service)]
SubmissionsDep = Annotated[Submissions, Depends(_submissions)]
