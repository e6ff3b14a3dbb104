"""An answer in Slack while it is being written: first a status, then a message that grows.

The growing message is a preview. What is said in the end is the outbox's row, which finishes that message; so whatever
fails in here costs the preview only. Its `ts` is noted before the first word is shown: a turn that is tried again
finishes the same message instead of beginning another.
"""

import time
import uuid
from collections.abc import Callable
from typing import Any

from bot.slack import forms
from bot.wiring import Awake
from core.db import transaction
from core.messages import InboundMessage
from core.prompts import Language
from core.tables import Message
from core.untrusted import as_text
from integrations.slack.client import SlackClient, unmentioned

LEAST, PAUSE = 40, 0.7  # characters and seconds between two pieces: Slack counts calls


def begin(awake: Awake, message: InboundMessage, message_id: uuid.UUID, language: Language) -> "LiveAnswer | None":
    """Say that an answer is on its way; None where there is nothing to show it in."""
    client = awake.channels.get("slack")
    if message.channel != "slack" or not isinstance(client, SlackClient):
        return None
    channel, _, ts = message.provider_message_id.partition(":")
    client.offer(
        "assistant.threads.setStatus", team=message.address.get("team"), channel_id=channel,
        thread_ts=message.address.get("thread_ts") or ts, status=forms.WORDS[language]["thinking"],
    )  # fmt: skip
    with transaction(awake.engine) as session:
        before = as_text(session.get_one(Message, message_id).route.get("stream"))

    def note(stream: str) -> None:
        with transaction(awake.engine) as session:
            asked = session.get_one(Message, message_id)
            asked.route = {**asked.route, "stream": stream}

    return LiveAnswer(client, message, note, before=before, after=awake.settings.slack_stream_after)


class LiveAnswer:
    """Takes pieces of an answer; `state` is what the outbox needs to finish it.

    Args:
        note: keeps the message's `ts` for whoever tries the turn again.
        before: the `ts` of a message that an earlier try began.
        after: seconds until a message is begun; what is written sooner is posted as a whole.
    """

    def __init__(
        self, client: SlackClient, message: InboundMessage, note: Callable[[str], None], *, before: str = "",
        after: float = 0.0,
    ) -> None:  # fmt: skip
        self.client, self.note = client, note
        self.team, self.channel = message.address.get("team"), message.address["channel"]
        self.ts, self.shown, self.waiting = before, "", ""
        self.sure = not before  # of what the message shows
        self.over = bool(before)
        self._begin_at, self._last = time.monotonic() + after, 0.0
        self._start: dict[str, Any] = {"channel": self.channel, "thread_ts": message.address.get("thread_ts")}
        if not str(self.channel).startswith("D"):
            user = message.person.identifiers[0].value
            self._start |= {"recipient_team_id": self.team, "recipient_user_id": user}

    def __call__(self, piece: str) -> None:
        self.waiting += piece
        now = time.monotonic()
        if self.over or now < self._begin_at or (self.ts and (len(self.waiting) < LEAST or now - self._last < PAUSE)):
            return
        if not self.ts:
            begun = self.client.offer("chat.startStream", team=self.team, **self._start)
            self.ts = as_text((begun or {}).get("ts"))
            if not self.ts:
                self.over = True
                return
            self.note(self.ts)
        # A mention must not be put together from two pieces.
        held = self.waiting[-1:] if self.waiting.endswith("<") else ""
        text = self.waiting.removesuffix(held) if held else self.waiting
        if not text.strip():
            return
        added = self.client.offer(
            "chat.appendStream",
            team=self.team,
            lasting=False,
            channel=self.channel,
            ts=self.ts,
            markdown_text=unmentioned(text),
        )
        self._last = time.monotonic()
        if added is None:
            self.over, self.sure = True, False  # it may have been shown, or not
            return
        self.shown, self.waiting = self.shown + text, held

    def state(self) -> dict[str, Any]:
        """For the outbox row of the answer's first part; empty where nothing was begun."""
        return {"stream": {"ts": self.ts, "shown": self.shown, "sure": self.sure}} if self.ts else {}
