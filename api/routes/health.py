"""Health for dashboards, liveness and readiness probes for supervisors."""

from __future__ import annotations

from fastapi import APIRouter

from api import VERSION
from api.engine import ServiceState
from api.http.dependencies import ServiceDep
from api.http.messages import damage_notice, headline
from api.http.openapi import error_responses
from api.models import Health, Probe, QueueView
from api.service import Service

router = APIRouter(prefix="/api/health", tags=["health"])


@router.head("", include_in_schema=False)
@router.get("", summary="Service health", response_description="The health report.", responses=error_responses(500))
def health(service: ServiceDep) -> Health:
    """Always returns 200; `status` is `healthy` if the service accepts tasks. A full queue still counts as healthy."""
    running, waiting = service.task_manager.counts()
    device = service.device.read()
    tasks = service.settings.tasks
    return Health(
        status="unhealthy" if any(service.problems()) else "healthy",
        gpu_available=device is not None,
        model_loaded=service.model_loaded,
        version=VERSION,
        engine=service.loader.name,
        state=service.state,
        reason=_reason(service),
        device=device,
        queue=QueueView(running=running, waiting=waiting, max_workers=tasks.max_workers, max_queue=tasks.max_queue),
        disk_free_bytes=service.disk_free_bytes(),
    )


@router.head("/live", include_in_schema=False)
@router.get(
    "/live", summary="Liveness probe", response_description="The process is alive.", responses=error_responses(500)
)
async def live(service: ServiceDep) -> Probe:
    """Returns 200 as long as the process responds."""
    return Probe(state=service.state)


@router.head("/ready", include_in_schema=False)
@router.get(
    "/ready",
    summary="Readiness probe",
    response_description="The service accepts tasks.",
    responses=error_responses(500, 503),
)
async def ready(service: ServiceDep) -> Probe:
    """Returns 200 if the service accepts tasks, otherwise 503. A full queue still counts as ready."""
    for problem in service.problems():
        raise problem
    return Probe(state=service.state)


def _reason(service: Service) -> str | None:
    """What is wrong now, why this engine was selected, and what became of a damaged journal."""
    notices = [headline(problem) for problem in service.problems()]
    if service.state is ServiceState.READY and service.loader.reason is not None:
        notices.append(service.loader.reason)
    damage = service.journal.damage
    if damage is not None:
        notices.append(damage_notice(damage.backup, damage.recovered))
    return " ".join(notices) or None
