"""Health for dashboards, liveness and readiness probes for supervisors."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from api.engine import ServiceState
from api.http.errors import UnavailableError
from api.http.openapi import error_responses
from api.models import Health, Probe
from api.service import RETRY_SECONDS, Service, service_of

router = APIRouter(prefix="/api/health", tags=["health"])


@router.head("", include_in_schema=False)
@router.get("", summary="Service health", responses=error_responses(500))
def health(service: Annotated[Service, Depends(service_of)]) -> Health:
    """Always returns 200; `status` is `healthy` if the service accepts tasks. A full queue still counts as healthy."""
    return service.health()


@router.head("/live", include_in_schema=False)
@router.get("/live", summary="Liveness probe", responses=error_responses(500))
async def live(service: Annotated[Service, Depends(service_of)]) -> Probe:
    """Returns 200 as long as the process responds."""
    return Probe(state=service.state)


@router.head("/ready", include_in_schema=False)
@router.get("/ready", summary="Readiness probe", responses=error_responses(500, 503))
async def ready(service: Annotated[Service, Depends(service_of)]) -> Probe:
    """Returns 200 if the service accepts tasks, otherwise 503. A full queue still counts as ready."""
    state = service.state
    if state is not ServiceState.READY:
        raise UnavailableError(state, service.reason or "The service takes no jobs now.", RETRY_SECONDS)
    service.check_disk()
    return Probe(state=state)
