"""Which version answers this turn: the context's champion, unless a rollout draws the challenger or the holdback.

The route is read from Postgres at most once a second and context, so an abort is obeyed within two seconds
without a query per turn. A small share of people is held back on a version that never moves: what every challenger
is measured against in the end, and what tells a fall of the champion from a change of the world.
"""

import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from core import registry
from core.db import transaction
from core.plans import Audience
from core.rollouts import ACTIVE, Anchor, Arm, Plan, assign, epoch_of, held_back, solicits
from core.tables import AdapterVersion, Rollout

FRESH = 1.0  # seconds
BLUE_GREEN_HOLDBACK = 0.05  # where nobody else is held back: without them there is nothing to compare with
CIRCLES: tuple[Audience, ...] = ("internal", "beta", "all")


@dataclass(frozen=True)
class Served:
    """A version as the model server knows it; the frozen base has no id."""

    id: uuid.UUID | None
    name: str | None
    location: str = ""
    sha256: str = ""


BASE = Served(None, None)


@dataclass(frozen=True)
class Routes:
    """How a context's traffic is split now.

    Attributes:
        rollout_id: the active rollout; without one, the ended rollout that the champion came from, whose units go on
            being counted (against the holdback) as the watch over it.
        challenger: of an active rollout only.
        holdback: who serves the held back; None where nobody is held back.
        share: of people who are.
        without: as it was before the rollout, for whoever takes no part in it.
        slow_ms: beyond this a reply counts as slow.
    """

    champion: Served
    rollout_id: uuid.UUID | None = None
    challenger: Served | None = None
    control: Served | None = None
    control_arm: Arm = "champion"
    weight: float = 0.0
    salt: str = ""
    stage: int = 0
    plan: Plan | None = None
    holdback: Served | None = None
    share: float = 0.0
    without: "Routes | None" = None
    context: str = ""
    slow_ms: float | None = None
    solicit: float = 0.0


@dataclass(frozen=True)
class Route:
    """The decision for one turn, as it is logged on the message.

    Attributes:
        probability: of the challenger among those not held back, at assignment; 0 outside a rollout.
        holdback: share of people held back at assignment.
        rollout_id: whose unit this is; None where the turn is no evidence.
        fallbacks: who answers if `version` fails, in order; the frozen base last.
        solicited: this person is asked for a rating in this epoch.
    """

    version: Served
    arm: Arm
    probability: float
    rollout_id: uuid.UUID | None
    epoch: str
    stage: int
    fallbacks: tuple[Served, ...]
    holdback: float = 0.0
    slow_ms: float | None = None
    solicited: bool = False


class Router:
    """Caches each context's routes for `FRESH` seconds."""

    def __init__(self, engine: Engine, timezone: str, *, holdback: float = 0.0, solicit: float = 0.0) -> None:
        self.engine = engine
        self.zone = ZoneInfo(timezone)
        self.holdback = holdback
        self.solicit = solicit
        self._routes: dict[str, tuple[float, Routes]] = {}
        self._lock = threading.Lock()

    def route(self, context: str, unit: str, audience: Audience = "all") -> Route:
        """The version for a unit (a customer, and the circle it belongs to) now."""
        return choose(self.current(context), unit, datetime.now(self.zone), audience)

    def forget(self) -> None:
        """Read afresh at the next turn."""
        with self._lock:
            self._routes.clear()

    def current(self, context: str) -> Routes:
        """The context's routes, at most a second old."""
        found = self._routes.get(context)
        if found is not None and time.monotonic() - found[0] < FRESH:
            return found[1]
        with transaction(self.engine) as session:
            routes = read_routes(session, context, holdback=self.holdback, solicit=self.solicit)
        with self._lock:
            self._routes[context] = (time.monotonic(), routes)
        return routes


def choose(routes: Routes, unit: str, at: datetime, audience: Audience = "all") -> Route:
    """Pure: the route of a unit under these routes."""
    plan, today = routes.plan, f"{at:%Y-%m-%d}"
    if routes.challenger is None or plan is None:
        return _outside(routes, unit, today)
    outside = CIRCLES.index(audience) > CIRCLES.index(plan.stages[routes.stage].audience)
    if outside or routes.weight == 0:  # blue-green, before its checks: everybody is
        return _outside(routes.without or Routes(routes.champion), unit, today, counted=False)
    epoch, control = epoch_of(plan, routes.stage, at), routes.control or BASE
    arm, probability = assign(
        salt=routes.salt, unit=unit, epoch=epoch, weight=routes.weight, control=routes.control_arm
    )
    version = routes.challenger if arm == "challenger" else control
    if (holdback := _holds_back(routes, unit, epoch)) is not None:
        arm, version = "holdback", holdback
    return Route(
        version=version,
        arm=arm,
        probability=probability,
        rollout_id=routes.rollout_id,
        epoch=epoch,
        stage=routes.stage,
        fallbacks=_chain(version, control, routes.champion),
        holdback=routes.share if routes.holdback else 0.0,
        slow_ms=routes.slow_ms,
        solicited=solicits(salt=routes.salt, unit=unit, epoch=epoch, share=routes.solicit),
    )


def _holds_back(routes: Routes, unit: str, epoch: str) -> Served | None:
    """Who serves the unit where it is held back; None where it is not."""
    if routes.holdback is None or not held_back(salt=routes.context, unit=unit, epoch=epoch, share=routes.share):
        return None
    return routes.holdback


def _outside(routes: Routes, unit: str, today: str, *, counted: bool = True) -> Route:
    """No rollout, or none for this person: the champion answers, and the held back of the day stay where they are."""
    watched = counted and routes.rollout_id is not None and routes.holdback is not None
    version, arm = routes.champion, _plain_arm(routes.champion)
    if (holdback := _holds_back(routes, unit, today)) is not None:
        version, arm = holdback, "holdback"
    return Route(
        version=version,
        arm=arm,
        probability=1.0 if watched else 0.0,
        rollout_id=routes.rollout_id if watched else None,
        epoch=today if watched else "",
        stage=routes.stage if watched else 0,
        fallbacks=_chain(version, routes.champion),
        holdback=routes.share if watched else 0.0,
        slow_ms=routes.slow_ms if watched else None,
    )


def _plain_arm(champion: Served) -> Arm:
    return "champion" if champion.id else "base"


def _chain(version: Served, *others: Served) -> tuple[Served, ...]:
    """Who answers if `version` fails; the base last."""
    return tuple(dict.fromkeys(other for other in (*others, BASE) if other != version))


def read_routes(session: Session, context: str, *, holdback: float = 0.0, solicit: float = 0.0) -> Routes:
    """The routes as they stand in the database.

    Args:
        holdback: the deployment's share of people held back; a plan may have its own.
        solicit: share of units asked for a rating.
    """
    champion_row = registry.champion(session, context)
    champion = _served(champion_row)
    rollout = session.scalar(select(Rollout).where(Rollout.context == context, Rollout.state.in_(ACTIVE)))
    challenger = session.get(AdapterVersion, rollout.version_id) if rollout else None
    without = _watching(session, context, champion_row, holdback)
    if rollout is None or challenger is None or challenger.state != "registered":
        return without
    against = session.get(AdapterVersion, rollout.against_id) if rollout.against_id else None
    plan = Plan.from_json(rollout.plan)
    held, anchor = holdback_of(session, rollout, plan)
    share = plan.holdback if plan.holdback is not None else holdback
    if plan.mode == "blue-green":
        share = share or BLUE_GREEN_HOLDBACK
    return Routes(
        champion=champion,
        rollout_id=rollout.id,
        challenger=_served(challenger),
        control=_served(against),
        control_arm="champion" if against and champion_row and against.id == champion_row.id else "base",
        weight=rollout.weight,
        salt=rollout.salt,
        stage=rollout.stage,
        plan=plan,
        holdback=held if anchor == "holdback" else None,
        share=share if anchor == "holdback" else 0.0,
        without=without,
        context=context,
        slow_ms=rollout.slow_ms,
        solicit=solicit,
    )


def _watching(session: Session, context: str, champion: AdapterVersion | None, share: float) -> Routes:
    """No rollout: the champion serves, the held back keep theirs, and the rollout it came from goes on counting."""
    never_moves = standing_version(session, context)
    if champion is None or never_moves == _served(champion) or share <= 0:
        return Routes(_served(champion), context=context)
    came_from = session.scalar(
        select(Rollout)
        .where(Rollout.context == context, Rollout.version_id == champion.id, Rollout.state == "promoted")
        .order_by(Rollout.ended_at.desc())
        .limit(1)
    )
    return Routes(
        champion=_served(champion),
        rollout_id=came_from.id if came_from else None,
        stage=len(came_from.plan["stages"]) if came_from else 0,
        holdback=never_moves,
        share=share,
        context=context,
        slow_ms=came_from.slow_ms if came_from else None,
    )


def holdback_of(session: Session, rollout: Rollout, plan: Plan) -> tuple[Served, Anchor]:
    """Who serves a rollout's held back, and what stands for the fixed point that it is measured from.

    Blue-green holds back on the control: all others get the challenger, so nobody else is left to compare with.
    Where the control is the fixed point itself, nobody needs to be held back.
    """
    against = session.get(AdapterVersion, rollout.against_id) if rollout.against_id else None
    if plan.mode == "blue-green":
        return _served(against), "holdback"
    never_moves = standing_version(session, rollout.context)
    if _served(against) in (never_moves, BASE):
        return never_moves, "control"
    if never_moves.id == rollout.version_id or plan.holdback == 0:
        return never_moves, "none"
    return never_moves, "holdback"


def standing_version(session: Session, context: str) -> Served:
    """The version that never moves: the frozen base, or the context's first where the base is not fit to serve.

    `overrides.holdback` of the context says `base` or `first`. By default it is the first where that is the project's
    starter: the embedded base fails the gate's questions on courtesy in Portuguese, and nobody is served badly for
    the sake of a measurement.
    """
    first = session.scalar(
        select(AdapterVersion)
        .where(AdapterVersion.context == context, AdapterVersion.state == "registered")
        .order_by(AdapterVersion.number)
        .limit(1)
    )
    wanted: Literal["base", "first"] | None = registry.get_context(session, context).overrides.get("holdback")
    wanted = wanted or ("first" if first is not None and first.source == "starter" else "base")
    return _served(first) if wanted == "first" else BASE


def _served(version: AdapterVersion | None) -> Served:
    return BASE if version is None else Served(version.id, version.name, version.location, version.sha256)
