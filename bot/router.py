"""Which version answers this turn: the context's champion, unless a rollout draws the challenger.

The route is read from Postgres at most once a second and context, so an abort is obeyed within two seconds
without a query per turn.
"""

import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from core import registry
from core.db import transaction
from core.rollouts import ACTIVE, Arm, Plan, assign, epoch_of
from core.tables import AdapterVersion, Rollout

FRESH = 1.0  # seconds


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
    """How a context's traffic is split now."""

    champion: Served
    rollout_id: uuid.UUID | None = None
    challenger: Served | None = None
    control: Served | None = None
    control_arm: Arm = "champion"
    weight: float = 0.0
    salt: str = ""
    stage: int = 0
    plan: Plan | None = None


@dataclass(frozen=True)
class Route:
    """The decision for one turn, as it is logged on the message.

    Attributes:
        probability: of the challenger, at assignment; 0 outside a rollout.
        fallbacks: who answers if `version` fails, in order; the frozen base last.
    """

    version: Served
    arm: Arm
    probability: float
    rollout_id: uuid.UUID | None
    epoch: str
    stage: int
    fallbacks: tuple[Served, ...]


class Router:
    """Caches each context's routes for `FRESH` seconds."""

    def __init__(self, engine: Engine, timezone: str) -> None:
        self.engine = engine
        self.zone = ZoneInfo(timezone)
        self._routes: dict[str, tuple[float, Routes]] = {}
        self._lock = threading.Lock()

    def route(self, context: str, unit: str) -> Route:
        """The version for a unit (a customer) now."""
        return choose(self._current(context), unit, datetime.now(self.zone))

    def forget(self) -> None:
        """Read afresh at the next turn."""
        with self._lock:
            self._routes.clear()

    def _current(self, context: str) -> Routes:
        found = self._routes.get(context)
        if found is not None and time.monotonic() - found[0] < FRESH:
            return found[1]
        with transaction(self.engine) as session:
            routes = read_routes(session, context)
        with self._lock:
            self._routes[context] = (time.monotonic(), routes)
        return routes


def choose(routes: Routes, unit: str, at: datetime) -> Route:
    """Pure: the route of a unit under these routes."""
    if routes.rollout_id is None or routes.challenger is None or routes.plan is None:
        arm: Arm = "champion" if routes.champion.id else "base"
        fallbacks = (BASE,) if routes.champion.id else ()
        return Route(routes.champion, arm, 0.0, None, "", 0, fallbacks)
    epoch = epoch_of(routes.plan, routes.stage, at)
    arm, probability = assign(
        salt=routes.salt, unit=unit, epoch=epoch, weight=routes.weight, control=routes.control_arm
    )
    control = routes.control or BASE
    version = routes.challenger if arm == "challenger" else control
    chain = [other for other in (control, routes.champion, BASE) if other != version]
    return Route(version, arm, probability, routes.rollout_id, epoch, routes.stage, tuple(dict.fromkeys(chain)))


def read_routes(session: Session, context: str) -> Routes:
    """The routes as they stand in the database."""
    champion = _served(registry.champion(session, context))
    rollout = session.scalar(select(Rollout).where(Rollout.context == context, Rollout.state.in_(ACTIVE)))
    if rollout is None:
        return Routes(champion)
    challenger = session.get(AdapterVersion, rollout.version_id)
    against = session.get(AdapterVersion, rollout.against_id) if rollout.against_id else None
    if challenger is None or challenger.state != "registered":
        return Routes(champion)
    return Routes(
        champion=champion,
        rollout_id=rollout.id,
        challenger=_served(challenger),
        control=_served(against),
        control_arm="champion" if against and against.id == champion.id else "base",
        weight=rollout.weight,
        salt=rollout.salt,
        stage=rollout.stage,
        plan=Plan.from_json(rollout.plan),
    )


def _served(version: AdapterVersion | None) -> Served:
    return BASE if version is None else Served(version.id, version.name, version.location, version.sha256)
