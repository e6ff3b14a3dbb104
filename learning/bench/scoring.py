"""Scores of a model on a task's examples.

Generation: token accuracy and loss of the reference answers, teacher-forced. Classification: every label seen so far is
ranked by its log-probability a token after the text; all labels stand behind one prompt in a single forward pass, each
of them seeing the prompt and itself only.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from core.errors import BadInput
from learning.dataset import Example, Row, encode
from learning.evaluate import score as token_scores


@dataclass
class Scored:
    """Per example: hits and chances (tokens, or one text), summed loss, group for the bootstrap."""

    hits: list[float]
    chances: list[int]
    losses: list[float]
    groups: list[str]

    @property
    def score(self) -> float:
        return sum(self.hits) / max(sum(self.chances), 1)

    @property
    def loss(self) -> float:
        return sum(self.losses) / max(sum(self.chances), 1)


@dataclass(frozen=True)
class Sizes:
    max_tokens: int = 160
    max_answer: int = 64


def rows_of(tokenizer: Any, examples: Sequence[Example], sizes: Sizes) -> list[tuple[Example, Row]]:
    """Examples that fit, without their history where they only fit so."""
    kept = []
    for example in examples:
        for messages in (example.messages, example.messages[-1:]):
            try:
                row = encode(
                    tokenizer, Example(messages, example.answer, group=example.group),
                    max_tokens=sizes.max_tokens, max_answer_tokens=sizes.max_answer,
                )  # fmt: skip
            except BadInput:
                continue
            kept.append((example, row))
            break
    return kept


def generation(model: Any, rows: Sequence[tuple[Example, Row]], pad_id: int) -> Scored:
    found = token_scores(model, [row for _, row in rows], pad_id, tokens=4_096)
    tokens = [len(row) - row.answer_start for _, row in rows]
    return Scored(
        [share * count for share, count in zip(found.accuracies, tokens, strict=True)],
        tokens,
        [loss * count for loss, count in zip(found.losses, tokens, strict=True)],
        [example.group for example, _ in rows],
    )


@torch.no_grad()
def classification(
    model: Any, tokenizer: Any, rows: Sequence[tuple[Example, Row]], labels: Sequence[str], *, batch: int = 16
) -> Scored:
    """Is the right label the likeliest of `labels`?"""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    endings = [[*tokenizer(label, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for label in labels]
    block = _Block(endings)
    hits, losses = [0.0] * len(rows), [0.0] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: rows[i][1].answer_start)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        prompts = [rows[i][1].ids[: rows[i][1].answer_start] for i in part]
        likelihoods = block.likelihoods(model, prompts, tokenizer.pad_token_id, device)
        for i, scores in zip(part, likelihoods, strict=True):
            right = labels.index(rows[i][0].answer)
            hits[i] = float(int(scores.argmax()) == right)
            losses[i] = -float(scores.log_softmax(0)[right])
    model.train(was_training)
    return Scored(hits, [1] * len(rows), losses, [example.group for example, _ in rows])


class _Block:
    """All labels in one row of tokens."""

    def __init__(self, endings: Sequence[Sequence[int]]) -> None:
        self.ids = torch.tensor([token for ending in endings for token in ending])
        self.owner = torch.tensor([number for number, ending in enumerate(endings) for _ in ending])
        self.place = torch.tensor([place for ending in endings for place in range(len(ending))])
        self.lengths = torch.tensor([float(len(ending)) for ending in endings])
        same = self.owner[:, None] == self.owner[None, :]
        self.sees = same & (self.place[None, :] <= self.place[:, None])

    def likelihoods(
        self, model: Any, prompts: Sequence[Sequence[int]], pad_id: int, device: torch.device
    ) -> torch.Tensor:
        """Mean log-probability a token of every label after every prompt, (prompts, labels)."""
        width, size = max(map(len, prompts)), len(self.ids)
        ids = torch.full((len(prompts), width + size), pad_id)
        real = torch.zeros((len(prompts), width), dtype=torch.bool)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) : width] = torch.tensor(prompt)
            real[i, width - len(prompt) :] = True
        ids[:, width:] = self.ids
        lengths = real.sum(dim=1, keepdim=True)
        positions = torch.cat([(real.cumsum(1) - 1).clamp(min=0), lengths + self.place[None, :]], dim=1)
        sees = torch.zeros((len(prompts), width + size, width + size), dtype=torch.bool)
        sees[:, :width, :width] = torch.ones(width, width).tril().bool() & real[:, None, :]
        sees[:, width:, :width] = real[:, None, :]
        sees[:, width:, width:] = self.sees
        sees |= torch.eye(width + size, dtype=torch.bool)  # padding sees itself: a row of nothing would be NaN
        logits = model(
            input_ids=ids.to(device), attention_mask=sees[:, None].to(device), position_ids=positions.to(device),
            logits_to_keep=size + 1, use_cache=False,
        ).logits.float().cpu()  # fmt: skip
        # A label's first token is predicted by the prompt's last, every other one by the token before it.
        source = torch.where(self.place == 0, 0, torch.arange(size))
        chosen = logits.log_softmax(-1)[:, source].gather(2, self.ids[None, :, None].expand(len(prompts), -1, 1))
        sums = torch.zeros((len(prompts), len(self.lengths))).index_add_(1, self.owner, chosen[..., 0])
        return sums / self.lengths
