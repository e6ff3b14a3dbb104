"""What holds a message back: pauses, rates, the window; and what refusals ask for."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from channels import ScriptedChannel
from factories import make_answer, make_conversation, make_part
from sqlalchemy import Engine, select, update
from street import Street

from bot import limits, outbox
from bot.lanes import lease
from bot.wiring import Awake
from core.db import transaction
from core.errors import Action, Unavailable
from core.messages import InboundStatus, Limits
from core.tables import ChannelPause, Customer, Event, InboundEvent, Message, OutboxItem, now

LANE, OTHER = "meta:1:+5511", "meta:1:+5522"
BUTTONS = [["fb:1:up", "👍"], ["fb:1:down", "👎"]]
DAY = timedelta(hours=24)


@pytest.fixture
def channel(awake: Awake) -> ScriptedChannel:
    awake.channels["meta"] = made = ScriptedChannel()
    return made


def put(engine: Engine, *texts: str, lane: str = LANE, ago: timedelta = timedelta(), **facts: Any) -> list[str]:
    """An answer to somebody who wrote so long ago, in so many parts."""
    with transaction(engine) as session:
        answer = make_answer(session, make_conversation(session, lane=lane), text=" ".join(texts), ago=ago)
        return [
            str(make_part(session, answer, part=i, parts=len(texts), text=text, **facts).id)
            for i, text in enumerate(texts, 1)
        ]


def deliver(awake: Awake, lane: str = LANE) -> float | None:
    with lease(awake.engine, awake.heartbeat, lane) as held:
        assert held is not None
        return outbox.deliver(awake, lane, held)


def rows(engine: Engine) -> list[OutboxItem]:
    with transaction(engine) as session:
        return list(session.scalars(select(OutboxItem).order_by(OutboxItem.message_id, OutboxItem.part)))


def due(engine: Engine) -> None:
    with transaction(engine) as session:
        session.execute(update(OutboxItem).values(not_before=now() - timedelta(seconds=1)))


def alerts(engine: Engine) -> list[dict[str, Any]]:
    with transaction(engine) as session:
        return list(session.scalars(select(Event.data).where(Event.type == "alert.raised").order_by(Event.id)))


def refuse(action: Action) -> Unavailable:
    return Unavailable("Refused.", "Look.", action=action)


class TestPairRate:
    START = datetime(2026, 11, 27, 12, tzinfo=UTC)

    def sent(self, *seconds: float) -> list[datetime]:
        return [self.START + timedelta(seconds=second) for second in seconds]

    @pytest.mark.parametrize(
        ("sent", "at", "wait"),
        [
            ([], 0, 0),
            ([0], 1, 5),
            ([0], 6, 0),
            ([0, 6], 6.5, 5.5),
        ],
    )
    def test_one_after_the_other(self, sent: list[float], at: float, wait: float) -> None:
        found = limits.pair_wait(self.sent(*sent), self.sent(at)[0], seconds=6, burst=1)
        assert found == pytest.approx(wait)

    @pytest.mark.parametrize(("sent", "at", "wait"), [([0, 0], 0, 0), ([0, 0, 0], 1, 5), ([0, 0, 0], 12, 0)])
    def test_some_at_once_are_paid_for_later(self, sent: list[float], at: float, wait: float) -> None:
        found = limits.pair_wait(self.sent(*sent), self.sent(at)[0], seconds=6, burst=3)
        assert found == pytest.approx(wait)

    def test_the_outbox_waits_and_keeps_the_order(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(pair_seconds=60, pair_burst=2)
        put(engine, "um", "dois", "três")
        put(engine, "outra pessoa", lane=OTHER)
        wait = deliver(awake)
        assert wait is not None
        assert 50 < wait <= 60
        assert (channel.texts(), [row.attempts for row in rows(engine)[:3]]) == (["um", "dois"], [1, 1, 0])
        assert deliver(awake, OTHER) is None
        with transaction(engine) as session:
            session.execute(update(OutboxItem).values(sent_at=OutboxItem.sent_at - timedelta(minutes=3)))
        due(engine)
        assert deliver(awake) is None
        assert channel.texts() == ["um", "dois", "outra pessoa", "três"]


def test_a_full_second_waits_for_the_next(awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
    channel.limits = Limits(per_second=1.0)
    for second in range(3):
        awake.redis.set(f"npllm:sent:meta:{int(now().timestamp()) + second}", 99, ex=5)
    put(engine, "um")
    wait = deliver(awake)
    assert wait is not None
    assert 0 < wait <= 1
    assert channel.sends == []


class TestPausedChannels:
    @pytest.mark.parametrize(("action", "least"), [("stop", timedelta(minutes=4)), ("tomorrow", timedelta(minutes=5))])
    def test_nothing_leaves_and_somebody_is_told_once(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, action: Action, least: timedelta
    ) -> None:
        """Wrong credentials, or no more messages today: one message found out, nobody else has to."""
        put(engine, "um")
        put(engine, "dois", lane=OTHER)
        channel.script = [refuse(action)]
        wait = deliver(awake)
        assert wait is not None
        assert least.total_seconds() <= wait <= DAY.total_seconds() + 600
        assert deliver(awake, OTHER) is not None
        assert len(channel.sends) == 1
        assert [(row.state, row.attempts) for row in rows(engine)] == [("pending", 0), ("pending", 0)]
        assert [(alert["what"], alert["reason"]) for alert in alerts(engine)] == [("channel paused", "Refused. Look.")]

    def test_afterwards_everything_goes(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        channel.script = [refuse("stop")]
        deliver(awake)
        with transaction(engine) as session:
            session.execute(update(ChannelPause).values(until=now()))
        due(engine)
        assert deliver(awake) is None
        assert channel.texts() == ["um"]

    def test_tomorrow_begins_at_midnight_of_the_business(self) -> None:
        until = limits.tomorrow("America/Sao_Paulo")
        assert (until.hour, until.minute) == (0, 5)
        assert timedelta() < until - now() <= DAY + timedelta(minutes=6)


class TestWindow:
    LATE = DAY + timedelta(minutes=1)

    def test_within_it_we_write_freely(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(window=DAY, template=True)
        put(engine, "um", ago=DAY - timedelta(minutes=1))
        deliver(awake)
        assert [sent.template for sent in channel.sends] == [False]

    def test_after_it_only_the_template_goes(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(window=DAY, template=True)
        put(engine, "um", "dois", ago=self.LATE)
        assert deliver(awake) is None
        assert [(sent.template, sent.text) for sent in channel.sends] == [(True, "um")]
        assert [row.state for row in rows(engine)] == ["sent", "failed"]

    def test_without_a_template_nothing_goes(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(window=DAY)
        put(engine, "um", ago=self.LATE)
        deliver(awake)
        assert channel.sends == []
        assert [(row.state, "24-hour window" in str(row.error)) for row in rows(engine)] == [("failed", True)]

    def test_the_vendor_has_the_last_word(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(window=DAY, template=True)
        put(engine, "um")
        channel.script = [refuse("template")]
        deliver(awake)
        assert [sent.template for sent in channel.sends] == [False, True]

    def test_who_writes_again_is_answered_freely(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        channel.limits = Limits(window=DAY)
        put(engine, "um", ago=self.LATE, state="sent", provider_message_id="wamid.1")
        put(engine, "dois")
        assert deliver(awake) is None
        assert channel.texts() == ["dois"]

    @pytest.mark.parametrize(("written", "free"), [(23, True), (25, False), (24 * 8, True), (-1, True)])
    def test_a_late_webhook_opens_no_window(self, street: Street, written: float, free: bool) -> None:
        """Eight days are longer than Meta tries, and nobody writes in the future: such a clock is not believed."""
        at = now() - timedelta(hours=written)
        street.says({"type": "text", "text": {"body": "Oi"}, "timestamp": str(int(at.timestamp()))})
        assert [row.state for row in street.outbox()] == (["sent", "sent"] if free else ["failed", "failed"])
        street.says("Ainda estão aí?")
        assert street.outbox()[-1].state == "sent"

    def test_without_a_time_it_counts_from_when_it_reached_us(self, street: Street) -> None:
        """Also where it then waited for a worker."""
        lane = street.twilio("Oi")
        with transaction(street.awake.engine) as session:
            session.execute(update(InboundEvent).values(received_at=now() - timedelta(hours=25)))
        street.answer(lane)
        assert {row.state for row in street.outbox()} == {"failed"}

    def test_what_twilio_kept_was_written_when_twilio_says(self, street: Street) -> None:
        street.answer(street.twilio("Oi", DateSent=(now() - timedelta(hours=25)).isoformat()))
        assert {row.state for row in street.outbox()} == {"failed"}


class TestRefusals:
    def test_an_opt_out_told_to_the_vendor_is_one(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um", "dois")
        channel.script = [refuse("opt_out")]
        assert deliver(awake) is None
        assert len(channel.sends) == 1
        assert [row.state for row in rows(engine)] == ["failed", "failed"]
        with transaction(engine) as session:
            assert session.scalars(select(Customer.opted_out_at)).one() is not None

    def test_buttons_that_are_refused_are_left_out(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "um", payload={"buttons": BUTTONS})
        channel.script = [refuse("text_only")]
        deliver(awake)
        assert [len(sent.buttons) for sent in channel.sends] == [2, 0]
        assert rows(engine)[0].state == "sent"

    def test_what_was_too_long_is_split(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        shown = {"stream": {"ts": "1.1"}}
        put(engine, "Uma frase. Outra frase.", "O fim.", payload={"extra": shown})
        channel.script = [refuse("split")]
        deliver(awake)
        assert channel.texts() == ["Uma frase.", "Outra frase.", "O fim."]
        assert [sent.extra for sent in channel.sends[1:3]] == [shown, {}]
        assert [(row.part, row.parts) for row in rows(engine)] == [(1, 3), (2, 3), (3, 3)]
        assert len({row.message_id for row in rows(engine)}) == 1, "a rating of any part is one of the answer"

    @pytest.mark.parametrize(("action", "told"), [("permanent", 0), ("alert", 1), ("template", 0), ("text_only", 1)])
    def test_the_rest_fails_and_some_of_it_is_somebodys_to_look_at(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, action: Action, told: int
    ) -> None:
        put(engine, "um")
        channel.script = [refuse(action)]
        assert deliver(awake) is None
        assert rows(engine)[0].state == "failed"
        assert len(alerts(engine)) == told

    def test_a_template_that_is_none_is_somebodys_to_look_at(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        """It is not approved: the vendor goes on asking for one."""
        channel.limits = Limits(window=DAY, template=True)
        put(engine, "um")
        channel.script = [refuse("template"), refuse("template")]
        assert deliver(awake) is None
        assert [sent.template for sent in channel.sends] == [False, True]
        assert (rows(engine)[0].state, len(alerts(engine))) == ("failed", 1)


class TestUndelivered:
    """The vendor took it, and told us later that it did not arrive."""

    def report(self, awake: Awake, our_id: str, code: str, action: Action, delivery: str = "failed") -> None:
        with transaction(awake.engine) as session:
            status = InboundStatus("meta", "wamid.1", delivery, our_id, code, action)
            outbox.record_status(awake, session, status)

    def sent(self, engine: Engine, **facts: Any) -> str:
        return put(engine, "um", state="sent", provider_message_id="wamid.1", attempts=1, sent_at=now(), **facts)[0]

    def test_outside_the_window_the_template_follows(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        channel.limits = Limits(window=DAY, template=True)
        our_id = self.sent(engine, payload={"buttons": BUTTONS})
        for _ in range(2):
            self.report(awake, our_id, "131047", "template")
        assert deliver(awake) is None
        assert [(sent.template, sent.text, sent.buttons) for sent in channel.sends] == [(True, "um", ())]

    def test_what_may_pass_is_tried_once_more(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        our_id = self.sent(engine)
        self.report(awake, our_id, "131000", "retry")
        wait = deliver(awake)
        assert wait is not None
        assert wait > 30
        due(engine)
        assert deliver(awake) is None
        again = [row for row in rows(engine) if row.kind == "answer:again"]
        assert [row.state for row in again] == ["sent"]
        self.report(awake, str(again[0].id), "131000", "retry")
        assert deliver(awake) is None
        assert len(channel.sends) == 1

    def test_without_the_buttons(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.report(awake, self.sent(engine, payload={"buttons": BUTTONS}), "63019", "text_only", "undelivered")
        deliver(awake)
        assert [len(sent.buttons) for sent in channel.sends] == [0]

    @pytest.mark.parametrize(("code", "action"), [("21656", "text_only"), ("63016", "template")])
    def test_a_broken_template_is_somebodys_to_look_at(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, code: str, action: Action
    ) -> None:
        self.report(awake, self.sent(engine, payload={"template": True}), code, action)
        assert deliver(awake) is None
        assert len(alerts(engine)) == 1

    def test_an_opt_out(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.report(awake, self.sent(engine), "21610", "opt_out")
        with transaction(engine) as session:
            assert session.scalars(select(Customer.opted_out_at)).one() is not None
        assert deliver(awake) is None

    def test_is_not_tried_again_for_whom_opted_out_meanwhile(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        our_id = self.sent(engine)
        with transaction(engine) as session:
            session.execute(update(Customer).values(opted_out_at=now()))
        self.report(awake, our_id, "131000", "retry")
        assert deliver(awake) is None
        due(engine)
        assert deliver(awake) is None
        assert channel.sends == []

    def test_wrong_credentials_pause_the_channel(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.report(awake, self.sent(engine), "63001", "stop")
        assert deliver(awake) is not None
        assert len(alerts(engine)) == 1

    def test_nobody_can_help_it(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.report(awake, self.sent(engine), "131026", "permanent")
        assert deliver(awake) is None
        assert channel.sends == []
        with transaction(engine) as session:
            reasons = session.scalars(select(Event.data).where(Event.type == "reply.failed")).all()
        assert [reason["reason"] for reason in reasons] == ["vendor error 131026"]

    @pytest.mark.parametrize("delivery", ["delivered", "read"])
    def test_what_the_person_has_is_not_sent_twice(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, delivery: str
    ) -> None:
        our_id = self.sent(engine)
        with transaction(engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", "wamid.1", delivery, our_id))
        self.report(awake, our_id, "131000", "retry")
        due(engine)
        assert deliver(awake) is None
        assert channel.sends == []

    @pytest.mark.parametrize("delivery", ["failed", "undelivered"])
    def test_also_without_a_code_it_is_told(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, delivery: str
    ) -> None:
        our_id = self.sent(engine)
        with transaction(engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", "wamid.1", delivery, our_id))
            reasons = session.scalars(select(Event.data).where(Event.type == "reply.failed")).all()
        assert [reason["reason"] for reason in reasons] == ["vendor error without a code"]

    def test_a_failure_ends_an_unknown_outcome(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        (our_id,) = put(engine, "um", state="unknown", attempts=1)
        self.report(awake, our_id, "131026", "permanent")
        assert rows(engine)[0].state == "failed"

    def test_the_message_itself_is_never_touched(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.report(awake, self.sent(engine), "131000", "retry")
        with transaction(engine) as session:
            assert len(session.scalars(select(Message).where(Message.direction == "out")).all()) == 1
