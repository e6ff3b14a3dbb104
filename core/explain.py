"""Why a rollout stands where it stands: every figure of a decision, its limit, and what would change it.

facts(...)      numbers, for pages and machines
sentence(...)   one of them in Portuguese or English, for people
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from core.evidence import MILLION
from core.plans import HOUR, Plan
from core.prompts import Language
from core.rollouts import (
    ERRORS_ROLLBACK,
    FAILURES_IN_A_ROW,
    HARM_HOLD,
    HARM_ROLLBACK,
    PROMOTE,
    SAMPLE_RATIO_HOLD,
    SLOW_ROLLBACK,
    SOLICITED_HOLD,
    UNSAFE_ROLLBACK,
    Votes,
    weigh,
)

Effect = Literal["rollback", "hold", "needed"]
LOOK_AHEAD = 2048  # this many votes of one kind in a row are tried, and no more
PACE = 10  # votes of the challenger without which its pace says nothing


@dataclass(frozen=True)
class Fact:
    """One figure.

    Attributes:
        limit: what it rolls back or holds at, or what is needed of it.
        effect: what happens at the limit.
        reached: whether it is there.
        to_go: how many more it would take, counted in `of`; None where that cannot be said.
        of: dislikes (of the challenger, one after the other), failures (units of the challenger in which it happens,
            one after the other), votes (of the challenger, at the pace so far), seconds.
    """

    name: str
    value: float
    limit: float
    effect: Effect
    reached: bool
    to_go: int | None = None
    of: Literal["dislikes", "failures", "votes", "seconds", ""] = ""


def facts(
    plan: Plan, stage: int, votes: Votes, figures: dict[str, Any], *, elapsed: float, total_elapsed: float,
    weight: float | None = None,
) -> list[Fact]:  # fmt: skip
    """Every figure of `weigh`, and the clock; what ends a rollout first.

    Args:
        figures: of these votes in this stage.
        elapsed, total_elapsed: seconds in this stage, and since the start.
        weight: what the next units are drawn with; None is the stage's own.
    """
    now = plan.stages[stage]
    drawn = weight or now.weight  # 0: blue-green, before its checks

    def above(name: str, value: float, limit: float, effect: Effect, **more: Any) -> Fact:
        reached = value >= limit
        return Fact(name, value, limit, effect, reached, **({} if reached and effect != "needed" else more))

    def ahead(name: str, limit: float, of: Literal["dislikes", "failures"]) -> dict[str, Any]:
        return {"to_go": _in_a_row(plan, stage, votes, name, limit, drawn), "of": of}

    def paced(value: float) -> dict[str, Any]:
        return {"to_go": _at_this_pace(value, figures["challenger"]["votes"]), "of": "votes"}

    short = max(0, now.min_votes - figures["stage_votes"])
    found = [
        above("harm_highest", figures["harm_highest"], HARM_ROLLBACK, "rollback",
              **ahead("harm_highest", HARM_ROLLBACK, "dislikes")),
        above("errors", figures["errors"], ERRORS_ROLLBACK, "rollback", **ahead("errors", ERRORS_ROLLBACK, "failures")),
        above("slow", figures["slow"], SLOW_ROLLBACK, "rollback", **ahead("slow", SLOW_ROLLBACK, "failures")),
        above("unsafe", figures["unsafe"], UNSAFE_ROLLBACK, "rollback", **ahead("unsafe", UNSAFE_ROLLBACK, "failures")),
        above("failures_in_a_row", votes.failures_in_a_row, FAILURES_IN_A_ROW, "rollback",
              to_go=FAILURES_IN_A_ROW - votes.failures_in_a_row, of="failures"),
        above("harm", figures["harm"], HARM_HOLD, "hold", **ahead("harm", HARM_HOLD, "dislikes")),
        above("harm_solicited", figures["harm_solicited"], SOLICITED_HOLD, "hold"),
        above("sample_ratio", figures["sample_ratio"], SAMPLE_RATIO_HOLD, "hold"),
        above("rating_ratio", figures["rating_ratio"], SAMPLE_RATIO_HOLD, "hold"),
        above("expires", total_elapsed, plan.expires_hours * HOUR, "hold",
              to_go=math.ceil(max(0.0, plan.expires_hours * HOUR - total_elapsed)), of="seconds"),
        above("stage_votes", figures["stage_votes"], now.min_votes, "needed", to_go=short, of="votes"),
        above("elapsed", elapsed, now.hold_seconds, "needed",
              to_go=math.ceil(max(0.0, now.hold_seconds - elapsed)), of="seconds"),
        above("no_worse", figures["no_worse"], PROMOTE, "needed",
              to_go=_at_this_pace(figures["no_worse"], figures["stage_votes"]), of="votes"),
    ]  # fmt: skip
    if figures["anchor"] is not None and stage + 1 == len(plan.stages):
        found.append(above("anchor", figures["anchor"], PROMOTE, "needed", **paced(figures["anchor"])))
    return found


def _in_a_row(plan: Plan, stage: int, votes: Votes, name: str, limit: float, drawn: float) -> int | None:
    """How many dislikes, or units that went wrong, of the challenger and one after the other, reach the limit."""
    weight = min(drawn, 1 - 1e-6)

    def events(guard: str, so_far: Sequence[int], n: int) -> list[int]:
        return [*(so_far or [0] * len(votes.served)), *[int(guard == name)] * n]

    def after(n: int) -> float:
        if name.startswith("harm"):
            more = replace(
                votes, y=[*votes.y, *[0.0] * n], canary=[*votes.canary, *[True] * n], w=[*votes.w, *[weight] * n],
                stage=[*votes.stage, *[stage] * n], solicited=[],
            )  # fmt: skip
        else:
            more = replace(
                votes, assigned_canary=[*votes.assigned_canary, *[True] * n], served=[*votes.served, *[1] * n],
                assigned_w=[*votes.assigned_w, *[weight] * n], failed=events("errors", votes.failed, n),
                slow=events("slow", votes.slow, n), unsafe=events("unsafe", votes.unsafe, n),
            )  # fmt: skip
        return float(weigh(plan, stage, more)[name])

    if plan.mode == "blue-green" and name.startswith("harm"):
        return None  # what one of its votes proves depends on the share held back
    high = 1
    while after(high) < limit:
        high *= 2
        if high > LOOK_AHEAD:
            return None
    low = high // 2  # not enough, or none
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if after(middle) < limit else (low, middle)
    return high


def _at_this_pace(value: float, seen: int) -> int | None:
    """How many more votes of the challenger it takes if evidence goes on growing as it has; None if it does not."""
    if value >= PROMOTE:
        return 0
    if seen < PACE or value <= 1.0:
        return None
    return math.ceil(seen * (math.log(PROMOTE) / math.log(value) - 1))


def sentence(fact: Fact, language: Language = "pt") -> str:
    """A fact for people: what it is, where it stands, what would change it."""
    words = _WORDS[language]
    what = words[fact.name]
    if fact.of == "seconds":
        value, limit = _hours(fact.value, language), _hours(fact.limit, language)
    else:
        value, limit = _number(fact.value, language), _number(fact.limit, language)
    said = f"{what}: {value} ({words[fact.effect].format(limit=limit)})."
    if fact.reached or fact.to_go == 0:
        return f"{said} {words['reached']}"
    if fact.to_go is None:
        return said + (f" {words['no pace']}" if fact.of == "votes" else "")
    count = _hours(fact.to_go, language) if fact.of == "seconds" else str(fact.to_go)
    return f"{said} {words['to go ' + fact.of].format(n=count)}"


def _number(value: float, language: Language) -> str:
    if value >= MILLION:
        return "over a million" if language == "en" else "mais de um milhão"
    text = f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"
    return text if language == "en" else text.translate(str.maketrans(",.", ".,"))


def _hours(seconds: float, language: Language) -> str:
    hours = f"{seconds / HOUR:.1f}".removesuffix(".0")
    return f"{hours} h" if language == "en" else f"{hours.replace('.', ',')} h"


_WORDS: dict[Language, dict[str, str]] = {
    "pt": {
        "harm_highest": "Evidência de dano, o ponto mais alto", "harm": "Evidência de dano agora",
        "errors": "Evidência de que falha mais", "slow": "Evidência de que demora mais",
        "unsafe": "Evidência de que é barrada ou passada a uma pessoa mais vezes",
        "failures_in_a_row": "Falhas seguidas", "harm_solicited": "Evidência de dano entre os sorteados",
        "sample_ratio": "Evidência de que as pessoas não se dividem como planejado",
        "rating_ratio": "Evidência de que um lado é mais avaliado do que atende",
        "expires": "Tempo desde o início", "stage_votes": "Votos da nova versão nesta etapa",
        "elapsed": "Tempo nesta etapa", "no_worse": "Evidência de que não é pior que a margem da etapa",
        "anchor": "Evidência de que não é pior que a base", "rollback": "volta em {limit}", "hold": "para em {limit}",
        "needed": "precisa de {limit}", "reached": "Já chegou lá.", "no pace": "Ainda não se pode dizer quanto falta.",
        "to go dislikes": "Faltam {n} avaliações ruins seguidas da nova versão.",
        "to go failures": "Faltam {n} seguidas na nova versão.",
        "to go votes": "Faltam cerca de {n} votos da nova versão.", "to go seconds": "Faltam {n}.",
    },
    "en": {
        "harm_highest": "Evidence of harm, at its highest", "harm": "Evidence of harm now",
        "errors": "Evidence that it fails more often", "slow": "Evidence that it is slow more often",
        "unsafe": "Evidence that it is stopped or handed over more often",
        "failures_in_a_row": "Failures in a row", "harm_solicited": "Evidence of harm among those asked by the coin",
        "sample_ratio": "Evidence that people are not split as planned",
        "rating_ratio": "Evidence that one arm is rated more often than it serves",
        "expires": "Time since the start", "stage_votes": "Votes of the challenger in this stage",
        "elapsed": "Time in this stage", "no_worse": "Evidence that it is not worse by the stage's margin",
        "anchor": "Evidence that it is not worse than the base", "rollback": "rolled back at {limit}",
        "hold": "held at {limit}", "needed": "needed: {limit}", "reached": "It is there.",
        "no pace": "How many are missing cannot be said yet.",
        "to go dislikes": "{n} dislikes of the challenger in a row would do.",
        "to go failures": "{n} in a row on the challenger would do.",
        "to go votes": "About {n} more votes of the challenger.", "to go seconds": "{n} to go.",
    },
}  # fmt: skip
