"""Whether the engine is alive: the age of its heartbeat, not mere liveness of the process."""

from __future__ import annotations

from warploom.runtime.server.replies import HealthReply
from warploom.runtime.server.service import Service


def health(service: Service) -> HealthReply:
    """Return the state of the engine; all but "ok" is answered with 503."""
    stats = service.llm.stats()
    if stats.dead is not None:
        status = "dead"
    elif stats.heartbeat_age > service.health_seconds:
        status = "hung"
    else:
        status = "draining" if service.draining else "ok"
    return HealthReply(status, round(stats.heartbeat_age, 3), stats.running, stats.waiting)  # type: ignore[arg-type]
