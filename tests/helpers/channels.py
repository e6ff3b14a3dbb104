"""A channel's client that does what it is told, and remembers what was asked of it."""

from collections.abc import Callable
from datetime import datetime

from core.messages import Limits, Outgoing

Step = str | Exception | Callable[[Outgoing], str]


class ScriptedChannel:
    """Follows a script, then accepts everything.

    Attributes:
        script: what each `send` does, in order: give this id, raise this, or call this.
        accepted: what the vendor has, as (our id, text); a look-up finds it by our id.
        hidden: the vendor has it, and a look-up does not find it yet.
        lookup_fails: raised by every look-up.
    """

    def __init__(self, *, max_text: int = 1000, supports_lookup: bool = True) -> None:
        self.max_text = max_text
        self.supports_lookup = supports_lookup
        self.limits = Limits()
        self.script: list[Step] = []
        self.sends: list[Outgoing] = []
        self.lookups: list[Outgoing] = []
        self.accepted: list[tuple[str, str]] = []
        self.hidden = False
        self.lookup_fails: Exception | None = None

    def accept(self, outgoing: Outgoing) -> str:
        """The vendor takes a message; returns its id."""
        self.accepted.append((outgoing.our_id, outgoing.text))
        return f"vendor-{outgoing.our_id}"

    def send(self, outgoing: Outgoing) -> str:
        self.sends.append(outgoing)
        step = self.script.pop(0) if self.script else self.accept
        if isinstance(step, Exception):
            raise step
        if callable(step):
            return step(outgoing)
        self.accepted.append((outgoing.our_id, outgoing.text))
        return step

    def lookup(self, outgoing: Outgoing, since: datetime) -> str | None:
        self.lookups.append(outgoing)
        if self.lookup_fails is not None:
            raise self.lookup_fails
        found = [our_id for our_id, _ in self.accepted if our_id == outgoing.our_id]
        return f"vendor-{found[0]}" if found and not self.hidden else None

    def texts(self) -> list[str]:
        """What the vendor has, in order."""
        return [text for _, text in self.accepted]
