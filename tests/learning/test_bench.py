"""`npllm bench continual`: reading streams, the figures by hand, scores, and whole runs on a tiny model."""

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

from core.errors import BadInput
from learning.bench import picture, scoring
from learning.bench.__main__ import main, summary, table
from learning.bench.data import Limits, name_of, read, stream
from learning.bench.metrics import figures, over_seeds, paired
from learning.bench.run import Base, Bench, Outcome
from learning.dataset import Example, encode
from learning.evaluate import score
from learning.strategies import DEFAULT, STRATEGIES
from learning.train import Recipe


def written(folder: Path, name: str, records: list[dict[str, Any]]) -> Path:
    path = folder / name
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)
    return path


def dialogues(folder: Path, domains: tuple[str, ...] = ("Zoo", "Bar", "Art"), each: int = 12) -> Path:
    records = [
        {"id": f"{domain}{i}", "domain": domain, "split": ("train", "train", "valid", "test")[i % 4],
         "turns": [{"u": f"{domain} {i}?", "s": f"{domain} says {i % 3}."}, {"u": "Thanks", "s": "Bye."}]}
        for domain in domains for i in range(each)
    ]  # fmt: skip
    return written(folder, "talks.jsonl.gz", records)


def queries(folder: Path) -> Path:
    records = [
        {"id": f"{intent}-{i}", "text": f"{intent} please {i}", "intent": intent, "task": task,
         "split": ("train", "valid", "test")[i % 3]}
        for task, intents in enumerate([("get_card", "lost_card"), ("top_up", "exchange")])
        for intent in intents for i in range(9)
    ]  # fmt: skip
    return written(folder, "queries.jsonl.gz", records)


class TestReading:
    def test_tasks_come_by_first_appearance(self, tmp_path: Path) -> None:
        found = stream(dialogues(tmp_path), seed=0, tasks=2, limits=None)
        assert (found.kind, [task.name for task in found.tasks]) == ("generation", ["Zoo", "Bar"])

    def test_orders_stand_beside_the_file(self, tmp_path: Path) -> None:
        path = dialogues(tmp_path)
        (tmp_path / "sequences.json").write_text(json.dumps({"x": [["Art", "Bar", "Zoo"], ["Bar", "Art", "Zoo"]]}))
        orders = [[task.name for task in stream(path, seed=seed, tasks=None, limits=None).tasks] for seed in range(3)]
        assert orders == [["Art", "Bar", "Zoo"], ["Bar", "Art", "Zoo"], ["Art", "Bar", "Zoo"]]

    def test_an_answer_is_learned_after_the_exchange_before_it(self, tmp_path: Path) -> None:
        task = stream(dialogues(tmp_path), seed=0, tasks=1, limits=None).tasks[0]
        assert [m["content"] for m in task.train[1].messages] == ["Zoo 0?", "Zoo says 0.", "Thanks"]
        assert task.train[1].answer == "Bye."

    @pytest.mark.parametrize(
        "turns",
        [
            [{"role": "user", "text": "Oi"}, {"role": "user", "text": "tudo?"}, {"role": "agent", "text": "Sim"}],
            ["Oi tudo?", "Sim"],
            [{"u": "Oi tudo?", "s": "Sim"}],
        ],
    )
    def test_turns_in_every_form(self, tmp_path: Path, turns: list[Any]) -> None:
        records = [{"id": split, "domain": "d", "split": split, "turns": turns} for split in ("train", "test")]
        path = written(tmp_path, "a.jsonl.gz", records)
        (example,) = stream(path, seed=0, tasks=None, limits=None).tasks[0].train
        assert (example.messages[-1]["content"], example.answer) == ("Oi tudo?", "Sim")

    def test_only_rewarded_answers_are_learned(self, tmp_path: Path) -> None:
        records = [
            {"id": str(reward), "conversation": split, "domain": "d", "split": split, "reward": reward,
             "context": [{"role": "user", "text": "Tickets?"}, {"role": "agent", "api": {}}],
             "response": {"role": "agent", "text": f"Reward {reward}"}}
            for reward in (0, 1) for split in ("train", "test")
        ]  # fmt: skip
        task = stream(written(tmp_path, "f.jsonl.gz", records), seed=0, tasks=None, limits=None).tasks[0]
        assert [example.answer for example in task.train] == ["Reward 1"]

    def test_intents_are_words_and_tests_are_limited_per_intent(self, tmp_path: Path) -> None:
        found = stream(queries(tmp_path), seed=0, tasks=None, limits=Limits(per_intent=2))
        assert found.kind == "classification"
        assert found.tasks[1].labels == ["top up", "exchange"]
        assert len(found.tasks[0].test) == 4
        assert len(found.tasks[0].train) == 6

    def test_conversations_without_a_split_are_drawn_whole(self, tmp_path: Path) -> None:
        records = [{"id": str(i), "domain": "d", "turns": ["a", f"b{i}", "c", f"d{i}"]} for i in range(200)]
        task = stream(written(tmp_path, "n.jsonl.gz", records), seed=0, tasks=None, limits=None).tasks[0]
        groups = [{example.group for example in part} for part in (task.train, task.valid, task.test)]
        assert not groups[0] & groups[1] and not groups[1] & groups[2] and not groups[0] & groups[2]
        assert 140 < len(groups[0]) < 180

    def test_an_unknown_form_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match="fields id, price"):
            stream(written(tmp_path, "x.jsonl.gz", [{"id": 1, "price": 2}]), seed=0, tasks=None, limits=None)

    @pytest.mark.parametrize("each", range(2, 12))
    def test_a_small_task_is_trained_on_and_tested_however_the_hash_falls(self, tmp_path: Path, each: int) -> None:
        records = [
            {"id": f"{domain}{i}", "domain": domain, "turns": ["a", f"b {i}"]} for domain in "XYZ" for i in range(each)
        ]
        found = stream(written(tmp_path, "s.jsonl.gz", records), seed=0, tasks=None, limits=None)
        assert [task.name for task in found.tasks] == ["X", "Y", "Z"]
        for task in found.tasks:
            assert task.train and task.test and (task.valid or each == 2)
            assert len(task.train) + len(task.valid) + len(task.test) == each

    def test_a_task_of_one_record_is_left_out_and_named_and_does_not_count(self, tmp_path: Path) -> None:
        records = [{"id": "lonely", "domain": "A", "turns": ["a", "b"]}]
        records += [{"id": f"{d}{i}", "domain": d, "turns": ["a", f"b {i}"]} for d in "BC" for i in range(9)]
        path = written(tmp_path, "s.jsonl.gz", records)
        found = stream(path, seed=0, tasks=2, limits=None)
        assert [task.name for task in found.tasks] == ["B", "C"]
        assert found.notes == ["Task 'A' is left out: of its 1 records none is there to test it with."]
        assert stream(path, seed=0, tasks=3, limits=None).notes[-1] == "3 tasks were asked for, 2 can be had."
        with pytest.raises(BadInput, match="no task that can be learned"):
            stream(written(tmp_path, "one.jsonl.gz", records[:1]), seed=0, tasks=1, limits=None)

    def test_other_names_of_a_split_are_read_and_an_unknown_one_is_named(self, tmp_path: Path) -> None:
        def talk(split: str) -> dict[str, Any]:
            return {"id": split, "domain": "d", "split": split, "turns": ["a", "b"]}

        records = [talk(split) for split in ("train", "dev", "validation", "Test")]
        task = stream(written(tmp_path, "s.jsonl.gz", records), seed=0, tasks=None, limits=None).tasks[0]
        assert (len(task.train), len(task.valid), len(task.test)) == (1, 2, 1)
        with pytest.raises(BadInput, match="'holdout' is no split"):
            stream(written(tmp_path, "t.jsonl.gz", [talk("holdout")]), seed=0, tasks=None, limits=None)

    def test_the_same_id_in_two_splits_is_two_conversations(self, tmp_path: Path) -> None:
        records = [
            {"id": i, "domain": "d", "split": split, "turns": ["a", split]} for split in ("train", "test")
            for i in range(3)
        ]  # fmt: skip
        task = stream(written(tmp_path, "s.jsonl.gz", records), seed=0, tasks=None, limits=None).tasks[0]
        assert {example.answer for example in task.train} == {"train"}
        assert len(task.train) == len(task.test) == 3

    def test_records_without_an_id_are_conversations_of_their_own(self, tmp_path: Path) -> None:
        talks = [{"domain": "d", "turns": ["a", f"b {i}"]} for i in range(40)]
        asked = [{"text": f"a {i}", "intent": "x"} for i in range(40)]
        for name, records in (("t.jsonl.gz", talks), ("q.jsonl.gz", asked)):
            task = stream(written(tmp_path, name, records), seed=0, tasks=None, limits=None).tasks[0]
            assert len({example.group for example in task.train}) == len(task.train)

    def test_two_kinds_in_one_file_are_named(self, tmp_path: Path) -> None:
        records = [{"id": 1, "turns": ["a", "b"]}, {"id": 2, "text": "a", "intent": "b"}]
        with pytest.raises(BadInput, match=r"generation \(record 1\) and classification \(record 2\)"):
            stream(written(tmp_path, "m.jsonl.gz", records), seed=0, tasks=None, limits=None)

    def test_what_cannot_be_read_says_where(self, tmp_path: Path) -> None:
        whole = dialogues(tmp_path).read_bytes()
        (tmp_path / "half.jsonl.gz").write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BadInput, match="cannot be read"):
            read(tmp_path / "half.jsonl.gz")
        (tmp_path / "hole.jsonl").write_text('{"id": 1}\n\n{"id": [\n{"id": 3}\n')
        with pytest.raises(BadInput, match="line 3: Expecting value"):
            read(tmp_path / "hole.jsonl")
        (tmp_path / "windows.jsonl").write_text('{"id": 1}\r\n', encoding="utf-8-sig")
        assert read(tmp_path / "windows.jsonl") == [{"id": 1}]


class TestFigures:
    R = [[0.8, 0.2, None], [0.6, 0.9, 0.3], [0.4, 0.6, 0.7]]
    b = [0.1, 0.1, 0.2]

    def test_by_hand(self) -> None:
        found = figures(self.R, self.b, [0.9, 0.9, 0.9])
        expected = {
            "average_score": (0.4 + 0.6 + 0.7) / 3,
            "just_learned": 0.8,
            "bwt": (-0.4 - 0.3) / 2,
            "forgetting": (0.4 + 0.3) / 2,
            "retention": (0.5 + 2 / 3) / 2,
            "gain_retention": (0.3 + 0.5) / (0.7 + 0.8),
            "one_night_retention": (0.75 + (0.4 / 0.6 + 0.6 / 0.9) / 2) / 2,
            "adaptation_gain": (0.7 + 0.7 + 0.4) / 3,
            "fwt": (0.1 + 0.1) / 2,
            "distance_to_joint": 0.9 - (0.4 + 0.6 + 0.7) / 3,
        }
        assert found == {name: pytest.approx(value) for name, value in expected.items()}

    def test_a_frozen_model_keeps_everything_and_gains_nothing(self) -> None:
        found = figures([self.b, self.b, self.b], self.b)
        assert (found["retention"], found["adaptation_gain"], found["gain_retention"]) == (1.0, 0.0, None)

    def test_one_task_that_grew_does_not_pay_for_one_that_was_lost(self) -> None:
        found = figures([[0.1, 0.0, None], [0.5, 0.8, 0.0], [0.9, 0.0, 0.5]], [0.0, 0.0, 0.0])
        assert found["retention"] == pytest.approx((1.2 + 0.0) / 2)

    def test_what_a_task_had_before_its_turn_can_be_forgotten_too(self) -> None:
        assert figures([[0.9, 0.8], [0.9, 0.5]], [0.0, 0.0])["forgetting"] == 0.0
        assert figures([[0.9, 0.8, None], [0.9, 0.5, 0.1], [0.9, 0.4, 0.6]], [0.0] * 3)["forgetting"] == (
            pytest.approx((0.0 + 0.4) / 2)
        )

    def test_the_interval_is_over_seeds(self) -> None:
        found = over_seeds([{"x": 0.1}, {"x": 0.3}])["x"]
        assert found["mean"] == pytest.approx(0.2)
        assert found["interval"] == pytest.approx(12.71 * 0.1)
        assert over_seeds([{"x": 0.1}])["x"]["interval"] is None


def test_strategies_are_compared_conversation_by_conversation() -> None:
    worse = [[(f"c{i // 2}", 1.0, 4) for i in range(20)]]
    better = [[(group, hits + 1, chances) for group, hits, chances in worse[0]]]
    found = paired([(better, worse), (better, worse)])
    assert found == {"mean": 0.25, "low": 0.25, "high": 0.25}
    mixed = [[(group, hits + (2 if group in ("c0", "c1") else 0), chances) for group, hits, chances in worse[0]]]
    found = paired([(mixed, worse)])
    assert found["mean"] == pytest.approx(0.1)
    assert found["low"] == 0.0
    assert found["high"] > 0.1


def test_labels_are_ranked_as_if_each_stood_alone(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    labels = ["get card", "exchange", "top up by cash", "x"]
    examples = [
        Example(({"role": "user", "content": text},), "exchange") for text in ("short", "a longer question, is it not?")
    ]
    block = scoring._Block(
        [[*tokenizer(x, add_special_tokens=False).input_ids, tokenizer.eos_token_id] for x in labels]
    )
    rows = [encode(tokenizer, example) for example in examples]
    with torch.no_grad():
        found = block.likelihoods(
            model, [row.ids[: row.answer_start] for row in rows], tokenizer.pad_token_id, torch.device("cpu")
        )
    for i, example in enumerate(examples):
        alone = [encode(tokenizer, Example(example.messages, label)) for label in labels]
        assert found[i].tolist() == pytest.approx([-x for x in score(model, alone, 0).losses], abs=1e-3)


def bench_on(path: Path, base_folder: Path, **options: Any) -> Bench:
    recipe = Recipe(learning_rate=2e-2, epochs=2, batch_size=4, micro_batch_tokens=4_096)
    base = Base("tiny-test", base_folder, 2, recipe, scoring.Sizes())
    limits = Limits(train=4, valid=2, test=2, per_intent=2)
    return Bench(base, stream(path, seed=0, tasks=3, limits=limits), seed=0, share=0.15, deep_every=2, **options)


class TestRuns:
    def test_every_strategy_runs_and_the_table_holds_it(self, tmp_path: Path, base_folder: Path) -> None:
        bench = bench_on(dialogues(tmp_path), base_folder)
        outcomes = [bench.run(strategy) for strategy in STRATEGIES.values()]
        found = summary(outcomes, bench.base, 0.15)
        assert set(found["strategies"]) == set(STRATEGIES)
        wanted = {"retention", "gain_retention", "adaptation_gain", "average_score", "replay_share", "overhead"}
        assert all(wanted <= set(figure) for figure in found["strategies"].values())
        assert 0 < found["strategies"][DEFAULT]["replay_share"] < 0.2
        assert found["strategies"]["naive"]["overhead"] == 0 < found["strategies"]["mas+replay"]["overhead"]
        deep = next(outcome for outcome in outcomes if outcome.strategy == "deep")
        assert 0 < deep.deep_seconds < deep.seconds
        text = table(found)
        assert all(name in text for name in STRATEGIES)
        svg = picture.matrix("t", outcomes[0].tasks, outcomes[0].R, outcomes[0].b, None)
        assert svg.startswith("<svg") and svg.count("<rect") == 1 + 3 + 2 + 3 + 3

    def test_the_same_seed_gives_the_same_bits(self, tmp_path: Path, base_folder: Path) -> None:
        runs = [bench_on(queries(tmp_path), base_folder).run(STRATEGIES["mas+ema+replay"]) for _ in range(2)]
        assert (runs[0].R, runs[0].losses) == (runs[1].R, runs[1].losses)

    def test_strategies_do_not_touch_one_another(self, tmp_path: Path, base_folder: Path) -> None:
        bench = bench_on(queries(tmp_path), base_folder)
        first = bench.run(STRATEGIES["replay"])
        bench.run(STRATEGIES["mas+ema+replay"])
        assert bench.run(STRATEGIES["replay"]).R == first.R

    def test_a_strategy_that_the_budget_ends_is_marked_and_not_averaged(
        self, tmp_path: Path, base_folder: Path
    ) -> None:
        bench = bench_on(dialogues(tmp_path), base_folder)
        cut = bench.run(STRATEGIES["naive"], deadline=time.monotonic() - 1)
        assert cut.cut
        found = summary([cut], bench.base, 0.15)
        assert found["strategies"]["naive"] == {**dict.fromkeys(found["strategies"]["naive"]), "cut": True}
        assert "cut by the budget" in table(found)

    def test_what_is_too_long_is_told_and_a_task_of_nothing_else_is_left_out(
        self, tmp_path: Path, base_folder: Path
    ) -> None:
        records = [
            {"id": f"{domain}{i}", "domain": domain, "turns": [question, f"b {i}"]}
            for domain, question in (("Long", "word " * 900), ("Short", "a"), ("Other", "c")) for i in range(9)
        ]  # fmt: skip
        bench = bench_on(written(tmp_path, "long.jsonl.gz", records), base_folder)
        outcome = bench.run(STRATEGIES["deep"])
        assert outcome.tasks == ["Short", "Other"]
        assert [len(row) for row in outcome.R] == [2, 2]
        assert outcome.deep_seconds > 0
        assert "Task 'Long' is left out: too little of it is short enough." in bench.stream.notes
        with pytest.raises(BadInput, match="no task whose examples fit"):
            bench_on(written(tmp_path, "all.jsonl.gz", records[:9]), base_folder)

    def test_an_intent_of_two_tasks_is_one_label(
        self, tmp_path: Path, base_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        records = [
            {"id": f"{task}{intent}{i}", "text": f"{task} {i}", "intent": intent, "task": task}
            for task in "AB" for intent in ("yes_please", "yes please", f"only {task}") for i in range(6)
        ]  # fmt: skip
        asked: list[list[str]] = []
        whole = scoring.classification
        monkeypatch.setattr(
            scoring, "classification", lambda *given, **more: (asked.append(given[3]), whole(*given, **more))[1]
        )
        bench_on(written(tmp_path, "i.jsonl.gz", records), base_folder).run(STRATEGIES["naive"])
        assert asked[-1] == ["yes please", "only A", "only B"]

    def test_the_first_night_of_all_strategies_with_replay_alone_is_naive(
        self, tmp_path: Path, base_folder: Path
    ) -> None:
        bench = bench_on(dialogues(tmp_path), base_folder)
        assert bench.run(STRATEGIES["replay"]).R[0] == bench.run(STRATEGIES["naive"]).R[0]


def test_the_command_prints_one_object_and_draws(tmp_path: Path, base_folder: Path) -> None:
    out = tmp_path / "out"
    command = [
        sys.executable, "-m", "learning.bench", "--data", str(queries(tmp_path)), "--strategies", "naive", "--tasks",
        "2", "--base", str(base_folder), "--threads", "1", "--out", str(out), "--json",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "LORA_RANK": "2"})
    found = json.loads(done.stdout)
    assert list(found["strategies"]) == [DEFAULT, "naive"]
    assert (out / f"queries-0-{DEFAULT}.svg").exists()
    assert Outcome(**json.loads((out / "queries-0-naive.json").read_text())).steps > 0


def test_files_of_one_name_are_not_taken_for_seeds_of_one_stream(tmp_path: Path, base_folder: Path) -> None:
    (tmp_path / "b").mkdir()
    paths = [dialogues(tmp_path), dialogues(tmp_path / "b")]
    done = CliRunner().invoke(main, [*(f"--data={path}" for path in paths), "--base", str(base_folder)])
    assert done.exit_code == 1
    assert done.output == "Error: Two files of --data are called 'talks'. Rename one, or name each file once.\n"
    assert name_of(Path("my.dogs.jsonl.gz")) != name_of(Path("my.cats.jsonl"))


def test_the_shipped_base_is_small_and_reads_english_and_portuguese() -> None:
    from learning import tiny
    from learning.lora import load_base

    assert sum(path.stat().st_size for path in tiny.FOLDER.iterdir()) < 10e6
    model, tokenizer = load_base(tiny.FOLDER)
    for text in ("Can you find me a café for 4 people?", "Você tem colchão de casal?"):
        ids = tokenizer(text).input_ids
        assert tokenizer.decode(ids) == text
        assert len(ids) < len(text) / 2
    assert sum(parameter.numel() for parameter in model.parameters()) < 5e6
