"""Matching: a question learns to lie nearer to the passage that answers it than to any other.

Translations alone put a question near what sounds like it. Here each question of a batch is told its passage among all
passages of the batch and some that were found beside them (in-batch negatives, Karpukhin et al. 2020, arXiv
2004.04906; the loss is InfoNCE, van den Oord et al. 2018, arXiv 1807.03748). Each step also distils a batch of
translations: both languages stay in one space.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from integrations.huggingface.embedder import padded
from learning.embedder.pairs import Pair
from learning.embedder.questions import Asked
from learning.embedder.student import Optimiser, Student

MAX_TOKENS = 96  # of a question, a passage or a translation; the rest is cut
OTHERS = 12  # passages of a batch that answer none of its questions


@dataclass(frozen=True)
class Matching:
    """How questions are matched.

    Args:
        batch: questions of one step, and translations.
        titles: how many of the questions are titles.
        temperature: what cosines are divided by.
        translations: weight of the distillation beside the matching.
        rate: of the LoRA; the words' rows take three times as much.
    """

    steps: int = 450
    batch: int = 24
    titles: int = 4
    temperature: float = 0.05
    translations: float = 3.0
    rate: float = 2e-4
    warmup: float = 0.05


def match(
    student: Student,
    tokenizer: Tokenizer,
    asked: Sequence[Asked],
    titles: Sequence[Asked],
    pairs: Sequence[Pair],
    targets: np.ndarray,
    recipe: Matching,
    *,
    seed: int,
    report: Callable[[int, float, float, float], None],
) -> None:
    """Teach `student` which passage answers which question.

    Args:
        targets: the teacher's vectors of the pairs' English side, shape (pairs, hidden).
        report: called every 50 steps with the step, the mean losses of matching and distillation, and the seconds.
    """
    chance = random.Random(seed)
    tokenizer.enable_truncation(MAX_TOKENS)
    aim, weights = torch.from_numpy(targets), [pair.weight for pair in pairs]
    optimiser = Optimiser(student, recipe.steps, rate=recipe.rate, rate_rows=3 * recipe.rate, warmup=recipe.warmup)

    def read(texts: Sequence[str]) -> torch.Tensor:
        vectors: torch.Tensor = student(*padded([encoding.ids for encoding in tokenizer.encode_batch(list(texts))]))
        return vectors

    student.train()
    started, matched, distilled = time.monotonic(), 0.0, 0.0
    for step in range(1, recipe.steps + 1):
        named = chance.sample(titles, min(recipe.titles, len(titles)))
        batch = chance.choices(asked, k=recipe.batch - len(named)) + named
        others = [chance.choice(one.others) for one in batch if one.others][:OTHERS]
        passages = [one.passage for one in batch] + others
        cosines = read([one.question for one in batch]) @ read(passages).T
        matching = torch.nn.functional.cross_entropy(
            cosines.masked_fill(_same(batch, passages), -1e9) / recipe.temperature, torch.arange(len(batch))
        )
        rows = chance.choices(range(len(pairs)), weights=weights, k=recipe.batch)
        distance = (read([pairs[row].portuguese for row in rows]) - aim[rows]).square().sum(1).mean()
        optimiser.step(matching + recipe.translations * distance)
        matched, distilled = matched + matching.item(), distilled + distance.item()
        if step % 50 == 0 or step == recipe.steps:
            since = (step - 1) % 50 + 1
            report(step, matched / since, distilled / since, time.monotonic() - started)
            matched = distilled = 0.0
    student.eval()


def _same(batch: Sequence[Asked], passages: Sequence[str]) -> torch.Tensor:
    """Where a passage stands a second time, it is no wrong answer: (questions, passages)."""
    return torch.tensor(
        [
            [column != row and text == one.passage for column, text in enumerate(passages)]
            for row, one in enumerate(batch)
        ]
    )
