"""The controller's round: line, switch, guard, watch, loading; and the job that a vote rings for."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import LADDER, make_answer, make_conversation, make_customer, make_unit, make_version, make_votes
from servers import ScriptedModel
from sqlalchemy import select, update
from sqlalchemy.orm import Session
from street import Street

from bot import controller, nights, rollout_line, rollouts, watch
from bot.rollout_verbs import run
from bot.router import read_routes
from bot.wiring import Awake
from core import registry
from core.db import transaction
from core.errors import Unavailable
from core.registry import FolderStore
from core.rollouts import STOPS, Plan, Stage
from core.tables import AdapterVersion, Alert, Assignment, Context, Feedback, Message, Rollout, RolloutEvent, now
from integrations.redis.queue import connect

SWITCH = Plan("switch", (Stage(1.0, 30, 0.0, 0.1),), mode="blue-green")


def prepare(awake: Awake, model: ScriptedModel, plan: Plan = LADDER) -> tuple[str, str]:
    with transaction(awake.engine) as session:
        champion, new = make_version(session, champion=True), make_version(session)
        rollout_line.start(session, new.name, plan, actor="test")
    model.loaded = [champion.name, new.name]
    awake.models._loaded = {champion.name, new.name}
    return champion.name, new.name


def state(awake: Awake) -> tuple[str, float]:
    with transaction(awake.engine) as session:
        found = session.scalars(select(Rollout).order_by(Rollout.id.desc())).first()
        assert found is not None
        return found.state, found.weight


def champion(awake: Awake) -> str | None:
    with transaction(awake.engine) as session:
        found = registry.champion(session, "customers")
        return found.name if found else None


class TestRound:
    def test_harm_ends_it_and_the_next_begins(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model)
        with transaction(awake.engine) as session:
            current = rollouts.require_current(session, "customers")
            make_votes(session, current.id, 300, challenger=0.3, control=0.9, weight=0.25)
            waits = make_version(session)
            rollout_line.start(session, waits.name, LADDER, actor="test", queue=True)
        model.loaded.append(waits.name)
        controller.guard_all(awake)
        assert state(awake) == ("waiting", 0.0)
        model.loaded.append(waits.name)  # it was let go of while it waited
        controller.guard_all(awake)
        assert state(awake) == ("running", 0.25)
        with transaction(awake.engine) as session:
            assert rollouts.require_current(session, "customers").version_id == waits.id

    def test_what_is_live_is_loaded_and_the_rest_let_go(self, awake: Awake, model: ScriptedModel) -> None:
        old, new = prepare(awake, model)
        with transaction(awake.engine) as session:
            retired = make_version(session, state="retired").name
        model.loaded.append(retired)
        controller.guard_all(awake)
        assert model.loaded == [old, new]

    def test_a_model_server_that_is_away_rolls_nothing_back(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model)

        def away() -> list[str]:
            raise Unavailable("away")

        server = awake.models.server
        object.__setattr__(server, "models", away)
        controller.guard_all(awake)
        assert state(awake)[0] == "running"

    @pytest.mark.parametrize("spoil", ["bytes", "manifest"])
    def test_changed_files_are_a_hard_stop(
        self, awake: Awake, model: ScriptedModel, tmp_path: Path, spoil: str
    ) -> None:
        store = FolderStore(tmp_path / "store")
        awake.models.store = store
        with transaction(awake.engine) as session:
            make_version(session, champion=True, store=store, folder=tmp_path / "old")
            new = make_version(session, store=store, folder=tmp_path / "new")
            rollout_line.start(session, new.name, LADDER, actor="test")
        folder = store.fetch(new.location, new.sha256)
        weights = folder / ("adapter_model.safetensors" if spoil == "bytes" else "manifest.json")
        raw = bytearray(weights.read_bytes())
        raw[-3] ^= 1
        weights.write_bytes(raw)
        controller.guard_all(awake)
        assert state(awake) == ("rolled_back", 0.0)
        assert new.name not in model.loaded
        with transaction(awake.engine) as session:
            assert session.scalars(select(Rollout.reason)).one() in STOPS.values()

    def test_five_failures_in_a_row_are_one_too(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        old, new = prepare(awake, model, Plan("most", (Stage(0.9999999, 30, 0.0, 0.1),)))
        model.say = lambda name, _: f"Resposta de {name}."
        model.failing = {new}
        for number in range(5):
            street.says("Qual colchão?", sender=f"+551198765{number:04d}")
        controller.guard_all(awake)
        assert state(awake)[0] == "rolled_back"
        assert {answer.version for answer in street.messages("out") if answer.kind == "text"} == {old}

    def test_an_outage_is_no_failure_of_the_challengers(
        self, awake: Awake, street: Street, model: ScriptedModel
    ) -> None:
        old, new = prepare(awake, model, Plan("most", (Stage(0.9999999, 30, 0.0, 0.1),)))
        model.failing = {old, new, "base-model"}
        for number in range(6):
            street.says("Qual colchão?", sender=f"+551198765{number:04d}")
        controller.guard_all(awake)
        assert state(awake)[0] == "running"
        with transaction(awake.engine) as session:
            assert session.scalars(select(Assignment.failed)).all() == [1] * 6  # arms are compared in it all the same

    def test_a_vote_rings_for_it(self, awake: Awake, street: Street, model: ScriptedModel) -> None:
        model.say = lambda name, _: f"Resposta de {name}."
        prepare(awake, model)
        street.says("Qual colchão?")
        awake.redis.flushdb()
        target = street.outbox()[0].provider_message_id
        assert target is not None
        street.answer(street.meta_reacts(target, "👍"))
        queued = [key for key in awake.redis.scan_iter("rq:job:*")]
        assert len(queued) == 1
        awake.redis = connect("redis://127.0.0.1:1")
        street.answer(street.meta_reacts(target, "👎"))
        assert street.events()[-1].handled_at is not None


class TestBlueGreen:
    @pytest.mark.parametrize("held", [False, True])
    def test_checks_then_everybody_but_the_held_back(
        self, awake: Awake, model: ScriptedModel, street: Street, monkeypatch: pytest.MonkeyPatch, held: bool
    ) -> None:
        monkeypatch.setattr("bot.router.held_back", lambda **_: held)  # one in twenty is, by chance
        model.say = lambda name, _: f"Resposta de {name}."
        old, new = prepare(awake, model, SWITCH)
        street.says("Vocês entregam?")
        assert street.messages("out")[0].version == old
        controller.guard_all(awake)
        assert state(awake) == ("running", 1.0)
        asked = [body["messages"][-1]["content"] for body in model.asked if body["model"] == new]
        assert len(asked) == len(controller.SMOKE) + 1
        assert "Vocês entregam?" in asked[-1]
        awake.router.forget()
        street.says("E hoje?")
        assert [(event.outcome or "").split(":")[0] for event in street.events()] == ["answered", "answered"]
        asked = next(message for message in street.messages("in") if message.text == "E hoje?")
        answers = [message for message in street.messages("out") if message.in_reply_to == asked.id]
        assert [(answer.version, answer.arm) for answer in answers] == [
            (old, "holdback") if held else (new, "challenger")
        ]
        with transaction(awake.engine) as session:
            verbs = list(session.scalars(select(RolloutEvent.verb).order_by(RolloutEvent.id)))
        assert verbs == ["start", "switch"]

    @pytest.mark.parametrize("harm", ["fails", "silent"])
    def test_who_fails_the_checks_never_serves(self, awake: Awake, model: ScriptedModel, harm: str) -> None:
        old, new = prepare(awake, model, SWITCH)
        if harm == "fails":
            model.failing = {new}
        else:
            model.say = lambda name, _: "" if name == new else "Sim."
        controller.guard_all(awake)
        assert state(awake) == ("rolled_back", 0.0)
        assert champion(awake) == old

    def test_while_nobody_answers_it_waits(self, awake: Awake, model: ScriptedModel) -> None:
        model.say = lambda name, _: f"Resposta de {name}."
        old, new = prepare(awake, model, SWITCH)
        model.failing = {old, new}
        controller.guard_all(awake)
        assert state(awake) == ("running", 0.0)
        model.failing = set()
        controller.guard_all(awake)
        assert state(awake) == ("running", 1.0)

    def test_it_does_not_wait_for_ever(self, awake: Awake, model: ScriptedModel) -> None:
        old, new = prepare(awake, model, SWITCH)
        model.failing = {old, new}
        with transaction(awake.engine) as session:
            session.execute(update(Rollout).values(started_at=now() - timedelta(days=8)))
        controller.guard_all(awake)
        assert state(awake) == ("held", 0.0)

    def test_a_paused_one_does_not_switch(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model, SWITCH)
        with transaction(awake.engine) as session:
            rollouts.pause(session, "customers", actor="test")
        controller.guard_all(awake)
        assert state(awake) == ("paused", 0.0)


class TestNightly:
    def test_a_registered_night_begins_by_itself_where_it_may(self, awake: Awake, model: ScriptedModel) -> None:
        with transaction(awake.engine) as session:
            make_version(session, champion=True)
            new = make_version(session)
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            assert rollouts.current(session, "customers") is None
        awake.settings = awake.settings.model_copy(update={"rollout_nightly": True})
        model.loaded = [new.name]
        controller.guard_all(awake)
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            current = rollouts.require_current(session, "customers")
            assert (current.version_id, current.plan["name"]) == (new.id, "tiny")  # nobody rates here
            newer = make_version(session)
        controller.guard_all(awake)
        assert state(awake) == ("waiting", 0.0)
        with transaction(awake.engine) as session:
            waiting = rollouts.waiting(session, "customers")
            assert waiting is not None
            assert waiting.version_id == newer.id


def promoted(awake: Awake) -> tuple[str, str, Any]:
    """A champion that came from a rollout and is watched against the base."""
    with transaction(awake.engine) as session:
        old, new = make_version(session, champion=True), make_version(session)
        rollout = rollout_line.start(session, new.name, LADDER, actor="test")
        rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
        return old.name, new.name, rollout.id


def watched_votes(session: Session, rollout_id: Any, n: int, *, champion: float, holdback: float) -> None:
    """Units after the promotion, one in five held back; ratings by the rates, spread evenly."""
    counts = {"champion": [0, 0.0], "holdback": [0, 0.0]}
    for number in range(n):
        arm, rate = ("holdback", holdback) if number % 5 == 0 else ("champion", champion)
        counts[arm][0] += 1
        good = int(counts[arm][0] * rate) > counts[arm][1]
        counts[arm][1] += good
        make_unit(
            session, rollout_id, arm, vote=float(good), probability=1.0, stage=2, holdback=0.2, epoch="2026-11-27",
            at=now() - timedelta(seconds=n - number),
        )  # fmt: skip


def harmed_employees(session: Session) -> None:
    """A canary that is to be rolled back, in the context that the controller comes to last."""
    make_version(session, context="employees", champion=True)
    name = make_version(session, context="employees").name
    rollout = rollout_line.start(session, name, LADDER, actor="test")
    make_votes(session, rollout.id, 300, challenger=0.3, control=0.9, weight=0.25)


def test_what_one_context_stumbles_over_leaves_the_others_their_guards(awake: Awake, model: ScriptedModel) -> None:
    prepare(awake, model)
    with transaction(awake.engine) as session:
        session.execute(update(Rollout).values(plan={**LADDER.to_json(), "newer": 1}))
        harmed_employees(session)
    controller.guard_all(awake)
    with transaction(awake.engine) as session:
        assert rollouts.current(session, "employees") is None


def test_checks_that_take_long_come_after_every_contexts_guards(awake: Awake, model: ScriptedModel) -> None:
    prepare(awake, model, SWITCH)
    guarded = []

    def say(*_: object) -> str:
        with transaction(awake.engine) as session:
            guarded.append(rollouts.current(session, "employees") is None)
        return "Olá!"

    model.say = say
    with transaction(awake.engine) as session:
        harmed_employees(session)
    controller.guard_all(awake)
    assert guarded
    assert all(guarded)


class TestDrift:
    def test_a_champion_that_falls_is_undone(self, awake: Awake) -> None:
        old, new, rollout = promoted(awake)
        with transaction(awake.engine) as session:
            watched_votes(session, rollout, 200, champion=0.8, holdback=0.8)
        controller.guard_all(awake)
        assert champion(awake) == new
        with transaction(awake.engine) as session:
            watched_votes(session, rollout, 500, champion=0.3, holdback=0.8)
        controller.guard_all(awake)
        assert champion(awake) == old
        with transaction(awake.engine) as session:
            assert registry.by_name(session, new).state == "quarantined"
            last = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id.desc())).first()
            assert last is not None
            assert (last.verb, last.actor) == ("undo", "drift")

    def test_an_operator_who_goes_back_to_what_drift_undid_is_not_overruled_by_the_old_ratings(
        self, awake: Awake
    ) -> None:
        _, new, rollout = promoted(awake)
        with transaction(awake.engine) as session:
            watched_votes(session, rollout, 700, champion=0.3, holdback=0.8)
        controller.guard_all(awake)
        for words in (f"retry {new}", f"undo --to-version {new} --reason 'it was a strike'"):
            run(awake.engine, words, actor="ana", roles={"ops"})
        controller.guard_all(awake)
        assert champion(awake) == new
        with transaction(awake.engine) as session:  # what people say from now on does
            session.execute(update(RolloutEvent).values(at=now() - timedelta(hours=1)))
            watched_votes(session, rollout, 700, champion=0.3, holdback=0.8)
        controller.guard_all(awake)
        assert champion(awake) != new

    def test_both_arms_falling_is_the_world(self, awake: Awake) -> None:
        _, new, rollout = promoted(awake)
        with transaction(awake.engine) as session:
            watched_votes(session, rollout, 300, champion=0.8, holdback=0.8)
            watched_votes(session, rollout, 600, champion=0.4, holdback=0.4)
        controller.guard_all(awake)
        assert champion(awake) == new

    def rate(self, awake: Awake, n: int, rate: float, ago: timedelta, **facts: Any) -> None:
        """`n` people rate an answer of the champion's, or of whom `facts` say."""
        with transaction(awake.engine) as session:
            for number in range(n):
                answer = make_answer(session, make_conversation(session, make_customer(session)), **facts)
                at = now() - ago + timedelta(seconds=number)
                good = number % 10 < round(rate * 10)
                session.add(Feedback(
                    message_id=answer.id, customer_id=answer.customer_id, channel="meta", signal="reaction", op="add",
                    raw="", polarity="positive" if good else "negative", value=float(good), given_at=at, created_at=at,
                ))  # fmt: skip

    def test_one_stream_that_falls_freezes_promotions_and_nights(self, awake: Awake, model: ScriptedModel) -> None:
        self.rate(awake, 150, 0.8, timedelta(days=3))
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            assert session.get_one(Context, "customers").frozen_reason is None
        self.rate(awake, 150, 0.3, timedelta(days=1))
        controller.guard_all(awake)
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            row = session.get_one(Context, "customers")
            assert "Satisfaction fell" in str(row.frozen_reason)
            assert [alert.kind for alert in session.scalars(select(Alert))] == ["rollout.frozen"]
            outlook = nights.outlook(session, row, awake.settings)
            assert any("frozen" in why for why in outlook.why)
            new = make_version(session)
            rollout = rollout_line.start(session, new.name, Plan("q", (Stage(0.5, 30, 0.0, 0.15),), anchor_margin=0.2,
                                     holdback=0.0), actor="test")  # fmt: skip
            make_votes(session, rollout.id, 500, challenger=0.9, control=0.9)
        model.loaded = [new.name]
        controller.guard_all(awake)
        assert state(awake) == ("running", 0.5)
        with transaction(awake.engine) as session:
            rollouts.resume(session, "customers", actor="ana", reason="it was the courier's strike")
            assert session.get_one(Context, "customers").frozen_reason is None
        controller.guard_all(awake)
        with transaction(awake.engine) as session:  # what was seen before the operator's word does not freeze again
            assert session.get_one(Context, "customers").frozen_reason is None

    def test_the_world_is_watched_while_a_rollout_runs(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model)
        self.rate(awake, 150, 0.8, timedelta(days=3))
        self.rate(awake, 150, 0.3, timedelta(days=1))
        with transaction(awake.engine) as session:
            rollout = rollouts.require_current(session, "customers")
            make_votes(session, rollout.id, 500, challenger=0.9, control=0.9)
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            assert "Satisfaction fell" in str(session.get_one(Context, "customers").frozen_reason)

    def test_a_bad_challenger_is_no_bad_world(self, awake: Awake) -> None:
        _, _, rollout = promoted(awake)
        with transaction(awake.engine) as session:
            session.get_one(Context, "customers").watched_since = now() - timedelta(days=2)
        self.rate(awake, 150, 0.8, timedelta(days=3))
        for arm in ("challenger", "base", "holdback"):
            self.rate(awake, 150, 0.3, timedelta(days=1), arm=arm, rollout_id=rollout)
        self.rate(awake, 150, 0.3, timedelta(days=1), arm="holdback")  # outside a rollout's audience
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            assert session.get_one(Context, "customers").frozen_reason is None
        self.rate(awake, 150, 0.3, timedelta(days=1), arm="champion", rollout_id=rollout)
        controller.guard_all(awake)
        with transaction(awake.engine) as session:
            assert "Satisfaction fell" in str(session.get_one(Context, "customers").frozen_reason)

    def test_a_freeze_keeps_blue_green_from_everybody_and_is_said(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model, SWITCH)
        with transaction(awake.engine) as session:
            watch.freeze(session, session.get_one(Context, "customers"), actor="drift", reason="Satisfaction fell.")
        controller.guard_all(awake)
        assert state(awake) == ("running", 0.0)
        for words in ("status", "explain"):
            said = run(awake.engine, words, actor="ana", roles={"viewer"})
            assert "frozen: Satisfaction fell. `npllm rollout resume` ends that." in said
        run(awake.engine, "resume", actor="ana", roles={"ops"})
        controller.guard_all(awake)
        assert state(awake) == ("running", 1.0)

    def test_ratings_within_a_rollout_count_for_the_next_ones_preset(self, awake: Awake) -> None:
        _, _, rollout = promoted(awake)
        for arm in ("challenger", "base", "holdback", "champion"):
            self.rate(awake, 70, 0.8, timedelta(days=1), arm=arm, rollout_id=rollout)
        with transaction(awake.engine) as session:
            assert watch.votes_per_day(session, "customers") == 40

    def test_other_questions_than_before_hold_the_rollout_once(self, awake: Awake, model: ScriptedModel) -> None:
        prepare(awake, model)
        with transaction(awake.engine) as session:
            conversation = make_conversation(session)
            for _ in range(80):
                make_answer(session, conversation, question="Quanto custa?")
            session.execute(update(Message).values(created_at=now() - timedelta(days=4)))
            for _ in range(80):
                make_answer(session, conversation, question="What is your return policy for a mattress? " * 5)
        controller.guard_all(awake)
        assert state(awake)[0] == "held"
        with transaction(awake.engine) as session:
            rollouts.resume(session, "customers", actor="ana")
            session.execute(update(Rollout).values(evidence={}))
        controller.guard_all(awake)
        assert state(awake)[0] == "running"
        with transaction(awake.engine) as session:
            shifts = {shift.trait: shift.shifted for shift in watch.input_shifts(session, awake.settings, "customers")}
        assert shifts["length"]
        assert not shifts["redacted"]

    def test_topics_are_compared_with_all_of_the_four_weeks(self, awake: Awake) -> None:
        with transaction(awake.engine) as session:
            conversation = make_conversation(session)
            for n in range(1200):  # the second half of the time is about something else, as today is
                ago = timedelta(days=20 if n < 600 else 5)
                make_answer(session, conversation, memories=["beds" if n < 600 else "sofas"], ago=ago)
            for n in range(100):
                make_answer(session, conversation, memories=["beds" if n % 2 else "sofas"])
        with transaction(awake.engine) as session:
            shifts = {shift.trait: shift.shifted for shift in watch.input_shifts(session, awake.settings, "customers")}
        assert not shifts["topic"]


def test_a_paused_rollout_goes_on_being_counted(awake: Awake, model: ScriptedModel) -> None:
    prepare(awake, model)
    with transaction(awake.engine) as session:
        rollouts.pause(session, "customers", actor="test")
        assert read_routes(session, "customers").weight == 0.25
        assert session.scalars(select(AdapterVersion.state)).all() == ["registered", "registered"]
