"""The night's importance, penalty, average and replay on the yardstick's model, beside Avalanche's plug-ins.

    python -m learning.bench.head --data banking77.jsonl.gz --strategies replay,mas+replay --seeds 3

Same stream, model and budget as theirs (docs/log.md has both): an MLP 384-256-K over the sentence vectors of
all-MiniLM-L6-v2, ten epochs of AdamW, 32 new texts and 6 replayed ones in a batch, ten texts kept an intent. The
optimiser is theirs; importance per sample with mean 1, the pull added once a step, the average and what replayed texts
weigh are the night's own code. Prints one JSON object a strategy.
"""

import json
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn

from integrations.huggingface.embedder import original_model, original_tokenizer, pooled
from learning import ema, replay
from learning.bench.data import Stream, stream
from learning.bench.metrics import figures, over_seeds
from learning.dataset import Example
from learning.importance import Importance, Penalty, half_and_half, normalised, per_sample
from learning.learn import Memory
from learning.lora import trainable
from learning.strategies import STRATEGIES, Strategy

EPOCHS, BATCH, REPLAYED, KEPT, RATE = 10, 32, 6, 10, 1e-3
IMPORTANCE_TEXTS = 64
MAX_TOKENS, SCALE = 48, 8.0  # of a text; of the unit vectors, as in the yardstick

Pair = tuple[torch.Tensor, int]  # a text's vector and the number of its intent


@dataclass(frozen=True)
class Tasks:
    """A stream in vectors: per task the pairs of each split; intents are numbered over all tasks."""

    train: list[list[Pair]]
    valid: list[list[Pair]]
    test: list[list[Pair]]
    intents: int


def in_vectors(texts: Stream) -> Tasks:
    number = {label: i for i, label in enumerate(label for task in texts.tasks for label in task.labels)}
    model, tokenizer = original_model(), original_tokenizer()
    tokenizer.enable_padding()
    tokenizer.enable_truncation(MAX_TOKENS)

    def pairs(part: Sequence[Example]) -> list[Pair]:
        vectors = _vectors(model, tokenizer, [example.messages[-1]["content"] for example in part])
        return list(zip(vectors, (number[example.answer] for example in part), strict=True))

    splits = [[pairs(part) for part in (task.train, task.valid, task.test)] for task in texts.tasks]
    train, valid, test = (list(split) for split in zip(*splits, strict=True))
    return Tasks(train, valid, test, len(number))


@torch.no_grad()
def _vectors(model: Any, tokenizer: Any, texts: Sequence[str]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for start in range(0, len(texts), 64):
        encoded = tokenizer.encode_batch(texts[start : start + 64])
        tokens = torch.tensor([one.ids for one in encoded])
        mask = torch.tensor([one.attention_mask for one in encoded])
        found += (pooled(model, tokens, mask) * SCALE).unbind()
    return found


def run(tasks: Tasks, strategy: Strategy, *, seed: int, strength: float, split: str = "test") -> dict[str, Any]:
    """Learn task after task; the figures of learning/bench/metrics.py, and what a step and the importance took."""
    torch.manual_seed(seed)
    rng = random.Random(seed)
    model = nn.Sequential(nn.Linear(384, 256), nn.ReLU(), nn.Linear(256, tasks.intents))
    factors = trainable(model)
    tests = getattr(tasks, split)
    base = [_accuracy(model, pairs) for pairs in tests]
    memory, stored = Memory(), list[Pair]()
    steps: list[float] = []
    importance_seconds = 0.0
    R: list[list[float | None]] = []
    nights = [[pair for pairs in tasks.train for pair in pairs]] if strategy.name == "joint" else tasks.train
    for new in nights:
        penalty = Penalty(memory.importance, factors, strength) if memory.importance else None
        average = ema.Average(factors) if strategy.average else None
        if memory.fast is not None:
            ema.put(factors, memory.fast)
        weight = replay.balancing(REPLAYED / (BATCH + REPLAYED)) if strategy.balanced else 1.0
        steps += _train(model, new, stored if strategy.replay else [], weight, penalty, average, rng)
        started = time.perf_counter()
        if average is not None:
            memory.fast = ema.snapshot(factors)
            ema.put(factors, average.slow)
        if strategy.penalty is not None:
            latest = _importance(model, half_and_half(rng.sample(new, len(new)), stored, IMPORTANCE_TEXTS))
            memory.importance = memory.importance.merged(latest) if memory.importance else latest
            importance_seconds += time.perf_counter() - started
        stored += _kept(new, rng)
        R.append([_accuracy(model, pairs) for pairs in tests])
    found: dict[str, Any] = {"average_score": statistics.mean(x for x in R[-1] if x is not None)}
    if len(R) > 1:
        found = dict(figures(R, base))
    return found | {
        "ms_per_step": 1_000 * statistics.median(steps), "importance_seconds": importance_seconds, "steps": len(steps)
    }  # fmt: skip


def _train(
    model: nn.Module, new: list[Pair], stored: list[Pair], weight: float, penalty: Penalty | None,
    average: ema.Average | None, rng: random.Random,
) -> list[float]:  # fmt: skip
    """Seconds of each step; `weight` is a replayed text's, a new one's is 1."""
    factors = trainable(model)
    optimiser = torch.optim.AdamW(factors.values(), lr=RATE, weight_decay=0.0)
    batches = [
        part
        for order in (rng.sample(new, len(new)) for _ in range(EPOCHS))
        for part in (order[start : start + BATCH] for start in range(0, len(order), BATCH))
    ]
    seconds = []
    for step, batch in enumerate(batches):
        started = time.perf_counter()
        old = rng.sample(stored, min(REPLAYED, len(stored)))
        x = torch.stack([vector for vector, _ in (*batch, *old)])
        y = torch.tensor([intent for _, intent in (*batch, *old)])
        weights = torch.tensor([1.0] * len(batch) + [weight] * len(old))
        losses = nn.functional.cross_entropy(model(x), y, reduction="none")
        ((losses * weights).sum() / weights.sum()).backward()
        if penalty is not None:
            penalty.add_gradient(factors)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if average is not None:
            average.follow(factors, step, len(batches))
        seconds.append(time.perf_counter() - started)
    return seconds


def _importance(model: nn.Module, pairs: list[Pair]) -> Importance:
    """MAS: how much the centred logits' square moves (learning/mas.py), a text at a time."""
    logits = (model(vector) for vector, _ in pairs)
    outputs = ((z - z.mean()).pow(2).sum() for z in logits)
    return Importance(normalised(per_sample(trainable(model), outputs, torch.abs)), kind="mas")


def _kept(pairs: list[Pair], rng: random.Random) -> list[Pair]:
    by_intent: dict[int, list[Pair]] = defaultdict(list)
    for pair in pairs:
        by_intent[pair[1]].append(pair)
    return [pair for group in by_intent.values() for pair in rng.sample(group, min(KEPT, len(group)))]


@torch.no_grad()
def _accuracy(model: nn.Module, pairs: list[Pair]) -> float:
    x = torch.stack([vector for vector, _ in pairs])
    return float((model(x).argmax(-1) == torch.tensor([intent for _, intent in pairs])).float().mean())


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), required=True)
@click.option("--strategies", default="replay,mas+replay,ema+replay,balanced,ema+balanced,joint", show_default=True)
@click.option("--strength", default=1e-3, show_default=True, help="Lambda; mean importance 1.")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--split", type=click.Choice(["valid", "test"]), default="test", show_default=True)
def main(data: Path, strategies: str, strength: float, seeds: int, split: str) -> None:
    """Learn a stream of intents with each strategy."""
    names = strategies.split(",")
    for name in names:
        if name not in STRATEGIES or STRATEGIES[name].penalty == "ewc" or name == "deep":
            raise click.BadParameter(f"'{name}' does not run on this model.")
    torch.set_num_threads(1)
    tasks = in_vectors(stream(data, seed=0, tasks=None, limits=None))
    for name in names:
        runs = [run(tasks, STRATEGIES[name], seed=seed, strength=strength, split=split) for seed in range(seeds)]
        click.echo(json.dumps({"strategy": name, "strength": strength} | over_seeds(runs)))


if __name__ == "__main__":
    main()
