"""A night's training, as one thing that can be handed to another process: from examples to an adapter's weights."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core import artifacts
from integrations.huggingface.embedded_base import BaseModel
from learning import ema, lora
from learning.dataset import Example, Row, encode
from learning.importance import Importance
from learning.learn import Learned, Memory, estimate, learn
from learning.quick import quick_products
from learning.strategies import Strategy
from learning.train import Progress, Recipe


@dataclass(frozen=True)
class Training:
    """All that a training needs, in plain data.

    Attributes:
        parent: the folder of the version whose weights are continued; None: a fresh adapter of this `rank`.
        known: a few examples that stand for what the parent knows, where it left no importance.
        chosen_by: hold-outs that choose what is served (learning/learn.py).
        share: of the answers' tokens, at most so many are replayed ones.
        strength: lambda of the penalty.
        seconds: after so many no further step starts.
    """

    base: BaseModel
    parent: Path | None
    rank: int
    strategy: Strategy
    new: Sequence[Example]
    replayed: Sequence[Example]
    holdout: Sequence[Example]
    known: Sequence[Example]
    chosen_by: Sequence[Sequence[Example]]
    share: float
    strength: float
    recipe: Recipe
    checkpoint: Path
    seconds: float

    def run(self, report: Callable[[Progress], None] = lambda progress: None) -> tuple[Any, Learned]:
        """The adapted model, which holds what is to be served, and what was done.

        Raises:
            NightError: the loss became NaN or infinite, or there was nothing to train on.
        """
        deadline = time.monotonic() + self.seconds
        torch.manual_seed(self.recipe.seed)
        model, tokenizer = lora.load_base(self.base.path)
        if self.parent is not None:
            adapted = lora.load_adapter(model, self.parent)
        else:
            adapted = lora.new_adapter(
                model, base_name=self.base.name, base_revision=self.base.revision, rank=self.rank,
                seed=self.recipe.seed,
            )  # fmt: skip

        def rows(examples: Sequence[Example]) -> list[Row]:
            return [encode(tokenizer, example) for example in examples]

        with quick_products(adapted):
            learned = learn(
                adapted, self.strategy, new=rows(self.new), replayed=rows(self.replayed), share=self.share,
                holdout=rows(self.holdout), chosen_by=[rows(some) for some in self.chosen_by],
                memory=self._memory(adapted, rows(self.known), tokenizer.pad_token_id),
                strength=self.strength, pad_id=tokenizer.pad_token_id, recipe=self.recipe, report=report,
                checkpoint=self.checkpoint, deadline=deadline,
            )  # fmt: skip
        return adapted, learned

    def _memory(self, model: Any, known: Sequence[Row], pad_id: int) -> Memory:
        """What the parent's night left; importance that it did not leave is estimated from what it knew."""
        memory = Memory()
        if self.parent is None:
            return memory
        if (self.parent / artifacts.FAST).exists():
            memory.fast = ema.load_fast(self.parent / artifacts.FAST)
        if self.strategy.penalty is not None:
            if (self.parent / artifacts.IMPORTANCE).exists():
                memory.importance = Importance.load(self.parent / artifacts.IMPORTANCE)
            if (memory.importance is None or memory.importance.kind != self.strategy.penalty) and known:
                memory.importance = estimate(model, self.strategy.penalty, known, pad_id)
        return memory
