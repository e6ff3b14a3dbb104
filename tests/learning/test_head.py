"""The yardstick's model, on vectors that are easily told apart."""

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from learning.bench.data import stream
from learning.bench.head import Pair, Tasks, in_vectors, main, run
from learning.strategies import STRATEGIES

TEXTS = {
    "card lost": ["I lost my card", "my card is gone", "where is my card, I cannot find it"],
    "top up": ["how do I top up", "add money to my account", "I want to top up by card"],
    "opening hours": ["when do you open", "are you open on Sunday", "what are your hours"],
    "exchange rate": ["what is the exchange rate", "how many euros for a dollar", "rate for pounds"],
}


@pytest.fixture(scope="module")
def tasks() -> Tasks:
    """Three tasks of two intents; each intent is a cloud of its own, and all of them lie in one direction."""
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(384, generator=generator) * 0.5 + torch.randn(6, 384, generator=generator) * 0.1

    def cloud(intent: int, count: int) -> list[Pair]:
        return [(centres[intent] + torch.randn(384, generator=generator) * 0.1, intent) for _ in range(count)]

    def split(count: int) -> list[list[Pair]]:
        return [cloud(first, count) + cloud(first + 1, count) for first in (0, 2, 4)]

    return Tasks(split(40), split(8), split(8), 6)


def score(tasks: Tasks, name: str) -> float:
    return float(run(tasks, STRATEGIES[name], seed=0, strength=1e-3)["average_score"])


def test_what_is_not_replayed_is_forgotten_and_few_rows_that_weigh_little_do_not_help_much(tasks: Tasks) -> None:
    naive, replay, balanced, joint = (score(tasks, name) for name in ("naive", "replay", "balanced", "joint"))
    assert naive < replay < 0.5 < balanced <= joint
    assert joint > 0.95


@pytest.mark.parametrize("name", ["mas+replay", "ema+replay", "balanced", "ema+balanced", "mas+ema+replay"])
def test_every_strategy_runs_and_tells_its_figures(tasks: Tasks, name: str) -> None:
    found = run(tasks, STRATEGIES[name], seed=0, strength=1e-3)
    assert found["average_score"] > 0.2, "more than the last task is left"
    assert found["ms_per_step"] > 0
    assert (found["importance_seconds"] > 0) == ("mas" in name)


def test_the_command_reads_texts_and_prints_an_object_a_strategy(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    with data.open("w") as file:
        for number, (intent, texts) in enumerate(TEXTS.items()):
            for split in ("train", "valid", "test"):
                for i, text in enumerate(texts):
                    row = {
                        "id": f"{intent}{split}{i}",
                        "text": text,
                        "intent": intent,
                        "task": number // 2,
                        "split": split,
                    }
                    file.write(json.dumps(row) + "\n")
    assert in_vectors(stream(data, seed=0, tasks=None, limits=None)).intents == 4
    ran = CliRunner().invoke(main, ["--data", str(data), "--strategies", "ema+balanced,joint", "--seeds", "1"])
    assert ran.exit_code == 0, ran.output
    assert [json.loads(line)["strategy"] for line in ran.stdout.splitlines()] == ["ema+balanced", "joint"]


def test_a_strategy_that_this_model_cannot_have_is_said(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"text": "a", "intent": "b", "task": 0, "split": "train"}\n')
    ran = CliRunner().invoke(main, ["--data", str(tmp_path / "data.jsonl"), "--strategies", "deep"])
    assert ran.exit_code == 2
    assert "'deep' does not run on this model" in ran.output
