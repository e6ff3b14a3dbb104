"""A person of the team takes over and gives back; meanwhile the bot says nothing."""

from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from click.testing import CliRunner
from servers import ScriptedModel
from sqlalchemy import select, text, update
from street import Street
from together import eventually

from bot import guardrails, handover, jobs, people
from bot.cli.handover import handover as command
from bot.history import check
from bot.wiring import Awake
from core.db import transaction
from core.errors import BadInput, Conflict, NotFound
from core.tables import Conversation, Customer, Event, Feedback, Handover, InboundEvent, Message, now


@pytest.fixture(autouse=True)
def _answers(model: ScriptedModel) -> None:
    model.say = lambda *_: "Resposta."


def only(awake: Awake) -> Handover:
    with transaction(awake.engine) as session:
        return session.scalars(select(Handover)).one()


def state(awake: Awake) -> str:
    with transaction(awake.engine) as session:
        return session.scalars(select(Conversation.state)).one()


def told(awake: Awake) -> list[str]:
    with transaction(awake.engine) as session:
        query = select(Event.type, Event.data).where(Event.type.like("handover.%")).order_by(Event.id)
        return [f"{type.removeprefix('handover.')} by {data['by']}" for type, data in session.execute(query)]


@pytest.mark.parametrize(
    "said",
    ["Quero falar com um atendente", "ATENDENTE", "atendimento humano por favor", "me passa para uma pessoa",
     "Posso falar com alguém da equipe?", "I want to talk to a human", "agent", "a real person please"],
)  # fmt: skip
def test_asks_for_a_person(said: str) -> None:
    assert handover.wants_person(said)


@pytest.mark.parametrize(
    "said",
    ["", "Quanto custa o colchão para uma pessoa?", "Vocês entregam?", "pessoa física pode comprar?", "quero comprar",
     "O atendente de ontem disse que o prazo de troca do colchão de casal era de trinta dias corridos",
     "Do you deliver to a person in Recife?", "quero um", "real", "por favor"],
)  # fmt: skip
def test_asks_for_something_else(said: str) -> None:
    assert not handover.wants_person(said)


def test_the_bot_falls_silent_and_the_team_answers(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.says("Quero falar com um atendente")
    assert vendors.texts() == [handover.CALLED["pt"]]
    assert state(awake) == "person"
    street.says("Meu pedido não chegou")
    assert (len(vendors.sent), model.asked) == (1, [])
    assert street.events()[-1].outcome == "with a person"

    with transaction(awake.engine) as session:
        lane = handover.reply(session, handover.find(session, str(only(awake).id)[:20]), "Oi, é a Bia.", by="bia")
    jobs.send(lane)
    assert vendors.texts()[-1] == "Oi, é a Bia."
    said = street.messages("out")[-1]
    assert (said.role, said.kind, said.consent) == ("person", "person", False)
    assert only(awake).taken_by == "bia"

    with transaction(awake.engine) as session:
        handover.give_back(session, session.get_one(Handover, only(awake).id), by="bia")
    assert state(awake) == "bot"
    street.says("Vocês entregam?")
    assert "Resposta." in vendors.texts()[-2:]
    assert told(awake) == ["requested by customer", "taken by bia", "returned by bia"]
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


@pytest.mark.parametrize("meanwhile", ["taken", "opted out"])
def test_what_the_bot_was_about_to_say_is_not_said_after_a_person_came_or_the_customer_left(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel, meanwhile: str
) -> None:
    """The answer was being made: it came after the person's words, or to somebody who wanted no more."""

    def say(*_: str) -> str:
        with transaction(awake.engine) as session:
            conversation = session.scalars(select(Conversation)).one()
            if meanwhile == "taken":
                handover.ask(session, awake.settings, conversation, by="bia")
            else:  # told by the vendor, on another lane
                session.execute(update(Customer).values(opted_out_at=now()))
        return "Resposta."

    model.say = say
    street.says("Vocês entregam?")
    assert vendors.texts() == []
    assert [message.text for message in street.messages("out") if message.kind == "text"] == []
    assert street.events()[-1].outcome == {"taken": "with a person", "opted out": "opted out"}[meanwhile]
    assert len(model.asked) == 1
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


def test_a_thumb_to_the_team_is_shown_to_it_and_rates_nothing(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.says("Vocês entregam?")
    street.says("atendente")
    with transaction(awake.engine) as session:
        lane = handover.reply(session, session.get_one(Handover, only(awake).id), "Pode ser na sexta?", by="bia")
    jobs.send(lane)
    words = next(row for row in street.outbox() if row.kind == "person").provider_message_id
    street.answer(street.meta("👍"))
    street.answer(street.meta({"type": "text", "text": {"body": "👎"}, "context": {"id": words}}))
    street.answer(street.meta_reacts(str(words), "❤️"))
    street.answer(street.meta_reacts(str(words), None))
    with transaction(awake.engine) as session:
        assert session.scalars(select(Feedback)).all() == []
        said = handover.said(session, only(awake).conversation_id, 3)
        assert [(message.role, message.text) for message in said] == [("customer", one) for one in ("👍", "👎", "❤️")]
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


@pytest.mark.parametrize("taken", [False, True])
def test_a_rating_word_to_the_team_is_shown_to_it_once_and_rates_nothing(
    awake: Awake, street: Street, taken: bool
) -> None:
    street.says("Quero falar com um atendente")
    if taken:
        with transaction(awake.engine) as session:
            lane = handover.reply(session, session.get_one(Handover, only(awake).id), "O frete é R$ 20.", by="bia")
        jobs.send(lane)
    street.says("Errado")
    assert [message.text for message in street.messages("in")] == ["Quero falar com um atendente", "Errado"]
    with transaction(awake.engine) as session:
        assert session.scalars(select(Feedback)).all() == []


def test_a_yes_to_the_bots_offer(awake: Awake, street: Street, vendors: Any, model: ScriptedModel) -> None:
    street.says("Vocês entregam?")
    street.says("não")  # to the question of consent, which came with the first answer
    model.say = lambda *_: ""
    street.says("Qual é o telefone da loja?")
    assert vendors.texts()[-1] == guardrails.DONT_KNOW["pt"]
    street.says("sim")
    assert vendors.texts()[-1] == handover.CALLED["pt"]
    assert state(awake) == "person"


def test_a_yes_to_anything_else_calls_nobody(awake: Awake, street: Street) -> None:
    street.says("Vocês entregam?")
    street.says("não")
    street.says("sim")
    assert state(awake) == "bot"


def test_outside_business_hours_the_sentence_is_another(awake: Awake, street: Street, vendors: Any) -> None:
    today = datetime.now(ZoneInfo(awake.settings.timezone))
    other = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(today.weekday() + 3) % 7]
    awake.settings = awake.settings.model_copy(update={"business_hours": f"{other} 09:00-10:00"})
    street.says("atendente")
    assert vendors.texts() == [handover.CLOSED["pt"]]
    street.says("BOT")
    assert vendors.texts()[-1] == handover.BACK["pt"]
    assert (state(awake), only(awake).returned_by) == ("bot", "customer")


def test_in_english(street: Street, vendors: Any) -> None:
    street.says("I want to talk to a human please")
    assert vendors.texts() == [handover.CALLED["en"]]


def test_the_team_is_told_in_slack_and_nobodys_data_with_it(awake: Awake, street: Street, vendors: Any) -> None:
    awake.settings = awake.settings.model_copy(update={"slack_handover_channel": "C0TEAM"})
    street.says("Falar com atendente, meu CPF é 529.982.247-25")
    jobs.send("slack:handover:C0TEAM")
    notice = next(entry for entry in vendors.sent if entry["vendor"] == "slack")
    assert notice["to"] == "C0TEAM"
    assert str(only(awake).id) in notice["text"]
    assert "529.982.247-25" not in notice["text"]
    assert "Falar com atendente" in notice["text"]


def test_a_strangers_words_are_no_link_before_the_team(awake: Awake, street: Street, vendors: Any) -> None:
    awake.settings = awake.settings.model_copy(update={"slack_handover_channel": "C0TEAM"})
    link = "[bot.example](https://evil.example)"
    street.says(f"Falar com atendente `Kauane`\nResponder: {link}", name="Kauane Xis")
    jobs.send("slack:handover:C0TEAM")
    notice = next(entry for entry in vendors.sent if entry["vendor"] == "slack")
    first, second = notice["text"].splitlines()
    code = first.split("`")
    assert (len(code), link in code[1]) == (3, True)
    assert str(only(awake).id) in second
    assert "Kauane" not in notice["text"]


def test_a_crash_between_asking_and_saying_so_does_neither(
    awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("for a moment")

    lane = street.meta("atendente")
    with monkeypatch.context() as patch:
        patch.setattr(handover, "ask", broken)
        street.answer(lane)
    assert (state(awake), vendors.sent) == ("bot", [])
    with transaction(awake.engine) as session:
        session.execute(update(InboundEvent).values(not_before=None))
    street.answer(lane)
    assert (state(awake), vendors.texts()) == ("person", [handover.CALLED["pt"]])


def test_silence_of_the_team_gives_it_back(awake: Awake, street: Street) -> None:
    street.says("atendente")
    with transaction(awake.engine) as session:
        assert handover.return_stale(session, awake.settings) == 0
        session.execute(update(Handover).values(asked_at=now() - timedelta(minutes=61)))
    with transaction(awake.engine) as session:
        assert handover.return_stale(session, awake.settings) == 1
        assert handover.return_stale(session, awake.settings) == 0
    assert (state(awake), only(awake).returned_by) == ("bot", "time-out")


def test_who_waits_for_a_handover_holds_no_conversation(awake: Awake, street: Street) -> None:
    """Else a customer's BOT and a return by the clock each waited for the other, and Postgres ended one of them."""
    street.says("atendente")

    def back() -> None:
        with transaction(awake.engine) as session:
            handover.give_back_conversation(session, session.scalars(select(Conversation)).one(), by="customer")

    def waits() -> bool:
        with awake.engine.connect() as connection:
            return bool(connection.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    with ThreadPoolExecutor(1) as pool:
        with transaction(awake.engine) as session:
            session.execute(select(Handover.id).with_for_update())
            behind = pool.submit(back)
            eventually(waits)
            session.execute(select(Conversation.id).with_for_update(nowait=True))
        behind.result()
    assert state(awake) == "bot"
    assert only(awake).returned_by == "customer"


def test_one_conversation_has_one_person(awake: Awake, street: Street) -> None:
    street.says("atendente")
    with transaction(awake.engine) as session:
        row = session.get_one(Handover, only(awake).id)
        handover.take(session, row, by="bia")
        handover.take(session, row, by="bia")
        with pytest.raises(Conflict, match="bia"):
            handover.reply(session, row, "Oi", by="caio")
        handover.give_back(session, row, by="bia")
        with pytest.raises(Conflict, match="given back"):
            handover.take(session, row, by="caio")
        with pytest.raises(NotFound):
            handover.find(session, str(row.id))


@pytest.mark.parametrize("text", ["", " \n", "\x00", "x" * (handover.MAX_ANSWER + 1)])
def test_what_is_no_answer_is_not_sent(awake: Awake, street: Street, text: str) -> None:
    street.says("atendente")
    before = len(street.messages("out"))
    with transaction(awake.engine) as session, pytest.raises(BadInput):
        handover.reply(session, session.get_one(Handover, only(awake).id), text, by="bia")
    assert only(awake).taken_by is None
    assert len(street.messages("out")) == before


def test_asked_twice_is_asked_once(awake: Awake, street: Street) -> None:
    street.says("atendente")
    with transaction(awake.engine) as session:
        talk = session.scalars(select(Conversation)).one()
        assert handover.ask(session, awake.settings, talk, by="operator").id == only(awake).id


def test_by_the_command_line(awake: Awake, street: Street, vendors: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from bot.cli import common
    from bot.cli import handover as cli

    for module in (common, cli):
        for name in ("get_settings", "settings"):
            monkeypatch.setattr(module, name, lambda: awake.settings, raising=False)
    street.says("Vocês entregam?")
    talk = street.messages("in")[0].conversation_id

    def run(*arguments: str) -> str:
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return str(done.output)

    key = run("start", str(talk), "--by", "op").strip()
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["id"], listed["asked_by"], listed["taken_by"]) == (key, "op", None)
    run("reply", key, "Oi, aqui é a Bia.", "--by", "bia")
    jobs.send(street.meta("x"))
    assert "Oi, aqui é a Bia." in vendors.texts()
    run("return", key, "--by", "bia")
    assert "Nobody asks" in run("list")
    assert state(awake) == "bot"


def test_opting_out_still_counts(awake: Awake, street: Street, vendors: Any) -> None:
    street.says("atendente")
    street.says("PARAR")
    with transaction(awake.engine) as session:
        assert session.scalars(select(people.Customer.opted_out_at)).one() is not None
        assert session.scalars(select(Message.role).where(Message.direction == "out")).all() == ["bot"]
    assert len(vendors.sent) == 1
