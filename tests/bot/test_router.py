"""Who gets which version: pure choices, routes as the database has them, and turns of real conversations."""

import uuid
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from factories import make_customer, make_version
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine, update
from sqlalchemy.orm import Session

from bot import rollout_line, rollouts
from bot.router import BASE, Router, Routes, Served, choose, read_routes, standing_version
from core.db import get_engine, transaction
from core.rollouts import PRESETS, Mode, Plan, Stage
from core.tables import AdapterVersion, Context, Rollout

AT = datetime(2026, 11, 27, 12, tzinfo=UTC)
NEW, OLD, FIRST = (Served(uuid.uuid4(), name) for name in ("customers-v3", "customers-v2", "customers-v1"))
PLAN = Plan("plan", (Stage(0.25, 30, 0.0, 0.15), Stage(0.5, 30, 0.0, 0.15)))
ROUTES = Routes(
    champion=OLD, rollout_id=uuid.uuid4(), challenger=NEW, control=OLD, weight=0.25, salt="salt", plan=PLAN,
    holdback=FIRST, share=0.05, context="customers",
)  # fmt: skip
PEOPLE = [str(uuid.UUID(int=i)) for i in range(20_000)]


class TestChoose:
    def test_shares_are_those_that_were_asked_for(self) -> None:
        arms = Counter(choose(ROUTES, unit, AT).arm for unit in PEOPLE)
        n = len(PEOPLE)
        for arm, share in {"holdback": 0.05, "challenger": 0.95 * 0.25, "champion": 0.95 * 0.75}.items():
            assert abs(arms[arm] / n - share) < 4 * (share * (1 - share) / n) ** 0.5, arm  # type: ignore[index]

    def test_each_arm_is_served_by_its_version(self) -> None:
        served = {(choose(ROUTES, unit, AT).arm, choose(ROUTES, unit, AT).version.name) for unit in PEOPLE[:1000]}
        assert served == {("holdback", FIRST.name), ("challenger", NEW.name), ("champion", OLD.name)}

    def test_the_chain_ends_at_the_base(self) -> None:
        for unit in PEOPLE[:300]:
            route = choose(ROUTES, unit, AT)
            if route.arm == "challenger":
                assert route.fallbacks == (OLD, BASE)  # the champion answers again what a canary could not
            elif route.arm == "holdback":
                assert route.fallbacks == (OLD, BASE)
            else:
                assert route.fallbacks == (BASE,)

    @given(st.uuids(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
    def test_nobody_leaves_the_challenger_when_the_weight_rises(self, unit: uuid.UUID, one: float, two: float) -> None:
        low, high = (replace(ROUTES, weight=weight) for weight in sorted((one, two)))
        if choose(low, str(unit), AT).arm == "challenger":
            assert choose(high, str(unit), AT).arm == "challenger"
        assert choose(high, str(unit), AT).probability == max(one, two)

    def test_a_person_keeps_the_arm_for_a_day_and_not_for_ever(self) -> None:
        def arms(at: datetime) -> list[str]:
            return [choose(ROUTES, unit, at).arm for unit in PEOPLE[:500]]

        assert arms(AT) == arms(AT + timedelta(hours=11))
        assert arms(AT) != arms(AT + timedelta(days=1))

    def test_or_for_the_stage(self) -> None:
        sticky = replace(ROUTES, plan=replace(PLAN, epoch="stage"))
        for unit in PEOPLE[:500]:
            assert choose(sticky, unit, AT).arm == choose(sticky, unit, AT + timedelta(days=9)).arm

    def test_who_is_held_back_does_not_depend_on_the_rollout(self) -> None:
        """The holdback is the context's: a new rollout does not draw other people."""
        other = replace(ROUTES, rollout_id=uuid.uuid4(), salt="another", weight=0.5)
        for unit in PEOPLE[:2000]:
            held = [choose(routes, unit, AT).arm == "holdback" for routes in (ROUTES, other)]
            assert held[0] == held[1]

    def test_audiences_are_circles(self) -> None:
        for audience, inside in {
            "internal": {"internal"}, "beta": {"internal", "beta"}, "all": {"internal", "beta", "all"},
        }.items():  # fmt: skip
            stages = (replace(PLAN.stages[0], audience=audience),)  # type: ignore[arg-type]
            routes = replace(ROUTES, plan=replace(PLAN, stages=stages), weight=0.99)
            for circle in ("internal", "beta", "all"):
                found = [choose(routes, unit, AT, circle) for unit in PEOPLE[:200]]
                if circle in inside:
                    assert "challenger" in {route.arm for route in found}
                else:  # they keep the champion, and are no evidence
                    assert {(route.version, route.rollout_id) for route in found} == {(OLD, None)}

    def test_who_is_outside_keeps_the_champion_whatever_the_challenger_is_compared_with(self) -> None:
        stages = (replace(PLAN.stages[0], audience="internal"),)
        routes = replace(ROUTES, control=BASE, control_arm="base", plan=replace(PLAN, stages=stages))
        assert {choose(routes, unit, AT, "all").version for unit in PEOPLE[:200]} == {OLD}

    def test_without_a_rollout_the_champion_serves(self) -> None:
        assert choose(Routes(OLD), "unit", AT).version == OLD
        assert choose(Routes(OLD), "unit", AT).arm == "champion"
        assert choose(Routes(OLD), "unit", AT).rollout_id is None
        assert (choose(Routes(BASE), "unit", AT).arm, choose(Routes(BASE), "unit", AT).fallbacks) == ("base", ())

    def test_a_promoted_version_is_watched_against_the_holdback(self) -> None:
        routes = Routes(OLD, rollout_id=uuid.uuid4(), holdback=FIRST, share=0.1, stage=2, context="customers")
        found = [choose(routes, unit, AT) for unit in PEOPLE[:2000]]
        assert {(route.arm, route.version.name) for route in found} == {
            ("champion", OLD.name), ("holdback", FIRST.name)
        }  # fmt: skip
        assert {(route.rollout_id, route.stage, route.epoch) for route in found} == {
            (routes.rollout_id, 2, "2026-11-27")
        }  # fmt: skip

    def test_the_coin_asks_both_arms_alike(self) -> None:
        routes = replace(ROUTES, weight=0.5, solicit=0.08, share=0.0)
        asked: dict[str, list[bool]] = {"challenger": [], "champion": []}
        for unit in PEOPLE:
            route = choose(routes, unit, AT)
            asked[route.arm].append(route.solicited)
        for arm in asked.values():
            assert 0.07 < sum(arm) / len(arm) < 0.09


class TestRoutesOfTheDatabase:
    @pytest.fixture
    def engine(self, database_url: str) -> Engine:
        return get_engine(database_url)

    def test_no_version_no_rollout(self, engine: Engine) -> None:
        with transaction(engine) as session:
            assert read_routes(session, "customers", holdback=0.05) == Routes(BASE, context="customers")

    def test_a_rollout_against_a_champion_is_held_against_the_base(self, engine: Engine) -> None:
        with transaction(engine) as session:
            champion, new = make_version(session, champion=True), make_version(session)
            rollout = rollout_line.start(session, new.name, PRESETS["small"], actor="test")
            routes = read_routes(session, "customers", holdback=0.05, solicit=0.08)
        assert routes.champion.name == champion.name
        assert routes.challenger is not None
        assert routes.challenger.name == new.name
        assert (routes.rollout_id, routes.weight, routes.salt) == (rollout.id, 0.5, rollout.salt)
        assert (routes.control_arm, routes.holdback, routes.share, routes.solicit) == ("champion", BASE, 0.05, 0.08)

    def test_the_first_version_where_the_base_is_not_fit(self, engine: Engine) -> None:
        with transaction(engine) as session:
            first = make_version(session)
            first.source = "starter"
            make_version(session, champion=True)
            third = make_version(session)
            session.flush()
            assert standing_version(session, "customers").name == first.name
            rollout_line.start(session, third.name, PRESETS["small"], actor="test")
            routes = read_routes(session, "customers", holdback=0.05)
            assert routes.holdback is not None
            assert routes.holdback.name == first.name
            session.get_one(Context, "customers").overrides = {"holdback": "base"}
            session.flush()
            assert standing_version(session, "customers") == BASE

    def test_nobody_is_held_back_where_the_control_is_the_fixed_point(self, engine: Engine) -> None:
        with transaction(engine) as session:
            first = make_version(session, champion=True)
            first.source = "starter"
            new = make_version(session)
            rollout_line.start(session, new.name, PRESETS["small"], actor="test")
            assert read_routes(session, "customers", holdback=0.05).share == 0.0

    def test_nor_against_the_base(self, engine: Engine) -> None:
        with transaction(engine) as session:
            make_version(session, champion=True)
            new = make_version(session)
            rollout_line.start(session, new.name, PRESETS["small"], actor="test", against="base")
            routes = read_routes(session, "customers", holdback=0.05)
            assert (routes.control, routes.control_arm, routes.share) == (BASE, "base", 0.0)

    @pytest.mark.parametrize("mode", ["canary", "blue-green"])
    def test_who_is_held_back_on_a_day_stays_so_outside_a_rollout(self, engine: Engine, mode: Mode) -> None:
        """Outside its audience, or before blue-green's checks: nothing changes for them, and they are no evidence."""
        canary = (Stage(0.5, 30, 0.0, 0.15, audience="internal"), Stage(0.5, 30, 0.0, 0.15))
        plan = Plan("circles", (Stage(1.0, 30, 0.0, 0.15),) if mode == "blue-green" else canary, mode=mode)
        with transaction(engine) as session:
            make_version(session, champion=True)
            seen = [read_routes(session, "customers", holdback=0.05)]
            rollout_line.start(session, make_version(session).name, plan, actor="test")
            seen.append(read_routes(session, "customers", holdback=0.05))
            if mode == "canary":  # to all: the same people are held back there, and counted
                rollouts.promote(session, "customers", actor="test")
                seen.append(read_routes(session, "customers", holdback=0.05))
        before, *during = [{unit for unit in PEOPLE[:2000] if choose(r, unit, AT).arm == "holdback"} for r in seen]
        assert 60 < len(before) < 140
        assert all(held == before for held in during)
        assert {choose(seen[1], unit, AT).rollout_id for unit in PEOPLE[:2000]} == {None}

    def test_blue_green_holds_back_on_the_control(self, engine: Engine) -> None:
        plan = Plan("switch", (Stage(1.0, 30, 0.0, 0.1),), mode="blue-green")
        with transaction(engine) as session:
            champion, new = make_version(session, champion=True), make_version(session)
            rollout_line.start(session, new.name, plan, actor="test")
            session.execute(update(Rollout).values(weight=1.0))
            routes = read_routes(session, "customers", holdback=0.05)
        arms = Counter(choose(routes, unit, AT).version.name for unit in PEOPLE[:2000])
        assert set(arms) == {champion.name, new.name}
        assert 0.03 < arms[champion.name] / 2000 < 0.07

    def test_a_challenger_that_may_not_serve_gets_nothing(self, engine: Engine) -> None:
        with transaction(engine) as session:
            make_version(session, champion=True)
            new = make_version(session)
            rollout_line.start(session, new.name, PRESETS["small"], actor="test")
            session.execute(update(AdapterVersion).where(AdapterVersion.id == new.id).values(state="quarantined"))
            assert read_routes(session, "customers").challenger is None

    def test_an_abort_is_seen_within_a_second(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        clock = [100.0]
        monkeypatch.setattr("bot.router.time.monotonic", lambda: clock[0])
        with transaction(engine) as session:
            make_version(session, champion=True)
            rollout_line.start(session, make_version(session).name, PRESETS["small"], actor="test")
        router = Router(engine, "America/Sao_Paulo")
        assert any(router.route("customers", unit).arm == "challenger" for unit in PEOPLE[:100])
        with transaction(engine) as session:
            rollouts.abort(session, "customers", actor="test")
        clock[0] += 1.01
        assert not any(router.route("customers", unit).arm == "challenger" for unit in PEOPLE[:100])

    def test_one_query_a_second(self, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
        reads: list[Any] = []

        def read(session: Session, context: str, **_: Any) -> Routes:
            reads.append(context)
            return Routes(BASE)

        monkeypatch.setattr("bot.router.read_routes", read)
        router = Router(engine, "America/Sao_Paulo")
        for _ in range(50):
            router.route("customers", "unit")
        assert reads == ["customers"]
        router.forget()
        router.route("customers", "unit")
        assert reads == ["customers", "customers"]


def test_employees_are_internal(database_url: str) -> None:
    from bot.people import audience_of

    with transaction(get_engine(database_url)) as session:
        customer = make_customer(session, audience="beta")
        assert audience_of(customer, "slack") == "internal"
        assert audience_of(customer, "meta") == "beta"
