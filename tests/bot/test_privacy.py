"""One person's data, found everywhere and taken away with what was learned from it."""

import uuid
from pathlib import Path

import nights as days
import pytest
from factories import make_adapter
from servers import ScriptedModel
from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session
from street import Street

from bot import privacy, rollout_line, rollouts
from bot.wiring import Awake
from core import artifacts, events, registry
from core.db import get_engine, transaction
from core.errors import NotFound, Unavailable
from core.registry import FolderStore
from core.rollouts import PRESETS
from core.tables import (
    AdapterVersion,
    Annotation,
    Base,
    BusinessOutcome,
    Conversation,
    Customer,
    CustomerIdentity,
    Handover,
    InboundEvent,
    Media,
    Message,
    PrivacyAction,
    TrainingExample,
    new_id,
)

_OPEN = "SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in transaction%' AND datname = current_database()"
PHONE, NAME, SECRET = "+5511987650001", "Joaquim Barreto", "meu segredo é abacaxi"
OTHER = "+5511987650002"


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


def a_person(session: Session, phone: str, name: str, words: str) -> Customer:
    """Somebody who wrote, was answered, reacted, was reviewed and learned from."""
    talk = days.conversation(session, name=name)
    person = session.get_one(Customer, talk.customer_id)
    talk.lane = f"meta:{phone}"
    session.add(CustomerIdentity(customer_id=person.id, kind="phone", value=phone))
    answer = days.turn(session, talk, words, "Entendi.")
    days.react(session, answer, 0.0)
    days.review(session, answer, "correct", "Entendi bem.")
    events.record(session, "interaction.received", conversation=talk.id, channel="web")
    for kind in ("message", "status"):
        lane = talk.lane if kind == "message" else f"signals/meta:{uuid.uuid4().hex}"
        session.add(
            InboundEvent(source="meta", external_id=uuid.uuid4().hex, kind=kind, lane=lane,
                         payload={"from": phone.lstrip("+"), "text": words}, handled_at=func.now())
        )  # fmt: skip
    session.add(
        TrainingExample(
            context="customers", sha256=uuid.uuid4().hex, customer_id=person.id, message_id=answer.id,
            source="annotation", messages=[{"role": "user", "content": words}], answer="Entendi bem.", split="train",
        )
    )  # fmt: skip
    session.flush()
    return person


def learned_from(session: Session, person: Customer) -> str:
    return session.scalars(select(TrainingExample.sha256).where(TrainingExample.customer_id == person.id)).one()


def a_version(session: Session, store: FolderStore, folder: Path, number: int, **facts: object) -> AdapterVersion:
    made = folder / f"version-{number}"
    make_adapter(made, seed=number)
    base = artifacts.read_manifest(made)["base"]
    sha256 = artifacts.write_manifest(made, {"base": base, **facts})
    return registry.register(
        session, context="customers", source="night", location=store.put(made, context="customers", sha256=sha256),
        sha256=sha256, manifest=artifacts.read_manifest(made),
    )  # fmt: skip


def everything(engine: Engine) -> str:
    """All rows of all tables, as text."""
    with engine.connect() as connection:
        tables = [table.fullname for table in Base.metadata.sorted_tables]
        return " ".join(
            str(row[0]) for table in tables for row in connection.execute(text(f"SELECT t::text FROM {table} t"))
        )


def test_nothing_of_a_person_is_left_and_others_keep_theirs(engine: Engine) -> None:
    with transaction(engine) as session:
        person = a_person(session, PHONE, NAME, SECRET)
        a_person(session, OTHER, "Rosa Prado", "quanto custa o colchão?")
        key = person.id
    with transaction(engine) as session:
        done = privacy.erase(session, PHONE, actor="dpo")
    left = everything(engine)
    for trace in (PHONE.lstrip("+"), NAME, "abacaxi", str(key)):
        assert trace not in left
    for trace in (OTHER, "Rosa Prado", "quanto custa"):
        assert trace in left
    assert done.counts["messages"] == 2
    assert done.counts["inbound_events"] == 2
    with transaction(engine) as session:
        assert session.scalar(select(func.count()).select_from(Annotation)) == 1


@pytest.mark.parametrize("spelt", ["+551187650001", "5511987650001", "+55 (11) 98765-0001"])
def test_a_number_is_found_however_it_is_written(engine: Engine, spelt: str) -> None:
    """Vendors report on older Brazilian accounts without the ninth digit."""
    with transaction(engine) as session:
        a_person(session, PHONE, NAME, SECRET)
        session.add(
            InboundEvent(source="meta", external_id="wamid.1:status:sent", kind="status", lane="signals/meta:1:wamid.1",
                         payload={"status": {"recipient_id": "551187650001"}}, handled_at=func.now())
        )  # fmt: skip
    with transaction(engine) as session:
        privacy.erase(session, spelt, actor="dpo")
    assert "87650001" not in everything(engine)


@pytest.mark.parametrize("gone", ["U0RITA", "U0BETO"])
def test_who_leaves_a_thread_takes_their_own_words_alone(
    awake: Awake, street: Street, model: ScriptedModel, gone: str
) -> None:
    """In Slack a thread is one conversation of several people, each answer remembering what was said before."""
    engine, model.say = awake.engine, lambda *_: "Resposta."
    thread = {"channel": "C0GERAL", "channel_type": "channel", "thread_ts": "1795000000.000100"}
    stays = "U0BETO" if gone == "U0RITA" else "U0RITA"
    for user in ("U0RITA", "U0BETO", "U0RITA", "U0BETO"):
        street.answer(street.slack(f"<@U0SIMBOT> quero o segredo de {user} hoje", user=user, **thread))
    with transaction(engine) as session:
        for answer in session.scalars(select(Message).where(Message.direction == "out", Message.version.is_not(None))):
            session.add(
                TrainingExample(context="employees", sha256=uuid.uuid4().hex, customer_id=answer.customer_id,
                                message_id=answer.id, source="feedback", answer="Resposta.", split="train",
                                messages=[{"role": "user", "content": str(answer.route["history"])}])
            )  # fmt: skip
    with transaction(engine) as session:
        assert stays not in str(privacy.export(session, gone, actor="dpo")["inbound_events"])
        done = privacy.erase(session, gone, actor="dpo")
    left = everything(engine)
    assert gone not in left
    with transaction(engine) as session:
        asked = list(session.scalars(select(Message.text).where(Message.direction == "in")))
    assert [stays in text for text in asked] == [True, True]
    assert [event.handled_at is not None for event in street.events() if stays in str(event.payload)] == [True, True]
    assert done.counts["examples"] == 4, "also what was learned from the others, with their words before it"
    street.answer(street.slack("<@U0SIMBOT> e amanhã, como fica?", user=stays, **thread))
    assert len(street.messages("out")) == 3


def test_what_waits_of_them_in_a_thread_of_others_goes_too(awake: Awake, street: Street, model: ScriptedModel) -> None:
    model.say = lambda *_: "Resposta."
    thread = {"channel": "C0GERAL", "channel_type": "channel", "thread_ts": "1795000000.000100"}
    for user in ("U0BETO", "U0RITA"):
        lane = street.slack("<@U0SIMBOT> que dia fecha?", user=user, **thread)
        street.answer(lane)
    was = {"user": "U0RITA", "ts": "1795000000.000900", "thread_ts": thread["thread_ts"], "text": "<@U0SIMBOT> oi"}
    edit = {"subtype": "message_changed", "message": {**was, "text": "<@U0SIMBOT> meu segredo"}}
    street.slack("<@U0SIMBOT> o meu segredo", user="U0RITA", ts="1795000000.000800", **thread)
    street.slack("", ts="1795000001.000100", previous_message=was, **edit, **thread)
    street.slack("<@U0SIMBOT> e a conta de <@U0RITA>?", user="U0BETO", **thread)
    with transaction(awake.engine) as session:
        privacy.erase(session, "U0RITA", actor="dpo")
    (waits,) = [event for event in street.events() if event.handled_at is None]
    assert waits.payload["event"]["user"] == "U0BETO"
    street.answer(lane)
    assert len(street.messages("out")) == 2, "who stays is answered"
    with transaction(awake.engine) as session:
        names = session.scalars(select(CustomerIdentity.value)).all()
    assert list(names) == ["U0BETO"]


def test_the_audit_row_proves_it_without_content(engine: Engine) -> None:
    with transaction(engine) as session:
        key = a_person(session, PHONE, NAME, SECRET).id
    with transaction(engine) as session:
        privacy.erase(session, PHONE, actor="dpo")
    with transaction(engine) as session:
        row = session.scalars(select(PrivacyAction)).one()
    assert (row.verb, row.actor, row.subject) == ("erase", "dpo", privacy.subject(key))
    assert row.counts["examples"] == 1


def test_versions_that_learned_from_them_leave_service_with_their_children(engine: Engine, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with transaction(engine) as session:
        person = a_person(session, PHONE, NAME, SECRET)
        hash_of = learned_from(session, person)
        clean = a_version(session, store, tmp_path, 1, examples=["somebody-else"])
        taught = a_version(session, store, tmp_path, 2, examples=[hash_of])
        child = a_version(session, store, tmp_path, 3, examples=["x"], inherited_examples=[hash_of])
        untried = a_version(session, store, tmp_path, 4, examples=["y"])  # newer than the clean one, and served nobody
        registry.crown(session, "customers", clean.id, expected=None)
        names, clean_id, untried_id = (taught.name, child.name), clean.id, untried.id
    for name in names:
        with transaction(engine) as session:
            rollout_line.start(session, name, PRESETS["small"], actor="ana")
            rollouts.promote(session, "customers", actor="ana", full=True, reason="it is better")
    with transaction(engine) as session:
        done = privacy.erase(session, PHONE, actor="dpo")
        champion = registry.champion(session, "customers")
    assert tuple(done.versions) == names
    assert champion is not None
    assert champion.id == clean_id
    assert privacy.remove_files(engine, store) == 2
    assert privacy.remove_files(engine, store) == 0
    with transaction(engine) as session:
        kept = [version for version in registry.all_versions(session) if version.location != registry.ERASED]
    assert [version.id for version in kept] == [clean_id, untried_id]
    assert len(list((tmp_path / "store" / "customers").iterdir())) == 2


def test_weights_that_cannot_be_deleted_now_keep_no_others(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FolderStore(tmp_path / "store")
    with transaction(engine) as session:
        person = a_person(session, PHONE, NAME, SECRET)
        hash_of = learned_from(session, person)
        taught = [a_version(session, store, tmp_path, seed, examples=[hash_of]) for seed in (1, 2, 3)]
        locations = [version.location for version in taught]
        privacy.erase(session, PHONE, actor="dpo")
    remove = FolderStore.remove

    def stuck(self: FolderStore, location: str) -> None:
        with engine.connect() as other:  # nobody waits for the store in a transaction
            assert other.scalar(text(_OPEN)) == 0
        if location == locations[1]:
            raise Unavailable("The bucket does not answer.")
        remove(self, location)

    monkeypatch.setattr(FolderStore, "remove", stuck)
    with pytest.raises(Unavailable, match="does not answer"):
        privacy.remove_files(engine, store)
    with transaction(engine) as session:
        left = {version.location for version in registry.all_versions(session)}
    assert left == {registry.ERASED, locations[1]}
    monkeypatch.setattr(FolderStore, "remove", remove)
    assert privacy.remove_files(engine, store) == 1


def test_a_rollout_of_such_a_version_stops(engine: Engine, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    with transaction(engine) as session:
        hash_of = learned_from(session, a_person(session, PHONE, NAME, SECRET))
        taught = a_version(session, store, tmp_path, 1, examples=[hash_of])
        rollout = rollout_line.start(session, taught.name, PRESETS["small"], actor="ana", against="base")
    with transaction(engine) as session:
        privacy.erase(session, PHONE, actor="dpo")
    with transaction(engine) as session:
        after = session.merge(rollout)
        session.refresh(after)
        assert (after.state, after.weight) == ("aborted", 0.0)
        assert session.get_one(AdapterVersion, taught.id).state == "retired"


def test_an_export_hands_out_all_of_it_and_is_noted(engine: Engine) -> None:
    with transaction(engine) as session:
        talk = session.scalars(
            select(Conversation).where(Conversation.customer_id == a_person(session, PHONE, NAME, SECRET).id)
        ).one()
        asked = session.scalars(select(Message).where(Message.text == SECRET)).one()
        session.add(Media(message_id=asked.id, channel="meta", reference={"id": "photo"}))
        session.add(Handover(conversation_id=talk.id, asked_by="customer"))
        session.add(BusinessOutcome(conversation_id=talk.id, context="customers", kind="conversion", source="ana"))
        a_person(session, OTHER, "Outra", "outra coisa")
    with transaction(engine) as session:
        found = privacy.export(session, PHONE, actor="ana")
    assert {name: len(rows) for name, rows in found.items()} == {
        "people": 1, "identities": 1, "conversations": 1, "messages": 2, "media": 1, "handovers": 1, "feedback": 1,
        "annotation_items": 1, "annotations": 1, "examples": 1, "assignments": 0, "outcomes": 1,
        "inbound_events": 1, "versions": 0,
    }  # fmt: skip
    assert found["annotations"][0]["corrected"] == "Entendi bem."
    assert [message["text"] for message in found["messages"]] == [SECRET, "Entendi."]
    assert found["people"][0]["name"] == NAME
    with transaction(engine) as session:
        assert session.scalars(select(PrivacyAction.verb)).one() == "export"
        assert session.scalar(select(func.count()).select_from(Message)) == 4


def test_somebody_unknown_is_said_and_nothing_is_deleted(engine: Engine) -> None:
    with transaction(engine) as session:
        a_person(session, PHONE, NAME, SECRET)
    with pytest.raises(NotFound, match="Nobody is known"), transaction(engine) as session:
        privacy.erase(session, f"{new_id()}", actor="dpo")
    assert "abacaxi" in everything(engine)
