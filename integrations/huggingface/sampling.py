"""From logits to the next token of a row: greedy unless asked otherwise.

Every row draws from a generator of its own, so that a seed gives the same answer whoever else is in the batch.
"""

from dataclasses import dataclass, field

import torch

_NUCLEUS = 256  # most of the probability lies in the first few tokens: sort the whole vocabulary only if it does not


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens, in the terms of OpenAI's chat API and, for `repetition_penalty`, of vLLM.

    Args:
        temperature: 0 takes the likeliest token.
        top_p: the smallest set of likeliest tokens with at least this probability is drawn from.
        seed: makes the draw repeatable.
        presence_penalty, frequency_penalty: subtracted from a token's logit once, or for every time it was said.
        repetition_penalty: divides the logit of a token that was said; 1 does nothing. Unlike vLLM's it spares the
            prompt, whose figures an answer must repeat.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0

    @property
    def penalises(self) -> bool:
        return bool(self.presence_penalty or self.frequency_penalty) or self.repetition_penalty != 1.0


@dataclass(eq=False)
class Chooser:
    """One row's choice of tokens."""

    sampling: Sampling
    said: list[int] = field(default_factory=list)
    _generator: torch.Generator | None = None

    def choose(self, logits: torch.Tensor) -> int:
        """The next token, from logits of shape (vocabulary,)."""
        logits = self._penalised(logits)
        if self.sampling.temperature == 0:
            return int(logits.argmax())
        return self._drawn(logits / self.sampling.temperature)

    def _penalised(self, logits: torch.Tensor) -> torch.Tensor:
        sampling = self.sampling
        if not (sampling.penalises and self.said):
            return logits
        tokens, counts = torch.tensor(self.said, device=logits.device).unique(return_counts=True)
        found = logits[tokens]
        found = torch.where(found > 0, found / sampling.repetition_penalty, found * sampling.repetition_penalty)
        found -= sampling.presence_penalty + sampling.frequency_penalty * counts
        logits = logits.clone()
        logits[tokens] = found
        return logits

    def _drawn(self, logits: torch.Tensor) -> int:
        if self._generator is None:
            self._generator = torch.Generator()
            if self.sampling.seed is None:
                self._generator.seed()
            else:
                self._generator.manual_seed(self.sampling.seed)
        shares = logits.softmax(-1).cpu()
        if self.sampling.top_p >= 1:
            return int(torch.multinomial(shares, 1, generator=self._generator))
        best, tokens = shares.topk(min(_NUCLEUS, len(shares)))
        if float(best.sum()) < self.sampling.top_p:
            best, tokens = shares.sort(descending=True)
        before = best.cumsum(0) - best  # the probability of all likelier tokens
        kept = best.masked_fill(before >= self.sampling.top_p, 0.0)
        return int(tokens[torch.multinomial(kept, 1, generator=self._generator)])
