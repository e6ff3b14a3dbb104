"""Distillation: Portuguese texts learn the vectors that the English model gives their translations.

Reimers & Gurevych 2020, "Making Monolingual Sentence Embeddings Multilingual using Knowledge Distillation": the
teacher is the English model, the student starts as its copy, and the loss is how far the student's vector of a
sentence lies from the teacher's vector of its translation. Here the student reads only Portuguese; English texts
stay with the teacher (see `integrations/huggingface/embedder.py`), so nothing has to be kept from forgetting.

Trained are the new words' rows and a LoRA on every linear layer: as good as training everything, and a tenth of the
size to ship. The frozen weights run in bf16, which on CPUs that know the format halves the time of a step.
"""

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from torch import nn
from transformers import BertModel, PreTrainedModel

from integrations.huggingface.embedder import padded
from learning.embedder.pairs import Pair

TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]


@dataclass(frozen=True)
class Recipe:
    """How the student is trained.

    Args:
        max_tokens: longer texts are cut; passages of the knowledge base have about 80 tokens.
        rate, rate_rows: of the LoRA and of the words' rows. Three times these teach the translations no worse, and
            the shop's questions worse: rare words stay where they are while frequent ones move.
    """

    epochs: int = 5
    batch_tokens: int = 1500
    max_tokens: int = 80
    rank: int = 16
    alpha: int = 32
    rate: float = 3e-4
    rate_rows: float = 1e-3
    warmup: float = 0.03


class Student(nn.Module):
    """The original model with rows for new words and a LoRA; only these two are trained.

    Args:
        model: a copy of the original, which the student keeps and changes.
        rows: what the new words' rows start as, shape (words, hidden); token `len(original) + i` is row i.
    """

    def __init__(self, model: BertModel, rows: np.ndarray, recipe: Recipe) -> None:
        super().__init__()
        self.original = model.embeddings.word_embeddings
        self.first = self.original.num_embeddings
        self.rows = nn.Embedding.from_pretrained(torch.from_numpy(rows), freeze=False, sparse=True)
        config = LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=TARGETS, lora_dropout=0.0)
        self.bert = cast(PeftModel, get_peft_model(cast(PreTrainedModel, model.bfloat16()), config))

    def take(self, tensors: dict[str, torch.Tensor]) -> None:
        """Go on from the LoRA of `tensors`, as an earlier student shipped them."""
        modules = dict(self.bert.get_base_model().named_modules())
        for name, tensor in tensors.items():
            layer, _, factor = name.rpartition(".")
            if factor in ("lora_A", "lora_B"):
                getattr(modules[layer], factor)["default"].weight.data.copy_(tensor.float())

    def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Sentence vectors (texts, hidden) of length 1, float32."""
        new = tokens >= self.first
        old = self.original(torch.where(new, 0, tokens)).float()
        added = self.rows(torch.where(new, tokens - self.first, 0))
        states = self.bert(
            inputs_embeds=torch.where(new.unsqueeze(-1), added, old).to(torch.bfloat16), attention_mask=mask
        ).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        return nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What is shipped: the rows, and each linear layer's LoRA under the layer's name in the original model."""
        found = {"rows": self.rows.weight.detach().half()}
        for name, module in self.bert.get_base_model().named_modules():
            if hasattr(module, "lora_A") and "default" in module.lora_A:
                found[f"{name}.lora_A"] = module.lora_A["default"].weight.detach().half()
                found[f"{name}.lora_B"] = module.lora_B["default"].weight.detach().half()
        return found


class Optimiser:
    """Moves a student's LoRA and its words' rows, each at its own rate, along one schedule.

    Only the rows of a batch's words move: a dense step would cost as much as the batch itself.
    """

    def __init__(self, student: Student, steps: int, *, rate: float, rate_rows: float, warmup: float) -> None:
        self._dense = [parameter for name, parameter in student.named_parameters() if "lora_" in name]
        self._parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(self._dense, lr=rate, weight_decay=0.0),
            torch.optim.SparseAdam(student.rows.parameters(), lr=rate_rows),
        ]
        self._schedules = [
            torch.optim.lr_scheduler.LambdaLR(part, lambda step: _rate(step / steps, warmup)) for part in self._parts
        ]

    def step(self, loss: torch.Tensor) -> None:
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._dense, 1.0)
        for part, schedule in zip(self._parts, self._schedules, strict=True):
            part.step()
            schedule.step()
            part.zero_grad(set_to_none=True)


def train(
    student: Student,
    tokenizer: Tokenizer,
    pairs: Sequence[Pair],
    targets: np.ndarray,
    recipe: Recipe,
    *,
    seed: int,
    report: Callable[[int, float, float], None],
) -> None:
    """Teach `student`.

    Args:
        targets: the teacher's vectors of the pairs' English side, shape (pairs, hidden).
        report: called after each epoch with its number, the mean loss and the seconds since the start.
    """
    chance = random.Random(seed)
    tokenizer.enable_truncation(recipe.max_tokens)
    ids = [encoding.ids for encoding in tokenizer.encode_batch([pair.portuguese for pair in pairs])]
    aim = torch.from_numpy(targets)
    weights = [pair.weight for pair in pairs]
    drawn = math.ceil(sum(weights))
    batches = [
        batch
        for _ in range(recipe.epochs)
        for batch in _batches(_draw(weights, chance), ids, recipe.batch_tokens, chance)
    ]
    optimiser = Optimiser(student, len(batches), rate=recipe.rate, rate_rows=recipe.rate_rows, warmup=recipe.warmup)
    student.train()
    start, losses, seen, epoch = time.monotonic(), 0.0, 0, 0
    for at, batch in enumerate(batches):
        vectors = student(*padded([ids[row] for row in batch]))
        # Squared distance of vectors of length 1.
        loss = (vectors - aim[batch]).square().sum(1).mean()
        optimiser.step(loss)
        losses += loss.item() * len(batch)
        seen += len(batch)
        if seen >= drawn or at == len(batches) - 1:
            epoch += 1
            report(epoch, losses / seen, time.monotonic() - start)
            losses, seen = 0.0, 0
    student.eval()


def _draw(weights: Sequence[float], chance: random.Random) -> list[int]:
    """The rows of one epoch: row i stands in it `weights[i]` times on average."""
    return [row for row, weight in enumerate(weights) for _ in range(int(weight + chance.random()))]


def _batches(rows: list[int], ids: Sequence[Sequence[int]], most: int, chance: random.Random) -> list[list[int]]:
    """Batches of rows of like length, of at most `most` padded tokens each, in random order."""
    order = sorted(rows, key=lambda row: len(ids[row]) + chance.random())
    batches: list[list[int]] = [[]]
    for row in order:
        if batches[-1] and len(ids[row]) * (len(batches[-1]) + 1) > most:
            batches.append([])
        batches[-1].append(row)
    chance.shuffle(batches)
    return batches


def _rate(done: float, warmup: float) -> float:
    """Share of the full rate: up in a line, then down along a cosine."""
    return done / warmup if done < warmup else 0.5 * (1 + math.cos(math.pi * (done - warmup) / (1 - warmup)))
