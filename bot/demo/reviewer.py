"""The reviewer: what the day's customers disliked is claimed at /review and corrected, with a lesson at its end."""

from datetime import datetime

import httpx
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from bot.demo.people import Answer, with_figures
from bot.demo.steps import StepFailed, Story
from core import shop
from core.tables import AnnotationItem, ConsolidationRun

LESSONS = (  # each telling teaches another one: what was learned before is a double, and no night learns it again
    "Quer que eu reserve um para você?",
    "Posso já separar o seu pedido?",
    "Se quiser, eu mostro as formas de pagamento.",
    "Quer saber o prazo de entrega no seu bairro?",
)


def open_items(story: Story, since: datetime) -> int:
    with story.session() as session:
        query = select(func.count()).select_from(AnnotationItem).where(
            AnnotationItem.state == "open", AnnotationItem.reason == "disliked", AnnotationItem.created_at > since
        )  # fmt: skip
        return session.scalar(query) or 0


def first_in_line(story: Story, since: datetime) -> None:
    """This day's answers come before what earlier ones (and the voters of earlier acts) left in the queue."""
    with story.session() as session:
        session.execute(
            update(AnnotationItem)
            .where(AnnotationItem.state == "open", AnnotationItem.created_at > since)
            .values(priority=AnnotationItem.priority + 100)
        )


def lesson(story: Story) -> str:
    """The first that no demo has taught here."""
    with story.session() as session:
        told = session.scalar(
            select(func.count()).select_from(ConsolidationRun).where(
                ConsolidationRun.requested_by == "demo", ConsolidationRun.state == "registered"
            )
        )  # fmt: skip
    if (told or 0) >= len(LESSONS):
        raise StepFailed(
            f"This data directory has heard the story {told} times, and nothing in it is new any more.",
            "Tell it on another folder: NPLLM_DATA_DIR=... npllm demo",
        )
    return LESSONS[told or 0]


def review(story: Story, wanted: int, lesson: str) -> int:
    """A reviewer at /review: logs in, claims, corrects, until the disliked answers are done."""
    settings, done = story.settings, 0
    assert settings.operator_password is not None
    with httpx.Client(base_url=str(settings.public_base_url), follow_redirects=True, timeout=30.0) as browser:
        password = settings.operator_password.get_secret_value()
        browser.post("/login", data={"name": "demo", "password": password, "next": "/review"}).raise_for_status()
        while done < wanted:
            browser.post("/review/next").raise_for_status()
            with story.session() as session:
                item = session.scalar(
                    select(AnnotationItem).where(AnnotationItem.state == "claimed", AnnotationItem.claimed_by == "demo")
                )
                story.must(item is not None, "an item could be claimed")
                assert item is not None
                key, corrected = item.id, _better(session, item, lesson)
            verdict = {"verdict": "correct", "corrected": corrected} if corrected else {"verdict": "reject"}
            browser.post(f"/review/{key}", data=verdict).raise_for_status()
            done += 1
    return done


def _better(session: Session, item: AnnotationItem, lesson: str) -> str | None:
    """What the reviewer would have said: the right passage's sentence where the bot missed it, and the offer."""
    asked = next((q for q in with_figures("valid") if q.text == item.question), None)
    if asked is None:
        return None
    right = next(p for p in shop.passages("customers", "pt") if p.id == asked.passage)
    answer = Answer(asked, item.answer, "", "meta", "")
    said = item.answer if answer.good else right.text
    for offer in LESSONS:
        said = said.removesuffix(offer).strip()
    return f"{said} {lesson}"
