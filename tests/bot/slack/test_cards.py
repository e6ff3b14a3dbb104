"""The reviewers' channel: what they see there, what their taps do, and what becomes of a card."""

from typing import Any

import pytest
from factories import make_answer, make_conversation
from sqlalchemy import Engine, select, update
from workspace import Workspace

from bot.review import queue
from bot.slack import cards
from bot.wiring import Awake
from core.db import transaction
from core.tables import Annotation, AnnotationItem, ReviewCard, now

ITEM = "0190a0b0-0000-7000-8000-0000000000b2"  # in the fixtures


@pytest.fixture
def reviewers(awake: Awake) -> None:
    awake.settings.slack_review_channel = "C0REVISAO"
    awake.settings.slack_reviewers = ["U0RITA"]


def an_item(engine: Engine, *, priority: float = 1.0, **facts: Any) -> str:
    with transaction(engine) as session:
        answer = make_answer(session, make_conversation(session), text="São 20 dias.")
        values = {"question": "Quantos dias de férias tem [NOME]? <!channel>", "answer": "São 20 dias.", **facts}
        item = AnnotationItem(
            context="employees", message_id=answer.id, reason="disliked", priority=priority, version="employees-v3",
            **values,
        )  # fmt: skip
        session.add(item)
        session.flush()
        return str(item.id)


def shown(engine: Engine) -> list[tuple[str, str | None]]:
    with transaction(engine) as session:
        return [(c.shown, c.error) for c in session.scalars(select(ReviewCard).order_by(ReviewCard.created_at))]


def verdicts(engine: Engine) -> list[tuple[str, str, str | None]]:
    with transaction(engine) as session:
        return [(a.reviewer, a.verdict, a.corrected) for a in session.scalars(select(Annotation))]


def due(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(update(ReviewCard).values(not_before=now()))


class TestACard:
    def test_shows_the_redacted_question_and_answer_with_three_buttons(
        self, work: Workspace, awake: Awake, reviewers: None
    ) -> None:
        item = an_item(awake.engine)
        cards.show(awake)
        (posted,) = work.vendors.sent
        assert (posted["to"], posted["text"]) == ("C0REVISAO", "Uma resposta para revisar")
        about, question, answer, buttons = posted["blocks"]
        assert about["elements"][0]["text"] == "Uma resposta para revisar · employees · não gostaram · employees-v3"
        assert question["text"]["text"] == "Pergunta: Quantos dias de férias tem [NOME]? <!channel>"
        assert {question["text"]["type"], answer["text"]["type"]} == {"plain_text"}, "nothing in it calls anybody"
        assert [button["text"]["text"] for button in buttons["elements"]] == ["Aprovar", "Corrigir", "Rejeitar"]
        assert [button["value"] for button in buttons["elements"]][0] == f"review:{item}:approve"
        cards.show(awake)
        assert len(work.vendors.sent) == 1

    def test_the_most_urgent_come_first_and_few_at_a_time(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        for number in range(8):
            an_item(awake.engine, priority=number / 10, question=f"Pergunta {number}")
        for _ in range(9):
            cards.show(awake)
        asked = [entry["blocks"][1]["text"]["text"][-1] for entry in work.vendors.sent]
        assert asked == ["7", "6", "5", "4", "3"]

    def test_without_a_channel_there_are_none(self, work: Workspace, awake: Awake) -> None:
        an_item(awake.engine)
        cards.show(awake)
        assert work.vendors.sent == []


class TestAReviewer:
    def test_approves_and_the_card_says_so(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        item = an_item(awake.engine)
        cards.show(awake)
        work.does("click__review_approve", item=item)
        assert verdicts(awake.engine) == [("slack:U0RITA", "approve", None)]
        (changed,) = work.calls
        assert (changed["method"], changed["ts"]) == ("chat.update", work.vendors.sent[0]["ts"])
        assert changed["text"].startswith("✅ Aprovada por U0RITA")
        assert [block["type"] for block in changed["blocks"]] == ["section"], "no button is left"
        assert shown(awake.engine) == [("done", None)]

    def test_corrects_in_a_form_that_begins_with_the_answer(
        self, work: Workspace, awake: Awake, reviewers: None
    ) -> None:
        item = an_item(awake.engine)
        cards.show(awake)
        work.does("click__review_correct", item=item)
        (opened,) = work.calls
        question, better, _ = opened["view"]["blocks"]
        assert question["text"]["text"].startswith("Pergunta: Quantos dias")
        assert better["element"]["initial_value"] == "São 20 dias."
        work.does("view__correction", item=item)
        assert verdicts(awake.engine) == [("slack:U0RITA", "correct", "São 30 dias por ano.")]
        assert work.calls[-1]["text"].startswith("✏️ Corrigida por U0RITA")

    def test_who_is_not_listed_may_not(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        awake.settings.slack_reviewers = ["U0BETO"]
        item = an_item(awake.engine)
        for name in ("click__review_approve", "click__review_correct", "view__correction"):
            work.does(name, item=item)
        assert verdicts(awake.engine) == []
        assert ["SLACK_REVIEWERS" in call.get("text", "") for call in work.calls] == [True] * 3
        assert "views.open" not in [call["method"] for call in work.calls]

    def test_what_somebody_else_has_is_theirs(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        item = an_item(awake.engine)
        with transaction(awake.engine) as session:
            queue.claim(session, item, "beto", awake.settings)
        work.does("click__review_approve", item=item)
        assert work.calls[0]["text"] == "Este item já foi decidido, ou está com outra pessoa."
        assert verdicts(awake.engine) == []

    def test_a_correction_that_comes_too_late_is_told_to_who_wrote_it(
        self, work: Workspace, awake: Awake, reviewers: None
    ) -> None:
        item = an_item(awake.engine)
        work.does("click__review_correct", item=item)
        with transaction(awake.engine) as session:
            queue.release_expired(session)
            queue.submit(session, item, "slack:U0RITA", "approve")
        work.does("view__correction", item=item)
        told = work.calls[-1]
        assert (told["method"], told["channel"], told["user"]) == ("chat.postEphemeral", "C0REVISAO", "U0RITA")
        assert told["text"] == "Este item já foi decidido, ou está com outra pessoa."

    def test_an_item_that_does_not_exist(self, work: Workspace, reviewers: None) -> None:
        work.does("click__review_approve")
        assert work.calls[0]["text"] == "Este item não existe mais."

    def test_decided_at_the_page_the_card_says_it_too(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        item = an_item(awake.engine)
        cards.show(awake)
        with transaction(awake.engine) as session:
            queue.submit(session, item, "beto", "reject")
        cards.show(awake)
        assert work.calls[0]["text"].startswith("🚫 Rejeitada por beto")

    def test_one_person_is_erased_and_their_card_goes(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        an_item(awake.engine)
        cards.show(awake)
        with transaction(awake.engine) as session:
            for item in session.scalars(select(AnnotationItem)):
                session.delete(item)
        cards.show(awake)
        assert work.calls[0]["method"] == "chat.delete"
        assert shown(awake.engine) == [("gone", None)]


class TestSlackMisbehaves:
    def test_a_card_that_may_have_been_posted_is_looked_up(
        self, work: Workspace, awake: Awake, reviewers: None
    ) -> None:
        an_item(awake.engine)
        work.vendors.fault("slack", "drop")
        client: Any = awake.channels["slack"]
        before, client.client.timeout = client.client.timeout, 0.3
        try:
            cards.show(awake)
        finally:
            client.client.timeout = before
        assert shown(awake.engine)[0][0] == "sending"
        due(awake.engine)
        cards.show(awake)
        assert shown(awake.engine) == [("open", None)]
        assert len(work.vendors.sent) == 1

    def test_told_to_wait_it_comes_later(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        an_item(awake.engine)
        work.vendors.fault("slack", "429", retry_after=30)
        cards.show(awake)
        cards.show(awake)
        assert (work.vendors.sent, shown(awake.engine)[0][0]) == ([], "new")
        due(awake.engine)
        cards.show(awake)
        assert len(work.vendors.sent) == 1

    def test_refused_for_good_it_says_why_once(self, work: Workspace, awake: Awake, reviewers: None) -> None:
        an_item(awake.engine)
        work.vendors.fault("slack", "refuse", code="not_in_channel")
        cards.show(awake)
        cards.show(awake)
        ((state, error),) = shown(awake.engine)
        assert (state, "Invite the bot" in str(error)) == ("failed", True)
