"""Rows as a tree: what they share is computed once, and every answer is what it is alone."""

from typing import Any

import torch

from core.prompts import chat_messages
from learning.dataset import Example, Row, collate, encode
from learning.lora import trainable
from learning.train import accumulate
from learning.tree import groves, grow

PASSAGES = ["O colchão Brisa custa R$ 690.", "A loja abre às 9h."]
ASKED = {"Quanto custa?": "R$ 690.", "Que horas abre?": "Às 9h.", "Quanto custa a cama?": "Não sei."}


def family(tokenizer: Any, passages: list[str] = PASSAGES, weight: float = 1.0) -> list[Row]:
    return [
        encode(
            tokenizer,
            Example(
                tuple(
                    chat_messages(language="pt", assistant="Lia", business="Loja", question=asked, passages=passages)
                ),
                answer,
                weight,
            ),
        )
        for asked, answer in ASKED.items()
    ]


def test_shares_what_rows_begin_with() -> None:
    tree = grow([Row((1, 2, 3, 4), 2), Row((1, 2, 5), 2), Row((7, 2), 1)])
    assert tree.ids.tolist() == [[1, 2, 3, 4, 5, 7, 2]]
    assert tree.positions.tolist() == [[0, 1, 2, 3, 2, 0, 1]]
    sees = [set(row.nonzero().flatten().tolist()) for row in tree.mask[0, 0]]
    assert sees == [{0}, {0, 1}, {0, 1, 2}, {0, 1, 2, 3}, {0, 1, 4}, {5}, {5, 6}]
    assert tree.kept[tree.sources].tolist() == [1, 2, 1, 5]
    assert tree.labels.tolist() == [3, 4, 5, 2]


def test_every_answer_has_its_own_rows_loss(base: tuple[Any, Any]) -> None:
    model, tokenizer = base
    rows = [*family(tokenizer), *family(tokenizer, ["Frete grátis."])]
    tree = grow(rows)
    assert tree.ids.shape[1] < sum(map(len, rows)) / 2
    alone = [collate([row], tokenizer.pad_token_id).losses(model)[0] for row in rows]
    torch.testing.assert_close(tree.losses(model), torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_the_gradient_is_that_of_padded_rows(base: tuple[Any, Any], adapted: Any) -> None:
    tokenizer = base[1]
    rows = [*family(tokenizer), *family(tokenizer, ["Frete grátis."], weight=0.5)]
    found = {}
    for tree in (False, True):
        loss = accumulate(adapted, rows, tokenizer.pad_token_id, 400, tree=tree)
        found[tree] = torch.cat([parameter.grad.flatten() for parameter in trainable(adapted).values()]), loss
        adapted.zero_grad()
    torch.testing.assert_close(found[True][0], found[False][0], atol=1e-5, rtol=1e-3)
    assert abs(found[True][1] - found[False][1]) < 1e-4


def test_the_same_row_twice_counts_twice(base: tuple[Any, Any], adapted: Any) -> None:
    tokenizer = base[1]
    row, other, _ = family(tokenizer)
    padded, tree = (accumulate(adapted, [row, other, row], tokenizer.pad_token_id, 400, tree=t) for t in (False, True))
    assert abs(padded - tree) < 1e-4


def test_passes_are_bounded_and_lose_no_row(base: tuple[Any, Any]) -> None:
    tokenizer = base[1]
    rows = [row for i in range(6) for row in family(tokenizer, [f"Passagem {i}.", *PASSAGES])]
    parts = list(groves(rows, 500))
    assert sorted(row.ids for part in parts for row in part) == sorted(row.ids for row in rows)
    assert 1 < len(parts) < len(rows)
    assert all(grow(part).ids.shape[1] <= 500 for part in parts)
    assert [len(part) for part in groves(rows[:2], 1)] == [1, 1]
