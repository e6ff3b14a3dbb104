"""Guesses of what a row says next: an answer that copies from its prompt goes on as the prompt goes on.

A step reads a few guessed tokens with almost the cost of one. What is said is chosen from the logits as ever, and a
guess counts only as far as it is what was chosen: answers are the same, in fewer steps. Known as prompt lookup decoding
(in transformers `prompt_lookup_num_tokens`): speculative decoding without a second model.
"""

from collections.abc import Sequence

_LONGEST = 8


class Guesses:
    """One row's guesses; as many tokens as went well lately.

    Args:
        tokens: the prompt.
        start: where in it guesses may be copied from: after the system message.
    """

    def __init__(self, tokens: Sequence[int], start: int) -> None:
        self._tokens = tokens
        self._after: dict[tuple[int, ...], int] = {}
        for place in range(start + 1, len(tokens)):
            one = (tokens[place - 1],)
            self._after[one] = 0 if one in self._after else place  # a token alone says where only if it stands once
            if place > start + 1:
                self._after[(tokens[place - 2], tokens[place - 1])] = place
        self._most = 4

    def next(self, said: Sequence[int], most: int) -> Sequence[int]:
        """What may follow on `said`: at most `most` tokens, or none."""
        place = self._after.get(tuple(said[-2:])) or self._after.get(tuple(said[-1:])) or len(self._tokens)
        return self._tokens[place : place + min(self._most, most)]

    def learn(self, guessed: int, right: int) -> None:
        """Of so many guessed tokens so many were said."""
        if guessed:
            self._most = min(_LONGEST, guessed + 2) if right == guessed else right + 1
