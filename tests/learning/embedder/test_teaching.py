"""Alignment, vocabulary and distillation, each on a few sentences with the real MiniLM."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from integrations.huggingface.embedder import (
    Encoder,
    LanguageGuess,
    TaughtMiniLM,
    original_model,
    original_tokenizer,
    padded,
    portuguese_tokenizer,
)
from learning.embedder import language, vocabulary
from learning.embedder.__main__ import main
from learning.embedder.alignment import translations
from learning.embedder.pairs import Pair
from learning.embedder.student import Recipe, Student, train

SENTENCES = [
    ("O prazo de entrega é de cinco dias.", "The delivery time is five days."),
    ("A entrega é grátis.", "Delivery is free."),
    ("O prazo de troca é de trinta dias.", "The exchange time is thirty days."),
    ("A loja abre cedo.", "The store opens early."),
    ("A loja é grande.", "The store is large."),
    ("Quero um colchão grande.", "I want a large mattress."),
    ("O colchão é novo.", "The mattress is new."),
    ("Quero trocar o colchão.", "I want to exchange the mattress."),
]
PAIRS = [Pair(left, right, "sentences") for left, right in SENTENCES]


def test_alignment_tells_words_apart_that_stand_together() -> None:
    found = translations(
        [(["casa", "azul"], ["blue", "house"]), (["casa"], ["house"]), (["azul", "escuro"], ["dark", "blue"])]
    )
    assert max(found["casa"], key=found["casa"].__getitem__) == "house"
    assert max(found["azul"], key=found["azul"].__getitem__) == "blue"
    assert max(found["escuro"], key=found["escuro"].__getitem__) == "dark"
    assert all(sum(options.values()) == pytest.approx(1) for options in found.values())
    assert translations([]) == {}


def test_alignment_weighs_repeated_pairs() -> None:
    twice = [(["banco"], ["bank"])] * 3 + [(["banco"], ["bench"])]
    assert translations(twice)["banco"]["bank"] == pytest.approx(0.75)


@pytest.fixture(scope="module")
def chosen() -> tuple[list[str], np.ndarray]:
    embeddings = original_model().embeddings.word_embeddings.weight.detach().numpy()
    return vocabulary.choose(PAIRS, original_tokenizer(), embeddings, size=60)


def test_a_word_starts_beside_its_translation_and_brings_its_other_forms(chosen: tuple[list[str], np.ndarray]) -> None:
    words, rows = chosen
    assert "colchao" in words
    assert len(words) == len(set(words)) == len(rows) == 60
    assert any(word not in " ".join(left for left, _ in SENTENCES).lower() for word in words)
    embeddings = original_model().embeddings.word_embeddings.weight.detach().numpy()
    tokenizer = original_tokenizer()
    lengths = np.linalg.norm(embeddings, axis=1)
    near = (embeddings @ rows[words.index("loja")] / lengths).argmax()
    assert tokenizer.id_to_token(int(near)) in ("store", "shop")


def test_the_student_starts_as_the_teacher_and_learns(chosen: tuple[list[str], np.ndarray]) -> None:
    words, rows = chosen
    teacher = Encoder(original_tokenizer(), original_model())
    targets = teacher.encode([pair.english for pair in PAIRS])
    losses: list[float] = []

    def taught(seed: int) -> Student:
        torch.manual_seed(seed)
        student = Student(original_model(), rows, recipe)
        train(
            student, portuguese_tokenizer(words), PAIRS, targets, recipe, seed=seed,
            report=lambda epoch, loss, seconds: losses.append(loss),
        )  # fmt: skip
        return student

    recipe = Recipe(epochs=2, batch_tokens=200)
    fresh = Student(original_model(), rows, recipe)
    same = fresh(*padded([original_tokenizer().encode("The store is large.").ids])).detach().numpy()
    assert (same @ teacher.encode(["The store is large."]).T).item() > 0.999  # bf16
    student = taught(1)
    assert losses[-1] < losses[0]
    assert len(losses) == recipe.epochs
    again = taught(1)
    for name, tensor in student.tensors().items():
        # Sums in bf16 differ in their last bits from run to run.
        assert torch.allclose(tensor.float(), again.tensors()[name].float(), atol=5e-3), name


def test_language_guess_learns_from_fragments() -> None:
    weights = language.learn([left for left, _ in SENTENCES], [right for _, right in SENTENCES], seed=1)
    assert weights.dtype == np.float16
    guess = LanguageGuess(weights)
    assert language.accuracy(guess, ["o colchão da loja"], ["the mattress of the store"], 3) == 1.0
    with pytest.raises(ValueError, match="shape"):
        LanguageGuess(weights[:-1])


@pytest.mark.slow
def test_the_whole_command(tmp_path: Path) -> None:
    rows = [{"pt": left, "en": right, "source": "tatoeba", "split": "train"} for left, right in SENTENCES]
    rows += [{**row, "split": "valid"} for row in rows]
    with gzip.open(tmp_path / "pairs.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    out = tmp_path / "out"
    done = CliRunner().invoke(
        main,
        ["--data", str(tmp_path / "pairs.gz"), "--out", str(out), "--epochs", "1", "--words", "500", "--steps", "2"],
    )
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"weights.safetensors", "vocabulary.txt", "README.md"}
    assert len(TaughtMiniLM(out).embed(["Onde fica a loja?"])[0]) == 384
    card = (out / "README.md").read_text()
    assert "--seed 1" in card
    assert "CC BY-SA (flores, ntrex) were left out" in card
