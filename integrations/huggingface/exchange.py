"""What goes into the batching thread, and what comes out of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from core.errors import NpllmError, Unavailable
from integrations.huggingface.adapters import ServedAdapter
from integrations.huggingface.sampling import Sampling


@dataclass(frozen=True)
class Limits:
    """
    Args:
        queue: prompts that may wait for a row; one more is refused.
        new_tokens: the longest answer; a request for more gets so many.
        adapters: versions that may be loaded at once.
        step_tokens: prompt tokens read in one step.
        prefixes: system messages whose keys and values are kept, over all versions.
        line_tokens: tokens of further lines of prompts whose keys and values are kept while there is work.
    """

    queue: int = 64
    new_tokens: int = 512
    adapters: int = 6
    step_tokens: int = 256
    prefixes: int = 12
    line_tokens: int = 2048


class QueueFull(Unavailable):
    """More prompts wait than the server will take on. `retry_after`: seconds."""

    retry_after = 2


@dataclass(frozen=True)
class Prompt:
    """
    Args:
        model: a loaded version, or the base's name.
        prefix: how many of the tokens are the system message.
        lines: where lines after it end; other prompts may begin with the same ones.
        ignore_end: answer until the limit, whatever the model says (for measuring).
    """

    tokens: Sequence[int]
    model: str
    prefix: int = 0
    lines: Sequence[int] = ()
    max_tokens: int = 256
    stops: Sequence[str] = ()
    sampling: Sampling = field(default_factory=Sampling)
    ignore_end: bool = False


@dataclass(frozen=True)
class Usage:
    prompt: int
    completion: int
    cached: int


@dataclass(frozen=True)
class Piece:
    """What one step added to a reply. The last piece has a finish reason (stop, length) or an error."""

    text: str = ""
    finish: str | None = None
    usage: Usage | None = None
    error: NpllmError | None = None

    @property
    def last(self) -> bool:
        return self.finish is not None or self.error is not None


Sink = Callable[[Piece], None]


@dataclass(eq=False)
class Ticket:
    """A submitted prompt. `cancel` takes effect before the next step."""

    prompt: Prompt
    adapter: ServedAdapter | None
    sink: Sink
    submitted: float
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class Counters:
    """What the engine did since it started; read by /metrics."""

    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    new_tokens: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    waiting: int = 0
    rows: int = 0
