"""One strategy over one stream: a night a task, through `learning.learn.learn`, and its matrix of scores."""

import resource
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from core.errors import BadInput
from core.tables import TrainingExample, now
from learning import lora, replay
from learning.bench import scoring
from learning.bench.data import Kind, Stream
from learning.bench.metrics import Matrix
from learning.dataset import Example, Row
from learning.ema import put, snapshot
from learning.learn import Memory, learn
from learning.quick import quick_products
from learning.strategies import STRATEGIES, Strategy, default_of, strength_of
from learning.train import Recipe

HOLDOUT = 64  # validation rows that a night stops early on

Rows = list[tuple[Example, Row]]


@dataclass(frozen=True)
class Base:
    """A base and how it is trained: the tiny one as in the reference's yardstick, others as the night.

    Attributes:
        quick: with the night's quick products (learning/quick.py).
    """

    name: str
    path: Path
    rank: int
    recipe: Recipe
    sizes: scoring.Sizes
    quick: bool = False


@dataclass
class Outcome:
    """What one strategy did on one stream with one seed.

    Attributes:
        R: scores; row t after task t. `losses`: the same in nats a token (or a text).
        b: the frozen base's scores.
        final: per test example of every task after the last one: (group, hits, chances).
        cut: the budget ended it: its figures are of fewer tasks, and are not averaged.
    """

    strategy: str
    stream: str
    seed: int
    tasks: list[str]
    R: Matrix = field(default_factory=list)
    losses: Matrix = field(default_factory=list)
    b: list[float] = field(default_factory=list)
    b_losses: list[float] = field(default_factory=list)
    final: list[list[tuple[str, float, int]]] = field(default_factory=list)
    cut: bool = False
    steps: int = 0
    seconds: float = 0.0
    penalty_seconds: float = 0.0
    importance_seconds: float = 0.0
    deep_seconds: float = 0.0
    replay_shares: list[float] = field(default_factory=list)
    strength: float | None = None
    peak_mb: float = 0.0

    @property
    def overhead(self) -> float:
        extra = self.penalty_seconds + self.importance_seconds
        return extra / max(self.seconds - self.penalty_seconds, 1e-9)


class Bench:
    """A base and a stream in tokens, ready for strategies.

    Args:
        share: replayed examples in each night, of all it trains on.
        deep_every: strategy `deep` retrains from the base every so many nights, and in the last one of fewer.
        split: `valid` to choose something by, `test` to report.
    """

    def __init__(
        self, base: Base, stream: Stream, *, seed: int, share: float, deep_every: int, split: str = "test"
    ) -> None:
        self.base, self.stream, self.seed = base, stream, seed
        self.share = share
        self.model, self.tokenizer = lora.load_base(base.path)
        self.model = lora.new_adapter(self.model, base_name=base.name, base_revision="bench", rank=base.rank, seed=seed)
        self.fresh = snapshot(lora.trainable(self.model))
        self._leave_out_long_ones(split)
        self.deep_every = min(deep_every, len(self.stream.tasks))
        self.labels = [task.labels for task in self.stream.tasks]
        self.store = [self._stored(number, rows) for number, rows in enumerate(self.train)]
        self.base_scores: list[scoring.Scored] | None = None

    @property
    def kind(self) -> Kind:
        return self.stream.kind

    def run(
        self,
        strategy: Strategy,
        *,
        strength: float | None = None,
        deadline: float | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> Outcome:
        """Learn task after task.

        Args:
            deadline: `time.monotonic()` after which the run ends, marked as cut.
        """
        with quick_products(self.model) if self.base.quick else nullcontext():
            return self._run(strategy, strength, deadline, tell)

    def _run(
        self, strategy: Strategy, strength: float | None, deadline: float | None, tell: Callable[[str], None]
    ) -> Outcome:
        outcome = Outcome(strategy.name, self.stream.name, self.seed, [task.name for task in self.stream.tasks])
        outcome.strength = strength_of(self.base.name, strategy) if strength is None else strength
        put(lora.trainable(self.model), self.fresh)
        if self.base_scores is None:
            self.base_scores = [self._score(i, i) for i in range(len(self.test))]
        outcome.b = [scored.score for scored in self.base_scores]
        outcome.b_losses = [scored.loss for scored in self.base_scores]
        memory = Memory()
        last = len(self.train) - 1
        for t in [last] if strategy.name == "joint" else range(last + 1):
            memory = self._night(strategy, t, memory, outcome, deadline)
            if deadline is not None and time.monotonic() > deadline:
                outcome.cut = True
                break
            self._look(t, t == last, outcome)
            name = f"{self.stream.name} seed {self.seed} {strategy.name}"
            tell(f"{name}: {self.stream.tasks[t].name} {outcome.R[-1][t]:.3f}")
        outcome.peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return outcome

    def _night(self, strategy: Strategy, t: int, memory: Memory, outcome: Outcome, deadline: float | None) -> Memory:
        """One task's night; every `deep_every`-th of strategy `deep` is a deep one, the others are the default's."""
        torch.manual_seed(self.seed * 1_000 + t)
        deep = strategy.afresh and (strategy.name == "joint" or (t + 1) % self.deep_every == 0)
        tonight = strategy if deep or not strategy.afresh else STRATEGIES[default_of(self.base.name)]
        new, replayed = self.train[t], []
        if deep:
            put(lora.trainable(self.model), self.fresh)
            memory = Memory()
            new = [pair for rows in self.train[: t + 1] for pair in rows]
        elif tonight.replay and t:
            earlier = [stored for rows in self.store[:t] for stored in rows]
            count = replay.count_for(len(new), self.share) * self.base.recipe.epochs
            drawn = replay.draw(earlier, count, seed=self.seed * 1_000 + t)
            replayed = [self.row_of[stored.id] for stored in drawn]
        recipe = Recipe(**{**vars(self.base.recipe), "seed": self.seed * 1_000 + t})
        learned = learn(
            self.model, tonight, new=[row for _, row in new], replayed=replayed, share=self.share,
            holdout=[] if deep else [row for _, row in self.valid[t]], chosen_by=self._hold_outs(t), memory=memory,
            strength=outcome.strength or 0.0, recipe=recipe, pad_id=self.tokenizer.pad_token_id, deadline=deadline,
        )  # fmt: skip
        outcome.steps += len(learned.result.losses)
        outcome.seconds += learned.result.seconds
        outcome.penalty_seconds += learned.result.penalty_seconds
        outcome.importance_seconds += learned.importance_seconds
        outcome.deep_seconds += learned.result.seconds if deep else 0.0
        if t and not deep:
            outcome.replay_shares.append(learned.replay_share)
        return learned.memory

    def _hold_outs(self, t: int) -> list[list[Row]]:
        """Validation rows of tonight's task, and as many of those before."""
        each = -(-HOLDOUT // max(t, 1))
        tonight = [row for _, row in self.valid[t]]
        earlier = [row for rows in self.valid[:t] for _, row in rows[:each]]
        return [rows for rows in (tonight, earlier) if rows]

    def _look(self, t: int, last: bool, outcome: Outcome) -> None:
        """Score what the figures need: all tasks so far and the next one."""
        upto = len(self.test) if last else min(t + 2, len(self.test))
        found = [self._score(i, max(t, i)) for i in range(upto)]
        rest = [None] * (len(self.test) - upto)
        outcome.R.append([*(scored.score for scored in found), *rest])
        outcome.losses.append([*(scored.loss for scored in found), *rest])
        if last:
            outcome.final = [list(zip(s.groups, s.hits, s.chances, strict=True)) for s in found]

    def _score(self, i: int, known: int) -> scoring.Scored:
        """Task i's test, where the labels of tasks up to `known` have been seen."""
        if self.kind == "generation":
            return scoring.generation(self.model, self.test[i], self.tokenizer.pad_token_id)
        # An intent of two tasks is one label: beside itself it would win or lose by a rounding.
        labels = list(dict.fromkeys(label for seen in self.labels[: known + 1] for label in seen))
        return scoring.classification(self.model, self.tokenizer, self.test[i], labels)

    def _leave_out_long_ones(self, split: str) -> None:
        """Every task in tokens; what does not fit is told, and a task of which too little fits is none.

        Raises:
            BadInput: no task is left.
        """
        self.train, self.valid, self.test = list[Rows](), list[Rows](), list[Rows]()
        tasks, most = [], self.base.sizes.max_tokens
        for task in self.stream.tasks:
            parts = (task.train, task.valid, getattr(task, split))
            train, valid, test = (self._rows(part) for part in parts)
            if long := sum(map(len, parts)) - len(train) - len(valid) - len(test):
                self.stream.notes.append(f"Task '{task.name}': {long} examples have more than {most} tokens.")
            if not train or not test:
                self.stream.notes.append(f"Task '{task.name}' is left out: too little of it is short enough.")
                continue
            tasks.append(task)
            self.train.append(train)
            self.valid.append(valid[:HOLDOUT])
            self.test.append(test)
        if not tasks:
            raise BadInput(
                f"{self.stream.name} holds no task whose examples fit {most} tokens.", "Shorten its turns or texts."
            )
        self.stream = replace(self.stream, tasks=tasks)

    def _rows(self, examples: Sequence[Example]) -> Rows:
        return scoring.rows_of(self.tokenizer, examples, self.base.sizes)

    def _stored(self, number: int, rows: Sequence[tuple[Example, Row]]) -> list[TrainingExample]:
        """The rows as the replay buffer of a night holds them: a night's id, and the intent as the topic."""
        if number == 0:
            self.row_of: dict[Any, Row] = {}
        night = uuid.uuid5(uuid.NAMESPACE_OID, f"{self.stream.name}:{number}")
        made = []
        for place, (example, row) in enumerate(rows):
            topic = example.answer if self.kind == "classification" else None
            stored = TrainingExample(
                id=uuid.uuid5(night, str(place)), run_id=night, sha256=f"{example.hash}:{place}", reward=1.0,
                replayed=0, topic=topic, created_at=now(),
            )  # fmt: skip
            self.row_of[stored.id] = row
            made.append(stored)
        return made
