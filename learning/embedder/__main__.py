"""Teach the embedder Portuguese, and write what npllm ships: `python -m learning.embedder`.

    python -m learning.embedder --data parallel_en_pt.jsonl.gz --out FOLDER --seed 1

First it learns to read, from translations (student.py, about 15 minutes on one idle core), then which passage answers
a question (matching.py, 10 minutes). With --parent it has learned to read before. The same seed gives the same words
and the same batches; sums in bf16 differ in their last bits from run to run, and so do the weights.
"""

import time
from dataclasses import asdict, replace
from pathlib import Path

import click
import numpy as np
import torch
from safetensors.torch import save_file

from integrations.huggingface.embedder import (
    VOCABULARY,
    WEIGHTS,
    Encoder,
    TaughtMiniLM,
    original_model,
    original_tokenizer,
    portuguese_tokenizer,
    read_weights,
)
from learning.embedder import language, pairs, questions, vocabulary
from learning.embedder.card import Figures, write_card
from learning.embedder.matching import Matching, match
from learning.embedder.student import Recipe, Student, train

QUESTIONS = 6_000  # generated; each stands in about two batches


@click.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="Parallel sentences: gzipped JSON lines with en, pt, source, split.")  # fmt: skip  # noqa: E501
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder to write.")
@click.option("--parent", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Taught before: its vocabulary and weights, instead of distilling anew.")  # fmt: skip  # noqa: E501
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=Recipe.epochs, show_default=True)
@click.option("--words", type=int, default=16_000, show_default=True, help="New words at most; 0.75 KB each.")
@click.option("--steps", type=int, default=Matching.steps, show_default=True, help="Of matching; 0: none.")
@click.option("--shop/--no-shop", default=True, help="Whether the example shop's passages are among the pairs.")
def main(
    data: Path, out: Path, parent: Path | None, seed: int, epochs: int, words: int, steps: int, shop: bool
) -> None:
    """Teach all-MiniLM-L6-v2 Portuguese from translated sentences, then which passage answers a question."""
    started = time.monotonic()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    recipe = replace(Recipe(), epochs=epochs)
    taught = pairs.parallel(data, "train") + pairs.own_words() + pairs.own_sentences()
    if shop:
        taught += pairs.shop_passages()
    valid = pairs.parallel(data, "valid")

    model = original_model()
    teacher = Encoder(original_tokenizer(), model)
    click.echo(f"{len(taught)} pairs. The teacher reads their English side ...")
    targets = teacher.encode([pair.english for pair in taught])
    if parent is not None:
        chosen = (parent / VOCABULARY).read_text(encoding="utf-8").split()
        tensors, _ = read_weights(parent / WEIGHTS)
        student = Student(original_model(), tensors["rows"].float().numpy(), recipe)
        student.take(tensors)
    else:
        embeddings = model.embeddings.word_embeddings.weight.detach().numpy().copy()
        chosen, rows = vocabulary.choose(taught, original_tokenizer(), embeddings, size=words)
        click.echo(f"{len(chosen)} new words. Training, {epochs} epochs ...")
        student = Student(original_model(), rows, recipe)
        train(student, portuguese_tokenizer(chosen), taught, targets, recipe, seed=seed, report=_epoch)
    matching = replace(Matching(), steps=steps)
    if steps:
        asked = questions.asked(QUESTIONS, seed=seed)
        titles = questions.shop_titles() if shop else []
        tokenizer = portuguese_tokenizer(chosen)
        match(student, tokenizer, asked, titles, taught, targets, matching, seed=seed, report=_step)

    out.mkdir(parents=True, exist_ok=True)
    guess = language.learn([pair.portuguese for pair in taught], [pair.english for pair in taught], seed)
    tensors = {**student.tensors(), "language": torch.from_numpy(guess)}
    save_file(tensors, out / WEIGHTS, metadata={"lora_scale": str(recipe.alpha / recipe.rank), "seed": str(seed)})
    (out / WEIGHTS).chmod(0o644)  # safetensors writes it for its owner alone
    (out / VOCABULARY).write_text("\n".join(chosen) + "\n", encoding="utf-8")

    figures = measure(out, teacher, valid)
    options = f"--seed {seed}{' --parent READS' if parent else ''}{'' if shop else ' --no-shop'}"
    write_card(
        out, figures, options=options, recipe=asdict(recipe), matching=asdict(matching), words=len(chosen), shop=shop,
        minutes=(time.monotonic() - started) / 60,
    )  # fmt: skip
    click.echo(f"Written to {out}: {figures}")


def _epoch(epoch: int, loss: float, seconds: float) -> None:
    click.echo(f"epoch {epoch}: loss {loss:.4f} after {seconds:.0f} s")


def _step(step: int, matching: float, distance: float, seconds: float) -> None:
    click.echo(f"step {step}: matching {matching:.3f}, distance {distance:.3f} after {seconds:.0f} s")


def measure(folder: Path, teacher: Encoder, valid: list[pairs.Pair]) -> Figures:
    """How well the finished folder does on pairs it has not seen."""
    embedder = TaughtMiniLM(folder)
    portuguese, english = [pair.portuguese for pair in valid], [pair.english for pair in valid]
    aim = teacher.encode(english)
    before, after = teacher.encode(portuguese), np.array(embedder.embed(portuguese))
    guess = embedder.guess

    def found(vectors: np.ndarray) -> float:
        return float(((vectors @ aim.T).argmax(axis=1) == np.arange(len(valid))).mean())

    return Figures(
        pairs=len(valid),
        error_before=float(np.square(before - aim).sum(axis=1).mean()),
        error=float(np.square(after - aim).sum(axis=1).mean()),
        found_before=found(before),
        found=found(after),
        language={words: language.accuracy(guess, portuguese, english, words) for words in (1, 2, 3, 5)},
    )


if __name__ == "__main__":
    main()
