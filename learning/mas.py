"""Memory Aware Synapses (Aljundi et al., ECCV 2018, arXiv 1711.09601) on the LoRA factors.

How much does the model's output move when one weight moves? |d ||z||^2 / d theta|, without labels. z are the logits
minus their mean over the vocabulary: softmax ignores a common offset, so must we. In eval mode, else dropout speaks.
`lambda/2` stands before the sum, as in the paper; the authors' code and Avalanche leave the half out.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from learning.dataset import IGNORED, Row, answer_logits, collate
from learning.importance import Importance, normalised, per_sample
from learning.lora import trainable


def estimate(model: Any, rows: Sequence[Row], pad_id: int) -> Importance:
    """Importance of every factor over `rows`, one sample at a time.

    16-32 rows are enough: the error falls only as 1/sqrt(N), and each row costs more than a training sample.
    """
    was_training = model.training
    model.eval()
    omega = per_sample(trainable(model), _outputs(model, rows, pad_id), torch.abs)
    model.train(was_training)
    return Importance(normalised(omega), kind="mas")


def _outputs(model: Any, rows: Sequence[Row], pad_id: int) -> Iterator[torch.Tensor]:
    device = next(iter(trainable(model).values())).device
    for row in rows:
        batch = collate([row], pad_id).to(device)
        logits = answer_logits(model, batch).float()
        centred = logits - logits.mean(dim=-1, keepdim=True)
        counted = (batch.labels != IGNORED).float()
        yield (centred.pow(2).sum(dim=-1) * counted).sum() / counted.sum()
