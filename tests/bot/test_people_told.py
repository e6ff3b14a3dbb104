"""One person however a vendor names them: identifiers that change, two customers who turn out to be one, wishes."""

from datetime import timedelta
from typing import Any

import pytest
from factories import make_answer, make_conversation, make_customer
from sqlalchemy import select, update
from street import ANA, Street

from bot import people
from bot.wiring import Awake
from core.db import transaction
from core.messages import Identifier, InboundPerson, InboundSignal, Person
from core.tables import Customer, CustomerIdentity, Feedback, Message, OutboxItem, now

PHONE, BSUID = Identifier("phone", ANA), Identifier("bsuid", "BR.77")
NEW_BSUID, NEW_PHONE = Identifier("bsuid", "BR.78"), Identifier("phone", "+5511900000078")


def identities(awake: Awake) -> dict[str, set[str]]:
    """Customer -> their identifiers."""
    found: dict[str, set[str]] = {}
    with transaction(awake.engine) as session:
        for row in session.scalars(select(CustomerIdentity)):
            found.setdefault(str(row.customer_id), set()).add(row.value)
    return found


def meet(awake: Awake, *identifiers: Identifier) -> Customer:
    with transaction(awake.engine) as session:
        return people.identify(session, Person(identifiers), "customers")


class TestOnePerson:
    def test_number_and_user_id_met_apart_are_joined_when_they_come_together(self, awake: Awake) -> None:
        first, second = meet(awake, PHONE), meet(awake, BSUID)
        with transaction(awake.engine) as session:
            for customer in (first, second):
                conversation = make_conversation(session, session.get_one(Customer, customer.id), lane=str(customer.id))
                make_answer(session, conversation)
            session.get_one(Customer, second.id).opted_out_at = now()
        assert meet(awake, PHONE, BSUID).id == first.id
        assert [values for values in identities(awake).values() if "BR.77" in values] == [
            {value for value in next(iter(identities(awake).values()))}
        ]
        with transaction(awake.engine) as session:
            assert set(session.scalars(select(Message.customer_id))) == {first.id}
            assert session.get(Customer, second.id) is None
            assert session.get_one(Customer, first.id).opted_out_at is not None, "the stricter wish stands"

    def test_ratings_of_both_stay_and_one_is_current(self, awake: Awake) -> None:
        first, second = meet(awake, PHONE), meet(awake, BSUID)
        with transaction(awake.engine) as session:
            answer = make_answer(session, make_conversation(session, session.get_one(Customer, first.id)))
            for customer, raw in ((first, "👍"), (second, "👎")):
                session.add(
                    Feedback(
                        message_id=answer.id, customer_id=customer.id, channel="meta", signal="reaction", op="replace",
                        raw=raw, polarity="neutral", given_at=now(),
                    )
                )  # fmt: skip
        meet(awake, PHONE, BSUID)
        with transaction(awake.engine) as session:
            votes = session.scalars(select(Feedback).order_by(Feedback.created_at)).all()
            assert {vote.customer_id for vote in votes} == {first.id}
            assert [vote.raw for vote in votes if vote.superseded_at is None] == ["👍"]

    @pytest.mark.parametrize(
        ("one", "other"),
        [("551187650001", "5511987650001"), ("5491123456789", "541123456789"), ("5215512345678", "525512345678")],
    )
    def test_with_and_without_the_mobile_digit(self, street: Street, one: str, other: str) -> None:
        """Brazil's ninth digit, Argentina's 9, Mexico's 1."""
        street.answer(street.meta("Oi", sender=one))
        street.answer(street.meta("Oi de novo", sender=other))
        assert len(identities(street.awake)) == 1
        assert len({message.conversation_id for message in street.messages()}) == 1


class TestTold:
    def learn(self, awake: Awake, told: InboundPerson) -> bool:
        with transaction(awake.engine) as session:
            return people.learn(session, told)

    def test_a_new_user_id_is_the_same_person(self, awake: Awake) -> None:
        meet(awake, BSUID)
        assert self.learn(awake, InboundPerson("meta", Person((BSUID,)), (NEW_BSUID,)))
        assert list(identities(awake).values()) == [{"BR.77", "BR.78"}]

    def test_a_message_that_came_before_the_news_is_joined(self, awake: Awake) -> None:
        first, second = meet(awake, BSUID), meet(awake, NEW_BSUID)
        self.learn(awake, InboundPerson("meta", Person((BSUID,)), (NEW_BSUID,)))
        assert identities(awake) == {str(first.id): {"BR.77", "BR.78"}}
        assert second.id != first.id

    def test_a_number_given_up_is_nobodys(self, awake: Awake) -> None:
        """It may be somebody else's soon: they must not get to see this person's conversation."""
        ana = meet(awake, PHONE, BSUID)
        self.learn(awake, InboundPerson("meta", Person((PHONE,)), (NEW_PHONE,), gone=(PHONE,)))
        assert identities(awake)[str(ana.id)] == {"BR.77", NEW_PHONE.value}
        assert meet(awake, PHONE).id != ana.id

    def test_about_nobody_we_know(self, awake: Awake) -> None:
        assert not self.learn(awake, InboundPerson("meta", Person((BSUID,)), (NEW_BSUID,)))
        assert identities(awake) == {}

    def test_through_the_door(self, street: Street) -> None:
        import json

        from bot.simulator import traffic
        from integrations.meta import webhook as meta

        street.says("Oi")
        value = {"user_preferences": [{"wa_id": ANA.lstrip("+"), "value": "stop", "timestamp": 1795000000}]}
        body = json.dumps(json.loads(traffic.meta_body(street.awake.settings, value).body)).encode()
        street.answer(street.store("meta", meta.split(body)))
        with transaction(street.awake.engine) as session:
            assert session.scalars(select(Customer.no_templates_at)).one() is not None
        assert street.events()[-1].outcome == "person"


def test_who_wants_nothing_unasked_for_gets_no_template(awake: Awake, street: Street, vendors: Any) -> None:
    from dataclasses import replace

    from bot.limits import outside_window

    lane = street.meta("Oi")
    client: Any = awake.channels["meta"]
    client.limits, before = replace(client.limits, template=True), client.limits
    try:
        vendors.fault("meta", "429", retry_after=60)
        street.answer(lane)
        with transaction(awake.engine) as session:
            session.execute(update(Message).values(sent_at=now() - timedelta(hours=25)))
            session.execute(update(Customer).values(no_templates_at=now()))
            session.execute(update(OutboxItem).where(OutboxItem.state == "pending").values(not_before=now()))
            assert outside_window(session, session.scalars(select(OutboxItem)).all()[0], client.limits)
        street.answer(lane)
    finally:
        client.limits = before
    assert vendors.sent == []
    assert {row.state for row in street.outbox()} == {"failed"}


class TestRemarks:
    def rated(self, street: Street) -> tuple[str, str]:
        """An answer and its id at the vendor."""
        street.says("Quanto custa?")
        part = street.outbox()[0]
        return str(part.message_id), str(part.provider_message_id)

    def votes(self, street: Street) -> list[Feedback]:
        with transaction(street.awake.engine) as session:
            return list(session.scalars(select(Feedback).order_by(Feedback.created_at, Feedback.id)))

    def test_words_that_quote_a_disliked_answer_are_a_comment_and_are_answered(
        self, street: Street, vendors: Any
    ) -> None:
        answer, wamid = self.rated(street)
        street.answer(street.meta_reacts(wamid, "👎"))
        sent = len(vendors.sent)
        text = {"type": "text", "text": {"body": "O frete não é esse"}, "context": {"id": wamid}}
        street.answer(street.meta(text))
        current = [vote for vote in self.votes(street) if vote.superseded_at is None]
        assert [(vote.polarity, vote.comment, str(vote.message_id)) for vote in current] == [
            ("negative", "O frete não é esse", answer)
        ]
        assert len(vendors.sent) == sent + 1

    def test_words_that_quote_another_answer_are_no_comment(self, street: Street) -> None:
        _, wamid = self.rated(street)
        street.answer(street.meta({"type": "text", "text": {"body": "E no Rio?"}, "context": {"id": wamid}}))
        assert self.votes(street) == []

    def test_a_rating_word_without_a_quote_is_probably_about_the_last_answer(
        self, street: Street, vendors: Any
    ) -> None:
        answer, _ = self.rated(street)
        sent = len(vendors.sent)
        street.says("Errado")
        (vote,) = self.votes(street)
        assert (vote.signal, vote.polarity, str(vote.message_id)) == ("keyword", "negative", answer)
        assert vote.confidence < 1
        assert len(vendors.sent) == sent + 1, "it may be a question too, so it is answered"

    def test_and_does_not_replace_a_rating_given_on_purpose(self, street: Street) -> None:
        _, wamid = self.rated(street)
        street.answer(street.meta_reacts(wamid, "👍"))
        street.says("Errado")
        current = [vote for vote in self.votes(street) if vote.superseded_at is None]
        assert [vote.raw for vote in current] == ["👍"]

    def test_the_problem_button_flags_exactly_that_answer(self, street: Street) -> None:
        answer, _ = self.rated(street)
        tapped = {"type": "button_reply", "button_reply": {"id": f"fb:{answer}:problem", "title": "Problema"}}
        street.answer(street.meta({"type": "interactive", "interactive": tapped}))
        (vote,) = self.votes(street)
        assert (vote.signal, vote.polarity, str(vote.message_id)) == ("flag", "negative", answer)


def test_signals_make_no_second_person(street: Street) -> None:
    with transaction(street.awake.engine) as session:
        make_customer(session)
        person = Person((PHONE,))
        from bot import signals

        signals.record_signal(session, InboundSignal("meta", person, "reaction", "replace", "👍", target="w"), "meta:1")
        assert len(session.scalars(select(Customer)).all()) == 2
