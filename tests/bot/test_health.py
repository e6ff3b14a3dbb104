"""What machines look at: alive, ready, figures."""

from collections.abc import Iterator
from typing import Any

import pytest
from factories import make_answer, make_conversation, make_event, make_part
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from bot.app import create_app
from bot.health import _FIGURES
from core.db import transaction
from core.settings import Settings
from core.tables import AnnotationItem, Feedback, now


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def figures(client: TestClient) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    answer = client.get("/metrics")
    assert answer.status_code == 200
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def test_alive(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}


def test_ready(client: TestClient) -> None:
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()) == (200, {"ready": True, "parts": {"database": True, "redis": True}})


def test_without_redis_it_can_still_store(settings: Settings) -> None:
    away = settings.model_copy(update={"redis_url": "redis://127.0.0.1:9/0"})
    with TestClient(create_app(away)) as client:
        answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["parts"]) == (200, {"database": True, "redis": False})


def test_without_the_ledger_it_is_not_ready(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(_: Engine) -> None:
        raise OSError("away")

    monkeypatch.setattr("bot.health._ask", away)
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["ready"]) == (503, False)


def test_every_figure_is_there_and_empty(client: TestClient) -> None:
    found = figures(client)
    assert found["npllm_events_waiting", ()] == 0
    assert found["npllm_oldest_event_seconds", ()] == 0
    text = client.get("/metrics").text
    assert all(f"# HELP {name} " in text for name in _FIGURES)


def test_figures(client: TestClient, engine: Engine) -> None:
    with transaction(engine) as session:
        talk = make_conversation(session)
        for value, latency in ((1.0, 100), (0.0, 300)):
            answer = make_answer(session, talk, latency_ms=latency)
            made: dict[str, Any] = {"channel": "meta", "signal": "reaction", "op": "add", "raw": "x"}
            session.add(
                Feedback(message_id=answer.id, customer_id=answer.customer_id, polarity="neutral", value=value,
                         given_at=now(), **made)
            )  # fmt: skip
        make_part(session, answer)
        make_event(session)
        session.add(
            AnnotationItem(context="customers", message_id=answer.id, reason="sample", question="?", answer="!")
        )
    found = figures(client)
    by_version = (("context", "customers"), ("version", "customers-v1"))
    assert found["npllm_events_waiting", ()] == 1
    assert found["npllm_replies", by_version] == 2
    assert found["npllm_satisfaction", by_version] == 0.5
    assert found["npllm_reply_milliseconds_p95", by_version] == 290
    assert found["npllm_outbox", (("channel", "meta"), ("state", "pending"))] == 1
    assert found["npllm_review_items", (("state", "open"),)] == 1


def test_they_tell_nothing_about_people(client: TestClient, engine: Engine) -> None:
    with transaction(engine) as session:
        make_answer(session, question="Meu CPF é 529.982.247-25", text="Olá, Ana")
    text = client.get("/metrics").text
    assert "529" not in text
    assert "Ana" not in text
