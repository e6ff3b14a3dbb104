"""Who speaks, in which conversation, and what they allowed."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from factories import make_customer
from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session
from together import in_threads

from bot import people
from core.db import transaction
from core.errors import NotFound
from core.messages import Identifier, InboundMessage, Person
from core.tables import Conversation, Customer, CustomerIdentity, now

PHONE, BSUID = Identifier("phone", "+5511987650001"), Identifier("bsuid", "BR.123")


@pytest.fixture
def session(engine: Engine) -> Any:
    with transaction(engine) as opened:
        yield opened


def someone(*identifiers: Identifier, name: str | None = None) -> Person:
    return Person(identifiers or (PHONE,), name)


class TestIdentify:
    def test_a_new_person_then_the_same(self, session: Session) -> None:
        first = people.identify(session, someone(name="Ana"), "customers")
        assert people.identify(session, someone(), "customers").id == first.id
        assert (first.context, first.name, first.consent) == ("customers", "Ana", "unknown")

    def test_any_identifier_will_do_and_new_ones_are_added(self, session: Session) -> None:
        ana = people.identify(session, someone(BSUID), "customers")
        assert people.identify(session, someone(BSUID, PHONE), "customers").id == ana.id
        assert people.identify(session, someone(PHONE), "customers").id == ana.id

    def test_the_same_value_of_another_kind_or_scope_is_another_person(self, session: Session) -> None:
        found = [
            people.identify(session, someone(Identifier(kind, "U1", scope)), "employees").id
            for kind, scope in (("slack_user", "T1"), ("slack_user", "T2"), ("visitor", ""))
        ]
        assert len(set(found)) == 3

    def test_a_new_name_replaces_the_old_and_none_does_not(self, session: Session) -> None:
        people.identify(session, someone(name="Ana"), "customers")
        people.identify(session, someone(name="Ana Maria"), "customers")
        assert people.identify(session, someone(), "customers").name == "Ana Maria"

    def test_identifiers_of_two_people_stay_with_the_first(self, session: Session) -> None:
        older = people.identify(session, someone(PHONE), "customers")
        older.created_at = now() - timedelta(days=1)
        session.flush()
        people.identify(session, someone(BSUID), "customers")
        assert people.identify(session, someone(PHONE, BSUID), "customers").id == older.id

    def test_met_by_several_workers_at_once(self, engine: Engine) -> None:
        def meet(_: int) -> uuid.UUID:
            with transaction(engine) as session:
                return people.identify(session, someone(PHONE, BSUID), "customers").id

        found = in_threads(meet, 6)
        with transaction(engine) as session:
            assert session.scalar(select(func.count()).select_from(Customer)) == 1
            assert set(session.scalars(select(CustomerIdentity.customer_id))) == set(found)


class TestConversations:
    def message(self, **facts: Any) -> InboundMessage:
        values = {
            "channel": "meta", "context": "customers", "person": someone(), "text": "oi", "kind": "text",
            "provider_message_id": "wamid.1", "address": {"to": "5511987650001"},
        }  # fmt: skip
        return InboundMessage(**{**values, **facts})

    def test_one_until_silence(self, session: Session) -> None:
        customer = make_customer(session)
        first = people.conversation_of(session, self.message(), customer, "meta:1", idle_hours=24)
        again = people.conversation_of(session, self.message(address={"to": "new"}), customer, "meta:1", idle_hours=24)
        assert (again.id, again.address) == (first.id, {"to": "new"})

    def test_a_new_one_after_silence(self, session: Session) -> None:
        customer = make_customer(session)
        first = people.conversation_of(session, self.message(), customer, "meta:1", idle_hours=24)
        first.last_message_at = now() - timedelta(hours=25)
        session.flush()
        assert people.conversation_of(session, self.message(), customer, "meta:1", idle_hours=24).id != first.id

    def test_another_lane_is_another_conversation(self, session: Session) -> None:
        customer = make_customer(session)
        for lane in ("meta:1", "twilio:1"):
            people.conversation_of(session, self.message(), customer, lane, idle_hours=24)
        assert session.scalar(select(func.count()).select_from(Conversation)) == 2


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("PARAR", "out"), (" Stop. ", "out"), ("CANCELAR", "out"), ("cancelar inscrição", "out"), ("voltar!", "in"),
        ("Pare!", "out"), ("STOPALL", "out"), ("opt-out", "out"), ("cancel", "out"), ("UNSTOP", "in"), ("end", None),
        ("START", "in"), ("quero cancelar o pedido", None),
        ("NÃO TREINAR", "no_training"), ("não aprender", "no_training"), ("Don't train", "no_training"),
        ("quero parar de receber o boleto por e-mail", None), ("como faço para sair do plano?", None), ("", None),
    ],
)  # fmt: skip
def test_only_a_whole_message_opts(text: str, word: str | None) -> None:
    assert people.opt_words(text) == word


class TestConsent:
    def asked(self, session: Session, *, ago: timedelta = timedelta(minutes=1), consent: str = "unknown") -> Customer:
        return make_customer(session, consent=consent, consent_asked_at=now() - ago)

    @pytest.mark.parametrize(
        ("text", "answer"),
        [("Sim", True), ("pode sim!", True), ("I agree", True), ("NÃO", False), ("não, obrigada", False),
         ("sim, mas quanto custa?", None), ("não sei", None), ("", None)],
    )  # fmt: skip
    def test_only_a_plain_answer_counts(self, session: Session, text: str, answer: bool | None) -> None:
        assert people.consent_answer(self.asked(session), text) is answer

    def test_without_a_question_yes_is_no_consent(self, session: Session) -> None:
        assert people.consent_answer(make_customer(session), "sim") is None

    def test_a_day_later_yes_is_about_something_else(self, session: Session) -> None:
        assert people.consent_answer(self.asked(session, ago=timedelta(hours=25)), "sim") is None

    def test_it_is_not_given_twice(self, session: Session) -> None:
        assert people.consent_answer(self.asked(session, consent="denied"), "sim") is None

    def test_it_is_kept_with_its_time(self, session: Session) -> None:
        customer = self.asked(session)
        people.set_consent(session, customer.id, True)
        session.refresh(customer)
        assert customer.consent == "granted"
        assert customer.consent_at is not None

    def test_who_may_be_learned_from(self, session: Session) -> None:
        granted, unknown = make_customer(session, consent="granted"), make_customer(session)
        gone = make_customer(session, consent="granted", opted_out_at=now())
        assert people.may_learn_from(granted, "meta", slack_learning=False)
        assert not people.may_learn_from(unknown, "meta", slack_learning=True)
        assert not people.may_learn_from(gone, "meta", slack_learning=True)
        assert people.may_learn_from(unknown, "slack", slack_learning=True)
        assert not people.may_learn_from(granted, "slack", slack_learning=False)
        assert not people.may_learn_from(make_customer(session, consent="denied"), "slack", slack_learning=True)

    def test_who_is_asked(self, session: Session) -> None:
        assert people.should_ask_consent(make_customer(session), "meta")
        assert not people.should_ask_consent(make_customer(session), "slack")
        assert not people.should_ask_consent(self.asked(session), "meta")
        assert not people.should_ask_consent(make_customer(session, consent="denied"), "meta")


def test_people_are_found_by_any_identifier_or_their_id(session: Session) -> None:
    ana = people.identify(session, someone(PHONE, BSUID), "customers")
    for value in (PHONE.value, BSUID.value, str(ana.id)):
        assert [found.id for found in people.customers_of(session, value)] == [ana.id]
    assert people.customers_of(session, "+5500000000000") == []
    assert people.customers_of(session, str(uuid.uuid4())) == []


def test_a_circle_is_given_by_any_name_that_they_are_found_by(engine: Engine) -> None:
    with transaction(engine) as session:
        ana, ben = make_customer(session), make_customer(session)
        session.add(CustomerIdentity(customer_id=ana.id, kind="phone", value="+5511987654321"))
        session.flush()
        for name in ("+5511987654321", "+55 (11) 98765-4321", str(ana.id)):
            ana.audience = "all"
            people.set_audience(session, name, "beta")
            assert (ana.audience, ben.audience) == ("beta", "all"), name
        with pytest.raises(NotFound, match="Nobody"):
            people.set_audience(session, "+5511900000000", "beta")
