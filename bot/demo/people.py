"""The demo's people: they write over signed webhooks, read what the vendor server received, and react to it.

Each knows what a good answer to their question holds (the figures of the passage that answers it, from the shop's
held-out questions) and reacts like a person: a thumb up for it, a thumb down otherwise.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import httpx

from bot.guardrails import DONT_KNOW, TROUBLE, invented_figures
from bot.simulator import traffic
from core import shop
from core.errors import Unavailable
from core.settings import Settings

Channel = Literal["twilio", "meta", "slack"]
PATIENCE = 240.0  # seconds a person waits for an answer
_numbers = itertools.count(int(time.time()) % 100_000 * 1000)


@dataclass(frozen=True)
class Answer:
    """What a person got. `id` is the vendor's."""

    question: shop.Question
    text: str
    id: str
    channel: Channel
    person: str

    @property
    def good(self) -> bool:
        """All figures the question asks for are there; without any, at least it is an answer."""
        if self.question.figures:
            return not invented_figures(" ".join(self.question.figures), [self.text])
        return self.text not in (*DONT_KNOW.values(), *TROUBLE.values())


class Street:
    """Where the people are: sends their webhooks, and tells them what the vendor server received for them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.http = httpx.Client(timeout=30.0)
        self._seen: list[dict[str, Any]] = []
        self._looked = 0.0
        self._lock = threading.Lock()

    def ask(self, question: shop.Question, channel: Channel) -> Answer:
        """Write a question as somebody new and wait for the answer.

        Raises:
            Unavailable: none came.
        """
        person = somebody(channel)
        self.say(channel, person, question.text)
        reply = self._reply_to(channel, person)
        return Answer(question, str(reply["text"]), str(reply["id"]), channel, person)

    def say(self, channel: Channel, person: str, text: str) -> None:
        if channel == "twilio":
            self.post(traffic.twilio_message(self.settings, text, sender=person))
        elif channel == "meta":
            self.post(traffic.meta_text(self.settings, text, sender=person))
        else:
            self.post(traffic.slack_message(self.settings, text, user=person, channel=f"D{person[1:]}"))

    def react(self, answer: Answer, liked: bool) -> None:
        """A reaction on Meta and Slack; on Twilio, which has none, a quoted reply that is nothing but an emoji."""
        emoji = "👍" if liked else "👎"
        if answer.channel == "twilio":
            self.post(
                traffic.twilio_message(self.settings, emoji, sender=answer.person, OriginalRepliedMessageSid=answer.id)
            )
        elif answer.channel == "meta":
            self.post(traffic.meta_reaction(self.settings, answer.id, emoji, sender=answer.person))
        else:
            name = "+1" if liked else "-1"
            self.post(traffic.slack_reaction(self.settings, answer.id, name, user=answer.person))

    def crowd(
        self,
        questions: Iterator[shop.Question],
        judge: Callable[[Answer], bool],
        *,
        size: int,
        until: Callable[[], bool],
    ) -> list[Answer]:
        """People come one after another, `size` at a time, ask and react, until `until` says that it is enough."""
        answers: list[Answer] = []
        channels: Iterator[Channel] = itertools.cycle(("meta", "twilio"))

        def one(question: shop.Question, channel: Channel) -> None:
            answer = self.ask(question, channel)
            self.react(answer, judge(answer))
            answers.append(answer)

        def keep_coming() -> None:
            while not until():
                with self._lock:
                    question, channel = next(questions), next(channels)
                one(question, channel)

        with ThreadPoolExecutor(size) as pool:
            for done in [pool.submit(keep_coming) for _ in range(size)]:
                done.result()
        return answers

    def post(self, request: traffic.Signed) -> None:
        response = self.http.post(request.url, content=request.body, headers=request.headers)
        if not response.is_success:
            raise Unavailable(f"A webhook was answered with {response.status_code}: {response.text[:200]}")

    def _reply_to(self, channel: Channel, person: str) -> dict[str, Any]:
        address = {"twilio": f"whatsapp:{person}", "meta": person.lstrip("+"), "slack": f"D{person[1:]}"}[channel]
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            for sent in self._received():
                if sent["to"] == address:
                    return sent
            time.sleep(0.1)
        raise Unavailable(f"Nobody answered {person} on {channel} in {PATIENCE:.0f} s.", "Look at `npllm status`.")

    def _received(self) -> Sequence[dict[str, Any]]:
        """What the vendor server got so far. Those who wait look together: each for themselves took half a core."""
        with self._lock:
            if time.monotonic() - self._looked > 0.1:
                url = f"{self.settings.twilio_api_base_url}/_sent"
                self._seen += self.http.get(url, params={"since": len(self._seen)}).json()
                self._looked = time.monotonic()
            return list(self._seen)


def somebody(channel: Channel) -> str:
    number = next(_numbers)
    return f"U{number:09d}" if channel == "slack" else f"+55119{number % 100_000_000:08d}"


def with_figures(split: shop.Split) -> list[shop.Question]:
    """Held-out questions of customers in Portuguese whose answer is a figure: those can be judged."""
    return [q for q in shop.questions("pt", split) if q.context == "customers" and q.figures]
