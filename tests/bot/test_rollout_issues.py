"""What users of Argo Rollouts and Flagger complain of, as tests: each is named by its issue's number there.

https://github.com/argoproj/argo-rollouts/issues and https://github.com/fluxcd/flagger/issues
"""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from factories import LADDER, QUICK, make_version, make_votes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, select, update

from bot import rollout_line, rollout_look, rollouts
from bot.rollout_changes import Change, apply
from bot.rollout_verbs import Door, rollout, run
from bot.router import choose, read_routes
from core import registry
from core.db import get_engine, transaction
from core.errors import Conflict
from core.rollouts import Plan
from core.tables import Alert, Rollout, RolloutEvent, now


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def names(engine: Engine) -> tuple[str, str]:
    with transaction(engine) as session:
        return make_version(session, champion=True).name, make_version(session).name


def begin(engine: Engine, name: str, plan: Plan = LADDER) -> Rollout:
    with transaction(engine) as session:
        return rollout_line.start(session, name, plan, actor="test")


def say(engine: Engine, words: str) -> str:
    return run(engine, words, actor="ana", roles={"ops"})


def champion(engine: Engine) -> str:
    with transaction(engine) as session:
        found = registry.champion(session, "customers")
        return found.name if found else "base"


def state(engine: Engine) -> str:
    with transaction(engine) as session:
        return session.scalars(select(Rollout.state).order_by(Rollout.started_at.desc())).first() or "none"


def look_and_act(engine: Engine) -> Rollout:
    with transaction(engine) as session:
        rollout = rollouts.require_current(session, "customers")
        return rollout_look.act(session, rollout, rollout_look.look(session, rollout))


def test_argo_1292_abort_when_idle_changes_nothing(engine: Engine, names: tuple[str, str]) -> None:
    assert "nothing to abort" in say(engine, "abort")
    assert champion(engine) == names[0]
    begin(engine, names[1])
    say(engine, "promote --full --reason drill")
    with transaction(engine) as session:  # long ago: what serves is stable, and stays
        session.execute(update(Rollout).values(ended_at=now() - timedelta(hours=1)))
    assert "nothing to abort" in say(engine, "abort")
    assert champion(engine) == names[1]


@pytest.mark.parametrize("first", ["promote --full --reason drill", "pause", "promote", "set-weight 90", "resume"])
def test_argo_4461_1152_abort_always_wins(engine: Engine, names: tuple[str, str], first: str) -> None:
    begin(engine, names[1])
    say(engine, first)
    say(engine, "abort --reason 'it swears'")
    assert champion(engine) == names[0]
    with transaction(engine) as session:
        assert read_routes(session, "customers").challenger is None
        assert registry.by_name(session, names[1]).state == "quarantined"


def test_argo_2929_3078_an_aborted_version_stays_away(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    say(engine, "abort")
    for words in ("resume", "promote", f"start {names[1]}", f"start {names[1]} --queue"):
        say(engine, words)
        assert state(engine) == "aborted"
    with transaction(engine) as session:
        rollout_line.next_in_line(session, "customers")
    assert state(engine) == "aborted"
    say(engine, f"retry {names[1]}")
    say(engine, f"start {names[1]} --preset small")
    assert state(engine) == "running"


def test_argo_1372_flagger_30_a_new_version_never_replaces_a_running_canary(
    engine: Engine, names: tuple[str, str]
) -> None:
    rollout = begin(engine, names[1])
    with transaction(engine) as session:
        make_votes(session, rollout.id, 50, challenger=0.9, control=0.9)
        newer = make_version(session).name
    assert "Promote or abort it first" in say(engine, f"start {newer}")
    assert "waits until" in say(engine, f"start {newer} --queue")
    with transaction(engine) as session:
        current = rollouts.require_current(session, "customers")
        assert (current.id, current.state) == (rollout.id, "running")
        rollouts.abort(session, "customers", actor="test")
        rollout_line.next_in_line(session, "customers")
        following = rollouts.require_current(session, "customers")
        assert rollout_look.look(session, following).figures["challenger"]["votes"] == 0  # evidence is not carried over


def test_argo_1774_995_1416_the_base_is_always_a_target(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    assert "served by base" in say(engine, "undo --to-version base --reason 'stable is bad too'")
    assert champion(engine) == "base"
    with transaction(engine) as session:
        assert read_routes(session, "customers").challenger is None


@pytest.mark.parametrize("gate", ["", "pause"])
def test_argo_2200_nothing_waits_for_ever(engine: Engine, names: tuple[str, str], gate: str) -> None:
    begin(engine, names[1])
    if gate:
        say(engine, gate)
    with transaction(engine) as session:
        session.execute(update(Rollout).values(started_at=now() - timedelta(days=8)))
    held = look_and_act(engine)
    assert held.state == "held"
    with transaction(engine) as session:
        alerts = session.scalars(select(Alert).where(Alert.kind == "rollout.held")).all()
        assert "No decision after 168 hours" in alerts[0].data["reason"]


def test_argo_2200_who_was_told_of_a_hold_is_told_again_when_its_time_is_over(
    engine: Engine, names: tuple[str, str]
) -> None:
    rollout = begin(engine, names[1], replace(QUICK, require_approval=True, holdback=0.0, anchor_margin=0.15))
    with transaction(engine) as session:
        make_votes(session, rollout.id, 300, challenger=0.95, control=0.9)
    assert look_and_act(engine).state == "held"
    with transaction(engine) as session:
        session.execute(update(Rollout).values(started_at=now() - timedelta(days=8)))
    for _ in range(3):
        assert look_and_act(engine).state == "held"
    with transaction(engine) as session:
        told = session.scalars(select(Alert).where(Alert.kind == "rollout.held").order_by(Alert.created_at)).all()
        assert [("No decision after" in one.data["reason"]) for one in told] == [False, True]
        last = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id.desc())).first()
        assert last is not None
        assert (last.verb, last.actor) == ("expire", "controller")


@pytest.mark.parametrize("gate", ["pause", "hold"])
def test_flagger_1801_guards_run_at_a_manual_gate(engine: Engine, names: tuple[str, str], gate: str) -> None:
    plan = replace(QUICK, require_approval=True, holdback=0.0, anchor_margin=0.15)
    rollout = begin(engine, names[1], plan)
    with transaction(engine) as session:
        make_votes(session, rollout.id, 300, challenger=0.95, control=0.9)
    if gate == "pause":
        say(engine, "pause")
    else:
        assert look_and_act(engine).state == "held"  # it waits for a person's word
    with transaction(engine) as session:
        make_votes(session, rollout.id, 600, challenger=0.3, control=0.9, seed=2)
    assert look_and_act(engine).state == "rolled_back"


def test_flagger_1098_1035_1689_1011_no_traffic_is_no_verdict(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    with transaction(engine) as session:
        session.execute(update(Rollout).values(stage_started_at=now() - timedelta(days=3)))
    for _ in range(3):
        assert look_and_act(engine).state == "running"
    assert (look_and_act(engine).stage, look_and_act(engine).weight) == (0, 0.25)
    assert "no data" in say(engine, "explain")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["promote", "set-weight 37", "pause", "resume", "set-mode ab"]), max_size=5))
def test_flagger_189_the_reported_state_is_what_is_routed(engine: Engine, words: list[str]) -> None:
    with transaction(engine) as session:
        rollouts.abort(session, "customers", actor="test")
        make_version(session, champion=True)
        new = make_version(session)
        rollout_line.start(session, new.name, LADDER, actor="test")
    for line in words:
        say(engine, line)
    with transaction(engine) as session:
        view = session.scalars(select(Rollout).where(Rollout.version_id == new.id)).one()
        routes = read_routes(session, "customers")
        if view.state == "promoted":
            assert (routes.champion.name, routes.challenger) == (new.name, None)
            share = 1.0
        else:
            drawn = [choose(routes, str(i), now()).version.name == new.name for i in range(2000)]
            share = sum(drawn) / 2000
        assert share == pytest.approx(view.weight, abs=0.05)


@pytest.mark.parametrize("verb", ["undo", "abort"])
def test_flagger_189_what_was_taken_back_is_not_reported_as_promoted(
    engine: Engine, names: tuple[str, str], verb: str
) -> None:
    begin(engine, names[1])
    say(engine, "promote --full --reason drill")
    answered = say(engine, f"{verb} --reason 'it swears'")
    for text in (say(engine, "status"), say(engine, "explain"), *([answered] if verb == "abort" else [])):
        assert "weight 0%" in text
        assert f"taken back by ana ({verb}); {names[0]} serves: it swears" in text
    door = Door(lambda: engine, "ana", frozenset({"ops"}))
    assert not rollout.main(["status"], standalone_mode=False, obj=door).ok
    say(engine, f"retry {names[1]}")
    begin(engine, names[1])
    assert "taken back" not in say(engine, "status")  # that was another rollout


def test_flagger_1186_427_freeze_where_the_plan_says_so_and_tell_once(engine: Engine, names: tuple[str, str]) -> None:
    rollout = begin(engine, names[1], replace(LADDER, on_guardrail="freeze"))
    with transaction(engine) as session:
        make_votes(session, rollout.id, 400, challenger=0.3, control=0.9, weight=0.25)
    for _ in range(4):
        assert look_and_act(engine).state == "held"
    with transaction(engine) as session:
        kinds = list(session.scalars(select(Alert.kind).order_by(Alert.created_at)))
    assert kinds == ["rollout.started", "rollout.held"]  # four looks, one change of state


def test_flagger_45_1681_an_emergency_is_audited(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    assert "needs a reason" in say(engine, "promote --full")
    say(engine, "promote --full --reason 'prices changed'")
    with transaction(engine) as session:
        last = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id.desc())).first()
        assert last is not None
        assert (last.verb, last.actor, last.reason) == ("promote", "ana", "prices changed")


def test_argo_3078_the_door_has_roles(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    assert "takes the role" in run(engine, "abort", actor="rui", roles={"reviewer"})
    assert state(engine) == "running"


def test_two_operators_at_once_are_told(engine: Engine, names: tuple[str, str]) -> None:
    begin(engine, names[1])
    with transaction(engine) as session:
        stale: Any = rollouts.require_current(session, "customers")
        session.expunge(stale)
    say(engine, "pause")
    with transaction(engine) as session, pytest.raises(Conflict, match="changed meanwhile"):
        apply(session, stale, Change("resume", "rui", "", "running"))
