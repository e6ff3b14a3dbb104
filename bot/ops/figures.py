"""What /ops shows, as plain data."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from bot import rollout_look, rollouts
from core import registry
from core.rollouts import ACTIVE, HARM_HOLD, HARM_ROLLBACK, PROMOTE, Decision, Plan
from core.tables import AdapterVersion, ConsolidationRun, Context, Rollout, RolloutEvent

_TRAFFIC = text("""
    SELECT coalesce(m.version, 'fixed') AS version, count(*) AS replies,
           count(DISTINCT m.customer_id) AS people,
           percentile_cont(0.5) WITHIN GROUP (ORDER BY m.latency_ms) AS p50,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY m.latency_ms) AS p95,
           avg((jsonb_array_length(coalesce(m.route -> 'failures', '[]'::jsonb)) > 0)::int) AS errors,
           avg((jsonb_array_length(coalesce(m.route -> 'flags', '[]'::jsonb)) > 0)::int) AS guarded,
           avg(f.value) AS satisfaction, count(f.value) AS ratings
    FROM npllm.messages m
    LEFT JOIN npllm.feedback f ON f.message_id = m.id AND f.superseded_at IS NULL
    WHERE m.context = :context AND m.direction = 'out' AND m.kind = 'text'
      AND m.created_at > now() - interval '24 hours'
    GROUP BY 1 ORDER BY 2 DESC
""")
_BY_VERSION = text("""
    SELECT m.version, count(*) AS replies, percentile_cont(0.5) WITHIN GROUP (ORDER BY m.latency_ms) AS p50,
           percentile_cont(0.95) WITHIN GROUP (ORDER BY m.latency_ms) AS p95, avg(m.cost_usd) AS cost,
           (SELECT avg(o.value) FROM npllm.outcomes o
            WHERE o.rollout_id = :rollout AND o.version = m.version AND o.kind = 'resolution') AS resolution,
           (SELECT avg(o.value) FROM npllm.outcomes o
            WHERE o.rollout_id = :rollout AND o.version = m.version AND o.kind = 'conversion') AS conversion
    FROM npllm.messages m
    WHERE m.context = :context AND m.created_at >= :since AND m.rollout_id = :rollout AND m.direction = 'out'
      AND m.version IS NOT NULL
    GROUP BY m.version ORDER BY 2 DESC
""")
_WAITING = text("""
    SELECT (SELECT count(*) FROM npllm.inbound_events WHERE handled_at IS NULL) AS events,
           (SELECT count(*) FROM npllm.outbox WHERE state IN ('pending', 'sending', 'unknown')) AS outgoing,
           (SELECT count(*) FROM npllm.outbox
            WHERE state = 'failed' AND created_at > now() - interval '1 day') AS failed,
           (SELECT count(*) FROM npllm.annotation_items WHERE state = 'open') AS review
""")


@dataclass(frozen=True)
class RolloutView:
    """A rollout with its evidence now and its audit trail.

    Attributes:
        next: the version that waits until it ends.
        frozen: why the context's promotions and nights wait for an operator.
        stopped: who paused or held it, and why, where it stands so.
        taken_back: of a version that was promoted, and undone or aborted since: when, by whom and why.
    """

    rollout: Rollout
    version: str
    against: str
    plan: Plan
    decision: Decision
    trail: list[RolloutEvent]
    next: str | None = None
    frozen: str | None = None
    stopped: RolloutEvent | None = None
    taken_back: RolloutEvent | None = None

    @property
    def weight(self) -> float:
        """What is routed to it now."""
        return 0.0 if self.taken_back else self.rollout.weight

    @property
    def by_hand(self) -> bool:
        """Whether an operator set its weight: it is not the step's own."""
        own = self.plan.stages[self.rollout.stage].weight
        return self.rollout.state in ACTIVE and self.weight not in (0.0, own)  # 0: blue-green, before its checks

    @property
    def bars(self) -> list[dict[str, Any]]:
        """Evidence on a log scale from 1 to its limit, as shares for a bar."""
        from math import log

        def share(value: float, limit: float) -> float:
            return max(0.0, min(1.0, log(max(value, 1.0)) / log(limit)))

        figures = self.decision.figures
        return [
            {"name": "harm", "value": figures["harm"], "share": share(figures["harm"], HARM_ROLLBACK),
             "mark": share(HARM_HOLD, HARM_ROLLBACK), "limit": HARM_ROLLBACK, "kind": "bad"},
            {"name": "no_worse", "value": figures["no_worse"], "share": share(figures["no_worse"], PROMOTE),
             "mark": 1.0, "limit": PROMOTE, "kind": "good"},
        ]  # fmt: skip


def by_version(session: Session, rollout: Rollout) -> list[dict[str, Any]]:
    """Replies, latency, cost and business outcomes of each version that answered in a rollout."""
    return [dict(row) for row in session.execute(_BY_VERSION, {"rollout": rollout.id, "since": rollout.started_at,
            "context": rollout.context}).mappings()]  # fmt: skip


def overview(session: Session) -> dict[str, Any]:
    """Every context's traffic, champion, rollout and last nights; and what waits."""
    contexts = []
    for context in session.scalars(select(Context).order_by(Context.name)):
        champion = registry.champion(session, context.name)
        contexts.append(
            {
                "name": context.name,
                "champion": champion.name if champion else "base",
                "traffic": [dict(row) for row in session.execute(_TRAFFIC, {"context": context.name}).mappings()],
                "rollout": rollout_view(session, context.name),
                "nights": list(
                    session.scalars(
                        select(ConsolidationRun)
                        .where(ConsolidationRun.context == context.name)
                        .order_by(ConsolidationRun.created_at.desc())
                        .limit(5)
                    )
                ),
            }
        )
    return {"contexts": contexts, "waiting": dict(session.execute(_WAITING).mappings().one())}


def rollout_view(session: Session, context: str) -> RolloutView | None:
    """The context's active rollout, or its last one."""
    rollout = session.scalar(
        select(Rollout)
        .where(Rollout.context == context, Rollout.state.not_in(("waiting", "superseded")))
        .order_by(Rollout.state.in_(ACTIVE).desc(), Rollout.started_at.desc())
        .limit(1)
    )
    return None if rollout is None else view_of(session, rollout)


def view_of(session: Session, rollout: Rollout, *, trail_limit: int | None = 20) -> RolloutView:
    """One rollout, with its evidence now and the newest of its audit trail (None: all of it)."""
    against = session.get(AdapterVersion, rollout.against_id) if rollout.against_id else None
    trail = session.scalars(
        select(RolloutEvent)
        .where(RolloutEvent.rollout_id == rollout.id)
        .order_by(RolloutEvent.id.desc())
        .limit(trail_limit)
    )
    waiting = rollouts.waiting(session, rollout.context)
    version = session.get_one(AdapterVersion, rollout.version_id)
    taken_back = _taken_back(session, rollout, version)
    return RolloutView(
        rollout=rollout,
        version=version.name,
        against=against.name if against else "base",
        plan=Plan.from_json(rollout.plan),
        decision=rollout_look.look(session, rollout),
        trail=[*([taken_back] if taken_back else []), *trail],
        next=session.get_one(AdapterVersion, waiting.version_id).name if waiting and waiting.id != rollout.id else None,
        frozen=session.get_one(Context, rollout.context).frozen_reason,
        stopped=_stopped(session, rollout),
        taken_back=taken_back,
    )


def _stopped(session: Session, rollout: Rollout) -> RolloutEvent | None:
    verb = {"paused": "pause", "held": "hold"}.get(rollout.state)
    if verb is None:
        return None
    e = RolloutEvent
    found = select(e).where(e.rollout_id == rollout.id, e.verb == verb).order_by(e.id.desc()).limit(1)
    return session.scalar(found)


def _taken_back(session: Session, rollout: Rollout, version: AdapterVersion) -> RolloutEvent | None:
    """What put a promoted version out of service again; None while it serves, or where a better one came after it."""
    champion_id = session.get_one(Context, rollout.context).champion_id
    if rollout.state != "promoted" or rollout.ended_at is None or champion_id == version.id:
        return None
    e = RolloutEvent
    return session.scalar(
        select(e)
        .where(
            e.context == rollout.context, e.rollout_id.is_(None), e.verb.in_(("undo", "abort")),
            e.before["champion"].astext == version.name, e.at >= rollout.ended_at,
        )
        .order_by(e.id.desc())
        .limit(1)
    )  # fmt: skip
