"""Health for people and dashboards, probes for supervisors."""

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
@router.get("", summary="How the service is", responses=error_responses(500))
def health(service: Annotated[Service, Depends(service_of)]) -> Health:
    """Always 200; `status` is `healthy` when jobs are taken now. A full queue is healthy: it empties by itself."""
    return service.health()


@router.head("/live", include_in_schema=False)
@router.get("/live", summary="Is the process alive?", responses=error_responses(500))
async def live(service: Annotated[Service, Depends(service_of)]) -> Probe:
    """200 as long as the service answers at all."""
    return Probe(state=service.state)


@router.head("/ready", include_in_schema=False)
@router.get("/ready", summary="Does it take jobs?", responses=error_responses(500, 503))
async def ready(service: Annotated[Service, Depends(service_of)]) -> Probe:
    """200 when jobs are taken, 503 otherwise. With a full queue it is ready: that empties by itself."""
    state = service.state
    if state is not ServiceState.READY:
        raise UnavailableError(state, service.reason or "The service takes no jobs now.", RETRY_SECONDS)
    service.check_disk()
    return Probe(state=state)
