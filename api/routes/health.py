"""Health for people and dashboards, probes for supervisors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from api.models import Health, Probe, ServiceState
from api.service import Service, service_of

router = APIRouter(prefix="/api/health", tags=["health"])


@router.get("", summary="How the service is")
async def health(service: Annotated[Service, Depends(service_of)]) -> Health:
    """Always 200; `status` is `healthy` when jobs are taken now."""
    return service.health()


@router.get("/live", summary="Is the process alive?")
async def live(service: Annotated[Service, Depends(service_of)]) -> Probe:
    """200 as long as the service answers at all."""
    return Probe(status="ok", state=service.state)


@router.get(
    "/ready",
    summary="Does it take jobs?",
    responses={503: {"model": Probe, "description": "Starting, stopping or not set up."}},
)
async def ready(service: Annotated[Service, Depends(service_of)], response: Response) -> Probe:
    """200 when jobs are taken, 503 otherwise."""
    state = service.state
    if state is ServiceState.READY:
        return Probe(status="ok", state=state)
    response.status_code = 503
    return Probe(status="unavailable", state=state)
