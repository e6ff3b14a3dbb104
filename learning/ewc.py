"""Elastic Weight Consolidation (Kirkpatrick et al., PNAS 2017), online (Schwarz et al. 2018), on the LoRA factors.

Importance is the Fisher information's diagonal: the mean squared gradient of log p(y|x). Where y is the label (the
"empirical Fisher"), it goes to zero on exactly what was learned best. So y is drawn from the model itself, token by
token along the reference answer, by a seed; then it is the Fisher information, and needs no labels either
(how it is computed changes published results: van de Ven, arXiv 2502.11756).
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from learning.dataset import IGNORED, Row, answer_logits, collate
from learning.importance import Importance, normalised, per_sample
from learning.lora import trainable


def estimate(model: Any, rows: Sequence[Row], pad_id: int, *, seed: int = 0) -> Importance:
    """Fisher information of every factor over `rows`, one sample at a time."""
    was_training = model.training
    model.eval()
    generator = torch.Generator().manual_seed(seed)
    omega = per_sample(trainable(model), _log_likelihoods(model, rows, pad_id, generator), torch.square)
    model.train(was_training)
    return Importance(normalised(omega), kind="ewc")


def _log_likelihoods(
    model: Any, rows: Sequence[Row], pad_id: int, generator: torch.Generator
) -> Iterator[torch.Tensor]:
    device = next(iter(trainable(model).values())).device
    for row in rows:
        batch = collate([row], pad_id).to(device)
        likelihoods = answer_logits(model, batch).float().log_softmax(dim=-1)[batch.labels != IGNORED]
        drawn = torch.multinomial(likelihoods.detach().exp().cpu(), 1, generator=generator).to(device)
        yield likelihoods.gather(1, drawn).sum()
