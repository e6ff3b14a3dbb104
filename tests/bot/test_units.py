"""Units and votes: one per person, epoch and rollout, with the facts of the answer that was rated."""

import uuid
from datetime import timedelta
from typing import Any

import pytest
from factories import QUICK, make_answer, make_conversation, make_customer, make_version
from servers import ScriptedModel
from sqlalchemy import Engine, select, update
from sqlalchemy.orm import Session
from street import Street

from bot import guardrails, rollout_line, rollout_look, rollouts, signals, units
from bot.router import BASE, Route, Served
from bot.units import Outcome
from bot.wiring import Awake
from core.db import get_engine, transaction
from core.messages import Identifier, InboundSignal, Person
from core.rollouts import Plan, Stage
from core.tables import Assignment, Customer, Event, Feedback, Message, Rollout, now

FINE = Outcome(failed=False, latency_ms=100.0)


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def rollout(engine: Engine) -> Rollout:
    with transaction(engine) as session:
        make_version(session, champion=True)
        return rollout_line.start(session, make_version(session).name, QUICK, actor="test")


def route(rollout: Rollout, arm: Any = "challenger", **facts: Any) -> Route:
    values: dict[str, Any] = {
        "version": BASE, "arm": arm, "probability": 0.5, "rollout_id": rollout.id, "epoch": "stage-0", "stage": 0,
        "fallbacks": (), **facts,
    }  # fmt: skip
    return Route(**values)


def unit_of(session: Session) -> Assignment:
    return session.scalars(select(Assignment)).one()


def answered(session: Session, customer: Customer, rollout: Rollout, arm: str = "challenger", **facts: Any) -> Message:
    """An answer of the rollout, with its unit."""
    told = {"epoch": "stage-0", "stage": 0, "probability": 0.5, **facts}
    drawn = route(rollout, arm, epoch=told["epoch"], stage=told["stage"], probability=told["probability"])
    units.count_reply(session, customer.id, drawn, FINE)
    return make_answer(
        session, make_conversation(session, customer), rollout_id=rollout.id, arm=arm,
        assignment_probability=told["probability"], route={"flags": [], "failures": [], **units.logged(drawn)},
    )  # fmt: skip


def rate(session: Session, answer: Message, raw: str, *, op: Any = "add", at: timedelta = timedelta()) -> None:
    """The person who was answered reacts."""
    from factories import phone_of

    customer = session.get_one(Customer, answer.customer_id)
    person = Person((Identifier("phone", phone_of(session, customer)),), None)
    signals.record_signal(
        session,
        InboundSignal(
            channel="meta", person=person, signal="reaction", op=op, raw=raw, answer_id=str(answer.id),
            given_at=now() + at,
        ),
        "signals/meta",
    )  # fmt: skip


class TestCounts:
    def test_a_unit_is_written_once_and_counted(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            customer = make_customer(session)
            drawn = route(rollout, slow_ms=500.0, holdback=0.05, solicited=True)
            assert units.count_reply(session, customer.id, drawn, FINE)
            assert not units.count_reply(session, customer.id, drawn, Outcome(False, 501.0, ("loop",)))
            assert not units.count_reply(session, customer.id, drawn, Outcome(True, 900.0, ("empty",)))
            unit = unit_of(session)
            assert (unit.served, unit.failed, unit.slow, unit.unsafe) == (3, 1, 1, 1)
            assert (unit.arm, unit.probability, unit.holdback, unit.solicited) == ("challenger", 0.5, 0.05, True)

    def test_who_joins_the_challenger_later_is_counted_where_they_were_drawn(
        self, engine: Engine, rollout: Rollout
    ) -> None:
        with transaction(engine) as session:
            customer = make_customer(session)
            units.count_reply(session, customer.id, route(rollout, "champion", probability=0.25), FINE)
            units.count_reply(session, customer.id, route(rollout, "challenger"), Outcome(True, None))
            unit = unit_of(session)
            assert (unit.arm, unit.probability, unit.served, unit.failed) == ("champion", 0.25, 1, 0)

    def test_failures_in_a_row_are_the_challengers(self, engine: Engine, rollout: Rollout) -> None:
        failed = Outcome(True, None)
        for drawn, outcome, expected in [
            ("challenger", failed, 1), ("challenger", failed, 2), ("champion", failed, 2), ("champion", FINE, 2),
            ("challenger", FINE, 0), ("challenger", failed, 1),
        ]:  # fmt: skip
            with transaction(engine) as session:
                units.count_reply(session, make_customer(session).id, route(rollout, drawn), outcome)
            with transaction(engine) as session:
                assert session.get_one(Rollout, rollout.id).failed_in_a_row == expected

    def test_outside_a_rollout_nothing_is_written(self, engine: Engine) -> None:
        with transaction(engine) as session:
            assert not units.count_reply(
                session, uuid.uuid4(), Route(BASE, "base", 0.0, None, "", 0, ()), FINE
            )  # fmt: skip

    def test_slow_is_measured_on_the_control(self, engine: Engine) -> None:
        with transaction(engine) as session:
            conversation = make_conversation(session)
            for latency in range(1, 20):
                make_answer(session, conversation, version="customers-v1", latency_ms=100.0 * latency)
            assert units.slow_ms(session, "customers", "customers-v1") is None
            make_answer(session, conversation, version="customers-v1", latency_ms=2000.0)
            assert units.slow_ms(session, "customers", "customers-v1") == pytest.approx(1905.0)

    def test_a_hand_over_counts_as_unsafe(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout)
            units.count_hand_over(session, answer)
        with transaction(engine) as session:
            assert unit_of(session).unsafe == 1


class TestVotes:
    def test_the_first_rating_votes_with_the_facts_of_its_answer(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            customer = make_customer(session)
            first = answered(session, customer, rollout, "champion", probability=0.25)
            second = answered(session, customer, rollout, "challenger")  # the weight rose meanwhile
            rate(session, second, "👎")
            rate(session, first, "👍")
            unit = unit_of(session)
            assert (unit.vote, unit.vote_arm, unit.vote_probability, unit.vote_message_id) == (
                0.0, "challenger", 0.5, second.id
            )  # fmt: skip
            assert session.scalars(select(Feedback)).all() != []

    @pytest.mark.parametrize("later", [("👎", "replace"), ("", "remove"), ("👎", "add")])
    def test_a_change_of_mind_is_kept_and_does_not_vote(
        self, engine: Engine, rollout: Rollout, later: tuple[str, str]
    ) -> None:
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout)
            rate(session, answer, "👍")
            rate(session, answer, later[0], op=later[1], at=timedelta(seconds=5))
            assert unit_of(session).vote == 1.0
            assert session.query(Feedback).count() == 2

    def test_a_neutral_emoji_is_no_vote(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout)
            rate(session, answer, "🐢")
            assert unit_of(session).vote is None
            rate(session, answer, "👍", at=timedelta(seconds=5))
            assert unit_of(session).vote == 1.0

    def test_every_epoch_votes_anew(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            customer = make_customer(session)
            for day in ("2026-11-26", "2026-11-27"):
                rate(session, answered(session, customer, rollout, epoch=day), "👍")
            assert [unit.vote for unit in session.scalars(select(Assignment))] == [1.0, 1.0]

    def test_an_answer_of_a_fallback_does_not_vote(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout)
            answer.arm = None
            rate(session, answer, "👎")
            assert unit_of(session).vote is None

    def test_only_the_person_who_was_answered_votes(self, engine: Engine, rollout: Rollout) -> None:
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout)
            assert not units.count_vote(session, answer, make_customer(session).id, 0.0)
            other = answered(session, make_customer(session), rollout, "champion")
            assert not units.count_vote(session, answer, other.customer_id, 0.0)  # nor with the unit they have
            assert units.count_vote(session, answer, answer.customer_id, 1.0)

    def test_a_rating_thirty_days_late(self, engine: Engine, rollout: Rollout) -> None:
        """Into a rollout that still runs it counts with the assignment's weight; into an ended one it changes
        nothing that was decided."""
        with transaction(engine) as session:
            answer = answered(session, make_customer(session), rollout, probability=0.5)
            rollouts.set_weight(session, "customers", 0.05, actor="test")
            rate(session, answer, "👎", at=timedelta(days=30))
            found = session.get_one(Rollout, rollout.id)
            votes = units.read_votes(session, found, anchor="none", blue_green=False, stages=1)
            assert (votes.y, votes.w, votes.canary, votes.stage) == ([0.0], [0.5], [True], [0])
        with transaction(engine) as session:
            late = answered(session, make_customer(session), rollout)
            rollouts.abort(session, "customers", actor="test")
            before = session.get_one(Rollout, rollout.id).row_version
            rate(session, late, "👎", at=timedelta(days=30))
            assert session.get_one(Rollout, rollout.id).row_version == before
            assert session.get_one(Rollout, rollout.id).state == "aborted"

    def test_a_flood_is_flagged_and_moves_nothing(self, engine: Engine, rollout: Rollout) -> None:
        """Fault test 10 in short: one person, many thumbs down on the canary."""
        with transaction(engine) as session:
            for seed in range(60):  # others vote as usual
                rate(session, answered(session, make_customer(session), rollout, "champion" if seed % 2 else
                     "challenger"), "👍" if seed % 4 else "👎")  # fmt: skip
            calm = rollout_look.look(session, session.get_one(Rollout, rollout.id)).figures
            angry = make_customer(session)
            answers = [answered(session, angry, rollout) for _ in range(40)]
            for answer in answers:
                rate(session, answer, "👎")
            figures = rollout_look.look(session, session.get_one(Rollout, rollout.id)).figures
            recorded = select(Event.data["flood"]).where(Event.type == "feedback.recorded").order_by(Event.id)
            flags = session.scalars(recorded).all()
        assert figures["challenger"]["votes"] == calm["challenger"]["votes"] + 1
        assert calm["challenger"]["rate"] - figures["challenger"]["rate"] <= 1 / figures["challenger"]["votes"]
        assert (flags[64], flags[66]) == (False, True)  # the sixth of one day


class TestReadVotes:
    def test_the_held_back_anchor_and_do_not_control(self, engine: Engine, rollout: Rollout) -> None:
        from factories import make_unit

        with transaction(engine) as session:
            for arm, vote in (("challenger", 1.0), ("champion", 0.0), ("holdback", 0.5)):
                make_unit(session, rollout.id, arm, vote=vote, holdback=0.1)
            make_unit(session, rollout.id, "champion", vote=1.0, stage=1)  # the watch after the last stage
            session.flush()
            found = session.get_one(Rollout, rollout.id)
            votes = units.read_votes(session, found, anchor="holdback", blue_green=False, stages=1)
            assert sorted(votes.y) == [0.0, 1.0]
            assert sorted(votes.anchor_y) == [0.5, 1.0]
            assert votes.anchor_w == pytest.approx([0.45 / 0.55] * 2)
            assert len(votes.assigned_canary) == 2

    def test_a_rollout_that_turned_blue_green_keeps_what_it_saw_as_it_was_drawn(
        self, engine: Engine, rollout: Rollout
    ) -> None:
        """Before the switch the held back were on the fixed point; after it they are the control."""
        from factories import make_unit

        with transaction(engine) as session:
            for arm, vote in (("challenger", 1.0), ("champion", 0.25), ("holdback", 0.5)):
                make_unit(session, rollout.id, arm, vote=vote, holdback=0.1)
            for arm, vote in (("challenger", 0.0), ("holdback", 0.75)):
                make_unit(session, rollout.id, arm, vote=vote, holdback=0.1, probability=1.0, stage=1)
            session.flush()
            found = session.get_one(Rollout, rollout.id)
            votes = units.read_votes(session, found, anchor="holdback", blue_green=True, stages=2)
            assert sorted(zip(votes.y, votes.canary, votes.w, votes.stage, strict=True)) == [
                (0.0, True, pytest.approx(0.9), 1), (0.25, False, 0.5, 0), (0.75, False, pytest.approx(0.9), 1),
                (1.0, True, 0.5, 0),
            ]  # fmt: skip
            assert sorted(votes.assigned_w) == pytest.approx([0.5, 0.5, 0.9, 0.9])
            assert sorted(votes.anchor_y) == [0.0, 0.75]
            back = units.read_votes(session, found, anchor="holdback", blue_green=False, stages=2)
            assert (sorted(back.y), sorted(back.anchor_y)) == (sorted(votes.y), [0.5, 1.0])


class TestTurns:
    """The same through real turns: a ledger's row, a scripted model."""

    def test_a_canary_that_fails_is_answered_again_by_the_champion(
        self, awake: Awake, street: Street, model: ScriptedModel
    ) -> None:
        model.say = lambda name, _: f"Resposta de {name}."
        names = prepare(awake, model)
        model.failing = {names[1]}
        street.says("Qual colchão?")
        answer = street.messages("out")[0]
        assert (answer.text, answer.version, answer.arm) == (f"Resposta de {names[0]}.", names[0], None)
        assert answer.route["failures"] == [f"{names[1]}: {answer.route['failures'][0].split(': ', 1)[1]}"]
        assert answer.route["arm"] == "challenger"
        with transaction(awake.engine) as session:
            unit = unit_of(session)
            assert (unit.arm, unit.served, unit.failed) == ("challenger", 1, 1)
            assert session.scalars(select(Rollout.failed_in_a_row)).one() == 1

    @pytest.mark.parametrize("verb", ["abort", "undo"])
    def test_a_conversation_leaves_a_version_that_was_taken_back(
        self, awake: Awake, street: Street, model: ScriptedModel, verb: str
    ) -> None:
        """At its next turn, and the transcript says so (the nearest peer left 10 of 10 where they were)."""
        model.say = lambda name, _: f"Resposta de {name}."
        old, new = prepare(awake, model)
        street.says("Qual colchão?")
        with transaction(awake.engine) as session:
            if verb == "undo":
                rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
        awake.router.forget()
        street.says("E o travesseiro?")
        assert [m.version for m in street.messages("out") if m.kind == "text"] == [new, new]
        with transaction(awake.engine) as session:
            rollouts.undo(session, "customers", actor="test") if verb == "undo" else rollouts.abort(
                session, "customers", actor="test"
            )
        awake.router.forget()
        for _ in range(2):
            street.says("E a base?")
        answers = [m for m in street.messages("out") if m.kind == "text"]
        assert [m.version for m in answers] == [new, new, old, old]
        assert [m.route.get("left") for m in answers] == [None, None, new, None]
        with transaction(awake.engine) as session:
            (event,) = session.scalars(select(Event).where(Event.type == "version.left")).all()
            assert (event.conversation, event.data["left"], event.data["version"]) == (
                answers[2].conversation_id, new, old
            )  # fmt: skip

    def test_the_coin_asks_once_a_unit(self, awake: Awake, street: Street, model: ScriptedModel, vendors: Any) -> None:
        model.say = lambda name, _: f"Resposta de {name}."
        prepare(awake, model)
        awake.router.solicit = 1.0
        street.says("Qual colchão?")
        street.says("Qual travesseiro?")
        asked = [guardrails.ASK_RATING["pt"] in text for text in vendors.texts() if "Resposta" in text]
        assert asked == [True, False]
        assert guardrails.ASK_RATING["pt"] not in street.messages("out")[0].text

    def test_audiences(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        model.say = lambda name, _: f"Resposta de {name}."
        names = prepare(awake, model, audience="beta")
        street.says("Qual colchão?")
        assert street.messages("out")[0].version == names[0]
        with transaction(awake.engine) as session:
            assert session.scalars(select(Assignment)).all() == []
            session.execute(update(Customer).values(audience="beta"))
        street.says("Qual travesseiro?")
        assert street.messages("out")[-1].version == names[1]


def prepare(awake: Awake, model: ScriptedModel, *, audience: Any = "all") -> tuple[str, str]:
    """A champion and a challenger that the server has loaded, and a rollout that draws the challenger always."""
    plan = Plan("all", (Stage(0.9999999, 30, 0.0, 0.15, audience=audience),))
    with transaction(awake.engine) as session:
        champion, new = make_version(session, champion=True), make_version(session)
        rollout_line.start(session, new.name, plan, actor="test")
    model.loaded = [champion.name, new.name]
    awake.models._loaded = {champion.name, new.name}
    return champion.name, new.name


def test_served_is_hashable() -> None:
    assert len({Served(None, None), BASE}) == 1
