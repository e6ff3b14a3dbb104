"""Memory Aware Synapses against a case that can be done by hand, and on a real tiny language model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.prompts import chat_messages
from learning.dataset import Example, Row, collate, encode
from learning.importance import DECAY, Importance, Penalty, normalised
from learning.lora import trainable
from learning.mas import estimate


class TwoWeights(torch.nn.Module):
    """f(x) = a x1 + b x2 at (2, -2), shown as a language model whose centred logits have the squared length f^2."""

    def __init__(self) -> None:
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(2.0))
        self.b = torch.nn.Parameter(torch.tensor(-2.0))

    def forward(self, input_ids: torch.Tensor, **_: Any) -> Any:
        f = self.a * input_ids[:, 0] + self.b * input_ids[:, 1]
        half = f / 2**0.5
        logits = torch.stack([half + 3.0, -half + 3.0], dim=-1)  # + 3: a common offset must not matter
        return SimpleNamespace(logits=torch.stack([logits, logits], dim=1))


SAMPLES = [Row((1, 0), 1), Row((1, 2), 1)]


class TestByHand:
    def test_importance_is_taken_per_sample(self) -> None:
        """df^2/d(a, b) = (4, 0) and (-4, -8): per sample (4, 4), mean 1: (1, 1). Averaged first, a would be lost."""
        importance = estimate(TwoWeights(), SAMPLES, pad_id=0)
        assert importance.omega["a"].item() == pytest.approx(1.0)
        assert importance.omega["b"].item() == pytest.approx(1.0)

    def test_penalty_and_its_gradient(self) -> None:
        model = TwoWeights()
        penalty = Penalty.around(model, estimate(model, SAMPLES, pad_id=0), strength=1.0)
        assert penalty.value(model) == 0.0
        model.a.data, model.b.data = torch.tensor(2.5), torch.tensor(-1.0)
        assert penalty.value(model) == pytest.approx(0.625)
        model.a.grad, model.b.grad = torch.tensor(0.0), torch.tensor(0.0)
        penalty.add_gradient(trainable(model))
        assert (model.a.grad.item(), model.b.grad.item()) == pytest.approx((0.5, 1.0))

    def test_two_nights_are_merged_with_decay(self) -> None:
        first = Importance({"a": torch.tensor(1.0), "b": torch.tensor(1.0)})
        second = Importance({"a": torch.tensor(0.5), "b": torch.tensor(1.5)})
        merged = first.merged(second)
        assert merged.nights == pytest.approx(DECAY + 1)
        assert merged.omega["a"].item() == pytest.approx((DECAY + 0.5) / (DECAY + 1))
        assert merged.omega["b"].item() == pytest.approx((DECAY + 1.5) / (DECAY + 1))

    def test_descent_ends_between_the_new_task_and_the_old_weights(self) -> None:
        """New loss (a-4)^2/2 + (b-2)^2/2 with lambda 1 and importance (1, 1): (3, 0)."""
        model = TwoWeights()
        penalty = Penalty.around(model, estimate(model, SAMPLES, pad_id=0), strength=1.0)
        for _ in range(200):
            ((model.a - 4) ** 2 / 2 + (model.b - 2) ** 2 / 2).backward()
            penalty.add_gradient(trainable(model))
            with torch.no_grad():
                for parameter in (model.a, model.b):
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
        assert (model.a.item(), model.b.item()) == pytest.approx((3.0, 0.0), abs=1e-4)


def rows(tokenizer: Any, count: int) -> list[Row]:
    made = []
    for i in range(count):
        messages = chat_messages(language="pt", assistant="Lia", business="X", question=f"P{i}?", passages=None)
        made.append(encode(tokenizer, Example(tuple(messages), f"Resposta {i * 7}.")))
    return made


class TestOnALanguageModel:
    def test_mean_is_one_and_two_runs_are_bit_equal(self, base: tuple[Any, Any], adapted: Any) -> None:
        sample = rows(base[1], 3)
        adapted.train()
        once, again = (estimate(adapted, sample, base[1].pad_token_id) for _ in range(2))
        numbers = torch.cat([tensor.flatten() for tensor in once.omega.values()])
        assert numbers.mean().item() == pytest.approx(1.0, rel=1e-5)
        assert all(torch.equal(once.omega[name], again.omega[name]) for name in once.omega)
        assert adapted.training  # left as it was found

    def test_it_is_the_mean_of_the_absolute_per_sample_gradients(self, base: tuple[Any, Any], adapted: Any) -> None:
        sample, pad = rows(base[1], 3), base[1].pad_token_id
        each = [estimate(adapted, [row], pad).omega for row in sample]
        together = estimate(adapted, sample, pad).omega
        # Each single estimate is normalised on its own, so compare up to one factor per sample: directions only.
        name = next(n for n in together if "lora_A" in n)
        assert together[name].min() >= 0
        assert any(not torch.allclose(each[0][name], each[i][name]) for i in (1, 2))

    def test_padding_on_the_left_changes_nothing(self, base: tuple[Any, Any], adapted: Any) -> None:
        pad = base[1].pad_token_id
        row = rows(base[1], 1)[0]
        longer = rows(base[1], 12)[11]
        batch = collate([row, longer], pad)
        assert batch.ids.shape[1] >= len(row)
        alone = estimate(adapted, [row], pad)
        assert all(torch.isfinite(tensor).all() for tensor in alone.omega.values())

    def test_saved_and_loaded_it_is_the_same(self, base: tuple[Any, Any], adapted: Any, tmp_path: Path) -> None:
        importance = estimate(adapted, rows(base[1], 2), base[1].pad_token_id)
        importance.nights = 2.5
        importance.save(tmp_path / "importance.safetensors")
        loaded = Importance.load(tmp_path / "importance.safetensors")
        assert loaded.nights == 2.5
        assert all(torch.equal(loaded.omega[name], importance.omega[name]) for name in importance.omega)

    def test_nothing_moves_at_the_anchor(self, base: tuple[Any, Any], adapted: Any) -> None:
        penalty = Penalty.around(adapted, estimate(adapted, rows(base[1], 2), base[1].pad_token_id), 5.0)
        parameters = trainable(adapted)
        for parameter in parameters.values():
            parameter.grad = torch.zeros_like(parameter)
        penalty.add_gradient(parameters)
        assert all(parameter.grad.abs().max() == 0 for parameter in parameters.values())


def test_a_model_that_says_nothing_has_no_importance_and_no_division_by_zero() -> None:
    assert torch.isfinite(normalised({"a": torch.zeros(3)})["a"]).all()
