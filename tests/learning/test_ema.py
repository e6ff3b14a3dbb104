"""Fast and slow weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import rows, weights

from learning import ema
from learning.learn import Memory, learn
from learning.lora import trainable
from learning.strategies import STRATEGIES
from learning.train import Recipe, mean_loss


def test_the_slow_weight_is_a_moving_average() -> None:
    average = ema.Average({"lora_B": torch.tensor([0.5])}, window=0.5)
    for step in range(2):
        average.follow({"lora_B": torch.tensor([1.5])}, step, steps=4)  # a window of two steps: half the way each time
    assert average.slow["lora_B"].item() == pytest.approx(1.25)


def test_a_fresh_adapters_average_forgets_its_beginning() -> None:
    average = ema.Average({"lora_A": torch.tensor([9.0]), "lora_B": torch.tensor([0.0])}, window=0.75)
    for step, value in enumerate([2.0, 4.0]):
        average.follow({"lora_A": torch.tensor([value]), "lora_B": torch.tensor([value])}, step, steps=4)
    assert average.slow["lora_A"].item() == average.slow["lora_B"].item() == pytest.approx(3.0)


def test_a_night_shorter_than_the_window_serves_its_last_step() -> None:
    average = ema.Average({"lora_B": torch.tensor([1.0])}, window=0.4)
    average.follow({"lora_B": torch.tensor([3.0])}, 0, steps=2)
    assert average.slow["lora_B"].item() == pytest.approx(3.0)


def test_the_best_point_between_is_left_behind() -> None:
    factors = {"lora_B": torch.nn.Parameter(torch.zeros(1))}
    slow, fast = {"lora_B": torch.tensor([1.0])}, {"lora_B": torch.tensor([3.0])}
    for wanted, nearness in ((0.0, 0.0), (1.4, 0.25), (2.1, 0.5), (9.0, 1.0)):
        found = ema.best_between(factors, slow, fast, lambda: abs(factors["lora_B"].item() - wanted))  # noqa: B023
        assert found == nearness
        assert factors["lora_B"].item() == pytest.approx(1.0 + 2.0 * nearness)


def night(base: tuple[Any, Any], model: Any, memory: Memory, **options: Any) -> Any:
    return learn(
        model, STRATEGIES[options.pop("strategy", "ema+replay")], new=rows(base[1], 12), memory=memory, strength=0.0,
        recipe=Recipe(learning_rate=5e-3, epochs=3, batch_size=4), pad_id=base[1].pad_token_id, **options,
    )  # fmt: skip


def test_what_is_served_lies_between_the_old_and_the_fast(base: tuple[Any, Any], adapted: Any) -> None:
    before = weights(adapted)
    learned = night(base, adapted, Memory())
    served, fast = weights(adapted), learned.memory.fast
    assert fast is not None
    name = max(before, key=lambda n: (fast[n] - before[n]).abs().max().item())
    assert 0 < (served[name] - before[name]).norm() < (fast[name] - before[name]).norm()


def test_hold_outs_choose_how_much_of_the_night_is_served(base: tuple[Any, Any], adapted: Any) -> None:
    """Tonight's answers contradict earlier ones: its own hold-out asks for the last step, the earlier one for less."""
    tonight, earlier = rows(base[1], 12), rows(base[1], 12, "Não, {i} não temos nem teremos.")

    def sleep(new: list[Any], chosen_by: list[Any]) -> Any:
        return learn(
            adapted, STRATEGIES["wise+replay"], new=new, memory=Memory(), strength=0.0, chosen_by=chosen_by,
            recipe=Recipe(learning_rate=2e-2, epochs=8, batch_size=4), pad_id=base[1].pad_token_id,
        )  # fmt: skip

    first = sleep(earlier, [earlier])
    assert first.nearness == 1.0
    assert all(torch.equal(factor, first.memory.fast[name]) for name, factor in weights(adapted).items())
    known = weights(adapted)
    assert sleep(tonight, [earlier]).nearness < 1.0
    for name, factor in trainable(adapted).items():
        factor.data.copy_(known[name])
    assert sleep(tonight, [tonight]).nearness == 1.0
    for name, factor in trainable(adapted).items():
        factor.data.copy_(known[name])
    assert sleep(tonight, []).nearness == 0.0, "nothing to choose by: the average"


def test_the_next_night_goes_on_from_the_fast_ones(base: tuple[Any, Any], adapted: Any) -> None:
    fast = {name: factor + 1.0 for name, factor in weights(adapted).items()}
    seen: dict[str, torch.Tensor] = {}

    def first_step(progress: Any) -> None:
        if not seen:
            seen.update(weights(adapted))

    served = weights(adapted)
    night(base, adapted, Memory(fast=fast), report=first_step)
    name = next(iter(fast))
    assert (seen[name] - fast[name]).abs().max() < 0.05 < (seen[name] - served[name]).abs().max()


def test_the_hold_out_judges_what_would_be_served(base: tuple[Any, Any], adapted: Any) -> None:
    held = rows(base[1], 4)
    learned = night(base, adapted, Memory(), holdout=held)
    best = min(loss for _, loss in learned.result.holdout_losses)
    assert mean_loss(adapted, held, base[1].pad_token_id) == pytest.approx(best, rel=1e-3)


def test_saved_and_loaded(adapted: Any, tmp_path: Path) -> None:
    fast = ema.snapshot(trainable(adapted))
    ema.save_fast(fast, tmp_path / "fast.safetensors")
    loaded = ema.load_fast(tmp_path / "fast.safetensors")
    assert all(torch.equal(loaded[name], fast[name]) for name in fast)
