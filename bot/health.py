"""/healthz (this process lives), /readyz (what it needs answers), /metrics (for Prometheus)."""

import logging

from fastapi import APIRouter
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.db import transaction
from core.settings import Settings
from integrations.redis.queue import connect, need_redis

log = logging.getLogger(__name__)

# Each is one short query over the last hour or what waits now; labels hold versions and channels, never people.
_FIGURES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "npllm_events_waiting": (
        "Incoming events not handled yet", (), "SELECT count(*) FROM npllm.inbound_events WHERE handled_at IS NULL"
    ),
    "npllm_oldest_event_seconds": (
        "Age of the oldest incoming event not handled yet", (),
        "SELECT coalesce(extract(epoch FROM now() - min(received_at)), 0) FROM npllm.inbound_events"
        " WHERE handled_at IS NULL",
    ),
    "npllm_outbox": (
        "Outgoing messages by state, sent ones of the last hour", ("channel", "state"),
        "SELECT channel, state, count(*) FROM npllm.outbox"
        " WHERE state <> 'sent' OR sent_at > now() - interval '1 hour' GROUP BY 1, 2",
    ),
    "npllm_replies": (
        "Replies of the last hour by version", ("context", "version"),
        "SELECT context, coalesce(version, 'none'), count(*) FROM npllm.messages"
        " WHERE direction = 'out' AND created_at > now() - interval '1 hour' GROUP BY 1, 2",
    ),
    "npllm_reply_milliseconds_p95": (
        "95th percentile of the model's whole reply, last hour", ("context", "version"),
        "SELECT context, version, percentile_cont(0.95) WITHIN GROUP (ORDER BY latency_ms) FROM npllm.messages"
        " WHERE direction = 'out' AND latency_ms IS NOT NULL AND created_at > now() - interval '1 hour' GROUP BY 1, 2",
    ),
    "npllm_satisfaction": (
        "Mean current rating of the last day, 0 to 1", ("context", "version"),
        "SELECT m.context, coalesce(m.version, 'none'), avg(f.value) FROM npllm.feedback f"
        " JOIN npllm.messages m ON m.id = f.message_id"
        " WHERE f.superseded_at IS NULL AND f.value IS NOT NULL AND f.created_at > now() - interval '1 day'"
        " GROUP BY 1, 2",
    ),
    "npllm_review_items": (
        "Annotation items by state", ("state",), "SELECT state, count(*) FROM npllm.annotation_items GROUP BY 1"
    ),
    "npllm_rollout_weight": (
        "Challenger's share of active rollouts", ("context",),
        "SELECT context, weight FROM npllm.rollouts WHERE state IN ('running', 'paused', 'held')",
    ),
}  # fmt: skip


def health(settings: Settings, engine: Engine) -> APIRouter:
    """The three routes. None of them needs a log-in: they tell nothing about people."""
    router = APIRouter(include_in_schema=False)
    redis = connect(need_redis(settings))

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @router.get("/readyz")
    def readyz() -> JSONResponse:
        parts = {"database": _answers(lambda: _ask(engine)), "redis": _answers(redis.ping)}
        # Without Redis webhooks are still stored and answered later: not ready is only who cannot store.
        ready = parts["database"]
        return JSONResponse({"ready": ready, "parts": parts}, status_code=200 if ready else 503)

    @router.get("/metrics")
    def metrics() -> PlainTextResponse:
        registry = CollectorRegistry()
        with transaction(engine) as session:
            for name, (description, labels, query) in _FIGURES.items():
                _read(session, Gauge(name, description, labels, registry=registry), query)
        return PlainTextResponse(generate_latest(registry).decode(), media_type="text/plain; version=0.0.4")

    return router


def _read(session: Session, gauge: Gauge, query: str) -> None:
    for *labels, value in session.execute(text(query)):
        (gauge.labels(*labels) if labels else gauge).set(float(value or 0))


def _ask(engine: Engine) -> None:
    with engine.connect() as connection:
        connection.execute(text("SELECT 1 FROM npllm.contexts LIMIT 1"))


def _answers(ask: object) -> bool:
    try:
        ask()  # type: ignore[operator]
        return True
    except Exception as error:
        log.warning("Not ready: %s", error)
        return False
