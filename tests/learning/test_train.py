"""The training loop's properties, on a tiny real model."""

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lessons import rows, weights

from core.errors import NightError
from learning.dataset import Row
from learning.importance import Penalty
from learning.lora import (
    load_adapter,
    load_base,
    new_adapter,
    save_adapter,
    share_of_parameters,
    trainable,
)
from learning.mas import estimate
from learning.train import Recipe, accumulate, mean_loss, schedule, train


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def run(base: tuple[Any, Any], model: Any, **options: Any) -> Any:
    recipe = Recipe(**{"learning_rate": 5e-3, "epochs": 3, "batch_size": 4, **options.pop("recipe", {})})
    new = options.pop("new", None) or rows(base[1], 12)
    return train(model, new=new, pad_id=base[1].pad_token_id, recipe=recipe, **options)


def test_it_learns(base: tuple[Any, Any], adapted: Any) -> None:
    sample = rows(base[1], 12)
    before = mean_loss(adapted, sample, base[1].pad_token_id)
    result = run(base, adapted, new=sample, recipe={"learning_rate": 2e-2, "epochs": 8})
    assert mean_loss(adapted, sample, base[1].pad_token_id) < before - 0.5
    assert result.steps == 24
    assert all(math.isfinite(loss) for loss in result.losses)


def test_the_base_is_never_trained(base: tuple[Any, Any], adapted: Any) -> None:
    frozen = {name: p.detach().clone() for name, p in adapted.named_parameters() if not p.requires_grad}
    run(base, adapted)
    assert all(torch.equal(p, frozen[name]) for name, p in adapted.named_parameters() if name in frozen)


def test_the_same_seed_gives_the_same_bits(base_folder: Path) -> None:
    results = []
    for _ in range(2):
        base = load_base(base_folder)
        model = new_adapter(base[0], base_name="tiny", base_revision="r", rank=2, seed=4)
        run(base, model)
        results.append(weights(model))
    assert equal(*results)


def test_a_strong_penalty_holds_the_weights(base: tuple[Any, Any], adapted: Any) -> None:
    before = weights(adapted)
    importance = estimate(adapted, rows(base[1], 4), base[1].pad_token_id)
    result = run(base, adapted, penalty=Penalty.around(adapted, importance, 1e4), recipe={"learning_rate": 1e-5})
    moved = max((weights(adapted)[name] - before[name]).abs().max().item() for name in before)
    assert moved < 2e-3
    assert result.penalty_seconds > 0


def test_small_parts_of_a_batch_add_up_to_its_gradient(base: tuple[Any, Any], adapted: Any) -> None:
    sample = rows(base[1], 6, answer="a" * 9) + rows(base[1], 2, answer="curta")
    gradients = []
    for tokens in (10_000, 150):
        loss = accumulate(adapted, sample, base[1].pad_token_id, tokens)
        gradients.append({name: p.grad.clone() for name, p in trainable(adapted).items()})
        adapted.zero_grad()
        assert math.isfinite(loss)
    for name in gradients[0]:
        torch.testing.assert_close(gradients[0][name], gradients[1][name], atol=1e-5, rtol=1e-3)


def test_a_heavier_example_pulls_harder(base: tuple[Any, Any], adapted: Any) -> None:
    light, heavy = (rows(base[1], 2)[i] for i in (0, 1))
    heavy = Row(heavy.ids, heavy.answer_start, weight=3.0)
    loss = accumulate(adapted, [light, heavy], base[1].pad_token_id, 10_000)
    a = mean_loss(adapted, [light], base[1].pad_token_id)
    b = mean_loss(adapted, [heavy], base[1].pad_token_id)
    n, m = len(light) - light.answer_start, len(heavy) - heavy.answer_start
    assert loss == pytest.approx((a * n + 3 * b * m) / (n + 3 * m), rel=1e-3)


def test_a_non_finite_loss_ends_the_run(base: tuple[Any, Any], adapted: Any) -> None:
    next(iter(trainable(adapted).values())).data.fill_(float("nan"))
    with pytest.raises(NightError, match="loss became nan"):
        run(base, adapted)


def test_nothing_to_learn_is_an_error(base: tuple[Any, Any], adapted: Any) -> None:
    with pytest.raises(NightError, match="nothing to learn"):
        train(adapted, new=[], pad_id=0, recipe=Recipe())


class Killed(Exception):
    pass


def kill_at(step: int) -> Callable[[Any], None]:
    def report(progress: Any) -> None:
        if progress.step == step:
            raise Killed

    return report


def fresh(base_folder: Path) -> tuple[tuple[Any, Any], Any]:
    base = load_base(base_folder)
    return base, new_adapter(base[0], base_name="tiny", base_revision="r", rank=2, seed=4)


def test_a_killed_run_goes_on_where_it_stopped(base_folder: Path, tmp_path: Path) -> None:
    base, whole = fresh(base_folder)
    run(base, whole)
    base, model = fresh(base_folder)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        run(base, model, report=kill_at(5), checkpoint=checkpoint, checkpoint_seconds=0.0)
    assert checkpoint.exists()
    base, again = fresh(base_folder)
    result = run(base, again, checkpoint=checkpoint)
    assert len(result.losses) == 9
    # Step 5's own checkpoint was not written before the kill: it is done again, and the end is the same.
    assert equal(weights(whole), weights(again))


def test_a_killed_run_remembers_its_best_look_and_the_time_it_had(base_folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": {"learning_rate": 3e-2, "epochs": 20, "evaluate_every": 2, "patience": 2}}
    checkpoint = tmp_path / "checkpoint.pt"
    base, whole = fresh(base_folder)
    options["holdout"] = rows(base[1], 6, answer="ZZZZ {i}")
    wanted = run(base, whole, **options)
    base, model = fresh(base_folder)
    with pytest.raises(Killed):
        run(base, model, report=kill_at(4), checkpoint=checkpoint, checkpoint_seconds=0.0, **options)
    base, again = fresh(base_folder)
    result = run(base, again, checkpoint=checkpoint, **options)
    assert (result.best_step, result.holdout_losses) == (wanted.best_step, wanted.holdout_losses)
    assert equal(weights(whole), weights(again))
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"seconds": 3600.0, "step": 3}, checkpoint)
    base, late = fresh(base_folder)
    out_of_time = run(base, late, checkpoint=checkpoint, deadline=time.monotonic() + 3599.0, **options)
    assert (out_of_time.out_of_time, len(out_of_time.losses)) == (True, 3)


def test_it_stops_early_and_keeps_the_best(base: tuple[Any, Any], adapted: Any) -> None:
    opposite = rows(base[1], 6, answer="ZZZZ {i}")
    before = mean_loss(adapted, opposite, base[1].pad_token_id)
    result = run(
        base, adapted, holdout=opposite,
        recipe={"learning_rate": 3e-2, "epochs": 20, "evaluate_every": 2, "patience": 2},
    )  # fmt: skip
    assert result.stopped_early
    best = min([before] + [loss for _, loss in result.holdout_losses])
    assert mean_loss(adapted, opposite, base[1].pad_token_id) == pytest.approx(best, rel=1e-3)


def test_a_deadline_keeps_what_was_learned(base: tuple[Any, Any], adapted: Any) -> None:
    result = run(base, adapted, deadline=time.monotonic() - 1)
    assert result.stopped_early
    assert result.losses == []


def test_the_rate_rises_then_falls_to_a_twentieth() -> None:
    factors = [schedule(step, 100, 0.06) for step in range(100)]
    assert factors[0] == pytest.approx(1 / 6)
    assert max(factors) == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.05, abs=0.01)


def test_an_adapter_survives_the_disk(base_folder: Path, adapted: Any, tmp_path: Path) -> None:
    save_adapter(adapted, tmp_path / "v1")
    loaded = load_adapter(load_base(base_folder)[0], tmp_path / "v1")
    assert equal(weights(adapted), weights(loaded))
    assert not (tmp_path / "v1" / "README.md").exists()


def test_the_adapter_is_a_small_share_of_the_parameters(adapted: Any) -> None:
    assert 0 < share_of_parameters(adapted) < 0.10


def test_an_adapter_that_is_not_small_is_refused(base_folder: Path) -> None:
    with pytest.raises(NightError, match="LORA_RANK"):
        new_adapter(load_base(base_folder)[0], base_name="tiny", base_revision="r", rank=64)


def test_every_epoch_replays_the_next_rows(
    base: tuple[Any, Any], adapted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learning import train as module

    seen: list[list[Row]] = []

    def watch(model: Any, batch: list[Row], *_: Any, tree: bool) -> float:
        seen.append(batch)
        return 1.0

    monkeypatch.setattr(module, "accumulate", watch)
    old = rows(base[1], 5, answer="Velho {i}")
    run(base, adapted, replayed=old, replays=2, recipe={"epochs": 3, "batch_size": 12})
    replayed = [[old.index(row) for row in batch if row in old] for batch in seen]
    assert [sorted(part) for part in replayed] == [[0, 1], [2, 3], [0, 4]]
