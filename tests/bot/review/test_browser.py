"""/review in a real browser: a reviewer's hour with nothing but the keyboard."""

from collections.abc import Iterator

import pytest
from browser import chromium, log_in
from factories import make_answer
from servers import serving
from sqlalchemy import Engine, select

from bot.app import create_app
from core.db import transaction
from core.settings import Settings
from core.tables import Annotation, AnnotationItem

pytestmark = pytest.mark.browser


@pytest.fixture
def url(settings: Settings, engine: Engine) -> Iterator[str]:
    with transaction(engine) as session:
        for number in range(3):
            session.add(
                AnnotationItem(
                    context="customers",
                    message_id=make_answer(session).id,
                    reason="disliked",
                    priority=1 - number / 10,
                    question=f"Pergunta {number}? <img src=x onerror=\"document.title='hacked'\">",
                    answer=f"Resposta {number}.",
                    passages=["O frete é grátis."],
                )  # fmt: skip
            )
    with serving(create_app(settings)) as url:
        yield url


def decided(engine: Engine) -> list[tuple[str, str, str | None]]:
    with transaction(engine) as session:
        rows = session.scalars(select(Annotation).order_by(Annotation.created_at, Annotation.id))
        return [(row.reviewer, row.verdict, row.corrected) for row in rows]


def test_by_keyboard_alone(url: str, engine: Engine) -> None:
    with chromium() as browser:
        page = browser.new_page()
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        log_in(page, url, to="/review")
        page.wait_for_selector("button.main:focus")  # "take the next"
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Pergunta 0?")
        page.fill("textarea", "Resposta melhor.")
        page.keyboard.press("a")  # a letter inside the text field is a letter
        assert page.input_value("textarea") == "Resposta melhor.a"
        page.fill("textarea", "Resposta melhor.")
        page.keyboard.press("Control+Enter")
        page.wait_for_selector("text=Pergunta 1?")
        page.keyboard.press("a")
        page.wait_for_selector("text=Pergunta 2?")
        page.keyboard.press("r")
        page.wait_for_selector("text=A fila está vazia.")
        assert page.title() == "Revisão · npllm"
        assert errors == []
    assert decided(engine) == [
        ("rita", "correct", "Resposta melhor."), ("rita", "approve", "Resposta 1."), ("rita", "reject", "Resposta 2."),
    ]  # fmt: skip
