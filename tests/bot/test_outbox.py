"""Sending: each part once, in order, and a look-up before anything is sent again."""

import asyncio
import time
from datetime import timedelta
from typing import Any

import pytest
from channels import ScriptedChannel
from factories import make_answer, make_conversation, make_part
from sqlalchemy import Engine, select, update
from together import eventually, in_threads

from bot import outbox
from bot.lanes import LeaseLost, lease
from bot.wiring import Awake
from core.db import transaction
from core.errors import Unavailable, VendorUnavailable
from core.messages import InboundStatus
from core.tables import Customer, Event, Lane, Message, OutboxItem, now
from integrations.meta.client import MetaClient
from integrations.twilio.client import TwilioClient

LANE = "meta:+5511"


@pytest.fixture
def channel(awake: Awake) -> ScriptedChannel:
    """In place of Meta's client; with a look-up, unless a test takes it away."""
    awake.channels["meta"] = made = ScriptedChannel()
    return made


def put(engine: Engine, *texts: str, **facts: Any) -> list[str]:
    """One answer in so many parts; returns their ids."""
    with transaction(engine) as session:
        answer = make_answer(session, make_conversation(session, lane=LANE), text=" ".join(texts))
        return [
            str(make_part(session, answer, part=i, parts=len(texts), text=text, **facts).id)
            for i, text in enumerate(texts, 1)
        ]


def deliver(awake: Awake) -> float | None:
    with lease(awake.engine, awake.heartbeat, LANE) as held:
        assert held is not None
        return outbox.deliver(awake, LANE, held)


def rows(engine: Engine) -> list[OutboxItem]:
    with transaction(engine) as session:
        return list(session.scalars(select(OutboxItem).order_by(OutboxItem.message_id, OutboxItem.part)))


def row(engine: Engine) -> OutboxItem:
    (only,) = rows(engine)
    return only


def due(engine: Engine) -> None:
    """As if its waiting time had passed."""
    with transaction(engine) as session:
        for waiting in session.scalars(select(OutboxItem)):
            waiting.not_before = now() - timedelta(seconds=1)


def sent_events(engine: Engine) -> list[dict[str, Any]]:
    with transaction(engine) as session:
        return [e.data for e in session.scalars(select(Event).where(Event.type == "reply.sent").order_by(Event.id))]


def alerts(engine: Engine) -> list[dict[str, Any]]:
    with transaction(engine) as session:
        return [event.data for event in session.scalars(select(Event).where(Event.type == "alert.raised"))]


class TestSending:
    def test_parts_go_in_order_and_once(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        ids = put(engine, "um", "dois", "três")
        assert deliver(awake) is None
        assert deliver(awake) is None
        assert channel.texts() == ["um", "dois", "três"]
        assert [(r.state, r.attempts, r.provider_message_id) for r in rows(engine)] == [
            ("sent", 1, f"vendor-{i}") for i in ids
        ]

    def test_answers_of_a_lane_go_in_the_order_they_were_given(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "primeira")
        put(engine, "segunda", "parte")
        channel.script = [VendorUnavailable("busy", retry_after=0.0)]
        deliver(awake)
        deliver(awake)
        assert channel.texts() == ["primeira", "segunda", "parte"]

    def test_what_was_sent_can_be_told(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um", "dois")
        deliver(awake)
        told = sent_events(engine)
        assert [(t["part"], t["parts"], t["kind"], t["version"]) for t in told] == [
            (1, 2, "answer", "customers-v1"),
            (2, 2, "answer", "customers-v1"),
        ]
        assert [t["provider_message_id"] for t in told] == [r.provider_message_id for r in rows(engine)]
        with transaction(engine) as session:
            message = session.scalars(select(Message).where(Message.direction == "out")).one()
            assert message.provider_message_id == rows(engine)[0].provider_message_id

    def test_another_lane_is_left_alone(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        with transaction(engine) as session:
            make_part(session, make_answer(session, make_conversation(session, lane="meta:other")))
        assert deliver(awake) is None
        assert channel.sends == []

    def test_buttons_and_address_go_along(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um", payload={"buttons": [["fb:1:up", "👍"], ["fb:1:down", "👎"]]})
        deliver(awake)
        assert channel.sends[0].buttons == (("fb:1:up", "👍"), ("fb:1:down", "👎"))
        assert channel.sends[0].our_id == str(row(engine).id)
        assert channel.sends[0].address["to"].startswith("5511")


class TestAskedToWait:
    def test_retry_after_is_obeyed_without_sleeping(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "um", "dois")
        channel.script = [VendorUnavailable("Twilio answered 429.", retry_after=120.0)]
        started = time.monotonic()
        wait = deliver(awake)
        assert time.monotonic() - started < 5
        assert wait is not None
        assert 110 < wait <= 120
        first, second = rows(engine)
        assert (first.state, first.error) == ("pending", "Twilio answered 429.")
        assert 110 < (first.not_before - now()).total_seconds() <= 120
        assert second.attempts == 0  # the parts behind it wait too
        assert len(channel.sends) == 1

    def test_without_a_hint_the_wait_doubles(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        waits = []
        for _ in range(4):
            channel.script = [VendorUnavailable("away")]
            wait = deliver(awake)
            assert wait is not None
            waits.append(round(wait))
            due(engine)
        assert waits == [2, 4, 8, 16]
        deliver(awake)
        assert channel.texts() == ["um"]

    def test_too_many_tries_are_given_up_and_the_next_goes_on(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "um")
        put(engine, "dois")
        channel.script = [VendorUnavailable("away") for _ in range(outbox.MAX_ATTEMPTS)]
        for _ in range(outbox.MAX_ATTEMPTS):
            deliver(awake)
            due(engine)
        deliver(awake)
        first, second = rows(engine)
        assert (first.state, first.attempts, second.state) == ("failed", outbox.MAX_ATTEMPTS, "sent")
        assert "Gave up after 8 tries" in str(first.error)
        with transaction(engine) as session:
            assert (
                session.scalars(select(Event.data).where(Event.type == "reply.failed")).one()["reason"] == first.error
            )


class TestRefused:
    def test_for_good(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        channel.script = [Unavailable("Twilio refused the message: 63016", "Only a template.")]
        deliver(awake)
        assert (row(engine).state, row(engine).error) == (
            "failed",
            "Twilio refused the message: 63016 Only a template.",
        )
        assert deliver(awake) is None
        assert len(channel.sends) == 1

    def test_an_error_nobody_expected_does_not_block_the_lane_for_ever(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        """A bug, or an answer that the vendor's library cannot read."""
        put(engine, "um")
        put(engine, "dois")

        def broken(_: object) -> str:
            raise KeyError("ts")

        channel.script = [broken] * 50
        for _ in range(50):
            deliver(awake)
            due(engine)
            if row_states(engine)[0] == "failed":
                break
        channel.script = []
        deliver(awake)
        assert row_states(engine) == ["failed", "sent"]


def row_states(engine: Engine) -> list[str]:
    return [found.state for found in rows(engine)]


class TestUnknownOutcome:
    def test_found_at_the_vendor(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        """The vendor took it and its answer was lost."""
        put(engine, "um")

        def swallowed(outgoing: Any) -> str:
            channel.accept(outgoing)
            raise VendorUnavailable("no answer", outcome_unknown=True)

        channel.script = [swallowed]
        wait = deliver(awake)
        assert row(engine).state == "unknown"
        assert wait is not None
        assert wait > 4
        due(engine)
        assert deliver(awake) is None
        assert (row(engine).state, row(engine).attempts, channel.texts()) == ("sent", 1, ["um"])

    def test_not_there_so_sent_again(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        channel.script = [VendorUnavailable("no answer", outcome_unknown=True)]
        deliver(awake)
        due(engine)
        deliver(awake)
        assert (row(engine).state, row(engine).attempts, len(channel.lookups)) == ("sent", 2, 1)
        assert channel.texts() == ["um"]

    def test_not_sent_after_all_to_whom_opted_out_meanwhile(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "um", state="unknown", attempts=1)
        with transaction(engine) as session:
            session.execute(update(Customer).values(opted_out_at=now()))
        deliver(awake)
        assert (row(engine).state, len(channel.lookups), channel.sends) == ("failed", 1, [])

    def test_always_looked_up_before_the_next_try(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        channel.script = [VendorUnavailable("no answer", outcome_unknown=True) for _ in range(3)]
        for _ in range(4):
            deliver(awake)
            due(engine)
        assert (len(channel.sends), len(channel.lookups), channel.texts()) == (4, 3, ["um"])

    def test_a_vendor_that_never_answers_is_given_up(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        put(engine, "um")
        channel.script = [VendorUnavailable("no answer", outcome_unknown=True) for _ in range(50)]
        for _ in range(30):
            deliver(awake)
            due(engine)
        assert row(engine).state == "failed"
        assert len(channel.sends) == outbox.MAX_ATTEMPTS

    @pytest.mark.parametrize(
        "error", [VendorUnavailable("busy", retry_after=9.0), VendorUnavailable("no answer", outcome_unknown=True)]
    )
    def test_a_look_up_that_fails_is_no_answer(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, error: Exception
    ) -> None:
        put(engine, "um", state="unknown", attempts=1)
        channel.lookup_fails = error
        deliver(awake)
        assert (row(engine).state, channel.sends) == ("unknown", [])
        channel.lookup_fails = None
        due(engine)
        deliver(awake)
        assert row(engine).state == "sent"

    @pytest.mark.parametrize("error", [Unavailable("missing_scope"), ValueError("bug")])
    def test_a_look_up_that_is_refused_never_leads_to_a_second_sending(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine, error: Exception
    ) -> None:
        put(engine, "um", state="unknown", attempts=1, created_at=now() - outbox.GIVE_UP_UNKNOWN * 2)
        channel.lookup_fails = error
        for _ in range(3):
            deliver(awake)
            due(engine)
        assert channel.sends == []
        assert (row(engine).state, row(engine).delivery) == ("unknown", "unknown")
        assert len(alerts(engine)) == 1


class TestDeadHolder:
    def test_what_was_being_sent_is_looked_up_first(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        """The worker died after the vendor accepted: it is found, not sent."""
        (our_id,) = put(engine, "um", state="sending", attempts=1)
        channel.accepted = [(our_id, "um")]
        deliver(awake)
        assert (row(engine).state, channel.sends) == ("sent", [])

    def test_and_sent_where_it_is_not_found(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        """The worker died before the vendor heard of it."""
        put(engine, "um", state="sending", attempts=1)
        deliver(awake)
        assert (row(engine).state, channel.texts()) == ("sent", ["um"])

    def test_the_next_parts_follow(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        ids = put(engine, "um", "dois")
        with transaction(engine) as session:
            session.get_one(OutboxItem, ids[0]).state = "sending"
        channel.accepted = [(ids[0], "um")]
        deliver(awake)
        assert channel.texts() == ["um", "dois"]


class TestWithoutLookUp:
    """Meta: nobody can be asked; its status webhook echoes our id."""

    @pytest.fixture(autouse=True)
    def _no_lookup(self, channel: ScriptedChannel) -> None:
        channel.supports_lookup = False

    def unknown(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> str:
        (our_id,) = put(engine, "um")
        channel.script = [VendorUnavailable("no answer", outcome_unknown=True)]
        wait = deliver(awake)
        assert wait is None, "nobody waits for what cannot be asked"
        assert (row(engine).state, len(channel.sends)) == ("unknown", 1)
        return our_id

    def test_settled_by_its_status(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        our_id = self.unknown(awake, channel, engine)
        with transaction(engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", "wamid.1", "delivered", our_id=our_id))
        assert (row(engine).state, row(engine).provider_message_id, row(engine).delivery) == (
            "sent",
            "wamid.1",
            "delivered",
        )
        due(engine)
        deliver(awake)
        assert len(channel.sends) == 1
        assert [e["provider_message_id"] for e in sent_events(engine)] == ["wamid.1"]

    def test_given_up_after_a_quarter_of_an_hour_alerted_and_never_sent_again(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        self.unknown(awake, channel, engine)
        left = row(engine).not_before - now()
        assert outbox.GIVE_UP_UNKNOWN - timedelta(seconds=30) < left <= outbox.GIVE_UP_UNKNOWN
        for _ in range(3):
            due(engine)
            deliver(awake)
        assert (row(engine).state, row(engine).delivery) == ("unknown", "unknown")
        assert "Nobody knows" in str(row(engine).error)
        (alert,) = alerts(engine)
        assert alert["message"] == str(row(engine).message_id)
        assert len(channel.sends) == 1

    def test_its_sender_died(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um", state="sending", attempts=1)
        deliver(awake)
        assert (row(engine).state, row(engine).delivery, channel.sends) == ("unknown", None, [])

    def test_what_stands_behind_it_does_not_wait(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        self.unknown(awake, channel, engine)
        put(engine, "dois")
        deliver(awake)
        assert channel.texts() == ["dois"]
        assert row_states(engine) == ["unknown", "sent"]

    def test_a_status_that_comes_even_later_settles_it_after_all(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        (our_id,) = put(engine, "um", state="failed", attempts=1)
        with transaction(engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", "wamid.1", "read", our_id=our_id))
        assert (row(engine).state, row(engine).delivery) == ("sent", "read")

    def test_also_after_the_alert(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        our_id = self.unknown(awake, channel, engine)
        due(engine)
        deliver(awake)
        with transaction(engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", "wamid.1", "delivered", our_id=our_id))
        assert (row(engine).state, row(engine).delivery, row(engine).error) == ("sent", "delivered", None)


class TestStatuses:
    @pytest.fixture
    def sent_id(self, engine: Engine) -> str:
        (our_id,) = put(engine, "um", state="sent", provider_message_id="wamid.1", attempts=1)
        return our_id

    def report(self, awake: Awake, delivery: str, **facts: Any) -> OutboxItem:
        with transaction(awake.engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", facts.pop("id", "wamid.1"), delivery, **facts))
        return row(awake.engine)

    def test_in_any_order_the_furthest_stands(self, awake: Awake, sent_id: str) -> None:
        for delivery, stands in (
            ("sent", "sent"),
            ("read", "read"),
            ("delivered", "read"),
            ("sent", "read"),
            ("queued", "read"),
        ):
            assert self.report(awake, delivery).delivery == stands

    def test_a_failure_is_the_last_word(self, awake: Awake, sent_id: str) -> None:
        assert self.report(awake, "failed", error="131026").error == "vendor error 131026"
        assert self.report(awake, "delivered").delivery == "failed"

    def test_an_unknown_status_changes_nothing(self, awake: Awake, sent_id: str) -> None:
        self.report(awake, "delivered")
        assert self.report(awake, "teleported").delivery == "delivered"

    @pytest.mark.parametrize("our_id", [None, "not-an-id", "01890000-0000-7000-8000-000000000000"])
    def test_found_by_the_vendors_id_where_ours_does_not_come_back(
        self, awake: Awake, sent_id: str, our_id: str | None
    ) -> None:
        assert self.report(awake, "read", our_id=our_id).delivery == "read"

    def test_a_message_that_is_not_ours(self, awake: Awake, sent_id: str) -> None:
        assert self.report(awake, "read", id="wamid.other").delivery is None

    def test_before_the_senders_own_answer(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        """The status webhook is quicker than the response that it belongs to."""
        (our_id,) = put(engine, "um")

        def overtaken(outgoing: Any) -> str:
            channel.accept(outgoing)
            self.report(awake, "delivered", our_id=our_id, id="vendor-x")
            return "vendor-x"

        channel.script = [overtaken]
        deliver(awake)
        assert (row(engine).state, row(engine).delivery, len(sent_events(engine))) == ("sent", "delivered", 1)

    def test_while_it_waits_to_be_sent_again(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        """Looked up too early and not found; before the second try the vendor reports the first."""
        (our_id,) = put(engine, "um", state="pending", attempts=1)
        self.report(awake, "delivered", our_id=our_id, id="vendor-x")
        deliver(awake)
        assert channel.sends == []
        assert row(engine).provider_message_id == "vendor-x"


class TestLease:
    def test_without_the_lane_nothing_is_sent(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, "um")
        with lease(engine, awake.heartbeat, LANE) as held:
            assert held is not None
            with transaction(engine) as session:
                session.get_one(Lane, LANE).holder = "somebody-else"
            with pytest.raises(LeaseLost):
                outbox.deliver(awake, LANE, held)
        assert channel.sends == []

    def test_what_was_sent_is_kept_although_the_lane_was_lost(
        self, awake: Awake, channel: ScriptedChannel, engine: Engine
    ) -> None:
        """The new holder must know, or it would send again."""
        put(engine, "um", "dois")

        def robbed(outgoing: Any) -> str:
            with transaction(engine) as session:
                session.get_one(Lane, LANE).holder = "somebody-else"
            return channel.accept(outgoing)

        channel.script = [robbed]
        with lease(engine, awake.heartbeat, LANE) as held:
            assert held is not None
            with pytest.raises(LeaseLost):
                outbox.deliver(awake, LANE, held)
        assert row_states(engine) == ["sent", "pending"]

    def test_many_workers_send_each_part_once(self, awake: Awake, channel: ScriptedChannel, engine: Engine) -> None:
        put(engine, *[str(i) for i in range(12)])

        def work(_: int) -> None:
            def rest() -> bool:
                with lease(engine, awake.heartbeat, LANE) as held:
                    return held is not None and outbox.deliver(awake, LANE, held) is None

            eventually(rest)

        in_threads(work, 6)
        assert channel.texts() == [str(i) for i in range(12)]


class TestRealClients:
    """The same through the vendors' own libraries, against servers that misbehave."""

    def put(self, awake: Awake, channel: str) -> str:
        address = {"twilio": {"to": "whatsapp:+5511"}, "meta": {"to": "5511"}, "slack": {"channel": "D1"}}[channel]
        with transaction(awake.engine) as session:
            conversation = make_conversation(session, channel=channel, lane=LANE, address=address)
            return str(make_part(session, make_answer(session, conversation)).id)

    @pytest.mark.parametrize("name", ["twilio", "meta", "slack"])
    def test_throttled_then_sent(self, awake: Awake, vendors: Any, name: str) -> None:
        self.put(awake, name)
        vendors.fault(name, "429", retry_after=33)
        wait = deliver(awake)
        assert wait is not None
        assert 30 < wait <= 33
        due(awake.engine)
        assert deliver(awake) is None
        assert vendors.texts() == ["Custa R$ 1.899,00."]

    @pytest.mark.parametrize("name", ["twilio", "meta", "slack"])
    def test_a_broken_server(self, awake: Awake, vendors: Any, name: str) -> None:
        self.put(awake, name)
        vendors.fault(name, "500")
        assert deliver(awake) == pytest.approx(2, abs=0.5)
        due(awake.engine)
        deliver(awake)
        assert len(vendors.sent) == 1

    @pytest.mark.parametrize("name", ["twilio", "meta"])
    def test_refused(self, awake: Awake, vendors: Any, name: str) -> None:
        self.put(awake, name)
        vendors.fault(name, "refuse")
        deliver(awake)
        assert row(awake.engine).state == "failed"

    @pytest.fixture
    def _vendors_give_up_soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A swallowed message would keep the server's connection for a minute."""
        sleep = asyncio.sleep
        monkeypatch.setattr("bot.simulator.desk.asyncio.sleep", lambda seconds: sleep(min(seconds, 1.0)))

    @pytest.mark.usefixtures("_vendors_give_up_soon")
    def test_twilio_swallows_one_and_is_asked(self, awake: Awake, vendors: Any) -> None:
        awake.channels["twilio"] = TwilioClient(
            account_sid="AC1", auth_token="t", sender="+5511", base_url=vendors.url, status_url=None, timeout=0.4
        )
        self.put(awake, "twilio")
        vendors.fault("twilio", "drop")
        deliver(awake)
        assert row(awake.engine).state == "unknown"
        due(awake.engine)
        deliver(awake)
        assert (row(awake.engine).state, len(vendors.sent)) == ("sent", 1)
        assert row(awake.engine).provider_message_id == vendors.sent[0]["id"]

    @pytest.mark.usefixtures("_vendors_give_up_soon")
    def test_meta_swallows_one_and_its_status_tells(self, awake: Awake, vendors: Any) -> None:
        awake.channels["meta"] = MetaClient(
            access_token="t", phone_number_id="1", base_url=vendors.url, version="v23.0", timeout=0.4
        )
        our_id = self.put(awake, "meta")
        vendors.fault("meta", "drop")
        deliver(awake)
        assert row(awake.engine).state == "unknown"
        with transaction(awake.engine) as session:
            outbox.record_status(awake, session, InboundStatus("meta", vendors.sent[0]["id"], "sent", our_id=our_id))
        due(awake.engine)
        assert deliver(awake) is None
        assert (row(awake.engine).state, len(vendors.sent)) == ("sent", 1)

    def test_a_channel_that_was_closed_meanwhile_waits(self, awake: Awake, vendors: Any) -> None:
        """Its secrets are gone: the part is kept until they are back, and nothing else of the process suffers."""
        self.put(awake, "slack")
        client = awake.channels.pop("slack")
        deliver(awake)
        assert row(awake.engine).state in ("pending", "unknown")
        awake.channels["slack"] = client
        due(awake.engine)
        deliver(awake)
        due(awake.engine)
        deliver(awake)
        assert (row(awake.engine).state, len(vendors.sent)) == ("sent", 1)
