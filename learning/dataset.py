"""From examples to tensors.

An example is what the model read (`core.prompts.chat_messages`) and what it should have said. It becomes
one token row through the base model's own chat template, the same template that serves it by day; the loss
counts the answer's tokens only, the end-of-turn token included, so that the model also learns to stop.
"""

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from core.errors import BadInput
from core.prompts import ChatMessage

IGNORED = -100  # torch's cross-entropy leaves these labels out
# Padded tokens of one pass. On a GPU 400 take as long as 8,000: it waits for its kernels to be called.
MICRO_BATCH_TOKENS = {"cpu": 400, "cuda": 16_384}


@dataclass(frozen=True)
class Example:
    """One thing to learn: after `messages`, say `answer`.

    Attributes:
        weight: how much its tokens count in the loss, relative to 1.
        group: whose conversation it is from; bootstrap and hold-out draw groups, not examples.
    """

    messages: tuple[ChatMessage, ...]
    answer: str
    weight: float = 1.0
    group: str = ""

    @cached_property
    def hash(self) -> str:
        """SHA-256 of what is learned. A manifest lists it, so that one person's data can be found again."""
        content = json.dumps([list(self.messages), self.answer], ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Row:
    """An example in tokens: `ids[answer_start:]` are the answer's, and the only ones that count."""

    ids: tuple[int, ...]
    answer_start: int
    weight: float = 1.0

    def __len__(self) -> int:
        return len(self.ids)


def encode(tokenizer: Any, example: Example, *, max_tokens: int = 512, max_answer_tokens: int = 128) -> Row:
    """Tokenise one example.

    Raises:
        BadInput: the prompt alone has more than `max_tokens`: shortening it would teach answers to questions
            that were never seen. Answers longer than `max_answer_tokens` are cut (and do not learn to end there).
    """
    text = tokenizer.apply_chat_template(list(example.messages), add_generation_prompt=True, tokenize=False)
    prompt = tokenizer(text, add_special_tokens=False).input_ids
    answer = tokenizer(example.answer, add_special_tokens=False).input_ids + [tokenizer.eos_token_id]
    answer = answer[:max_answer_tokens]
    if len(prompt) + len(answer) > max_tokens:
        raise BadInput(
            f"The example takes {len(prompt) + len(answer)} tokens, more than {max_tokens}.",
            "Shorten its history or passages.",
        )
    return Row(tuple(prompt + answer), len(prompt), example.weight)


def fitting(base: Path) -> Callable[[Example], bool]:
    """Whether that base has room for an example: one too long would end a night and every one that replays it."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)

    def fits(example: Example) -> bool:
        try:
            encode(tokenizer, example)
        except BadInput:
            return False
        return True

    return fits


@dataclass
class Batch:
    """Rows padded on the left, so that every answer ends in the last column.

    Left padding lets the model compute logits for the last `answer_width` positions alone: the output layer
    (a fifth of a small model's work) never sees a prompt's tokens. All tensors are (rows, columns), `labels`
    and `weights` (rows, answer_width).
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    @property
    def answer_width(self) -> int:
        return self.labels.shape[1]

    def losses(self, model: Any) -> torch.Tensor:
        """Cross-entropy in nats per answer token (rows, answer_width); 0 where `labels` is IGNORED."""
        logits = answer_logits(model, self).float()
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), self.labels.flatten(), ignore_index=IGNORED, reduction="none"
        )
        return losses.view_as(self.labels)

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(
            *(tensor.to(device) for tensor in (self.ids, self.mask, self.positions, self.labels, self.weights))
        )


def collate(rows: Sequence[Row], pad_id: int) -> Batch:
    """Pad rows into one batch."""
    width = max(len(row) for row in rows)
    answer_width = max(len(row) - row.answer_start for row in rows)
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    labels = torch.full((len(rows), answer_width), IGNORED, dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row.ids)
        mask[i, width - len(row) :] = 1
        answer = torch.tensor(row.ids[row.answer_start :])
        labels[i, answer_width - len(answer) :] = answer
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    weights = torch.tensor([row.weight for row in rows])[:, None].expand(-1, answer_width)
    return Batch(ids, mask, positions, labels, weights)


def answer_logits(model: Any, batch: Batch) -> torch.Tensor:
    """Logits (rows, answer_width, vocabulary) that predict `batch.labels`.

    The logit that predicts a column is computed one column before it: hence one more position, and the last cut.
    """
    output = model(
        input_ids=batch.ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        logits_to_keep=batch.answer_width + 1,
        use_cache=False,
    )
    return output.logits[:, :-1]


def micro_batches(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Split rows sorted by length so that each part has at most `tokens` padded tokens (and at least one row)."""
    part: list[Row] = []
    for row in rows:
        if part and (len(part) + 1) * len(row) > tokens:
            yield part
            part = []
        part.append(row)
    if part:
        yield part


def batches_by_length(rows: Sequence[Row], batch_size: int, rng: random.Random) -> Iterator[list[Row]]:
    """Every row once, in batches of similar length (little padding) and in random order."""
    order = sorted(rng.sample(range(len(rows)), len(rows)), key=lambda i: len(rows[i]))
    chunks = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rng.shuffle(chunks)
    for chunk in chunks:
        yield [rows[i] for i in chunk]


def mixed_batches(
    new: Sequence[Row], replayed: Sequence[Row], batch_size: int, rng: random.Random
) -> Iterator[list[Row]]:
    """Every new row once, each batch of them with its share of replayed rows of similar length.

    Replay has to be in every step, not in steps of its own: a step without it moves away from the old answers.
    """
    batches = list(batches_by_length(new, batch_size, rng))
    by_length = sorted(range(len(batches)), key=lambda i: len(batches[i][0]))
    shares = sorted(replayed, key=len)
    for rank, i in enumerate(by_length):
        first = rank * len(shares) // len(batches)
        last = (rank + 1) * len(shares) // len(batches)
        batches[i] = batches[i] + shares[first:last]
    return iter(batches)
