"""Answers longer than a message: parts in order, buttons where they fit, and every part is the answer."""

import random
from typing import Any

import pytest
from servers import ScriptedModel
from sqlalchemy import select
from street import ANA, Street

from bot.guardrails import DID_IT_HELP
from core.db import transaction
from core.tables import Feedback
from core.text import length


def long_text(characters: int, letters: str = "abcdefghilmnoprstuv") -> str:
    """Sentences of words that nobody repeats."""
    chance = random.Random(7)
    sentences: list[str] = []
    while sum(map(len, sentences)) < characters:
        words = ["".join(chance.choices(letters, k=chance.randint(3, 9))) for _ in range(9)]
        sentences.append(" ".join(words).capitalize() + ".")
    return " ".join(sentences)


@pytest.mark.parametrize("letters", ["abcdefghilmnoprstuv", "🛏🧸🌙😴🪑"])
@pytest.mark.parametrize(("channel", "limit"), [("twilio", 1600), ("meta", 4096)])
def test_twelve_thousand_characters(
    street: Street, vendors: Any, model: ScriptedModel, channel: str, limit: int, letters: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("bot.guardrails.MAX_CHARACTERS", 20_000)
    said = long_text(12_000, letters)
    model.say = lambda name, question: said
    street.answer(getattr(street, channel)("Conte tudo"))
    parts = [sent for sent in vendors.sent if sent["vendor"] == channel][:-1]  # the last one asks for consent
    texts = [str(sent["text"]) for sent in parts if sent["text"] != DID_IT_HELP["pt"]]
    assert " ".join(texts) == said, "in order, nothing lost"
    assert max(map(length, texts)) <= limit
    assert all(text.endswith(".") for text in texts), "cut between sentences"
    assert [len(sent["buttons"]) for sent in parts] == [0] * (len(parts) - 1) + [3]
    assert (len(parts) > len(texts)) == (length(texts[-1]) > 1024), "asked apart where the buttons do not fit"

    middle = parts[len(texts) // 2]
    if channel == "meta":
        street.answer(street.meta_reacts(middle["id"], "👎"))
    else:
        street.answer(street.twilio("👎", OriginalRepliedMessageSid=middle["id"]))
    answer_id = parts[-1]["buttons"][0].split(":")[1]
    with transaction(street.awake.engine) as session:
        vote = session.scalars(select(Feedback)).one()
    assert (str(vote.message_id), vote.polarity) == (answer_id, "negative"), "a rating of any part is one of the answer"


def test_a_short_answer_has_the_buttons_under_it(street: Street, vendors: Any) -> None:
    street.answer(street.twilio("Oi"))
    first = vendors.sent[0]
    assert [button.split(":")[2] for button in first["buttons"]] == ["up", "down", "problem"]
    street.answer(street.twilio("👍", ButtonPayload=first["buttons"][0], OriginalRepliedMessageSid=first["id"]))
    assert len(vendors.sent) == 2, "a tap is not answered"
    with transaction(street.awake.engine) as session:
        assert session.scalars(select(Feedback)).one().polarity == "positive"


def test_the_person_sees_that_an_answer_is_on_its_way(street: Street, vendors: Any) -> None:
    import httpx
    from together import eventually

    street.answer(street.meta("Oi", sender=ANA))
    shown = eventually(lambda: httpx.get(f"{vendors.url}/_typing").json())
    assert shown[0]["vendor"] == "meta"
    vendors.fault("meta", "500", method="typing")
    street.answer(street.meta("E agora?", sender=ANA))
    assert len(street.messages("out")) == 3, "answered all the same"
