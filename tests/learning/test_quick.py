"""Quick training steps: the gradients of the usual ones, up to rounding, and nothing left behind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import rows

from learning.dataset import Row
from learning.lora import load_base, new_adapter, save_adapter, trainable
from learning.quick import ATTENTION, quick_products
from learning.train import accumulate, mean_loss


@pytest.fixture(autouse=True)
def _any_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 is computed everywhere, if slowly."""
    monkeypatch.setattr("learning.quick.knows_bf16", lambda: True)


@pytest.fixture
def sample(base: tuple[Any, Any]) -> list[Row]:
    """Rows of several lengths: a batch of them is padded."""
    return rows(base[1], 3) + rows(base[1], 2, "Sim, temos {i} em estoque, na cor azul.") + rows(base[1], 1, "Não.")


def gradient(model: Any, sample: list[Row], pad_id: int, part: int = 10_000) -> torch.Tensor:
    for factor in trainable(model).values():
        factor.grad = None
    accumulate(model, sample, pad_id, part)
    return torch.cat([factor.grad.flatten() for factor in trainable(model).values() if factor.grad is not None])


def test_the_gradients_are_the_usual_ones(base: tuple[Any, Any], adapted: Any, sample: list[Row]) -> None:
    pad_id = base[1].pad_token_id
    exact, usual = mean_loss(adapted, sample, pad_id), gradient(adapted, sample, pad_id)
    with quick_products(adapted):
        assert mean_loss(adapted, sample, pad_id) == pytest.approx(exact, rel=0.01)
        quick = gradient(adapted, sample, pad_id)
        parts = gradient(adapted, sample, pad_id, part=1)
    assert quick.dtype == torch.float32
    assert (quick - usual).norm() < 0.05 * usual.norm()
    assert (parts - usual).norm() < 0.05 * usual.norm(), "without padding too"
    assert all(p.dtype == torch.float32 for p in trainable(adapted).values())


def test_the_word_vectors_are_kept_once_and_read_in_fp32(adapted: Any) -> None:
    table, head = adapted.get_input_embeddings(), adapted.get_output_embeddings()
    tokens = torch.tensor([[3, 5]])
    exact = table(tokens)
    with quick_products(adapted):
        assert head.weight is table.weight
        assert table.weight.dtype == torch.bfloat16
        assert table(tokens).dtype == torch.float32
        assert torch.allclose(table(tokens), exact, rtol=2**-8)


def test_heads_that_share_keys(tiny_base: Path) -> None:
    """Otherwise the test above would say nothing of grouped heads."""
    config = load_base(tiny_base)[0].config
    assert config.num_attention_heads > config.num_key_value_heads


def test_the_step_is_seen_by_the_next_batch(base: tuple[Any, Any], adapted: Any, sample: list[Row]) -> None:
    pad_id = base[1].pad_token_id
    with quick_products(adapted):
        before = mean_loss(adapted, sample, pad_id)
        gradient(adapted, sample, pad_id)
        for factor in trainable(adapted).values():
            assert factor.grad is not None
            factor.data -= 0.5 * factor.grad
        assert mean_loss(adapted, sample, pad_id) < before


def test_without_the_adapter_and_with_another_one(
    base: tuple[Any, Any], base_folder: Path, adapted: Any, sample: list[Row], tmp_path: Path
) -> None:
    other = new_adapter(load_base(base_folder)[0], base_name="tiny", base_revision="r", rank=3, seed=9)
    for name, factor in trainable(other).items():
        if "lora_B" in name:
            torch.nn.init.normal_(factor, std=0.05)
    save_adapter(other, tmp_path / "other")
    pad_id = base[1].pad_token_id
    bare, exact = mean_loss(load_base(base_folder)[0], sample, pad_id), mean_loss(other, sample, pad_id)
    with quick_products(adapted):
        with adapted.disable_adapter():
            assert mean_loss(adapted, sample, pad_id) == pytest.approx(bare, rel=0.01)
        adapted.load_adapter(str(tmp_path / "other"), "other")
        adapted.set_adapter("other")
        assert mean_loss(adapted, sample, pad_id) == pytest.approx(exact, rel=0.01)


def test_nothing_is_left_behind(adapted: Any) -> None:
    def fails() -> None:
        with quick_products(adapted):
            assert adapted.config._attn_implementation == ATTENTION
            assert [module for module in adapted.modules() if "forward" in vars(module)]
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert adapted.config._attn_implementation == "sdpa"
    assert not [module for module in adapted.modules() if "forward" in vars(module)]


def test_where_bf16_is_slow_it_does_nothing(adapted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("learning.quick.knows_bf16", lambda: False)
    with quick_products(adapted):
        assert not [module for module in adapted.modules() if "forward" in vars(module)]
    assert {module.base_layer.weight.dtype for module in adapted.modules() if hasattr(module, "base_layer")} == {
        torch.float32
    }
