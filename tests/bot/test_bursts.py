"""Quick messages in a row are one turn, and nobody sleeps while the person is still writing."""

from datetime import timedelta
from typing import Any

import pytest
from servers import ScriptedModel
from sqlalchemy import select, update
from street import RUI, SLACK_USER, Street

from bot import chat, guardrails, people
from bot.history import check
from bot.wiring import Awake
from core.db import transaction
from core.jobs import LATER
from core.tables import Customer, InboundEvent
from integrations.redis.queue import ring_later, rung_by_now

QUESTION = people.CONSENT_QUESTION["pt"]


@pytest.fixture(autouse=True)
def _waits(awake: Awake, model: ScriptedModel) -> None:
    awake.settings = awake.settings.model_copy(update={"debounce_seconds": 20.0})
    model.say = lambda *_: "Resposta."


def later(awake: Awake, seconds: float, *, only: str | None = None) -> None:
    """As if everything (or one message) had come so much earlier."""
    with transaction(awake.engine) as session:
        moved = update(InboundEvent).values(received_at=InboundEvent.received_at - timedelta(seconds=seconds))
        session.execute(moved.where(InboundEvent.external_id == only) if only else moved)


def question(model: ScriptedModel) -> str:
    (asked,) = model.asked
    return str(asked["messages"][-1]["content"])


def test_three_quick_messages_are_one_turn(awake: Awake, street: Street, vendors: Any, model: ScriptedModel) -> None:
    street.meta("Oi")
    street.meta("Quanto custa o colchão")
    lane = street.meta("de casal?")
    street.answer(lane)
    assert (vendors.sent, model.asked) == ([], []), "the person may still be writing"
    assert awake.redis.zscore(LATER, lane) is not None
    later(awake, 21)
    street.answer(lane)
    assert vendors.texts() == ["Resposta.", QUESTION]
    assert "Oi\nQuanto custa o colchão\nde casal?" in question(model)
    answer = street.messages("out")[0]
    assert [event.outcome for event in street.events()] == [
        f"answered together:{answer.id}", f"answered together:{answer.id}", f"answered:{answer.id}"
    ]  # fmt: skip
    assert [message.text for message in street.messages("in")][:2] == ["Oi", "Quanto custa o colchão"]
    assert street.messages("in")[2].text == "Oi\nQuanto custa o colchão\nde casal?", "what is learned from is whole"
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


def test_what_was_delivered_late_stands_where_it_was_written(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.slack("de casal?", ts="1795000002.000100")
    street.slack("Oi", ts="1795000000.000100")
    lane = street.slack("Quanto custa o colchão", ts="1795000001.000100")
    later(awake, 21)
    street.answer(lane)
    assert "Oi\nQuanto custa o colchão\nde casal?" in question(model)
    assert [message.text.splitlines()[-1] for message in street.messages("in")] == [
        "Oi", "Quanto custa o colchão", "de casal?"
    ]  # fmt: skip
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


def test_a_pause_between_them_makes_two_turns(street: Street, awake: Awake, model: ScriptedModel) -> None:
    street.meta({"id": "wamid.first", "type": "text", "text": {"body": "Vocês entregam?"}})
    later(awake, 60)
    lane = street.meta("E montam?")
    street.answer(lane)
    assert len(model.asked) == 1, "the first is answered at once, the second waits for its pause"
    later(awake, 21)
    street.answer(lane)
    assert len(model.asked) == 2


def test_who_never_stops_is_answered_all_the_same(awake: Awake, street: Street, model: ScriptedModel) -> None:
    for number in range(7):
        lane = street.meta(f"linha {number}")
        later(awake, 13)
    street.answer(lane)
    assert "linha 0\n" in question(model)


def test_zero_switches_it_off(awake: Awake, street: Street, model: ScriptedModel) -> None:
    awake.settings = awake.settings.model_copy(update={"debounce_seconds": 0.0})
    street.meta("Oi")
    street.answer(street.meta("Vocês entregam?"))
    assert len(model.asked) == 2


def test_the_website_does_not_wait(street: Street, model: ScriptedModel) -> None:
    street.answer(street.web("Oi"))
    assert len(model.asked) == 1


def test_stop_at_the_end_of_a_burst_is_obeyed(awake: Awake, street: Street, vendors: Any, model: ScriptedModel) -> None:
    street.twilio("Vocês entregam?")
    lane = street.twilio("PARAR")
    later(awake, 21)
    street.answer(lane)
    assert (vendors.sent, model.asked) == ([], [])
    assert [event.outcome for event in street.events()] == ["opted out", "opted out"]


def test_do_not_train_within_a_burst(awake: Awake, street: Street, vendors: Any) -> None:
    street.meta("Vocês entregam?")
    lane = street.meta("não treinar")
    later(awake, 21)
    street.answer(lane)
    assert vendors.texts() == [people.NO_CONSENT["pt"], "Resposta."], "and the question of consent is not asked"
    with transaction(awake.engine) as session:
        assert session.scalars(select(Customer.consent)).one() == "denied"


def test_an_album_gets_one_sentence(awake: Awake, street: Street, vendors: Any) -> None:
    for number in range(5):
        lane = street.meta({"type": "image", "image": {"id": str(number)}})
    later(awake, 21)
    street.answer(lane)
    assert vendors.texts() == [guardrails.CANNOT_READ["pt"]]


def test_a_picture_and_a_question_are_answered_as_the_question(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.meta("Vocês têm deste?")
    lane = street.meta({"type": "image", "image": {"id": "1"}})
    later(awake, 21)
    street.answer(lane)
    assert vendors.texts() == ["Resposta.", QUESTION]
    assert "Vocês têm deste?" in question(model)


def test_two_people_in_a_thread_are_two_turns(awake: Awake, street: Street, model: ScriptedModel) -> None:
    facts = {"channel": "C1", "channel_type": "channel", "thread_ts": "1.0", "type": "app_mention"}
    street.slack("<@U0SIMBOT> Qual é o prazo?", user="U0ANA", ts="1.1", **facts)
    lane = street.slack("<@U0SIMBOT> E a troca?", user="U0RUI", ts="1.2", **facts)
    later(awake, 21)
    street.answer(lane)
    assert len(model.asked) == 2


def test_a_turn_that_fails_is_tried_again_whole(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    street.meta("Oi")
    lane = street.meta("Vocês entregam?")
    later(awake, 21)

    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("for a moment")

    with monkeypatch.context() as patch:
        patch.setattr(chat, "save", broken)
        street.answer(lane)
    assert [event.attempts for event in street.events()] == [1, 1]
    assert vendors.sent == []
    with transaction(awake.engine) as session:
        session.execute(update(InboundEvent).values(not_before=None))
    street.answer(lane)
    assert vendors.texts() == ["Resposta.", QUESTION]
    assert [message.text for message in street.messages("in")] == ["Oi", "Oi\nVocês entregam?"]


def test_what_is_taken_back_is_taken_out_of_the_whole(awake: Awake, street: Street) -> None:
    street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Meu CPF é este"}})
    lane = street.meta("Vocês entregam?", sender="+5511987650001")
    later(awake, 21)
    street.answer(lane)
    street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}}))
    assert [message.text for message in street.messages("in")] == ["", "Vocês entregam?"]


def test_what_is_taken_back_before_it_was_answered_is_not(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Meu CPF é este"}})
    street.meta("Vocês entregam?")
    lane = street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}})
    later(awake, 21)
    street.answer(lane)
    assert "Meu CPF" not in question(model)
    assert [message.text for message in street.messages("in")] == ["Vocês entregam?"]
    assert street.events()[0].outcome == "deleted"
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


def test_what_is_edited_before_it_was_answered_is_answered_as_it_reads_then(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    def edit(text: str) -> str:
        inner = {"type": "text", "text": {"body": text}}
        return street.meta({"type": "edit", "edit": {"original_message_id": "wamid.1", "message": inner}})

    street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Vocês entregam em Niterói?"}})
    edit("Vocês entregam em Santos?")
    lane = street.meta("E montam?")
    street.answer(lane)
    assert model.asked == [], "the person may still be writing"
    edit("Vocês entregam em Maricá?")
    later(awake, 21)
    street.answer(lane)
    assert "Vocês entregam em Maricá?\nE montam?" in question(model)
    assert "Niterói" not in question(model)
    assert street.messages("in")[0].text == "Vocês entregam em Maricá?"
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []
    street.answer(edit("Vocês entregam em Búzios?"))
    assert len(model.asked) == 1, "what was answered is not answered again"


@pytest.mark.parametrize("changed", ["edit", "delete"])
def test_the_same_in_slack_also_beside_a_mention(
    awake: Awake, street: Street, model: ScriptedModel, changed: str
) -> None:
    facts = {"channel": "C1", "channel_type": "channel", "thread_ts": "1.0"}
    lane = street.slack("<@U0SIMBOT> Oi", ts="1.0", type="app_mention", channel="C1", channel_type="channel")
    later(awake, 21)
    street.answer(lane)
    street.slack("Qual é o prazo?", ts="1.1", **facts)
    message = {"user": SLACK_USER, "ts": "1.1", "thread_ts": "1.0", "text": "Qual é o prazo em Santos?"}
    if changed == "edit":
        news = {"subtype": "message_changed", "message": message, "previous_message": {**message, "text": "Qual?"}}
    else:
        news = {"subtype": "message_deleted", "deleted_ts": "1.1", "previous_message": message}
    assert street.slack("", ts="1.2", **facts, **news) == lane
    later(awake, 21)
    street.answer(lane)
    asked = [str(one["messages"][-1]["content"]) for one in model.asked]
    assert len(asked) == (2 if changed == "edit" else 1)
    assert changed == "delete" or "Qual é o prazo em Santos?" in asked[1]


def test_what_is_taken_back_before_it_came_is_not_answered_either(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}}))
    street.answer(street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Meu CPF é este"}}))
    assert (model.asked, vendors.sent, street.messages()) == ([], [], [])
    with transaction(awake.engine) as session:
        assert check(session, settled=True).violations == []


def meta_edit(street: Street, text: str, at: int = 1_795_000_100) -> str:
    inner = {"type": "text", "text": {"body": text}}
    edit = {"original_message_id": "wamid.1", "message": inner}
    return street.meta({"type": "edit", "timestamp": str(at), "edit": edit})


def slack_edit(street: Street, text: str, at: float = 1_795_000_100.0, **facts: Any) -> str:
    was = {"user": SLACK_USER, "ts": "1.1", "text": "?"}
    message = {**was, "text": text, "edited": {"user": SLACK_USER, "ts": f"{at:.6f}"}}
    news = {"subtype": "message_changed", "message": message, "previous_message": was}
    return street.slack("", ts=f"{at:.6f}", **news, **facts)


def test_what_is_edited_before_it_came_is_answered_as_it_reads_now(
    awake: Awake, street: Street, vendors: Any, model: ScriptedModel
) -> None:
    street.answer(meta_edit(street, "Vocês entregam em Santos?"))
    assert (model.asked, vendors.sent) == ([], [])
    lane = street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Vocês entregam em Niterói?"}})
    later(awake, 21)
    street.answer(lane)
    assert "Vocês entregam em Santos?" in question(model)
    assert [message.text for message in street.messages("in")] == ["Vocês entregam em Santos?"]
    with transaction(awake.engine) as session:
        assert check(session, settled=True, vendor_log=vendors.sent).violations == []


def test_so_it_is_in_slack(awake: Awake, street: Street, model: ScriptedModel) -> None:
    street.answer(slack_edit(street, "Qual é o prazo em Santos?"))
    lane = street.slack("Qual é o prazo?", ts="1.1")
    later(awake, 21)
    street.answer(lane)
    assert "Qual é o prazo em Santos?" in question(model)


@pytest.mark.parametrize("when", ["before it came", "while it waits", "after its answer"])
@pytest.mark.parametrize("vendor", ["meta", "slack"])
def test_of_several_edits_the_latest_stands_in_whatever_order_they_come(
    awake: Awake, street: Street, model: ScriptedModel, vendor: str, when: str
) -> None:
    edit = meta_edit if vendor == "meta" else slack_edit

    def message() -> str:
        if vendor == "slack":
            return street.slack("Um?", ts="1.1")
        return street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Um?"}})

    if when != "before it came":
        lane = message()
    if when == "after its answer":
        later(awake, 21)
        street.answer(lane)
    for text, at in (("Três?", 1_795_000_300), ("Dois?", 1_795_000_200)):
        lane = edit(street, text, at)
        if when != "while it waits":
            street.answer(lane)
    if when == "before it came":
        lane = message()
    later(awake, 21)
    street.answer(lane)
    street.answer(edit(street, "Um e meio?", 1_795_000_150))
    assert [message.text for message in street.messages("in")] == ["Três?"]
    assert question(model).endswith("Um?" if when == "after its answer" else "Três?")


@pytest.mark.parametrize("it_came", [True, False])
def test_an_edit_that_comes_after_the_deletion_brings_nothing_back(
    awake: Awake, street: Street, model: ScriptedModel, it_came: bool
) -> None:
    if it_came:
        lane = street.meta({"id": "wamid.1", "type": "text", "text": {"body": "Meu CPF é este"}})
        later(awake, 21)
        street.answer(lane)
    street.answer(street.meta({"type": "revoke", "revoke": {"original_message_id": "wamid.1"}}))
    street.answer(meta_edit(street, "Meu CPF era este"))
    assert [message.text for message in street.messages("in")] == ([""] if it_came else [])
    assert [event for event in street.events() if "CPF" in str(event.payload)] == []
    assert len(model.asked) == it_came


def test_other_people_are_other_lanes(awake: Awake, street: Street, model: ScriptedModel) -> None:
    lanes = [street.meta("Oi"), street.meta("Oi", sender=RUI)]
    later(awake, 21)
    for lane in lanes:
        street.answer(lane)
    assert len(model.asked) == 2


def test_a_bell_set_for_later_rings_once(awake: Awake) -> None:
    ring_later(awake.redis, "meta:now", -0.1)
    ring_later(awake.redis, "meta:tomorrow", 86_400)
    assert rung_by_now(awake.redis) == ["meta:now"]
    assert rung_by_now(awake.redis) == []
