"""/handover: who waits, the conversation, and what a mistake or a second person leads to."""

from collections.abc import Iterator
from typing import Any

import pytest
from browser import chromium, log_in
from fastapi.testclient import TestClient
from servers import ScriptedModel, serving
from sqlalchemy import select
from street import Street

from bot import jobs
from bot.app import create_app
from bot.wiring import Awake
from core.db import transaction
from core.tables import Conversation, Handover, OutboxItem

SCRIPT = "<img src=x onerror=\"document.title='hacked'\">"


@pytest.fixture(autouse=True)
def _answers(model: ScriptedModel) -> None:
    model.say = lambda *_: "Resposta."


@pytest.fixture
def client(awake: Awake) -> Iterator[TestClient]:
    with TestClient(create_app(awake.settings)) as opened:
        yield opened


def log_on(client: TestClient, name: str = "bia") -> TestClient:
    client.post("/login", data={"name": name, "password": "operator-password"})
    return client


def open_one(awake: Awake) -> str:
    with transaction(awake.engine) as session:
        return str(session.scalars(select(Handover.id)).one())


def due(awake: Awake) -> list[str]:
    with transaction(awake.engine) as session:
        return list(session.scalars(select(OutboxItem.lane).where(OutboxItem.state == "pending")))


def test_nothing_without_a_log_in(client: TestClient, awake: Awake, street: Street) -> None:
    street.says("Quero falar com um atendente")
    for path in ("/handover", f"/handover/{open_one(awake)}"):
        answer = client.get(path, follow_redirects=False)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")
    sent = client.post(f"/handover/{open_one(awake)}", data={"action": "reply", "text": "Oi"}, follow_redirects=False)
    assert sent.status_code == 303 and due(awake) == []


def test_a_form_of_another_site_is_refused(client: TestClient, awake: Awake, street: Street) -> None:
    street.says("Quero falar com um atendente")
    answer = log_on(client).post(
        f"/handover/{open_one(awake)}",
        data={"action": "reply", "text": "Oi"},
        headers={"origin": "https://evil.example"},
    )
    assert answer.status_code == 403 and due(awake) == []


def test_an_answer_goes_out_and_the_bot_gets_the_conversation_back(
    client: TestClient, awake: Awake, street: Street, vendors: Any
) -> None:
    street.says("Quero falar com um atendente")
    street.says(f"Meu pedido não chegou {SCRIPT}")
    listed = log_on(client).get("/handover").text
    assert "Meu pedido não chegou &lt;img" in listed and "ninguém assumiu" in listed
    key = open_one(awake)
    shown = client.post(f"/handover/{key}", data={"action": "reply", "text": "Oi, é a Bia.\r\nJá vejo."})
    assert "a caminho" in shown.text and "com bia" in shown.text
    jobs.send(due(awake)[0])
    assert vendors.texts()[-1] == "Oi, é a Bia.\nJá vejo."
    assert "enviada" in client.get(f"/handover/{key}").text
    assert "Ninguém espera." in client.post(f"/handover/{key}", data={"action": "return"}).text
    with transaction(awake.engine) as session:
        assert session.scalars(select(Conversation.state)).one() == "bot"
    assert "devolvida ao bot por bia" in client.get(f"/handover/{key}").text


def test_mistakes_keep_what_was_written(client: TestClient, awake: Awake, street: Street) -> None:
    street.says("Quero falar com um atendente")
    path = f"/handover/{open_one(awake)}"
    log_on(client, "bia").post(path, data={"action": "take"})
    taken = log_on(client, "rui").post(path, data={"action": "reply", "text": "Eu respondo"})
    assert taken.status_code == 409 and "bia está com esta conversa. Fale com essa" in taken.text
    assert "Eu respondo" in taken.text
    for text, told in (("   ", "A resposta está vazia."), ("x" * 4_001, "mais de 4000 caracteres. Envie em duas")):
        refused = log_on(client, "bia").post(path, data={"action": "reply", "text": text})
        assert refused.status_code == 400 and told in refused.text
    assert client.post(path, data={"action": "explode"}).status_code == 400
    street.says("PARAR")
    stopped = log_on(client, "bia").post(path, data={"action": "reply", "text": "Ainda aí?"})
    assert stopped.status_code == 403 and "não receber mais mensagens" in stopped.text and "Ainda aí?" in stopped.text
    assert due(awake) == []
    assert client.get("/handover/00000000-0000-0000-0000-000000000000").status_code == 404
    assert client.get("/handover/nothing").status_code == 422


def test_the_notice_in_slack_names_the_page(awake: Awake, street: Street) -> None:
    awake.settings.slack_handover_channel = "C0TEAM"
    street.says("Quero falar com um atendente")
    with transaction(awake.engine) as session:
        notice = session.scalars(select(OutboxItem.payload).where(OutboxItem.kind == "notice")).one()
    assert f"{awake.settings.public_base_url}/handover/{open_one(awake)}" in notice["text"]


@pytest.mark.browser
def test_in_a_browser(awake: Awake, street: Street, request: pytest.FixtureRequest) -> None:
    street.says("Quero falar com um atendente")
    street.says("Meu pedido não chegou")
    with serving(create_app(awake.settings)) as url, chromium() as browser:
        page = browser.new_page(viewport={"width": 390, "height": 780})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        log_in(page, url, to="/handover")
        page.click("text=Meu pedido não chegou")
        page.fill("textarea", "Já vejo,")
        street.says("Número 1234")  # comes while the answer is being written
        page.wait_for_selector("text=Número 1234")
        assert page.input_value("textarea") == "Já vejo,"
        page.keyboard.press("End")
        page.keyboard.type(" um instante.")
        with page.expect_navigation():
            page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Já vejo, um instante.")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert page.title() == "Atendimento · npllm" and errors == []
        if folder := request.config.getoption("--screenshots"):
            page.screenshot(path=request.config.invocation_params.dir / folder / "handover.png")
        page.click("text=Devolver ao bot")
        page.wait_for_selector("text=Ninguém espera.")
