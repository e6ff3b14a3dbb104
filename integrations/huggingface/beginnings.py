"""Beginnings of prompts whose keys and values are kept, so that they are not computed again.

The system message is the same in every conversation of a context: it is kept as soon as it was read. What follows is
kept line by line: where two customers ask about the same thing, both prompts begin with the same passages. A line is
kept when its prompt's beginning is seen for the second time, so that nobody's own words are; until then only its hash
is. Servers know this as automatic prefix caching; vLLM cuts by blocks of tokens, where here lines are what comes again.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

Key = tuple[int, tuple[int, ...]]
"""A version's number (0: the base) and all tokens up to the end of what is kept."""
States = Mapping[int, tuple[torch.Tensor, torch.Tensor]]

_SEEN = 4096  # hashes


@dataclass(frozen=True)
class Part:
    """A kept stretch of a prompt: the states of `tokens[start:stop]`."""

    start: int
    stop: int
    states: States


class Beginnings:
    """
    Args:
        systems: system messages that are kept, over all versions; the longest unused goes first.
        line_tokens: tokens of lines that are kept; their states take as much room as rows in flight do.
    """

    def __init__(self, *, systems: int, line_tokens: int) -> None:
        self._most_systems = systems
        self._most_tokens = line_tokens
        self._systems: OrderedDict[Key, Part] = OrderedDict()
        self._lines: OrderedDict[Key, Part] = OrderedDict()
        self._tokens = 0
        self._seen: OrderedDict[int, None] = OrderedDict()

    def system(self, key: Key) -> Part | None:
        if key in self._systems:
            self._systems.move_to_end(key)
        return self._systems.get(key)

    def keep_system(self, key: Key, part: Part) -> None:
        self._systems[key] = part
        while len(self._systems) > self._most_systems:
            self._systems.popitem(last=False)

    def lines(self, keys: Sequence[Key]) -> list[Part]:
        """The kept parts of a prompt's lines, as far as they follow on one another."""
        found: list[Key] = []
        for key in keys:
            if key not in self._lines:
                break
            found.append(key)
        for key in reversed(found):  # a line is of no use without the ones before: it goes before them
            self._lines.move_to_end(key)
        return [self._lines[key] for key in found]

    def seen(self, key: Key) -> bool:
        """Whether a prompt began so before; from now on one did."""
        mark = hash(key)
        before = mark in self._seen
        self._seen[mark] = None
        self._seen.move_to_end(mark)
        if len(self._seen) > _SEEN:
            self._seen.popitem(last=False)
        return before

    def keep_line(self, key: Key, part: Part) -> None:
        if key in self._lines:
            return
        self._lines[key] = part
        self._tokens += part.stop - part.start
        while self._tokens > self._most_tokens:
            _, gone = self._lines.popitem(last=False)
            self._tokens -= gone.stop - gone.start

    def rest(self) -> None:
        """Give back what the lines take."""
        self._lines.clear()
        self._tokens = 0

    def clear(self) -> None:
        self._systems.clear()
        self.rest()
