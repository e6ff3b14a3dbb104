"""Tokens to text while they come: whole characters only, and nothing past a stop string.

One character can take several tokens ("ã" two bytes, an emoji four), so a token is held back until what it belongs to
is complete. Text that may be the beginning of a stop string is held back until that is decided.
"""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

_BROKEN = "\ufffd"


class ReplyText:
    """The text of one reply.

    Attributes:
        text: all of it that is decided.
        stopped: whether a stop string was met; it and what follows are not part of the text.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str]) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stops = tuple(stops)
        self._held = ""
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> str:
        """Take one token; return what it adds to the text, often nothing."""
        return self._decide(self._stream.step(self._tokenizer, token) or "")

    def finish(self) -> str:
        """No token follows: what was held back and is whole. Bytes of a character that never came are dropped."""
        rest, self._held = self._held.rstrip(_BROKEN), ""
        self.text += rest
        return rest

    def _decide(self, new: str) -> str:
        held = self._held + new
        found = [place for place in (held.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped, self._held = True, ""
            sure = held[: min(found)]
        else:
            keep = max((_overlap(held, stop) for stop in self._stops), default=0)
            sure, self._held = held[: len(held) - keep], held[len(held) - keep :]
        self.text += sure
        return sure


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    for length in range(min(len(stop) - 1, len(text)), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
