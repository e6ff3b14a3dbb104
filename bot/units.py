"""The units of rollouts: a person in an epoch, the arm drawn for them, what happened to it, and its one vote.

What a unit was drawn with is written when its first answer is; what it voted, with the arm, the probability and the
stage of the answer that was rated. Both are facts of the time of serving: a rating that comes a month later, or
after the weight changed, counts with the weight its answer was drawn with (or not at all, once its rollout ended).
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Integer, bindparam, case, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from bot.router import Route
from core.rollouts import Anchor, Votes, anchor_weight
from core.tables import AdapterVersion, Assignment, Feedback, Message, Rollout, now

FLOOD = 5  # ratings of one person on one day; more are flagged
HARMLESS = frozenset({"empty", "no_model", "cut"})  # flags of a guard that are no question of safety
SLOW_SHARE = 0.95  # a reply is slow beyond this share of the control's replies
SLOW_LEAST = 20  # replies of the control without which nothing is called slow
_SLOW = text("""
    SELECT percentile_cont(:share) WITHIN GROUP (ORDER BY latency_ms) FROM (
        SELECT latency_ms FROM npllm.messages
        WHERE context = :context AND direction = 'out' AND version = :version AND latency_ms IS NOT NULL
          AND created_at > now() - interval '7 days'
        ORDER BY created_at DESC LIMIT 2000
    ) latest HAVING count(*) >= :least
""")


def _count(*, of_challenger: bool = False) -> Any:
    """The unit's counts, inserted or added to, and the challenger's failures in a row; whether it was inserted."""
    counts = ("served", "failed", "slow", "unsafe")
    drawn = ("rollout_id", "customer_id", "epoch", "arm", "probability", "holdback", "stage", "solicited")
    # Not the columns' own names: they would be written to the other table, too.
    statement = insert(Assignment).values({name: bindparam(f"unit_{name}") for name in (*drawn, *counts)})
    if of_challenger:
        failed, so_far = bindparam("unit_failed", type_=Integer) == 1, Rollout.failed_in_a_row
        statement = statement.add_cte(
            update(Rollout)
            .where(Rollout.id == bindparam("unit_rollout_id"), or_(failed, so_far > 0))  # else it stays
            .values(failed_in_a_row=case((failed, so_far + 1), else_=0))
            .cte("in_a_row")
        )
    same_arm = Assignment.arm == statement.excluded.arm  # a unit that joined the challenger meanwhile is no evidence
    return statement.on_conflict_do_update(
        index_elements=["rollout_id", "customer_id", "epoch"],
        set_={name: getattr(Assignment, name) + case((same_arm, statement.excluded[name]), else_=0) for name in counts},
    ).returning(text("xmax = 0"))  # Postgres: no older version of the row, so it was inserted


# Built once: every turn runs them, and building one takes longer than Postgres takes to run it.
_COUNT, _COUNT_CHALLENGER = _count(), _count(of_challenger=True)
LEFT = (
    select(AdapterVersion.name)
    .where(
        AdapterVersion.state == "quarantined",
        AdapterVersion.id
        == select(Message.adapter_version_id)
        .where(
            Message.conversation_id == bindparam("conversation"),
            Message.direction == "out",
            Message.version.is_not(None),
        )
        .order_by(Message.id.desc())
        .limit(1)
        .scalar_subquery(),
    )
    .scalar_subquery()
)  # the version of a conversation's latest answer, where it has been taken back since


@dataclass(frozen=True)
class Outcome:
    """How one reply went.

    Attributes:
        failed: its version gave none, or an empty one, and another answered.
        flags: what the guard stopped.
        outage: all versions were asked and none answered: the server's failure, which only a comparison of the arms
            may hold against one of them.
    """

    failed: bool
    latency_ms: float | None
    flags: Sequence[str] = ()
    outage: bool = False

    @property
    def unsafe(self) -> bool:
        return any(flag.split(":")[0] not in HARMLESS for flag in self.flags)


def logged(route: Route) -> dict[str, Any]:
    """What of a route is kept on the answer, beside arm and probability: enough to let it vote later."""
    if route.rollout_id is None:
        return {}
    return {"arm": route.arm, "epoch": route.epoch, "stage": route.stage}


def count_reply(session: Session, customer_id: uuid.UUID, route: Route, outcome: Outcome) -> bool:
    """One reply served: the unit is written with its first one; later ones of the same arm add to its counts.

    Returns True where this was the first.
    """
    if route.rollout_id is None:
        return False
    slow = route.slow_ms is not None and not outcome.failed and (outcome.latency_ms or 0.0) > route.slow_ms
    is_new = session.connection().scalar(
        _COUNT_CHALLENGER if route.arm == "challenger" and not outcome.outage else _COUNT,
        {
            "unit_rollout_id": route.rollout_id, "unit_customer_id": customer_id, "unit_epoch": route.epoch,
            "unit_arm": route.arm, "unit_probability": route.probability, "unit_holdback": route.holdback,
            "unit_stage": route.stage, "unit_solicited": route.solicited, "unit_served": 1,
            "unit_failed": int(outcome.failed), "unit_slow": int(slow), "unit_unsafe": int(outcome.unsafe),
        },
    )  # fmt: skip
    return bool(is_new)


def count_hand_over(session: Session, answer: Message) -> None:
    """The conversation went to a person after this answer: the guard on safety and hand-over counts it."""
    if answer.rollout_id is None or answer.arm is None or "epoch" not in answer.route:
        return
    session.execute(
        update(Assignment)
        .where(*_unit_of(answer, answer.customer_id), Assignment.arm == answer.arm)
        .values(unsafe=Assignment.unsafe + 1)
    )


def count_vote(session: Session, answer: Message, customer_id: uuid.UUID, value: float) -> bool:
    """The first rating of a unit is its vote, by the arm that answered; True where this was it.

    A changed or removed rating leaves the vote as it stands, and a rating of an answer that another version had to
    give is no vote. Whoever rates it, only the person who was answered votes.
    """
    if answer.rollout_id is None or answer.arm is None or "epoch" not in answer.route:
        return False
    if answer.customer_id != customer_id:  # in a channel many may rate one answer: it was drawn for one of them
        return False
    voted = session.execute(
        update(Assignment)
        .where(*_unit_of(answer, customer_id), Assignment.vote.is_(None))
        .values(
            vote=value, voted_at=now(), vote_message_id=answer.id, vote_arm=answer.arm,
            vote_probability=answer.assignment_probability, vote_stage=answer.route["stage"],
        )
    )  # fmt: skip
    return bool(voted.rowcount)  # type: ignore[attr-defined]


def _unit_of(answer: Message, customer_id: uuid.UUID) -> tuple[Any, ...]:
    return (
        Assignment.rollout_id == answer.rollout_id,
        Assignment.customer_id == customer_id,
        Assignment.epoch == answer.route["epoch"],
    )


def is_flood(session: Session, customer_id: uuid.UUID) -> bool:
    """Whether this person has rated more than `FLOOD` answers within a day."""
    rated = session.scalar(
        select(func.count(func.distinct(Feedback.message_id))).where(
            Feedback.customer_id == customer_id, Feedback.value.is_not(None),
            Feedback.created_at > func.now() - text("interval '1 day'"),
        )
    )  # fmt: skip
    return (rated or 0) > FLOOD


def slow_ms(session: Session, context: str, version: str) -> float | None:
    """The control's 95th percentile, of its latest replies; None while there are too few."""
    facts = {"context": context, "version": version, "share": SLOW_SHARE, "least": SLOW_LEAST}
    found = session.scalar(_SLOW, facts)
    return None if found is None else float(found)


def read_votes(session: Session, rollout: Rollout, *, anchor: Anchor, blue_green: bool, stages: int) -> Votes:
    """All units of a rollout's stages: those that voted in the order of their votes, all in that of assignment.

    Args:
        anchor: what stands for the frozen base.
        blue_green: whose held back are the control, and no fixed point.
        stages: how many the plan has; units after the last belong to the watch over a promoted version.
    """
    a = Assignment
    voted: Sequence[Any] = session.execute(
        select(a.vote, a.vote_arm, a.vote_probability, a.holdback, a.vote_stage, a.solicited)
        .where(a.rollout_id == rollout.id, a.vote.is_not(None), a.vote_stage < stages)
        .order_by(a.voted_at, a.customer_id)
    ).all()
    units: Sequence[Any] = session.execute(
        select(a.arm, a.probability, a.holdback, a.served, a.failed, a.slow, a.unsafe)
        .where(a.rollout_id == rollout.id, a.stage < stages)
        .order_by(a.assigned_at, a.customer_id)
    ).all()
    arms = [row for row in voted if _compared(row.vote_arm, row.vote_probability, row.holdback)]
    anchored = [
        row for row in voted
        if row.vote_arm in ("challenger", "holdback") and row.holdback > 0 and (row.vote_probability == 1) == blue_green
    ]  # fmt: skip
    if anchor == "holdback" and units and not any(row.holdback for row in units):
        anchor = "none"  # HOLDBACK_SHARE is 0: there is nobody to wait for
    units = [row for row in units if _compared(row.arm, row.probability, row.holdback)]
    return Votes(
        y=[row.vote for row in arms],
        canary=[row.vote_arm == "challenger" for row in arms],
        w=[_chance(row.vote_probability, row.holdback) for row in arms],
        stage=[row.vote_stage for row in arms],
        solicited=[row.solicited for row in arms],
        assigned_canary=[row.arm == "challenger" for row in units],
        assigned_w=[_chance(row.probability, row.holdback) for row in units],
        served=[row.served for row in units],
        failed=[row.failed for row in units],
        slow=[row.slow for row in units],
        unsafe=[row.unsafe for row in units],
        anchor=anchor,
        anchor_y=[row.vote for row in anchored],
        anchor_canary=[row.vote_arm == "challenger" for row in anchored],
        anchor_w=[anchor_weight(row.vote_probability, row.holdback) for row in anchored],
        failures_in_a_row=rollout.failed_in_a_row,
    )


def _compared(arm: str, probability: float, holdback: float) -> bool:
    """Whether a unit is one of challenger and control: where all but the held back got the challenger (blue-green, a
    probability of 1), the held back are the control, and only there."""
    return holdback > 0 if probability == 1 else arm != "holdback"


def _chance(probability: float, holdback: float) -> float:
    """The challenger's, against the control. A rollout whose mode changes keeps what it has seen, as it was drawn."""
    return anchor_weight(probability, holdback) if probability == 1 else probability
