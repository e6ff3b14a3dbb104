"""The rollout's page: the picture's geometry, what it says without votes, and that a person can read it."""

import re
import shutil
from pathlib import Path

import pytest
from factories import LADDER, make_conversation, make_version, make_votes
from fastapi.testclient import TestClient
from servers import serving
from sqlalchemy import select

from bot import outcomes, rollout_line, rollouts
from bot.app import create_app
from bot.ops.picture import HEIGHT, TOP, WIDTH, draw
from bot.rollout_changes import Change, apply
from bot.rollout_verbs import run
from core.db import get_engine, transaction
from core.rollouts import PRESETS, Votes
from core.settings import Settings
from core.tables import AdapterVersion, Message, Rollout, new_id


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


class TestPicture:
    def test_harm_climbs_and_not_worse_falls(self) -> None:
        canary = [bool(i % 2) for i in range(200)]
        votes = Votes(y=[float(not c) for c in canary], canary=canary, w=[0.5] * 200, stage=[0] * 200)
        picture = draw(PRESETS["small"], votes)
        bad, good = (points(curve.points) for curve in picture.curves)
        assert bad[0] == good[0]  # both begin where nothing is proved
        assert bad[-1][1] < picture.limits[0][0] < bad[0][1] < good[-1][1]
        assert bad[-1][1] == TOP  # beyond the scale a curve runs along its edge
        assert (picture.votes, picture.stages) == (200, [])

    def test_stages_are_marked_and_points_thinned(self) -> None:
        n = 5_000
        canary = [bool(i % 2) for i in range(n)]
        stage = [0] * 1000 + [1] * 4000
        picture = draw(PRESETS["medium"], Votes(y=[1.0] * n, canary=canary, w=[0.5] * n, stage=stage))
        assert len(points(picture.curves[0].points)) <= 401
        assert [index for _, index in picture.stages] == [1]
        assert picture.stages[0][0] == pytest.approx(46 + (WIDTH - 46 - 150) / 5, abs=1)
        assert all(0 <= y <= HEIGHT for curve in picture.curves for _, y in points(curve.points))

    def test_nobody_voted(self) -> None:
        assert draw(PRESETS["small"], Votes()).votes == 0


@pytest.fixture
def client(settings: Settings) -> TestClient:
    client = TestClient(create_app(settings), follow_redirects=False)
    client.post("/login", data={"name": "ana", "password": "operator-password"})
    return client


def story(settings: Settings, *, harm: bool) -> Rollout:
    """A rollout that is under way, with people's votes."""
    with transaction(get_engine(str(settings.database_url))) as session:
        make_version(session, champion=True)
        rollout = rollout_line.start(
            session, make_version(session).name, LADDER, actor="ana", reason="a new price list"
        )
        make_votes(session, rollout.id, 160, challenger=0.86, control=0.85, weight=0.25)
        rollouts.promote(session, "customers", actor="ana", reason="enough votes")
        make_votes(session, rollout.id, 90, challenger=0.5 if harm else 0.88, control=0.85, stage=1, seed=3)
        conversation = make_conversation(session)
        for version, arm in ((rollout.version_id, "challenger"), (rollout.against_id, "champion")):
            name = session.scalars(select(AdapterVersion.name).where(AdapterVersion.id == version)).one()
            session.add(Message(
                id=new_id(), conversation_id=conversation.id, customer_id=conversation.customer_id,
                context="customers", channel="meta", direction="out", role="bot", text="Oi", version=name,
                rollout_id=rollout.id, arm=arm, latency_ms=812.0, cost_usd=0.0021,
            ))  # fmt: skip
            session.flush()
        outcomes.record(session, conversation.id, "resolution", 1.0, source="test")
        return rollout


def test_the_page_needs_a_log_in(settings: Settings) -> None:
    rollout = story(settings, harm=False)
    with TestClient(create_app(settings), follow_redirects=False) as client:
        assert client.get(f"/ops/rollouts/{rollout.id}").status_code == 303


def test_what_it_says(settings: Settings, client: TestClient) -> None:
    rollout = story(settings, harm=False)
    text = client.get(f"/ops/rollouts/{rollout.id}").text
    for part in ("em andamento", "250 votos", "50: reverte", "enough votes", "US$/mil", "812 ms", "2,10", "100%"):
        assert part in text, part
    assert f'href="/ops/rollouts/{rollout.id}"' in client.get("/ops").text


def test_its_limits_are_the_rules(settings: Settings, client: TestClient) -> None:
    rollout = story(settings, harm=True)
    with transaction(get_engine(str(settings.database_url))) as session:
        make_votes(session, rollout.id, 3000, challenger=0.1, control=0.9, stage=1, seed=4)
    text = client.get(f"/ops/rollouts/{rollout.id}").text
    for label, limit in (("falhas", 500), ("lentidão", 1000), ("contidas ou passadas a uma pessoa", 1000)):
        assert re.search(f'>{label}</td><td>[0-9,]+</td><td class="meta">de {limit}</td>', text), label
    assert "é pior (dano): &gt; 10.000" in text


def test_without_votes_it_says_so(settings: Settings, client: TestClient) -> None:
    with transaction(get_engine(str(settings.database_url))) as session:
        make_version(session, champion=True)
        rollout = rollout_line.start(session, make_version(session).name, LADDER, actor="ana")
    assert "Sem dados" in client.get(f"/ops/rollouts/{rollout.id}").text


def test_what_was_taken_back_does_not_stand_there_as_promoted(settings: Settings, client: TestClient) -> None:
    rollout = story(settings, harm=False)
    with transaction(get_engine(str(settings.database_url))) as session:
        rollouts.promote(session, "customers", actor="ana", full=True, reason="drill")
    assert "peso agora 100%" in client.get(f"/ops/rollouts/{rollout.id}").text
    with transaction(get_engine(str(settings.database_url))) as session:
        rollouts.undo(session, "customers", actor="rui", reason="it swears")
    text = client.get(f"/ops/rollouts/{rollout.id}").text
    assert "peso agora 0%" in text
    assert "<b>undo</b>" in text
    for page in (text, client.get("/ops").text):
        assert "Retirada de serviço por rui; atende customers-v1: it swears" in page


def test_a_weight_by_hand_is_told(settings: Settings, client: TestClient) -> None:
    rollout = story(settings, harm=False)
    assert "posto à mão" not in client.get(f"/ops/rollouts/{rollout.id}").text
    with transaction(get_engine(str(settings.database_url))) as session:
        rollouts.set_weight(session, "customers", 0.6, actor="ana")
    assert "peso agora 60% (posto à mão)" in client.get(f"/ops/rollouts/{rollout.id}").text


def test_who_stopped_it_and_why_stands_there(settings: Settings, client: TestClient) -> None:
    engine = get_engine(str(settings.database_url))
    rollout = story(settings, harm=False)
    with transaction(engine) as session:
        rollouts.pause(session, "customers", actor="rui", reason="the director asked")
    assert "Em pausa por rui: the director asked" in client.get(f"/ops/rollouts/{rollout.id}").text
    said = run(engine, "explain", actor="rui", roles={"viewer"})
    assert "Paused by rui: the director asked. `npllm rollout resume` ends that." in said
    shift = "People ask for other things than before: length (1.20); 0.2 is another population."
    with transaction(engine) as session:
        rollouts.resume(session, "customers", actor="rui")
        found = rollouts.require_current(session, "customers")
        apply(session, found, Change("hold", "drift", shift, "held", "rollout.held"))
    assert "Retido por drift: As pessoas pedem coisas diferentes" in client.get(f"/ops/rollouts/{rollout.id}").text
    said = run(engine, "status", actor="rui", roles={"viewer"})
    assert f"Held by drift: {shift} `npllm rollout resume` ends that." in said


def test_the_audit_trail_is_whole(settings: Settings, client: TestClient) -> None:
    rollout = story(settings, harm=False)
    for number in range(60):
        with transaction(get_engine(str(settings.database_url))) as session:
            rollouts.set_weight(session, "customers", 0.3 + number / 1000, actor="ana", reason=f"try {number}.")
    text = client.get(f"/ops/rollouts/{rollout.id}").text
    assert "a new price list" in text
    assert all(f"try {number}." in text for number in range(60))


def test_an_unknown_one_is_not_found(client: TestClient) -> None:
    assert client.get(f"/ops/rollouts/{new_id()}").status_code == 404


# What is wider than the card that it stands in.
CUT_OFF = """[...document.querySelectorAll("article:last-of-type td, article p, main > p")]
    .map(cell => [cell.textContent, cell, cell.parentNode.closest("article, main")])
    .filter(([, cell, card]) => cell.getBoundingClientRect().right > card.getBoundingClientRect().right)
    .map(([text]) => text)"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1240, 390])
def test_it_is_seen(settings: Settings, tmp_path: Path, width: int) -> None:
    """In a real browser: nothing is refused by the content policy, and nothing is wider than the screen."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on the PATH")
    from playwright.sync_api import sync_playwright

    rollout = story(settings, harm=True)
    said: list[str] = []
    with serving(create_app(settings)) as url, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: said.append(message.text))
        page.goto(f"{url}/login?next=/ops")
        page.fill("input[name=name]", "ana")
        page.fill("input[name=password]", "operator-password")
        page.click("button")
        page.goto(f"{url}/ops/rollouts/{rollout.id}")
        assert page.locator("svg.picture polyline").count() == 2
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=tmp_path / f"rollout-{width}.png", full_page=True)
        with transaction(get_engine(str(settings.database_url))) as session:  # evidence of hundreds of digits
            make_votes(session, rollout.id, 3000, challenger=0.1, control=0.9, stage=1, seed=4)
            rollouts.pause(session, "customers", actor="ana", reason="https://tickets.example.com/" + "7" * 300)
        page.reload()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.evaluate(CUT_OFF) == []
        browser.close()
    assert [line for line in said if "404" not in line] == []  # a browser asks for an icon, which there is not
