"""Continuous batching: one thread, which feeds every waiting and every unfinished reply into the next step.

    submit ──► queue ──► admit (a slot, the beginning as far as it is known) ──► step ──► choose a token for each row
                              ▲                                                    │
                              └──────────── retire: end, limit, stop, cancelled ◄──┘

A prompt is read while others are being answered, at most `step_tokens` of it a step, so that a long one does not hold
up the rest. What a row says depends on its own tokens alone: rows share a step and nothing else.
"""

import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core.errors import BadInput, Conflict, ModelUnavailable, NotFound
from integrations.huggingface.adapters import ServedAdapter
from integrations.huggingface.attention import Feed
from integrations.huggingface.beginnings import Beginnings, Key, Part
from integrations.huggingface.exchange import Counters, Limits, Piece, Prompt, QueueFull, Sink, Ticket, Usage
from integrations.huggingface.guesses import Guesses
from integrations.huggingface.reply_text import ReplyText
from integrations.huggingface.sampling import Chooser
from integrations.huggingface.serving_model import ServingModel
from integrations.huggingface.spare_cores import SpareCores

log = logging.getLogger(__name__)

IDLE_SECONDS = 3.0  # without a prompt, and the room of the rows goes back: a night may need it


@dataclass(eq=False)
class _Row:
    """A prompt that has a slot."""

    ticket: Ticket
    slot: int
    text: ReplyText
    chooser: Chooser
    guesses: Guesses
    pending: list[int]  # tokens not fed yet
    fed: int = 0
    cached: int = 0
    keeps_prefix: bool = False
    keeps_lines: list[tuple[int, int]] = field(default_factory=list)  # (start, stop)
    answer_limit: int = 0
    finish: str | None = None

    @property
    def prefix_key(self) -> Key:
        return _key(self.ticket, self.ticket.prompt.prefix)


def _key(ticket: Ticket, stop: int) -> Key:
    return (ticket.adapter.number if ticket.adapter else 0, tuple(ticket.prompt.tokens[:stop]))


class Engine:
    """The batching thread and what it is given.

    Args:
        threads: how many torch may use, where the machine has cores to spare.
    """

    def __init__(self, model: ServingModel, limits: Limits | None = None, *, threads: int = 1) -> None:
        self.model = model
        self.limits = limits or Limits()
        self.counters = Counters()
        self.cores = SpareCores(threads)
        self._changed = threading.Condition()
        self._queue: deque[Ticket] = deque()
        self._adapters: dict[str, ServedAdapter] = {}
        self._rows: list[_Row] = []  # the row at place i has slot i
        self._beginnings = Beginnings(systems=self.limits.prefixes, line_tokens=self.limits.line_tokens)
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="batching", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._closing

    def close(self) -> None:
        """Stop after the current step; whatever is unfinished gets an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(timeout=30)

    # Versions

    def adapters(self) -> list[ServedAdapter]:
        """The loaded versions, oldest first."""
        with self._changed:
            return list(self._adapters.values())

    def load(self, name: str, folder: Path, sha256: str | None = None) -> ServedAdapter:
        """Serve a version from the next prompt on. Loading the same files again under the same name does nothing.

        Raises:
            ArtifactError: it must not be loaded.
            Conflict: the name is taken by other files, or the host serves as many versions as it may.
        """
        if name == self.model.base.name:
            raise Conflict(f"{name} is the base's name.", "Load the version under another name.")
        self._room_for(name)
        adapter = self.model.read_adapter(name, folder, sha256)
        with self._changed:
            known = self._adapters.get(name)
            if known is not None and known.sha256 == adapter.sha256:
                return known
            if known is not None:
                raise Conflict(f"{name} is loaded with other files.", "Unload it first: POST /v1/unload_lora_adapter.")
            self._room_for(name)
            self._adapters[name] = adapter
        return adapter

    def _room_for(self, name: str) -> None:
        if name not in self._adapters and len(self._adapters) >= self.limits.adapters:
            raise Conflict(
                f"This host serves {len(self._adapters)} versions, which is its limit.",
                f"Unload one of {', '.join(self._adapters)} first: POST /v1/unload_lora_adapter.",
            )

    def unload(self, name: str) -> None:
        """Take no further prompt for this version; those in flight are answered to their end.

        Raises:
            NotFound: no version of this name is loaded.
        """
        with self._changed:
            if self._adapters.pop(name, None) is None:
                raise NotFound(f"No version {name} is loaded.", "GET /v1/models lists the loaded ones.")

    # Prompts

    def submit(self, prompt: Prompt, sink: Sink) -> Ticket:
        """Queue a prompt. `sink` is called in the batching thread with each piece of the reply, and must be quick.

        Raises:
            NotFound: neither the base nor a loaded version has this name.
            BadInput: the prompt is empty or too long.
            QueueFull: too many wait.
        """
        if not prompt.tokens:
            raise BadInput("The prompt is empty.")
        longest = self.model.context - 1
        if len(prompt.tokens) > longest:
            raise BadInput(
                f"This model's maximum prompt length is {longest} tokens, and the messages take {len(prompt.tokens)}.",
                "Send fewer or shorter messages.",
            )
        with self._changed:
            adapter = self._adapters.get(prompt.model)
            if adapter is None and prompt.model != self.model.base.name:
                raise NotFound(
                    f"The model `{prompt.model}` does not exist.", "GET /v1/models lists what is served here."
                )
            if not self.alive:
                raise ModelUnavailable("The model server is stopping.", "Try again when it is up.")
            if len(self._queue) >= self.limits.queue:
                self.counters.refused += 1
                raise QueueFull(f"{len(self._queue)} prompts wait already.", "Try again in a moment.")
            ticket = Ticket(prompt, adapter, sink, time.monotonic())
            self._queue.append(ticket)
            self._changed.notify()
        return ticket

    # The batching thread

    def _run(self) -> None:
        try:
            with torch.inference_mode():
                while self._wait():
                    try:
                        self._step()
                    except Exception:
                        log.exception("A step failed; its replies are lost.")
                        self._drop_all("The model server failed on this batch.", "See its log, and try again.")
        finally:
            with self._changed:
                self._closing = True
                for ticket in self._queue:
                    _deliver(ticket, Piece(error=ModelUnavailable("The model server stopped.", "Try again.")))
                self._queue.clear()
            self._drop_all("The model server stopped.", "Try again when it is up.")

    def _wait(self) -> bool:
        """Wait for work and admit it; False when the engine closes."""

        def work() -> bool:
            return bool(self._closing or self._queue or self._rows)

        with self._changed:
            if not self._changed.wait_for(work, timeout=IDLE_SECONDS):
                self._beginnings.rest()
                self.model.rest()
                self._changed.wait_for(work)
            if not self._closing:
                self._admit()
            return not self._closing

    def _drop_all(self, message: str, next_step: str) -> None:
        for row in self._rows:
            self.counters.failed += 1
            _deliver(row.ticket, Piece(error=ModelUnavailable(message, next_step)))
        self._rows.clear()
        self._beginnings.clear()

    def _admit(self) -> None:
        """Give free slots to waiting prompts, oldest first. Called with the lock held."""
        being_read = {row.prefix_key for row in self._rows if row.keeps_prefix}
        waiting: deque[Ticket] = deque()
        while self._queue:
            ticket = self._queue.popleft()
            if ticket.cancelled:
                self.counters.cancelled += 1
                continue
            # Its system message is being computed for another row right now: a step later it is there for all.
            shares = ticket.prompt.prefix > 0 and _key(ticket, ticket.prompt.prefix) in being_read
            if shares or len(self._rows) == self.model.slots.count:
                waiting.append(ticket)
                continue
            try:
                row = self._open(ticket)
            except Exception:
                log.exception("A prompt could not be admitted.")
                self.counters.failed += 1
                _deliver(ticket, Piece(error=ModelUnavailable("The model server failed on this prompt.", "Try again.")))
                continue
            self._rows.append(row)
            if row.keeps_prefix:
                being_read.add(row.prefix_key)
        self._queue = waiting
        self.counters.waiting = len(waiting)

    def _open(self, ticket: Ticket) -> _Row:
        prompt = ticket.prompt
        row = _Row(
            ticket,
            slot=len(self._rows),
            text=ReplyText(self.model.decoder, prompt.stops),
            chooser=Chooser(prompt.sampling),
            guesses=Guesses(prompt.tokens, prompt.prefix),
            pending=list(prompt.tokens),
            answer_limit=min(prompt.max_tokens, self.limits.new_tokens, self.model.context - len(prompt.tokens)),
        )
        self._take_up(row)
        self.counters.prompt_tokens += len(prompt.tokens)
        self.counters.cached_tokens += row.cached
        return row

    def _take_up(self, row: _Row) -> None:
        """Put what is known of the prompt into the row's slot, and note what of the rest is worth keeping."""
        ticket, prompt = row.ticket, row.ticket.prompt
        system = self._beginnings.system(row.prefix_key) if prompt.prefix else None
        row.keeps_prefix = prompt.prefix > 0 and system is None
        keys = [_key(ticket, stop) for stop in prompt.lines]
        known = [system] if system else []
        if not row.keeps_prefix:
            known += self._beginnings.lines(keys)
        for part in known:
            self.model.slots.copy_in(row.slot, part.start, part.states)
            row.fed = row.cached = part.stop
        del row.pending[: row.fed]
        for start, stop, key in zip([prompt.prefix, *prompt.lines], prompt.lines, keys, strict=False):
            if stop > row.fed and self._beginnings.seen(key):
                row.keeps_lines.append((start, stop))

    def _step(self) -> None:
        for row in self._rows:
            if row.ticket.cancelled:
                row.finish = "cancelled"
        self._retire()
        feeds = self._feeds()
        if not feeds:
            return
        started = time.perf_counter()
        if (threads := self.cores.now()) != torch.get_num_threads():
            torch.set_num_threads(threads)
        logits = self.model.forward([feed for _, feed in feeds])
        for row, feed in feeds:
            row.fed += len(feed.tokens) - feed.guessed
            self._keep(row)
        self.counters.steps += 1
        place = 0
        for row, feed in feeds:
            self._say(row, feed, logits[place : place + feed.wanted])
            place += feed.wanted
        self.counters.step_seconds += time.perf_counter() - started
        self._retire()

    def _say(self, row: _Row, feed: Feed, logits: torch.Tensor) -> None:
        """Choose the row's next token, and go on as long as what was guessed to follow is what is chosen."""
        guess = feed.tokens[len(feed.tokens) - feed.guessed :]
        right = 0
        for after in logits:
            token = row.chooser.choose(after)
            self._take(row, token)
            if row.finish is not None or right == len(guess) or guess[right] != token:
                break
            right += 1  # its states are in the slot already
        row.fed += right
        row.guesses.learn(len(guess), right)

    def _feeds(self) -> list[tuple[_Row, Feed]]:
        """What the next step is fed: of each row that answers its last token and a guess; prompts up to the budget."""
        feeds = []
        budget = self.limits.step_tokens
        for row in self._rows:
            count = min(len(row.pending), budget) if len(row.pending) > 1 else 1
            if count == 0:
                continue
            if len(row.pending) > 1:
                budget -= count
            tokens = row.pending[:count]
            del row.pending[:count]
            said = row.chooser.said
            guess = row.guesses.next(said, row.answer_limit - len(said) - 1) if said else ()
            feed = Feed(
                [*tokens, *guess], row.slot, row.fed, row.ticket.adapter, answered=not row.pending, guessed=len(guess)
            )  # fmt: skip
            feeds.append((row, feed))
        return feeds

    def _keep(self, row: _Row) -> None:
        """Keep what has been read by now."""
        prefix = row.ticket.prompt.prefix
        if row.keeps_prefix and row.fed >= prefix:
            row.keeps_prefix = False
            self._beginnings.keep_system(row.prefix_key, self._part(row, 0, prefix))
        while row.keeps_lines and row.fed >= row.keeps_lines[0][1]:
            start, stop = row.keeps_lines.pop(0)
            self._beginnings.keep_line(_key(row.ticket, stop), self._part(row, start, stop))

    def _part(self, row: _Row, start: int, stop: int) -> Part:
        return Part(start, stop, self.model.slots.copy_out(row.slot, start, stop))

    def _take(self, row: _Row, token: int) -> None:
        """A row has said `token`: hand on its text, and see whether it is done."""
        row.chooser.said.append(token)
        said = len(row.chooser.said)
        self.counters.new_tokens += 1
        ended = token in self.model.ends and not row.ticket.prompt.ignore_end
        new = "" if ended else row.text.push(token)
        if ended or row.text.stopped:
            row.finish = "stop"
        elif said >= row.answer_limit:
            row.finish = "length"
        if row.finish is None:
            row.pending = [token]
            if new:
                _deliver(row.ticket, Piece(new))
            return
        if not row.text.stopped:
            new += row.text.finish()
        usage = Usage(len(row.ticket.prompt.tokens), said, row.cached)
        _deliver(row.ticket, Piece(new, row.finish, usage))

    def _retire(self) -> None:
        """Free the slots of finished rows; the last rows move into them, so that slots stay without gaps."""
        for row in [row for row in reversed(self._rows) if row.finish is not None]:
            if row.finish == "cancelled":
                self.counters.cancelled += 1
            else:
                self.counters.finished += 1
            last = self._rows.pop()
            if last is not row:
                self.model.slots.move(last.slot, row.slot, last.fed)
                last.slot = row.slot
                self._rows[row.slot] = last
        self.counters.rows = len(self._rows)


def _deliver(ticket: Ticket, piece: Piece) -> None:
    """A client that cannot take its piece must not take the others down with it."""
    try:
        ticket.sink(piece)
    except Exception:
        log.exception("A reply could not be delivered.")
        ticket.cancel()
