"""/review over HTTP: log-in, one item at a time, nothing of what a customer wrote can act on a reviewer's screen."""

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from factories import make_answer
from fastapi.testclient import TestClient
from sqlalchemy import Engine, select

from bot.app import create_app
from core.db import transaction
from core.settings import Settings
from core.tables import Annotation, AnnotationItem

SCRIPT = '<script>alert(1)</script><img src=x onerror="alert(2)">'


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with TestClient(create_app(settings)) as opened:
        yield opened


def log_in(client: TestClient, name: str = "rita") -> None:
    client.post("/login", data={"name": name, "password": "operator-password"})


@pytest.fixture
def reviewer(client: TestClient) -> TestClient:
    log_in(client)
    return client


def add_item(engine: Engine, **facts: Any) -> uuid.UUID:
    with transaction(engine) as session:
        answer = make_answer(session)
        values = {"question": "Quanto custa?", "answer": "Custa R$ 10.", "passages": ["O preço é R$ 10."], **facts}
        item = AnnotationItem(context="customers", message_id=answer.id, reason="disliked", **values)
        session.add(item)
        session.flush()
        return item.id


def item_of(engine: Engine, id: uuid.UUID) -> AnnotationItem:
    with transaction(engine) as session:
        return session.get_one(AnnotationItem, id)


def annotations(engine: Engine) -> list[Annotation]:
    with transaction(engine) as session:
        return list(session.scalars(select(Annotation)))


def test_nothing_without_a_log_in(client: TestClient, engine: Engine) -> None:
    item = add_item(engine)
    for post in ("/review/next", f"/review/{item}"):
        answer = client.post(post, data={"verdict": "approve"}, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/login")
    assert item_of(engine, item).state == "open"


def test_an_empty_queue_says_so(reviewer: TestClient) -> None:
    assert "A fila está vazia." in reviewer.get("/review").text


def test_claim_correct_and_on_to_the_next(reviewer: TestClient, engine: Engine) -> None:
    first, second = add_item(engine, priority=1.0), add_item(engine, priority=0.5, question="E o frete?")
    page = reviewer.post("/review/next").text
    assert "Quanto custa?" in page
    assert "O preço é R$ 10." in page
    page = reviewer.post(f"/review/{first}", data={"verdict": "correct", "corrected": "Custa R$ 12."}).text
    assert "E o frete?" in page
    (made,) = annotations(engine)
    assert (made.item_id, made.reviewer, made.corrected) == (first, "rita", "Custa R$ 12.")
    reviewer.post(f"/review/{second}", data={"verdict": "release"})
    assert item_of(engine, second).state == "open"


def test_a_claim_is_kept_over_a_reload_and_a_second_click(reviewer: TestClient, engine: Engine) -> None:
    first, second = add_item(engine, priority=1.0), add_item(engine, priority=0.5)
    for _ in range(2):
        reviewer.post("/review/next")
    assert str(first) in reviewer.get("/review").text
    assert item_of(engine, second).state == "open"


def test_two_reviewers_work_on_two_items(settings: Settings, engine: Engine) -> None:
    first, second = add_item(engine, priority=1.0), add_item(engine, priority=0.5)
    with TestClient(create_app(settings)) as rita, TestClient(create_app(settings)) as ugo:
        for client, name in ((rita, "rita"), (ugo, "ugo")):
            log_in(client, name)
            client.post("/review/next")
        answer = ugo.post(f"/review/{first}", data={"verdict": "approve"})
        assert answer.status_code == 409
        assert "rita" in answer.text
        assert str(second) in ugo.get("/review").text


@pytest.mark.parametrize("verdict", ["correct", "perhaps"])
def test_bad_input_is_told_on_the_page_and_keeps_the_item(reviewer: TestClient, engine: Engine, verdict: str) -> None:
    item = add_item(engine)
    reviewer.post("/review/next")
    answer = reviewer.post(f"/review/{item}", data={"verdict": verdict, "corrected": " "})
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert str(item) in answer.text
    assert annotations(engine) == []


@pytest.mark.parametrize("id", ["7", str(uuid.UUID(int=7))])
def test_an_item_that_does_not_exist(reviewer: TestClient, id: str) -> None:
    assert reviewer.post(f"/review/{id}", data={"verdict": "approve"}).status_code == 404


def test_what_a_customer_wrote_is_shown_and_never_run(reviewer: TestClient, engine: Engine) -> None:
    item = add_item(
        engine, question=SCRIPT, answer=f"</textarea>{SCRIPT}", passages=[SCRIPT], history=[[SCRIPT, SCRIPT]]
    )
    page = reviewer.post("/review/next").text
    assert str(item) in page
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "</textarea>&lt;" not in page
    assert page.count("&lt;script&gt;alert(1)") == 6  # question, answer, textarea, passage, history twice


def test_nor_what_a_reviewer_wrote(settings: Settings, engine: Engine) -> None:
    with TestClient(create_app(settings)) as client:
        client.post("/login", data={"name": "<b>rita</b>", "password": "operator-password"})
        assert client.get("/review", follow_redirects=False).status_code == 303


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://testserver.evil.example"])
def test_a_form_from_another_site_is_refused(reviewer: TestClient, engine: Engine, origin: str) -> None:
    item = add_item(engine)
    for path in ("/review/next", f"/review/{item}"):
        answer = reviewer.post(path, data={"verdict": "approve"}, headers={"Origin": origin})
        assert answer.status_code == 403
    assert item_of(engine, item).state == "open"


def test_a_form_from_our_own_page_is_not(reviewer: TestClient, engine: Engine) -> None:
    item = add_item(engine)
    answer = reviewer.post(
        f"/review/{item}", data={"verdict": "approve"}, headers={"Origin": "http://testserver"}
    )  # fmt: skip
    assert answer.status_code == 200
    assert item_of(engine, item).state == "done"
