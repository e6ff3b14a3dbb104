"""The hand on the lever: every verb, the line of one, and who wins when two pull at once."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from factories import LADDER, QUICK, make_answer, make_conversation, make_version, make_votes
from sqlalchemy import Engine, select, update
from together import in_threads

from bot import rollout_line, rollout_look, rollouts
from bot.rollout_changes import Change, apply
from bot.router import read_routes
from core import registry
from core.db import get_engine, transaction
from core.errors import Conflict, NotFound
from core.plans import Audience
from core.rollouts import PRESETS, Decision, Mode, Plan, Stage
from core.tables import AdapterVersion, Alert, Assignment, Context, Event, Rollout, RolloutEvent

BAD, GOOD = {"challenger": 0.4, "control": 0.9}, {"challenger": 0.92, "control": 0.92}


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def champion(engine: Engine) -> str:
    with transaction(engine) as session:
        return make_version(session, champion=True).name


def new_version(engine: Engine) -> str:
    with transaction(engine) as session:
        return make_version(session).name


def begin(engine: Engine, name: str, plan: Plan = LADDER, **facts: object) -> Rollout:
    with transaction(engine) as session:
        return rollout_line.start(session, name, plan, actor="test", **facts)  # type: ignore[arg-type]


def latest(engine: Engine) -> Rollout:
    with transaction(engine) as session:
        return session.scalars(select(Rollout).order_by(Rollout.id.desc())).first()  # type: ignore[return-value]


def vote(engine: Engine, rollout: Rollout, rates: dict[str, float], *, n: int = 400, stage: int = 0) -> None:
    with transaction(engine) as session:
        make_votes(session, rollout.id, n, stage=stage, challenger=rates["challenger"], control=rates["control"])


def look_and_act(engine: Engine) -> Rollout:
    with transaction(engine) as session:
        rollout = rollouts.require_current(session, "customers")
        return rollout_look.act(session, rollout, rollout_look.look(session, rollout))


def verbs(engine: Engine) -> list[str]:
    with transaction(engine) as session:
        return list(session.scalars(select(RolloutEvent.verb).order_by(RolloutEvent.id)))


def test_harm_rolls_back_and_quarantines(engine: Engine, champion: str) -> None:
    name = new_version(engine)
    vote(engine, begin(engine, name), BAD)
    ended = look_and_act(engine)
    assert (ended.state, ended.weight) == ("rolled_back", 0.0)
    assert "Evidence of harm" in str(ended.reason)
    with transaction(engine) as session:
        assert registry.by_name(session, name).state == "quarantined"
        assert registry.champion(session, "customers").name == champion  # type: ignore[union-attr]
        assert read_routes(session, "customers").challenger is None
        assert session.scalars(select(Event.type).order_by(Event.id)).all()[-1] == "rollout.rolled_back"


def test_stage_after_stage_to_all_traffic(engine: Engine, champion: str) -> None:
    name = new_version(engine)
    plan = replace(LADDER, anchor_margin=0.15, holdback=0.0)
    rollout = begin(engine, name, plan)
    vote(engine, rollout, GOOD)
    assert (look_and_act(engine).stage, latest(engine).weight) == (1, 0.5)
    vote(engine, rollout, GOOD, stage=1)
    assert look_and_act(engine).state == "promoted"
    with transaction(engine) as session:
        assert registry.champion(session, "customers").name == name  # type: ignore[union-attr]
        assert session.get_one(Context, "customers").watched_since is not None
    assert verbs(engine) == ["start", "advance", "promote"]


@pytest.mark.parametrize(("audience", "weight"), [("all", 0.6), ("internal", 0.5)])
@pytest.mark.parametrize("by", ["hand", "evidence"])
def test_no_step_takes_back_what_an_operator_gave(
    engine: Engine, champion: str, audience: Audience, weight: float, by: str
) -> None:
    """Within an audience weights rise; to wider circles the plan's own share goes."""
    first = replace(LADDER.stages[0], audience=audience)
    rollout = begin(engine, new_version(engine), replace(LADDER, stages=(first, *LADDER.stages[1:])))
    with transaction(engine) as session:
        rollouts.set_weight(session, "customers", 0.6, actor="test")
    if by == "hand":
        with transaction(engine) as session:
            rollouts.promote(session, "customers", actor="test")
    else:
        vote(engine, rollout, GOOD)
        look_and_act(engine)
    assert (latest(engine).stage, latest(engine).weight) == (1, weight)


@pytest.mark.parametrize(("actor", "state"), [(rollouts.CONTROLLER, "running"), ("drift", "held")])
def test_evidence_lets_go_of_what_evidence_held_and_of_nothing_else(
    engine: Engine, champion: str, actor: str, state: str
) -> None:
    begin(engine, new_version(engine))
    with transaction(engine) as session:
        held = Change("hold", actor, "", "held")
        rollout = apply(session, rollouts.require_current(session, "customers"), held)
        assert rollout_look.act(session, rollout, Decision("resume", ["harm fell back"], {})).state == state


def test_waiting_writes_figures_and_nothing_else(engine: Engine, champion: str) -> None:
    before = begin(engine, new_version(engine))
    look_and_act(engine)
    after = latest(engine)
    assert (after.row_version, after.state, verbs(engine)) == (before.row_version, "running", ["start"])
    assert after.evidence["harm"] == 1.0


@pytest.mark.parametrize("state", ["running", "paused", "held"])
def test_guards_run_in_every_state(engine: Engine, champion: str, state: str) -> None:
    rollout = begin(engine, new_version(engine))
    with transaction(engine) as session:
        current = rollouts.require_current(session, "customers")
        if state != "running":
            apply(session, current, Change("set", "test", "", state))
    vote(engine, rollout, BAD)
    assert look_and_act(engine).state == "rolled_back"


def test_what_stands_alone_does_not_come_back(engine: Engine, champion: str) -> None:
    with pytest.raises(Conflict, match="already serves"):
        begin(engine, champion)
    with pytest.raises(NotFound):
        begin(engine, "customers-v99")
    first = new_version(engine)
    begin(engine, first)
    with pytest.raises(Conflict, match="A rollout is running"):
        begin(engine, new_version(engine))
    with pytest.raises(Conflict, match="rolling out already"):
        begin(engine, first, queue=True)
    with transaction(engine) as session, pytest.raises(Conflict, match="not quarantined"):
        rollouts.retry(session, first, actor="test")
    with transaction(engine) as session, pytest.raises(Conflict, match="without votes"):
        rollouts.set_weight(session, "customers", 1.0, actor="test")


class TestTheLine:
    def test_the_newest_waits_and_the_running_one_stays(self, engine: Engine, champion: str) -> None:
        running, older, newer = (new_version(engine) for _ in range(3))
        first = begin(engine, running)
        begin(engine, older, queue=True)
        begin(engine, newer, queue=True)
        with transaction(engine) as session:
            states = dict(session.execute(select(AdapterVersion.name, Rollout.state).join(
                Rollout, Rollout.version_id == AdapterVersion.id)).all())  # fmt: skip
            rollout_line.next_in_line(session, "customers")  # nothing happens while one runs
        assert states == {running: "running", older: "superseded", newer: "waiting"}
        assert latest(engine).weight == 0.0
        with transaction(engine) as session:
            assert rollouts.require_current(session, "customers").id == first.id
            rollouts.abort(session, "customers", actor="test")
            rollout_line.next_in_line(session, "customers")
            current = rollouts.require_current(session, "customers")
            assert (current.weight, current.evidence, current.salt != first.salt) == (0.25, {}, True)
            assert registry.by_name(session, newer).id == current.version_id
        assert verbs(engine) == ["start", "queue", "supersede", "queue", "abort", "start"]

    def test_between_two_rollouts_the_turn_is_of_who_waits(self, engine: Engine, champion: str) -> None:
        """What was started in these seconds began ahead of it, and it stayed waiting."""
        running, waits, newer = (new_version(engine) for _ in range(3))
        begin(engine, running)
        begin(engine, waits, queue=True)
        with transaction(engine) as session:
            rollouts.abort(session, "customers", actor="test")
        with pytest.raises(Conflict, match=f"the turn of {waits}.*begins within seconds") as told:
            begin(engine, newer)
        assert f"npllm rollout abort {waits}" in told.value.next_step
        with transaction(engine) as session:
            rollout_line.next_in_line(session, "customers")
            assert rollouts.require_current(session, "customers").version_id == registry.by_name(session, waits).id

    @pytest.mark.parametrize("same", [False, True])
    def test_between_two_rollouts_queue_and_who_waits_itself_begin_at_once(
        self, engine: Engine, champion: str, same: bool
    ) -> None:
        waits, newer = new_version(engine), new_version(engine)
        begin(engine, new_version(engine))
        begin(engine, waits, queue=True)
        with transaction(engine) as session:
            rollouts.abort(session, "customers", actor="test")
        begun = begin(engine, waits) if same else begin(engine, newer, queue=True)
        assert (begun.state, begun.weight) == ("running", 0.25)
        with transaction(engine) as session:
            assert rollouts.waiting(session, "customers") is None
        assert verbs(engine)[-2:] == ["supersede", "start"]

    def test_it_is_measured_against_the_champion_of_its_own_day(self, engine: Engine, champion: str) -> None:
        running, next_one = new_version(engine), new_version(engine)
        begin(engine, running)
        begin(engine, next_one, queue=True)
        with transaction(engine) as session:
            rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
            session.execute(update(Rollout).where(Rollout.state == "waiting").values(slow_ms=900.0))
            conversation = make_conversation(session)
            for _ in range(20):
                make_answer(session, conversation, version=running, latency_ms=300.0)
            rollout_line.next_in_line(session, "customers")
            current = rollouts.require_current(session, "customers")
            assert current.against_id == registry.by_name(session, running).id
            assert current.slow_ms == 300.0

    def test_who_was_withdrawn_meanwhile_does_not_begin(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine))
        waiting = new_version(engine)
        begin(engine, waiting, queue=True)
        with transaction(engine) as session:
            registry.by_name(session, waiting).state = "retired"
            rollouts.abort(session, "customers", actor="test")
            rollout_line.next_in_line(session, "customers")
            assert rollouts.current(session, "customers") is None
        assert latest(engine).reason == f"{waiting} is retired"


class TestModes:
    def test_halves(self, engine: Engine, champion: str) -> None:
        rollout = begin(engine, new_version(engine))
        vote(engine, rollout, GOOD, n=40)
        with transaction(engine) as session:
            changed = rollouts.set_mode(session, "customers", "ab", actor="test")
            assert (changed.mode, changed.weight, changed.stage) == ("ab", 0.5, 1)
            assert rollout_look.look(session, changed).figures["challenger"]["votes"] > 0  # nothing is forgotten
        with transaction(engine) as session:
            rollouts.set_mode(session, "customers", "canary", actor="test")
        assert (latest(engine).mode, latest(engine).stage) == ("canary", 2)

    @pytest.mark.parametrize("detour", [("ab",), ("blue-green",), ("ab", "blue-green"), ("canary", "ab")])
    def test_canary_comes_back_to_the_plan_that_was_given(
        self, engine: Engine, champion: str, detour: tuple[Mode, ...]
    ) -> None:
        steps = [
            Stage(weight, 40, 60.0, margin, approval=True)
            for weight, margin in ((0.02, 0.2), (0.07, 0.12), (0.3, 0.04))
        ]
        begin(engine, new_version(engine), Plan("my own", tuple(steps)))
        with transaction(engine) as session:
            rollouts.promote(session, "customers", actor="test")
            rollouts.set_weight(session, "customers", 0.11, actor="test")
        for mode in (*detour, "canary"):
            with transaction(engine) as session:
                rollouts.set_mode(session, "customers", mode, actor="test")
        back = latest(engine)
        assert (back.mode, back.weight) == ("canary", 0.11)
        plan = Plan.from_json(back.plan)
        assert plan.stages[back.stage :] == (replace(steps[1], weight=0.11), steps[2])
        with transaction(engine) as session:
            assert rollouts.promote(session, "customers", actor="test").weight == 0.3

    @pytest.mark.parametrize("plan", [
        LADDER, Plan("halves", (Stage(0.5, 30, 0.0, 0.1),), mode="ab"),
        Plan("switch", (Stage(1.0, 30, 0.0, 0.1),), mode="blue-green"),
    ])  # fmt: skip
    def test_its_own_mode_changes_nothing(self, engine: Engine, champion: str, plan: Plan) -> None:
        """The step began anew: its votes no longer counted for it, and blue-green gave its traffic back."""
        begin(engine, new_version(engine), plan)
        with transaction(engine) as session:
            session.execute(update(Rollout).values(weight=plan.stages[0].weight))
        before = latest(engine)
        with transaction(engine) as session:
            rollouts.set_mode(session, "customers", plan.mode, actor="test")
        after = latest(engine)
        assert (after.stage, after.weight, after.row_version) == (before.stage, before.weight, before.row_version)

    @pytest.mark.parametrize("mode", ["ab", "blue-green", "canary"])
    def test_an_operators_pause_stays(self, engine: Engine, champion: str, mode: Mode) -> None:
        begin(engine, new_version(engine))
        with transaction(engine) as session:
            rollouts.pause(session, "customers", actor="test")
            assert rollouts.set_weight(session, "customers", 0.3, actor="test").state == "paused"
            assert rollouts.set_mode(session, "customers", mode, actor="test").state == "paused"
            if mode != "blue-green":  # as in Argo, promote ends it
                assert rollouts.promote(session, "customers", actor="test").state in ("running", "promoted")

    def test_who_began_otherwise_climbs_the_ladder_for_its_volume(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine), Plan("halves", (Stage(0.1, 30, 0.0, 0.1),), mode="ab"))
        with transaction(engine) as session:
            rollouts.set_mode(session, "customers", "canary", actor="test")
        assert Plan.from_json(latest(engine).plan).stages[1:] == PRESETS["medium"].stages

    def test_blue_green_begins_in_the_shadow(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine), Plan("switch", (Stage(1.0, 30, 0.0, 0.1),), mode="blue-green"))
        assert latest(engine).weight == 0.0
        with transaction(engine) as session, pytest.raises(Conflict, match="no shares"):
            rollouts.set_weight(session, "customers", 0.4, actor="test")  # it would serve before its checks
        with transaction(engine) as session, pytest.raises(Conflict, match="checks are not over"):
            rollouts.promote(session, "customers", actor="test")
        with transaction(engine) as session:
            assert read_routes(session, "customers", holdback=0.0).share == 0.05  # whom else to compare with?
            done = rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
            assert done.state == "promoted"


class TestBackwards:
    def test_undo_names_the_version_before(self, engine: Engine, champion: str) -> None:
        name = new_version(engine)
        begin(engine, name)
        with transaction(engine) as session:
            rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test", reason="worse") == champion
            assert registry.by_name(session, name).reasons == ["undone by test: worse"]
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test", to="base") == "base"
        with transaction(engine) as session, pytest.raises(NotFound, match="frozen base already"):
            rollouts.undo(session, "customers", actor="test")

    def test_abort_right_after_a_promotion_goes_to_the_champion_of_before(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine), against="base")
        with transaction(engine) as session:
            rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
        with transaction(engine) as session:
            rollouts.abort(session, "customers", actor="test")
            assert registry.champion(session, "customers").name == champion  # type: ignore[union-attr]

    def test_a_quarantined_version_is_no_target(self, engine: Engine, champion: str) -> None:
        name = new_version(engine)
        begin(engine, name)
        with transaction(engine) as session:
            rollouts.abort(session, "customers", actor="test")
        with transaction(engine) as session, pytest.raises(Conflict, match="quarantined"):
            rollouts.undo(session, "customers", actor="test", to=name)

    def test_a_version_that_never_earned_traffic_is_not_gone_back_to(self, engine: Engine, champion: str) -> None:
        """Superseded in the line, or never begun: the number before the champion's is not the champion before."""
        for _ in range(2):
            unproved = new_version(engine)
            begin(engine, new_version(engine))
            with transaction(engine) as session:
                rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
        served = []
        with transaction(engine) as session:
            for _ in range(3):
                served.append(rollouts.undo(session, "customers", actor="drift"))
            assert served == ["customers-v3", champion, "base"]
            assert registry.by_name(session, unproved).state == "registered"

    @pytest.mark.parametrize(("facts", "why"), [
        ({"context": "employees"}, "a version of 'employees', not of 'customers'"),
        ({"state": "retired"}, "is retired and is not served"),
        ({"state": "refused"}, "is refused and is not served"),
    ])  # fmt: skip
    def test_only_a_version_that_may_serve_here_is_a_target(
        self, engine: Engine, champion: str, facts: dict[str, str], why: str
    ) -> None:
        with transaction(engine) as session:
            name = make_version(session, **facts).name  # type: ignore[arg-type]
        with transaction(engine) as session, pytest.raises(Conflict, match=why):
            rollouts.undo(session, "customers", actor="test", to=name)
        with pytest.raises(Conflict, match=why):
            begin(engine, new_version(engine), against=name)

    def test_undo_while_a_canary_runs_takes_the_canary_back_and_the_champion_stays(
        self, engine: Engine, champion: str
    ) -> None:
        begin(engine, new_version(engine))
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test") == champion
            assert registry.by_name(session, champion).state == "registered"
        assert latest(engine).state == "aborted"
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test") == "base"

    def test_undo_to_a_version_takes_canary_and_champion_back(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine))
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test", to="base") == "base"
            assert registry.by_name(session, champion).state == "quarantined"
        assert latest(engine).state == "aborted"

    def test_undo_takes_a_challenger_back_that_nothing_came_before(self, engine: Engine) -> None:
        begin(engine, new_version(engine))
        with transaction(engine) as session:
            assert rollouts.undo(session, "customers", actor="test") == "base"
        assert latest(engine).state == "aborted"

    def test_who_serves_already_is_no_challenger(self, engine: Engine, champion: str) -> None:
        """Its abort would put the champion itself out of service."""
        with pytest.raises(Conflict, match="already serves"):
            begin(engine, champion, against="base")


class TestTogether:
    """Fault test 17 in short."""

    def test_two_controllers_make_one_change(self, engine: Engine, champion: str) -> None:
        rollout = begin(engine, new_version(engine), QUICK)
        vote(engine, rollout, BAD)

        def controller() -> str:
            try:
                return look_and_act(engine).state
            except (Conflict, NotFound):
                return "second"

        found = in_threads(lambda _: controller(), 6)
        assert found.count("rolled_back") == 1
        assert verbs(engine) == ["start", "rollback"]

    def test_abort_wins_over_everything_at_once(self, engine: Engine, champion: str) -> None:
        for _ in range(5):
            name = new_version(engine)
            begin(engine, name)

            def act(verb: Callable[..., object], **facts: object) -> Callable[[], str]:
                def run() -> str:
                    try:
                        with transaction(engine) as session:
                            verb(session, "customers", actor="test", **facts)
                        return "done"
                    except (Conflict, NotFound) as error:
                        return str(error)

                return run

            at_once = [
                act(rollouts.abort), act(rollouts.pause), act(rollouts.promote, full=True, reason="drill"),
                act(rollouts.set_weight, weight=0.7), act(rollouts.abort),
            ]  # fmt: skip
            in_threads(lambda number, verbs=at_once: verbs[number](), len(at_once))
            # Whatever came first: nobody is served by the version, and it does not come back.
            with transaction(engine) as session:
                assert read_routes(session, "customers").challenger is None
                assert registry.champion(session, "customers").name == champion  # type: ignore[union-attr]
                assert registry.by_name(session, name).state == "quarantined"

    @pytest.mark.parametrize("queue", [False, True])
    def test_of_all_that_begin_at_once_each_is_told(self, engine: Engine, champion: str, queue: bool) -> None:
        names = [new_version(engine) for _ in range(6)]

        def start(name: str) -> str:
            try:
                return begin(engine, name, queue=queue).state
            except Conflict as error:
                return error.message

        if queue:
            begin(engine, new_version(engine))
        found = in_threads(lambda number: start(names[number]), len(names))
        if queue:
            assert found == ["waiting"] * 6
        else:
            assert sorted(found) == ["A rollout is running in 'customers'."] * 5 + ["running"]

    def test_no_state_without_an_audit_row(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine))
        with transaction(engine) as session:
            rollouts.pause(session, "customers", actor="test")
            rollouts.resume(session, "customers", actor="test")
            rollouts.set_weight(session, "customers", 0.4, actor="test")
            rollouts.promote(session, "customers", actor="test")
            rollouts.set_mode(session, "customers", "ab", actor="test")
            rollouts.abort(session, "customers", actor="test")
        with transaction(engine) as session:
            trail = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id)).all()
            rollout = session.scalars(select(Rollout)).one()
            assert rollout.row_version == len(trail)
            for before, after in zip(trail, trail[1:], strict=False):
                assert {key: before.after[key] for key in after.before} == after.before
            assert trail[-1].after == {"state": rollout.state, "stage": rollout.stage, "weight": rollout.weight}

    def test_killed_in_the_middle_nothing_is_half_done(self, engine: Engine, champion: str) -> None:
        begin(engine, new_version(engine))

        class Killed(Exception):
            pass

        def promote_and_die() -> None:
            with transaction(engine) as session:
                rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
                raise Killed

        with pytest.raises(Killed):
            promote_and_die()
        assert latest(engine).state == "running"
        assert verbs(engine) == ["start"]
        with transaction(engine) as session:
            assert registry.champion(session, "customers").name == champion  # type: ignore[union-attr]
            assert [alert.kind for alert in session.scalars(select(Alert))] == ["rollout.started"]


def test_who_waits_to_be_compared_with_what_was_taken_back_leaves_the_line(engine: Engine, champion: str) -> None:
    control, waits = new_version(engine), new_version(engine)
    begin(engine, new_version(engine))
    with transaction(engine) as session:
        rollout_line.start(session, waits, LADDER, actor="test", against=control, queue=True)
        registry.by_name(session, control).state = "quarantined"
        rollouts.abort(session, "customers", actor="test")
    with transaction(engine) as session:
        rollout_line.next_in_line(session, "customers")
        assert rollouts.waiting(session, "customers") is None
        told = session.scalars(select(Alert).order_by(Alert.created_at.desc(), Alert.id.desc())).first()
        assert told is not None
        assert (told.data["version"], told.data["state"]) == (waits, "superseded")
        assert f"{control} is quarantined" in told.data["reason"]


@pytest.mark.parametrize(("share", "state"), [(0.0, "promoted"), (0.05, "running")])
def test_where_nobody_is_held_back_nobody_is_waited_for(
    engine: Engine, champion: str, share: float, state: str
) -> None:
    rollout = begin(engine, new_version(engine), QUICK)
    with transaction(engine) as session:
        make_votes(session, rollout.id, 500, **GOOD)
        session.execute(update(Assignment).values(holdback=share))
    assert look_and_act(engine).state == state


def test_what_was_promoted_a_moment_ago_is_taken_back_by_undo_after_the_rollout_that_followed(
    engine: Engine, champion: str
) -> None:
    promoted, following = new_version(engine), new_version(engine)
    begin(engine, promoted)
    with transaction(engine) as session:
        rollouts.promote(session, "customers", actor="test", full=True, reason="drill")
    begin(engine, following)
    with transaction(engine) as session, pytest.raises(Conflict, match="was promoted") as told:
        rollouts.abort_version(session, promoted, actor="test")
    assert "npllm rollout undo" in told.value.next_step
    with transaction(engine) as session:
        served = [rollouts.undo(session, "customers", actor="test") for _ in range(2)]
        assert served == [promoted, champion]
        assert rollouts.current(session, "customers") is None
