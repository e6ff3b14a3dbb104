"""What explains a decision: every limit with its figure, and what would change it, checked by doing it."""

from dataclasses import replace

import numpy as np
import pytest

from core.explain import Fact, facts, sentence
from core.plans import DAY, HOUR, Plan, Stage
from core.prompts import Language
from core.rollouts import HARM_ROLLBACK, Votes, decide, weigh

PLAN = Plan("test", (Stage(0.25, 30, 6 * HOUR, 0.15), Stage(0.50, 60, DAY, 0.10)))


def seen(n: int, rate: float, *, w: float = 0.25, stage: int = 0) -> Votes:
    rng = np.random.default_rng(1)
    arm = rng.random(n) < w
    y = (rng.random(n) < np.where(arm, rate, 0.75)).astype(float)
    return Votes(
        y.tolist(), arm.tolist(), [w] * n, [stage] * n, arm.tolist(), [w] * n, [1] * n, [0] * n, [0] * n, [0] * n,
        anchor="control",
    )  # fmt: skip


def explained(votes: Votes, stage: int = 0, *, elapsed: float = HOUR) -> dict[str, Fact]:
    figures = weigh(PLAN, stage, votes)
    found = facts(PLAN, stage, votes, figures, elapsed=elapsed, total_elapsed=elapsed)
    return {fact.name: fact for fact in found}


def test_so_many_dislikes_in_a_row_would_roll_it_back_and_one_less_would_not() -> None:
    votes = seen(200, 0.80)
    to_go = explained(votes)["harm_highest"].to_go
    assert to_go is not None and to_go > 5

    def highest(n: int) -> float:
        more = replace(
            votes, y=[*votes.y, *[0.0] * n], canary=[*votes.canary, *[True] * n], w=[0.25] * (200 + n),
            stage=[0] * (200 + n),
        )  # fmt: skip
        return float(weigh(PLAN, 0, more)["harm_highest"])

    assert highest(to_go) >= HARM_ROLLBACK > highest(to_go - 1)


def test_the_weight_that_an_operator_set_is_what_the_next_units_are_drawn_with() -> None:
    votes = seen(200, 0.80)
    found = facts(PLAN, 0, votes, weigh(PLAN, 0, votes), elapsed=0, total_elapsed=0, weight=0.9)
    to_go = next(fact.to_go for fact in found if fact.name == "harm_highest")
    assert to_go is not None

    def highest(n: int) -> float:
        more = replace(
            votes, y=[*votes.y, *[0.0] * n], canary=[*votes.canary, *[True] * n], w=[*votes.w, *[0.9] * n],
            stage=[0] * (200 + n),
        )  # fmt: skip
        return float(weigh(PLAN, 0, more)["harm_highest"])

    assert highest(to_go) >= HARM_ROLLBACK > highest(to_go - 1)


def test_so_many_failing_units_in_a_row_would_roll_it_back() -> None:
    votes = seen(200, 0.80)
    to_go = explained(votes)["errors"].to_go
    assert to_go is not None
    for n, action in ((to_go, "rollback"), (to_go - 1, "wait")):
        more = replace(
            votes, assigned_canary=[*votes.assigned_canary, *[True] * n], assigned_w=[0.25] * (200 + n),
            served=[1] * (200 + n), failed=[*votes.failed, *[1] * n], slow=[0] * (200 + n), unsafe=[0] * (200 + n),
        )  # fmt: skip
        assert decide(PLAN, 0, more, state="running", elapsed=0, total_elapsed=0).action == action


def test_what_is_needed_and_what_is_there() -> None:
    early = explained(seen(60, 0.9))
    assert (early["stage_votes"].reached, early["elapsed"].to_go) == (False, 5 * HOUR)
    assert early["stage_votes"].to_go == 30 - early["stage_votes"].value
    assert "anchor" not in early  # it counts in the last stage
    late = explained(seen(2000, 0.9, w=0.5, stage=1), stage=1, elapsed=2 * DAY)
    assert all(late[name].reached for name in ("stage_votes", "elapsed", "no_worse", "anchor"))


def test_the_pace_is_a_guess_of_the_right_size() -> None:
    """Evidence of 4 after 100 votes: as much again and a little more, since log 20 is 2.16 times log 4."""
    figures = weigh(PLAN, 0, Votes()) | {"no_worse": 4.0, "stage_votes": 100}
    found = facts(PLAN, 0, Votes(), figures, elapsed=0, total_elapsed=0)
    assert next(f for f in found if f.name == "no_worse").to_go == 117


def test_nothing_seen_can_be_explained_too() -> None:
    empty = explained(Votes())
    assert empty["no_worse"].to_go is None
    assert empty["harm"].to_go is not None


@pytest.mark.parametrize("language", ["pt", "en"])
def test_every_fact_has_its_sentence(language: Language) -> None:
    for votes, stage in ((Votes(), 0), (seen(300, 0.3), 0), (seen(2000, 0.9, w=0.5, stage=1), 1)):
        for fact in explained(votes, stage).values():
            said = sentence(fact, language)
            assert said.endswith(".")
            assert "{" not in said


def test_sentences() -> None:
    fact = Fact("harm_highest", 3.14159, 50.0, "rollback", False, 14, "dislikes")
    assert sentence(fact) == (
        "Evidência de dano, o ponto mais alto: 3,14 (volta em 50). Faltam 14 avaliações ruins seguidas da nova versão."
    )
    assert "mais de um milhão (precisa de 20)" in sentence(Fact("no_worse", 1e40, 20.0, "needed", True), "pt")
    assert sentence(Fact("elapsed", 5400, 6 * HOUR, "needed", False, 16200, "seconds"), "en") == (
        "Time in this stage: 1.5 h (needed: 6 h). 4.5 h to go."
    )
