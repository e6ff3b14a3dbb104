"""What becomes of an example on its way to the loss."""

import random
from typing import Any

import pytest
import torch

from core.errors import BadInput
from core.prompts import chat_messages
from learning.dataset import IGNORED, Example, collate, encode, mixed_batches


def example(question: str = "Quanto?", answer: str = "R$ 10.") -> Example:
    messages = chat_messages(language="pt", assistant="Lia", business="Loja", question=question, passages=["R$ 10."])
    return Example(tuple(messages), answer)


def test_only_the_answer_counts_and_its_end_too(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    row = encode(tokenizer, example())
    assert tokenizer.decode(row.ids[row.answer_start :]) == "R$ 10.<|im_end|>"
    assert tokenizer.decode(row.ids[: row.answer_start]).endswith("<|im_start|>assistant\n")


def test_training_reads_what_serving_reads(base: tuple[Any, Any]) -> None:
    _, tokenizer = base
    served = tokenizer.apply_chat_template(list(example().messages), add_generation_prompt=True, tokenize=False)
    row = encode(tokenizer, example())
    assert tokenizer.decode(row.ids[: row.answer_start]) == served


def test_a_prompt_that_is_too_long_is_refused_not_cut(base: tuple[Any, Any]) -> None:
    with pytest.raises(BadInput, match="Shorten"):
        encode(base[1], example(question="x" * 600), max_tokens=512)


def test_a_long_answer_is_cut_and_does_not_learn_to_end(base: tuple[Any, Any]) -> None:
    row = encode(base[1], example(answer="a" * 300), max_tokens=900, max_answer_tokens=20)
    assert len(row) - row.answer_start == 20
    assert row.ids[-1] != base[1].eos_token_id


def test_padding_changes_no_loss(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    rows = [encode(tokenizer, example(f"Pergunta {'longa ' * n}?", "Resposta " * (n + 1))) for n in range(4)]
    together = collate(rows, tokenizer.pad_token_id).losses(model)
    for i, row in enumerate(rows):
        alone = collate([row], tokenizer.pad_token_id).losses(model)
        count = len(row) - row.answer_start
        torch.testing.assert_close(together[i, -count:], alone[0, -count:], atol=1e-4, rtol=1e-4)


def test_labels_are_the_answer_at_the_right_end(base: tuple[Any, Any]) -> None:
    tokenizer = base[1]
    rows = [encode(tokenizer, example(answer="a")), encode(tokenizer, example(answer="abcdef"))]
    batch = collate(rows, tokenizer.pad_token_id)
    assert (batch.labels[0] != IGNORED).sum() == 2
    assert batch.answer_width == 7


def test_the_same_text_has_the_same_hash_whatever_its_weight() -> None:
    messages = example().messages
    assert Example(messages, "a", 1.0, "x").hash == Example(messages, "a", 0.5, "y").hash
    assert Example(messages, "a").hash != Example(messages, "b").hash


@pytest.mark.parametrize(("new", "replayed"), [(20, 4), (20, 0), (3, 7), (17, 17)])
def test_every_row_is_trained_on_once_an_epoch_and_replay_is_spread(
    base: tuple[Any, Any], new: int, replayed: int
) -> None:
    rows = [encode(base[1], example(f"n{i} " * (i % 5 + 1))) for i in range(new)]
    old = [encode(base[1], example(f"o{i} " * (i % 3 + 1))) for i in range(replayed)]
    batches = list(mixed_batches(rows, old, 4, random.Random(0)))
    assert sorted(map(id, [row for batch in batches for row in batch])) == sorted(map(id, rows + old))
    share = [sum(any(row is o for o in old) for row in batch) for batch in batches]
    assert max(share) - min(share) <= 1
