"""What the tiny base reads: the project's own text, in the chat form that it is later asked in.

    talk       English conversations about everyday services, written by `talk.yaml`'s phrases (10 domains)
    intent     the same openings, answered by the name of the request, as the bench's classification asks
    starter    dialogues of the starter's corpus, English and Portuguese
    sentences  Portuguese and English sentences of the embedder's list, one answered by its translation

Item i of a seed depends on (seed, i) alone.
"""

import random
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import count
from typing import Any

import yaml

from core.prompts import ChatMessage
from learning.starter.writer import Writer

SHARES = {"talk": 0.60, "intent": 0.10, "starter": 0.22, "sentences": 0.08}
NAME_THE_REQUEST = "Name the request in a few words."
_ALWAYS_NEW = ("price", "number", "rating")
_OFFERED = ("place", "airline", "name")
_SLOT = re.compile(r"\{(\w+)\}")


def stream(seed: int = 0) -> Iterator[list[ChatMessage]]:
    """Conversations without end."""
    writers = {"talk": _talk, "intent": _intent, "starter": _starter, "sentences": _sentence}
    for index in count():
        rng = random.Random(f"tiny:{seed}:{index}")
        yield writers[rng.choices(list(SHARES), weights=list(SHARES.values()))[0]](rng)


def _talk(rng: random.Random) -> list[ChatMessage]:
    """One conversation: wish, questions back, offer, facts, confirmation, end; slots keep their value throughout."""
    phrases = _phrases()
    domain = phrases["domains"][rng.choice(list(phrases["domains"]))]
    known: dict[str, str] = {}
    fill = _Filler(rng, known)
    turns: list[str] = [rng.choice(phrases["opening"]) + fill(rng.choice(domain["wants"]))]
    for slot in rng.sample(list(domain["asks"]), k=rng.randint(0, len(domain["asks"]))):
        if slot not in known:
            turns += [fill(rng.choice(domain["asks"][slot])), fill.answer(rng.choice(phrases["answer"]), slot)]
    turns.append(fill(rng.choice(domain["offers"])))
    for question, answer in rng.sample(domain["facts"], k=rng.randint(0, 2)):
        turns += [question, fill(answer)]
    if rng.random() < 0.3:
        declined = rng.choice(phrases["decline"])
        for slot in _SLOT.findall(declined):
            known.pop(slot, None)
        turns += [fill(declined), fill(rng.choice(domain["offers"]), again=True)]
    turns.append(rng.choice(phrases["accept"]))
    turns += [fill(rng.choice(domain["confirm"])), rng.choice(phrases["accept"])]
    turns.append(fill(rng.choice(domain["fail"] if rng.random() < 0.15 else domain["done"])))
    for said, replied in rng.sample(phrases["close"], k=rng.randint(0, 2)):
        turns += [said, replied]
    return [_message("user" if i % 2 == 0 else "assistant", turn) for i, turn in enumerate(turns)]


def _intent(rng: random.Random) -> list[ChatMessage]:
    phrases = _phrases()
    domain = phrases["domains"][rng.choice(list(phrases["domains"]))]
    number = rng.randrange(len(domain["wants"]))
    intent = domain["intents"][number * len(domain["intents"]) // len(domain["wants"])]
    wish = rng.choice(phrases["opening"]) + _Filler(rng, {})(domain["wants"][number])
    return [_message("system", NAME_THE_REQUEST), _message("user", wish), _message("assistant", intent)]


def _starter(rng: random.Random) -> list[ChatMessage]:
    writer = Writer(rng, "en" if rng.random() < 0.5 else "pt", held=False)
    dialogue = writer.write(rng.choice(["answer", "answer", "follow-up", "unknown", "complaint", "talk"]))
    return [*dialogue.messages, _message("assistant", dialogue.answer)]


def _sentence(rng: random.Random) -> list[ChatMessage]:
    first, second = rng.choice(_pairs())
    if rng.random() < 0.5:
        first, second = second, first
    return [_message("user", first), _message("assistant", second)]


class _Filler:
    """Puts values into slots; a slot that was named keeps its value."""

    def __init__(self, rng: random.Random, known: dict[str, str]) -> None:
        self.rng = rng
        self.known = known
        self.words: dict[str, list[str]] = _phrases()["words"]

    def __call__(self, phrase: str, *, again: bool = False) -> str:
        seen: set[str] = set()

        def value(match: re.Match[str]) -> str:
            slot = match[1]
            if (
                slot in seen
                or (again and slot in ("place", "airline", "name"))
                or slot in ("price", "number", "rating")
            ):
                return self.rng.choice(self.words[slot])  # a second city is another city; figures are always new
            seen.add(slot)
            return self.known.setdefault(slot, self.rng.choice(self.words[slot]))

        text = _SLOT.sub(value, phrase)
        return text[0].upper() + text[1:]

    def answer(self, phrase: str, slot: str) -> str:
        value = self.known.setdefault(slot, self.rng.choice(self.words[slot]))
        text = phrase.replace("{value}", value)
        return text[0].upper() + text[1:]


def _message(role: str, content: str) -> ChatMessage:
    return {"role": role, "content": content}  # type: ignore[typeddict-item]


@cache
def _phrases() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(files("learning.tiny").joinpath("talk.yaml").read_text(encoding="utf-8"))
    return loaded


@cache
def _pairs() -> list[tuple[str, str]]:
    lines = files("learning.embedder").joinpath("sentences.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines if line and not line.startswith("#")]
    return [(row[0], row[1]) for row in rows if len(row) >= 2]
