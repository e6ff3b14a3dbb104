"""/ops on a day with traffic, a rollout and nights: figures, over HTTP, and in a real browser.

`pytest tests/bot/ops/test_pages.py --screenshots docs/images` writes the README's picture anew.
"""

import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import chromium, log_in
from factories import make_answer, make_conversation, make_customer, make_event, make_part, make_version, make_votes
from fastapi.testclient import TestClient
from servers import serving
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from bot import rollout_line
from bot.app import create_app
from bot.ops.figures import overview
from core.db import transaction
from core.rollouts import Plan, Stage
from core.settings import Settings
from core.tables import AnnotationItem, ConsolidationRun, Context, Customer, Feedback, now

PLAN = Plan("standard", (Stage(0.05, 30, 0.0, 0.15), Stage(0.25, 60, 0.0, 0.15), Stage(0.5, 200, 0.0, 0.1)))


def rate(session: Session, answer: Any, value: float) -> None:
    session.add(
        Feedback(message_id=answer.id, customer_id=answer.customer_id, channel="meta", signal="reaction", op="add",
                 raw="👍" if value > 0.5 else "👎", polarity="positive" if value > 0.5 else "negative", value=value,
                 given_at=now())
    )  # fmt: skip


def a_day(session: Session) -> None:
    """Three versions have answered, one of them in a rollout; two nights lie behind, one is on its way."""
    rng = np.random.default_rng(7)
    old, champion, challenger = (make_version(session) for _ in range(3))
    session.get_one(Context, "customers").champion_id = champion.id
    session.flush()
    rollout = rollout_line.start(session, challenger.name, PLAN, actor="rita", reason="noite de 26/11")
    rollouts_weight(session, rollout)
    for version, count, satisfied, milliseconds in (
        (old.name, 9, 0.6, 620), (champion.name, 84, 0.72, 540), (challenger.name, 61, 0.86, 555),
    ):  # fmt: skip
        for number in range(count):
            talk = make_conversation(session, make_customer(session))
            latency = int(milliseconds * rng.lognormal(0, 0.25))
            flags = ["invented_figure:12"] if number % 29 == 3 else []
            answer = make_answer(
                session, talk, version=version, latency_ms=latency, ago=timedelta(minutes=int(rng.integers(1, 1200))),
                route={"flags": flags, "failures": [], "history": [], "passages": []},
            )  # fmt: skip
            if rng.random() < 0.4:
                rate(session, answer, float(rng.random() < satisfied))
    make_votes(session, rollout.id, 190, challenger=0.86, control=0.72, weight=0.5, stage=2)
    today = now().date()
    nights: tuple[dict[str, Any], ...] = (
        {"night": today, "state": "running", "stage": "curated", "funnel": {"learned": 212},
         "progress": {"stage": "train", "step": 34, "steps": 90, "loss": 1.12, "seconds_left": 95}},
        {"night": today - timedelta(days=1), "state": "registered", "stage": "done", "version_id": challenger.id,
         "progress": {"gain": -0.41, "retention": 0.983, "version": challenger.name}, "funnel": {"learned": 187}},
        {"night": today - timedelta(days=2), "state": "refused", "stage": "done", "funnel": {"learned": 44},
         "progress": {"gain": -0.02, "retention": 0.913}, "reasons": ["retenção de 91,3 % abaixo de 95 %"]},
    )  # fmt: skip
    for age, facts in enumerate(nights):
        session.add(
            ConsolidationRun(context="customers", strategy="mas+replay", seed=1, requested_by="clock",
                             created_at=now() - timedelta(days=age), **facts)
        )  # fmt: skip
    for _ in range(2):
        make_event(session)
    answer = make_answer(session, version=champion.name)
    make_part(session, answer)
    session.add(AnnotationItem(context="customers", message_id=answer.id, reason="disliked", question="?", answer="!"))


def rollouts_weight(session: Session, rollout: Any) -> None:
    rollout.stage, rollout.weight = 2, 0.5
    rollout.started_at = now() - timedelta(days=3)
    session.flush()


@pytest.fixture
def day(engine: Engine) -> Engine:
    with transaction(engine) as session:
        a_day(session)
    return engine


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        opened.post("/login", data={"name": "rita", "password": "operator-password"})
        yield opened


class TestFigures:
    def test_traffic_by_version(self, engine: Engine) -> None:
        with transaction(engine) as session:
            talk = make_conversation(session)
            for value, latency, route in (
                (1.0, 100, {"flags": ["loop"], "failures": []}),
                (0.0, 200, {"flags": [], "failures": ["v2: away"]}),
                (None, 300, {}),
            ):
                answer = make_answer(session, talk, version="customers-v1", latency_ms=latency, route=route)
                if value is not None:
                    rate(session, answer, value)
            make_answer(session, talk, version="customers-v1", ago=timedelta(hours=25))
            make_answer(session, talk, version=None)
            session.flush()
            customers = _context(session, "customers")
        row, fixed = customers["traffic"]
        assert (row["version"], row["replies"], row["people"], row["ratings"]) == ("customers-v1", 3, 1, 2)
        assert (row["p50"], row["satisfaction"]) == (200, 0.5)
        assert float(row["errors"]) == float(row["guarded"]) == pytest.approx(1 / 3)
        assert (fixed["version"], fixed["replies"]) == ("fixed", 1)

    def test_a_fresh_installation(self, engine: Engine) -> None:
        with transaction(engine) as session:
            customers = _context(session, "customers")
        assert customers == {"name": "customers", "champion": "base", "traffic": [], "rollout": None, "nights": []}

    def test_what_waits(self, day: Engine) -> None:
        with transaction(day) as session:
            waiting = overview(session)["waiting"]
        assert waiting == {"events": 2, "outgoing": 1, "failed": 0, "review": 1}

    def test_a_rollouts_evidence_as_bars(self, day: Engine) -> None:
        with transaction(day) as session:
            bars = {bar["name"]: bar for bar in _context(session, "customers")["rollout"].bars}
        assert 0 < bars["no_worse"]["share"] <= 1
        assert 0 <= bars["harm"]["share"] < bars["no_worse"]["share"]

    def test_a_superseded_vote_does_not_count(self, engine: Engine) -> None:
        with transaction(engine) as session:
            answer = make_answer(session)
            rate(session, answer, 0.0)
            session.flush()
            session.scalars(select(Feedback)).one().superseded_at = now()
            rate(session, answer, 1.0)
            session.flush()
            assert _context(session, "customers")["traffic"][0]["satisfaction"] == 1.0


def _context(session: Session, name: str) -> dict[str, Any]:
    (found,) = [context for context in overview(session)["contexts"] if context["name"] == name]
    return dict(found)


class TestPage:
    def test_a_fresh_installation_says_what_to_do(self, client: TestClient) -> None:
        page = client.get("/ops").text
        assert "Nenhuma resposta ainda." in page
        assert "npllm sleep now" in page

    def test_a_day(self, client: TestClient, day: Engine) -> None:
        page = client.get("/ops").text
        for shown in (
            "customers-v3",
            "em andamento",
            "treina 34/90",
            "faltam 1,6 min",
            "registrada",
            "recusada",
            "retenção de 91,3 %",
        ):
            assert shown in page

    def test_a_link_that_leads_nowhere_is_a_page_for_people_and_json_for_machines(self, client: TestClient) -> None:
        nothing = uuid.uuid4()
        for path, said, status in (
            (f"/ops/rollouts/{nothing}", "Não existe esse lançamento.", 404),
            (f"/handover/{nothing}", f"Não existe o atendimento {nothing}.", 404),
            ("/ops/rollouts/x", "Não há nada neste endereço.", 422),
            ("/ops/nothing", "Não há nada neste endereço.", 404),
        ):
            shown = client.get(path, headers={"accept": "text/html,*/*"})
            assert (shown.status_code, said in shown.text) == (status, True), shown.text
            assert client.get(path).json()["error"]

    def test_no_name_nor_word_of_a_customer(self, client: TestClient, engine: Engine) -> None:
        with transaction(engine) as session:
            talk = make_conversation(session, make_customer(session, name="Ana Prado"))
            make_answer(session, talk, question="segredo", text="resposta")
            session.flush()
            phone = session.scalars(select(Customer.id)).one()
        page = client.get("/ops").text
        for secret in ("Ana Prado", "segredo", "resposta", str(phone)):
            assert secret not in page.replace("respostas", "").replace("Nenhuma resposta ainda", "")


@pytest.mark.browser
class TestInABrowser:
    @pytest.fixture
    def url(self, settings: Settings, day: Engine) -> Iterator[str]:
        with serving(create_app(settings)) as url:
            yield url

    def test_it_refreshes_itself_and_has_no_errors(self, url: str, day: Engine, request: pytest.FixtureRequest) -> None:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 1280, "height": 760}, device_scale_factor=2)
            errors: list[str] = []
            page.on("pageerror", lambda error: errors.append(str(error)))
            page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
            page.clock.install()
            log_in(page, url)
            assert page.locator("text=esperando: 2 eventos").count() == 1
            if (folder := request.config.getoption("--screenshots")) is not None:
                _picture(page, request.config.rootpath / folder / "ops.png")
            with transaction(day) as session:
                make_event(session)
            page.clock.fast_forward("00:05")
            page.wait_for_selector("text=esperando: 3 eventos", timeout=15_000)
            assert errors == []

    def test_it_fits_a_phone(self, url: str) -> None:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": 390, "height": 800})
            log_in(page, url)
            assert page.evaluate("document.documentElement.scrollWidth") <= 390


def _picture(page: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=path, full_page=True)
