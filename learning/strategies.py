"""The ways to sleep, by name: what one night does against forgetting. Nights and the bench read the same list.

naive          new examples only
replay         examples of earlier nights in every batch
mas, ewc       a pull back to the served weights, weight by weight as strongly as it mattered (learning/mas.py, ewc.py)
ema            serve the average of the weights over the night's later steps (learning/ema.py)
wise           as ema, but as near to the last step as the hold-outs of tonight and of earlier nights like best
balanced       replay whose few rows weigh as much in the loss as all that they stand for (learning/learn.py)
deep           from the base again, on everything that may be learned: costs most, forgets nothing
joint          the bench's upper bound: one training on all tasks at once
"""

from dataclasses import dataclass
from typing import Literal

from core.errors import NightError


@dataclass(frozen=True)
class Strategy:
    """One composition.

    Attributes:
        between: serves the point between the average and the fast weights that the hold-outs like best.
        balanced: replayed rows weigh half of the loss; else what they are, a seventh or so.
        afresh: begins at the base instead of the champion, and learns the whole permitted store.
    """

    name: str
    replay: bool = False
    penalty: Literal["mas", "ewc"] | None = None
    average: bool = False
    between: bool = False
    balanced: bool = False
    afresh: bool = False


STRATEGIES = {
    strategy.name: strategy
    for strategy in (
        Strategy("naive"),
        Strategy("replay", replay=True),
        Strategy("mas", penalty="mas"),
        Strategy("ewc", penalty="ewc"),
        Strategy("mas+replay", replay=True, penalty="mas"),
        Strategy("ewc+replay", replay=True, penalty="ewc"),
        Strategy("ema+replay", replay=True, average=True),
        Strategy("mas+ema+replay", replay=True, penalty="mas", average=True),
        Strategy("balanced", replay=True, balanced=True),
        Strategy("ema+balanced", replay=True, average=True, balanced=True),
        Strategy("wise+replay", replay=True, average=True, between=True),
        Strategy("wise+balanced", replay=True, average=True, between=True, balanced=True),
        Strategy("deep", afresh=True),
        Strategy("joint", afresh=True),
    )
}
# Lambda by base and kind of penalty, found on `valid` (`npllm bench continual --tune`, docs/log.md): never assumed.
# lambda = 1 freezes the learner, and looks like perfect retention; on Banking77 0.01 halves what is learned. A base
# that nobody tuned takes the weakest: too weak costs nothing.
STRENGTHS: dict[str, dict[str, float]] = {"npllm-tiny": {"mas": 0.001}}
UNTUNED = 0.001
# What measured best (docs/log.md): on SmolLM2-135M, which learns more slowly than it forgets, and so for any base that
# nobody measured; and on the base that comes with the bench, which forgets a sixth of a domain in ten nights.
DEFAULT = "wise+replay"
DEFAULTS = {"npllm-tiny": "ema+balanced"}
NIGHTLY = tuple(name for name in STRATEGIES if name != "joint")


def default_of(base: str) -> str:
    """The strategy for a base where nobody says another."""
    return DEFAULTS.get(base, DEFAULT)


def find(name: str) -> Strategy:
    """The strategy of a night.

    Raises:
        NightError: there is none of this name.
    """
    if name not in NIGHTLY:
        raise NightError(f"There is no strategy '{name}'.", f"Choose {', '.join(NIGHTLY)}.")
    return STRATEGIES[name]


def strength_of(base: str, strategy: Strategy) -> float:
    """Lambda of a strategy's penalty on a base."""
    return STRENGTHS.get(base, {}).get(strategy.penalty or "", UNTUNED)
