"""A rollout in sentences and numbers: for the command line, Slack and the page alike."""

from typing import Any

from bot.ops.figures import RolloutView
from core.evidence import said
from core.rollouts import ACTIVE, ERRORS_ROLLBACK, HARM_HOLD, HARM_ROLLBACK, PROMOTE, SAMPLE_RATIO_HOLD, SLOW_ROLLBACK


def explanation(view: RolloutView) -> list[str]:
    """Where it stands; `rollout_look.explain` adds what would change it."""
    r, f = view.rollout, view.decision.figures
    e = {name: said(value, 2) for name, value in f.items() if isinstance(value, float)}
    new, old, stage = f["challenger"], f["control"], view.plan.stages[r.stage]
    lines = [
        f"{view.version} against {view.against} in '{r.context}': {r.state}, step {r.stage + 1} of"
        f" {len(view.plan.stages)}, weight {view.weight:.0%}, plan '{view.plan.name}' ({r.mode}).",
        f"Votes: {view.version} {new['votes']} ({_rate(new)}), {view.against} {old['votes']} ({_rate(old)}).",
        f"Evidence that it is worse: {e['harm']} (highest {e['harm_highest']}; held at {HARM_HOLD:.0f},"
        f" rolled back at {HARM_ROLLBACK:.0f}).",
        f"Evidence that it is not worse by {stage.margin:.0%}: {e['no_worse']} (needed {PROMOTE:.0f}).",
        f"Split of people against plan: {e['sample_ratio']}, of ratings: {e['rating_ratio']} (held at"
        f" {SAMPLE_RATIO_HOLD:.0f}). Failing replies: {e['errors']} (rolled back at {ERRORS_ROLLBACK:.0f}), slow:"
        f" {e['slow']}, stopped or handed over: {e['unsafe']} (at {SLOW_ROLLBACK:.0f}).",
    ]
    if f["anchor"] is not None:
        lines.append(
            f"Evidence that it is not worse than the fixed point by {view.plan.anchor_margin:.0%}: {e['anchor']}"
            f" (needed {PROMOTE:.0f} for the last step)."
        )
    if view.by_hand:
        lines.append(
            f"Its weight was set by hand; the step's own is {stage.weight:.0%}. A later step may raise it; none to the"
            " same people lowers it."
        )
    if (stop := view.stopped) is not None:
        lines.append(f"{r.state.capitalize()} by {stop.actor}: {stop.reason}".rstrip(": ").rstrip(".") + ".")
        if view.decision.action != "hold":  # whose reason stands below
            lines[-1] += " `npllm rollout resume` ends that."
    if r.state in ACTIVE:
        lines.append("Now: " + ("; ".join(view.decision.reasons) or "nothing is missing") + ".")
    elif r.reason:
        lines.append(f"It ended: {r.reason}")
    if (back := view.taken_back) is not None:
        told = f"It was taken back by {back.actor} ({back.verb}); {back.after['champion']} serves: {back.reason}"
        lines.append(told.rstrip(": "))
    if view.frozen is not None:
        lines.append(f"Promotions and nights are frozen: {view.frozen} `npllm rollout resume` ends that.")
    if view.next is not None:
        lines.append(f"Next in line: {view.next}; `npllm rollout abort {view.next}` withdraws it.")
    return lines


def describe(view: RolloutView) -> dict[str, Any]:
    """The same for machines."""
    r = view.rollout
    return {
        "id": str(r.id),
        "context": r.context,
        "version": view.version,
        "against": view.against,
        "state": r.state,
        "mode": r.mode,
        "plan": view.plan.name,
        "stage": r.stage,
        "stages": len(view.plan.stages),
        "weight": view.weight,
        "reason": r.reason,
        "evidence": view.decision.figures,
        "next": view.next,
        "frozen": view.frozen,
        "stopped": {"by": view.stopped.actor, "reason": view.stopped.reason} if view.stopped else None,
        "taken_back": (view.taken_back.reason or view.taken_back.verb) if view.taken_back else None,
        "waiting_for": view.decision.reasons if r.state in ACTIVE else [],
        "started_at": r.started_at.isoformat(),
        "ended_at": r.ended_at.isoformat() if r.ended_at else None,
    }


def _rate(interval: dict[str, Any]) -> str:
    if not interval["votes"]:
        return "no data"
    return f"{interval['rate']:.0%}, {interval['low']:.0%}–{interval['high']:.0%}"
