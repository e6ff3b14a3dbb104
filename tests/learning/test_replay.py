"""Drawing from the replay buffer: deterministic, spread, weighted."""

import uuid
from collections import Counter
from datetime import timedelta

import pytest

from core.tables import TrainingExample, now
from learning import replay
from learning.dataset import Row
from learning.learn import _replays, balanced
from learning.train import portion


def examples(count: int, *, run: uuid.UUID | None = None, **values: object) -> list[TrainingExample]:
    made = []
    for _ in range(count):
        facts = {"reward": 1.0, "replayed": 0, "created_at": now(), **values}
        made.append(TrainingExample(id=uuid.uuid4(), sha256=uuid.uuid4().hex, run_id=run, **facts))
    return made


def test_the_same_seed_draws_the_same() -> None:
    pool = examples(50)
    assert [e.id for e in replay.draw(pool, 10, seed=3)] == [e.id for e in replay.draw(pool, 10, seed=3)]
    assert [e.id for e in replay.draw(pool, 10, seed=3)] != [e.id for e in replay.draw(pool, 10, seed=4)]


def test_the_order_of_the_pool_does_not_matter() -> None:
    pool = examples(50)
    assert {e.id for e in replay.draw(pool, 10, seed=3)} == {e.id for e in replay.draw(pool[::-1], 10, seed=3)}


def test_an_old_night_does_not_vanish_under_a_large_new_one() -> None:
    old, new = uuid.uuid4(), uuid.uuid4()
    drawn = replay.draw(examples(200, run=new) + examples(10, run=old), 20, seed=1)
    assert Counter(e.run_id for e in drawn) == {old: 10, new: 10}


def test_small_strata_give_all_they_have() -> None:
    drawn = replay.draw(examples(3, run=uuid.uuid4()) + examples(30, run=uuid.uuid4()), 20, seed=1)
    assert len(drawn) == 20


def test_it_never_draws_more_than_there_are() -> None:
    pool = examples(5)
    assert len(replay.draw(pool, 50, seed=1)) == 5
    assert replay.draw([], 5, seed=1) == []


def test_better_and_fresher_examples_come_more_often() -> None:
    good, bad = examples(100, reward=1.0), examples(100, reward=0.0)
    old = examples(100, reward=1.0, created_at=now() - timedelta(days=270))
    counts: Counter[str] = Counter()
    for seed in range(40):
        for drawn in replay.draw(good + bad + old, 30, seed=seed):
            counts["good" if drawn in good else "bad" if drawn in bad else "old"] += 1
    assert counts["good"] > 1.5 * counts["bad"]
    assert counts["good"] > 2.0 * counts["old"]


@pytest.mark.parametrize(("new", "share", "count"), [(100, 0.16, 20), (84, 0.16, 16), (10, 0.0, 0), (1, 0.5, 1)])
def test_the_share_is_of_all_that_is_trained_on(new: int, share: float, count: int) -> None:
    assert replay.count_for(new, share) == count


def test_where_there_are_more_topics_than_places_the_seed_chooses() -> None:
    pool = [example for topic in range(30) for example in examples(2, topic=f"t{topic}")]
    drawn = {seed: {e.topic for e in replay.draw(pool, 5, seed=seed)} for seed in range(6)}
    assert all(len(topics) == 5 for topics in drawn.values())
    assert len(set.union(*drawn.values())) > 12


@pytest.mark.parametrize(
    ("kept", "share"),
    [([], 0.15), ([0.96], 0.19), ([0.9, 0.9, 0.9, 0.9], 0.25), ([0.995] * 5, 0.13), ([0.995] * 20, 0.10),
     ([0.98] * 9, 0.15), ([0.995] * 5 + [0.96], 0.17)],
)  # fmt: skip
def test_the_share_rises_after_forgetting_and_falls_after_calm_nights(kept: list[float], share: float) -> None:
    assert replay.share_for(0.15, kept) == pytest.approx(share)


def test_who_wants_no_replay_gets_none() -> None:
    assert replay.share_for(0.0, [0.5]) == 0.0


@pytest.mark.parametrize("share", [0.1, 0.15, 0.25])
def test_the_share_is_counted_in_tokens_and_not_exceeded(share: float) -> None:
    new = [Row((1,) * 12, 2)] * 60
    old = [Row((1,) * (4 + i % 40), 2) for i in range(80)]
    count, found = _replays(new, old, share, epochs=3)
    portions = [portion(old, count, epoch) for epoch in range(3)]
    tokens = sum(len(row) - 2 for rows in portions for row in rows)
    assert found == pytest.approx(tokens / (tokens + 3 * 600))
    assert share - 0.03 < found <= share


def test_a_very_small_night_replays_one_all_the_same() -> None:
    assert _replays([Row((1, 2, 3), 1)] * 2, [Row((1, 2, 3), 1)] * 5, 0.15, epochs=2)[0] == 1
    assert _replays([Row((1, 2, 3), 1)] * 2, [], 0.15, epochs=2) == (0, 0.0)


def test_balanced_rows_weigh_half_of_the_loss_however_few_they_are() -> None:
    new, old = [Row((1, 2, 3, 4), 1)] * 12, [Row((1, 2, 3), 1, weight=0.8), Row((1, 2, 3), 1, weight=1.2)] * 3
    count, share = _replays(new, old, 0.15, epochs=2)
    weighed = balanced(old, share)[:count] + balanced(old, share)[count : 2 * count]
    of_the_loss = [sum(row.weight * (len(row) - row.answer_start) for row in rows) for rows in (weighed, new * 2)]
    assert of_the_loss[0] == pytest.approx(of_the_loss[1], rel=0.1)
    assert weighed[0].weight / weighed[1].weight == pytest.approx(0.8 / 1.2), "among themselves they weigh as before"
    assert balanced(old, 0.6) == old, "what is more already stays"
    assert balanced(old, 0.0) == old
