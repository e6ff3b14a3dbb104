"""Rows that begin alike, in one pass: what they share is computed once.

Rows of one pass become a tree of tokens. Each token sees its ancestors and itself, and its position is its depth, so
every answer's logits are those of its row alone (tests/learning/test_tree.py). Questions about the same passages share
most of their tokens; rows that share nothing cost what they would cost padded, less the padding.

    row 1   S S S a b     tokens  S S S a b c d
    row 2   S S S c d     depth   0 1 2 3 4 3 4     c sees S S S and c
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from learning.dataset import Row


@dataclass
class Tree:
    """Rows as one sequence of `tokens` nodes, parents before children.

    `ids` and `positions` are (1, tokens), `mask` (1, 1, tokens, tokens) is True where may be looked. Of the answers'
    tokens, row after row, `labels` (targets,) says which, `weights` (targets,) its example's weight, and `sources`
    (targets,) the node whose logits predict it, as an index into `kept`, the nodes that predict anything.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    kept: torch.Tensor
    sources: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor

    def losses(self, model: Any) -> torch.Tensor:
        """Cross-entropy in nats per answer token (targets,)."""
        output = model(
            input_ids=self.ids,
            attention_mask=self.mask,
            position_ids=self.positions,
            logits_to_keep=self.kept,
            use_cache=False,
        )
        logits = output.logits[0].float()[self.sources]
        return torch.nn.functional.cross_entropy(logits, self.labels, reduction="none")

    def to(self, device: torch.device | str) -> "Tree":
        return Tree(*(tensor.to(device) for tensor in vars(self).values()))


def grow(rows: Sequence[Row]) -> Tree:
    """One tree of all rows."""
    nodes: dict[tuple[int, int], int] = {}  # (parent, token) -> node
    parents: list[int] = []
    depths: list[int] = []
    sources: list[int] = []
    for row in rows:
        node = -1
        for depth, token in enumerate(row.ids):
            if depth >= row.answer_start:
                sources.append(node)
            parent, node = node, nodes.setdefault((node, token), len(nodes))
            if node == len(parents):
                parents.append(parent)
                depths.append(depth)
    mask = torch.eye(len(parents), dtype=torch.bool)
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask[node] |= mask[parent]
    kept, where = torch.tensor(sources).unique(return_inverse=True)
    return Tree(
        torch.tensor([[token for _, token in nodes]]), mask[None, None], torch.tensor([depths]), kept, where,
        torch.tensor([token for row in rows for token in row.ids[row.answer_start :]]),
        torch.tensor([row.weight for row in rows for _ in row.ids[row.answer_start :]]),
    )  # fmt: skip


def groves(rows: Sequence[Row], tokens: int) -> Iterator[list[Row]]:
    """Split rows so that the tree of each part has at most `tokens` nodes (and at least one row); kin stay together."""
    part: list[Row] = []
    size = 0
    before: tuple[int, ...] = ()
    for row in sorted(rows, key=lambda row: row.ids):
        shared = _shared(before, row.ids)
        if part and size + len(row) - shared > tokens:
            yield part
            part, size, shared = [], 0, 0
        part.append(row)
        size += len(row) - shared
        before = row.ids
    if part:
        yield part


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
