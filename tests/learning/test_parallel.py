"""Several processes, one adapter: the same weights as alone, and whole nights."""

import os
import pickle
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import nights
import pytest
import torch
from lessons import weights
from safetensors.torch import load_file
from sqlalchemy import Engine

from bot.nights import request_now
from core.db import transaction
from core.errors import NightError
from core.prompts import chat_messages
from core.tables import ConsolidationRun
from integrations.huggingface.embedded_base import BaseModel
from learning import parallel
from learning.dataset import Example
from learning.jobs import consolidate
from learning.lora import save_adapter
from learning.strategies import find
from learning.train import Recipe
from learning.training import Training

# What `learning.parallel` does, with a training from a file in place of a night.
TRAIN = """
import pickle, sys
from safetensors.torch import save_file
from learning import lora, parallel

if parallel.is_first():
    training = pickle.load(open(sys.argv[1], "rb"))
    parallel.share(training)
    try:
        adapted, _ = training.run()
        save_file({name: p.detach() for name, p in lora.trainable(adapted).items()}, sys.argv[2])
    finally:
        parallel.share(None)
        parallel.part()
else:
    parallel.follow()
"""


def examples(count: int, answer: str) -> list[Example]:
    messages = [
        chat_messages(language="pt", assistant="Lia", business="X", question=f"Tem {i}?", passages=None)
        for i in range(count)
    ]
    return [Example(tuple(said), answer.format(i=i)) for i, said in enumerate(messages)]


@pytest.fixture
def training(base_folder: Path, adapted: Any, tmp_path: Path) -> Training:
    """With everything that processes could do twice or not at all: penalty, average, replay, hold-out, odd batches."""
    save_adapter(adapted, tmp_path / "parent")
    return Training(
        base=BaseModel(name="tiny", path=base_folder, revision="sha256:tiny"), parent=tmp_path / "parent", rank=2,
        strategy=find("mas+ema+replay"), new=examples(13, "Sim, {i}."), replayed=examples(6, "Não, {i} não."),
        holdout=examples(5, "Sim, {i}, claro."), known=examples(3, "Não."), chosen_by=[], share=0.2, strength=0.1,
        recipe=Recipe(learning_rate=5e-3, batch_size=4, evaluate_every=2), checkpoint=tmp_path / "checkpoint.pt",
        seconds=600.0,
    )  # fmt: skip


def together(training: Training, folder: Path, processes: int = 2) -> subprocess.CompletedProcess[str]:
    (folder / "train.py").write_text(TRAIN)
    (folder / "training.pickle").write_bytes(pickle.dumps(training))
    root = str(Path(parallel.__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
         str(folder / "train.py"), str(folder / "training.pickle"), str(folder / "found.safetensors")],
        env=os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, timeout=240, capture_output=True, text=True,
    )  # fmt: skip


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.cat([(one[name] - other[name]).flatten() for name in one]).norm())


def test_two_processes_train_what_one_trains(training: Training, adapted: Any, tmp_path: Path) -> None:
    before = weights(adapted)
    alone = weights(training.run()[0])
    done = together(training, tmp_path)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    assert distance(alone, before) > 0.1
    assert distance(found, alone) < 0.02 * distance(alone, before)


@pytest.mark.slow
def test_an_error_ends_all_of_them(training: Training, tmp_path: Path) -> None:
    impossible = Recipe(learning_rate=float("inf"), batch_size=4)
    done = together(Training(**(vars(training) | {"recipe": impossible})), tmp_path)
    assert done.returncode != 0
    assert "The loss became" in done.stderr


def test_a_whole_night_in_two_processes(
    engine: Engine, database_url: str, base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = nights.night_settings(database_url, base_folder, tmp_path / "data")
    with transaction(engine) as session:
        nights.a_day(session)
        run_id = request_now(session, "customers", settings, requested_by="test")
    for name in settings.model_fields_set:
        monkeypatch.setenv("NPLLM_DATA_DIR" if name == "data_dir" else name.upper(), str(getattr(settings, name)))
    monkeypatch.setenv("TRAINING_PROCESSES", "2")
    consolidate(str(run_id))
    with transaction(engine) as session:
        run = session.get_one(ConsolidationRun, run_id)
        assert run.stage == "done" and run.progress["training_seconds"] > 0
        assert run.state in ("registered", "refused"), run.reasons  # a random model is not polite


@pytest.mark.slow
def test_processes_that_end_badly_are_an_error_with_a_next_step() -> None:
    with pytest.raises(NightError, match="2 processes ended with 1") as error:
        parallel.launch(uuid.UUID(int=0), 2)
    assert "log" in error.value.next_step
