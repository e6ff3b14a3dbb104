"""Reactions become feedback: one current vote per person and answer, whatever the order in which things arrive."""

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from factories import make_answer, make_conversation, make_part, phone_of
from sqlalchemy import Engine, select
from sqlalchemy.orm import Session
from together import in_threads

from bot import signals
from core.db import transaction
from core.events import listing
from core.messages import Identifier, InboundEdit, InboundSignal, Person
from core.tables import Customer, Feedback, Message, OutboxItem, now


class Talk:
    """One customer's answer, sent as `parts`; reactions to it come from the same phone."""

    def __init__(self, session: Session, *, parts: int = 1, sent: bool = True, **facts: Any) -> None:
        self.session = session
        self.conversation = make_conversation(session)
        self.phone = phone_of(session, session.get_one(Customer, self.conversation.customer_id))
        self.answer = make_answer(session, self.conversation, **facts)
        for part in range(1, parts + 1):
            make_part(session, self.answer, part=part, parts=parts, state="sent" if sent else "sending",
                      provider_message_id=f"wamid.{part}" if sent else None)  # fmt: skip

    def signal(self, raw: str = "👍", *, at: datetime | None = None, **facts: Any) -> Feedback | None:
        values = {"signal": "reaction", "op": "add" if raw else "remove", "target": "wamid.1", **facts}
        person = values.pop("person", Person((Identifier("phone", self.phone),)))
        made = InboundSignal(values.pop("channel", "meta"), person, raw=raw, given_at=at, **values)
        return signals.record_signal(self.session, made, f"signals/{self.conversation.lane}")

    def votes(self) -> list[tuple[str, str, bool]]:
        """(op, emoji, current) of every signal, oldest first."""
        found = self.session.scalars(select(Feedback).order_by(Feedback.created_at, Feedback.id))
        return [(row.op, row.raw, row.superseded_at is None) for row in found]

    def current(self) -> Feedback | None:
        rows = self.session.scalars(
            select(Feedback).where(Feedback.message_id == self.answer.id, Feedback.superseded_at.is_(None))
        ).all()
        assert len(rows) <= 1
        return rows[0] if rows else None


@pytest.fixture
def session(engine: Engine) -> Any:
    with transaction(engine) as opened:
        yield opened


class TestOneCurrentVote:
    def test_a_thumb(self, session: Session) -> None:
        talk = Talk(session)
        given = talk.signal("👍")
        assert given is not None
        assert (given.message_id, given.customer_id) == (talk.answer.id, talk.conversation.customer_id)
        assert (given.polarity, given.value, given.confidence, given.op) == ("positive", 1.0, 1.0, "add")
        (event,) = [event for event in listing(session) if event["type"] == "feedback.recorded"]
        assert event["conversation"] == str(talk.conversation.id)
        assert {key: event["data"][key] for key in ("polarity", "op", "message", "provider_message_id")} == {
            "polarity": "positive", "op": "add", "message": str(talk.answer.id), "provider_message_id": "wamid.1",
        }  # fmt: skip

    def test_changed(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👍")
        talk.signal("👎")
        assert talk.votes() == [("add", "👍", False), ("replace", "👎", True)]
        assert [e["data"]["op"] for e in listing(session)] == ["add", "replace"]

    def test_taken_back(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👎")
        talk.signal("")
        current = talk.current()
        assert current is not None
        assert (current.op, current.polarity, current.value) == ("remove", "neutral", None)

    def test_given_again_after_it_was_taken_back_is_an_addition(self, session: Session) -> None:
        talk = Talk(session)
        for raw in ("👎", "", "👍"):
            talk.signal(raw)
        assert [op for op, _, _ in talk.votes()] == ["add", "remove", "add"]

    def test_removing_another_reaction_than_the_one_that_stands(self, session: Session) -> None:
        """Slack allows several reactions at once: taking back 🎉 leaves 👎 standing."""
        talk = Talk(session)
        talk.signal("👎")
        talk.signal("🎉", op="remove")
        current = talk.current()
        assert current is not None
        assert current.raw == "👎"

    @pytest.mark.parametrize(
        ("signal", "raw", "polarity"),
        [("button", "👎", "negative"), ("flag", "⚠️", "negative"), ("stars", "4/5", "positive")],
    )
    def test_taking_a_reaction_back_leaves_a_verdict_of_another_kind_standing(
        self, session: Session, signal: str, raw: str, polarity: str
    ) -> None:
        talk = Talk(session)
        talk.signal("👍")
        talk.signal(raw, signal=signal, op="replace")
        talk.signal("")
        current = talk.current()
        assert current is not None
        assert (current.signal, current.polarity) == (signal, polarity)

    def test_any_part_of_a_long_answer(self, session: Session) -> None:
        talk = Talk(session, parts=3)
        talk.signal("👎", target="wamid.2")
        talk.signal("👍", target="wamid.3")
        assert talk.votes() == [("add", "👎", False), ("replace", "👍", True)]

    def test_two_people_two_votes(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👍")
        talk.signal("👎", person=Person((Identifier("phone", "+5511900000000"),)))
        assert [current for _, _, current in talk.votes()] == [True, True]

    def test_words_are_added_to_the_vote_that_stands(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👎")
        talk.signal("não foi isso", signal="comment", comment="não foi isso")
        current = talk.current()
        assert current is not None
        assert (current.raw, current.value, current.comment) == ("👎", 0.0, "não foi isso")

    def test_at_the_same_moment(self, engine: Engine) -> None:
        with transaction(engine) as session:
            talk = Talk(session)
            phone, lane = talk.phone, talk.conversation.lane

        def vote(number: int) -> None:
            person = Person((Identifier("phone", phone),))
            made = InboundSignal("meta", person, "reaction", "add", "👍" if number % 2 else "👎", target="wamid.1",
                                 given_at=now() + timedelta(seconds=number))  # fmt: skip
            with transaction(engine) as session:
                signals.record_signal(session, made, f"signals/{lane}")

        in_threads(vote, 6)
        with transaction(engine) as session:
            rows = list(session.scalars(select(Feedback)))
        assert len(rows) == 6
        (current,) = [row for row in rows if row.superseded_at is None]
        assert current.given_at == max(row.given_at for row in rows)


class TestSeveralReactionsOfOnePersonOnSlack:
    @pytest.fixture
    def talk(self, session: Session) -> Talk:
        talk = Talk(session)
        _part(session, talk.answer).channel = "slack"
        session.flush()
        return talk

    def reacts(self, talk: Talk, *said: str, **facts: Any) -> str | None:
        """`+1` gives, `~+1` takes back; the emoji of the vote that stands then."""
        for one in said:
            facts["op"] = "remove" if one.startswith("~") else "add"
            talk.signal(one.removeprefix("~"), channel="slack", **facts)
        current = talk.current()
        return current.raw if current is not None and current.op != "remove" else None

    def test_one_that_says_nothing_stands_beside_the_rating(self, talk: Talk) -> None:
        assert self.reacts(talk, "+1", "eyes") == "+1"
        assert self.reacts(talk, "~eyes") == "+1"

    def test_the_one_that_is_left_counts_again(self, talk: Talk) -> None:
        assert self.reacts(talk, "-1", "tada") == "tada"
        assert self.reacts(talk, "~tada") == "-1"
        assert self.reacts(talk, "~-1") is None
        assert self.reacts(talk, "-1", "tada", "~-1", "~tada") is None

    def test_a_tap_is_not_taken_back_with_a_reaction(self, talk: Talk) -> None:
        talk.signal("👎", channel="slack", signal="button", op="replace", target=None, answer_id=str(talk.answer.id))
        assert self.reacts(talk, "+1") == "+1"
        assert self.reacts(talk, "~+1") == "👎"

    def test_elsewhere_a_new_emoji_takes_the_place_of_the_old(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👍")
        talk.signal("👀")
        assert talk.votes() == [("add", "👍", False), ("replace", "👀", True)]

    def test_nor_is_a_tap_elsewhere(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👍")
        talk.signal("👎", signal="button", op="replace", target=None, answer_id=str(talk.answer.id))
        talk.signal("")
        assert [raw for _, raw, current in talk.votes() if current] == ["👎"]


class TestOrder:
    def test_an_older_reaction_that_comes_late_changes_nothing(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👎", at=now())
        talk.signal("👍", at=now() - timedelta(minutes=1))
        assert talk.votes() == [("add", "👎", True), ("add", "👍", False)]

    def test_before_the_message_is_known(self, session: Session) -> None:
        """A fast thumb comes before the vendor's answer to our call: it waits, and then counts."""
        talk = Talk(session, sent=False)
        orphan = talk.signal("👎")
        assert orphan is not None
        assert orphan.message_id is None
        assert [e["type"] for e in listing(session)] == []
        part = _part(session, talk.answer)
        part.provider_message_id, part.state = "wamid.1", "sent"
        session.flush()
        assert signals.resolve_orphans(session, "meta", "wamid.1") == 1
        assert talk.current() is orphan
        assert [e["data"]["polarity"] for e in listing(session)] == ["negative"]
        assert signals.resolve_orphans(session, "meta", "wamid.1") == 0

    def test_several_before_the_message_is_known(self, session: Session) -> None:
        talk = Talk(session, sent=False)
        first = now() - timedelta(seconds=10)
        talk.signal("👍", at=first)
        talk.signal("👎", at=first + timedelta(seconds=2))
        part = _part(session, talk.answer)
        part.provider_message_id, part.state = "wamid.1", "sent"
        session.flush()
        assert signals.resolve_orphans(session, "meta", "wamid.1") == 2
        current = talk.current()
        assert current is not None
        assert current.raw == "👎"

    def test_to_a_message_nobody_sent(self, session: Session) -> None:
        talk = Talk(session)
        orphan = talk.signal("👍", target="wamid.of-somebody-else")
        assert orphan is not None
        assert orphan.message_id is None
        assert talk.current() is None
        assert signals.resolve_orphans(session, "meta", "wamid.of-somebody-else") == 0

    def test_of_another_channel_is_another_message(self, session: Session) -> None:
        talk = Talk(session)
        talk.signal("👍", target="wamid.1")
        assert signals.resolve_orphans(session, "twilio", "wamid.1") == 0


class TestWithoutATarget:
    def test_a_bare_emoji_means_the_last_answer_and_is_less_sure(self, session: Session) -> None:
        talk = Talk(session, ago=timedelta(minutes=5))
        given = talk.signal("👍", target=None)
        assert given is not None
        assert (given.message_id, given.confidence) == (talk.answer.id, signals.UNQUOTED_CONFIDENCE)

    def test_too_long_after_it_means_nothing(self, session: Session) -> None:
        talk = Talk(session, ago=timedelta(minutes=signals.UNQUOTED_MINUTES + 1))
        assert talk.signal("👍", target=None) is None
        assert talk.votes() == []

    def test_never_somebody_elses_answer(self, session: Session) -> None:
        talk = Talk(session)
        stranger = Person((Identifier("phone", "+5511900000001"),))
        assert talk.signal("👍", target=None, person=stranger) is None

    def test_a_button_names_the_answer_itself(self, session: Session) -> None:
        talk = Talk(session, sent=False)
        given = talk.signal("👎", signal="button", target=None, answer_id=str(talk.answer.id))
        assert given is not None
        assert (given.message_id, given.confidence) == (talk.answer.id, 1.0)

    @pytest.mark.parametrize("id", ["", "no-uuid", str(uuid.UUID(int=7))])
    def test_a_button_with_an_id_that_is_none(self, session: Session, id: str) -> None:
        talk = Talk(session, ago=timedelta(hours=2))
        assert talk.signal("👎", signal="button", target=None, answer_id=id) is None

    def test_a_button_on_a_question_rates_nothing(self, session: Session) -> None:
        talk = Talk(session)
        assert talk.signal("👎", signal="button", target=None, answer_id=str(talk.answer.in_reply_to)) is None


@pytest.mark.parametrize(
    ("facts", "polarity", "value"),
    [
        ({"raw": "❤️"}, "positive", 1.0),
        ({"raw": "👎🏿"}, "negative", 0.0),
        ({"raw": "🦆"}, "neutral", None),
        ({"raw": "5", "signal": "stars"}, "positive", 1.0),
        ({"raw": "4/5", "signal": "stars"}, "positive", 0.75),
        ({"raw": "3 estrelas", "signal": "stars"}, "neutral", 0.5),
        ({"raw": "1", "signal": "stars"}, "negative", 0.0),
        ({"raw": "errado", "signal": "keyword"}, "negative", 0.0),
        ({"raw": "problema", "signal": "flag"}, "negative", 0.0),
        ({"raw": "x" * 10_000}, "neutral", None),
    ],
)
def test_what_a_signal_says(session: Session, facts: dict[str, Any], polarity: str, value: float | None) -> None:
    given = Talk(session).signal(**facts)
    assert given is not None
    assert (given.polarity, given.value) == (polarity, value)
    assert len(given.raw) <= 200


class TestEdits:
    @pytest.fixture
    def asked(self, session: Session) -> Message:
        talk = Talk(session)
        message = session.get_one(Message, talk.answer.in_reply_to)
        message.provider_message_id = "wamid.in"
        session.flush()
        return message

    def test_changed(self, session: Session, asked: Message) -> None:
        signals.record_edit(session, InboundEdit("meta", "wamid.in", "Quanto custa o de casal?"))
        assert (asked.text, asked.deleted_at) == ("Quanto custa o de casal?", None)
        assert asked.edited_at is not None

    def test_taken_back_leaves_no_text_and_teaches_nothing(self, session: Session, asked: Message) -> None:
        asked.consent = True
        signals.record_edit(session, InboundEdit("meta", "wamid.in", None))
        assert (asked.text, asked.consent) == ("", False)
        assert asked.deleted_at is not None

    def test_of_a_message_we_do_not_have(self, session: Session) -> None:
        signals.record_edit(session, InboundEdit("meta", "wamid.unknown", "x"))


def _part(session: Session, answer: Message) -> OutboxItem:
    return session.scalars(select(OutboxItem).where(OutboxItem.message_id == answer.id)).one()
