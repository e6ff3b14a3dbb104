"""What an emoji, stars or a short word says about an answer."""

import pytest

from core import reactions
from core.reactions import emoji_rating, slack_rating, stars_rating, text_rating, word_rating


@pytest.mark.parametrize(
    ("emoji", "polarity"),
    [
        ("👍", "positive"), ("👍🏽", "positive"), ("❤️", "positive"), ("❤", "positive"), ("🙏🏿", "positive"),
        ("👎", "negative"), ("👎🏻", "negative"), ("😡", "negative"), ("🤦🏾‍♀️", "negative"), ("☹️", "negative"),
        ("🦊", "neutral"), ("🤔", "neutral"), ("x", "neutral"), ("", "neutral"),
    ],
)  # fmt: skip
def test_emoji(emoji: str, polarity: str) -> None:
    rating = emoji_rating(emoji)
    assert rating.polarity == polarity
    assert rating.value == {"positive": 1.0, "negative": 0.0, "neutral": None}[polarity]


@pytest.mark.parametrize(
    ("name", "polarity"),
    [("+1", "positive"), ("+1::skin-tone-4", "positive"), ("thumbsdown", "negative"), ("party_parrot", "neutral")],
)
def test_slacks_names(name: str, polarity: str) -> None:
    assert slack_rating(name).polarity == polarity


def test_whatever_says_something_on_whatsapp_says_it_on_slack_too() -> None:
    rated = reactions._POSITIVE | reactions._NEGATIVE
    assert rated - set(reactions._SLACK_NAMES.values()) == set()
    assert set(reactions._SLACK_NAMES.values()) - rated == set()
    assert slack_rating("woman-facepalming::skin-tone-3").polarity == "negative"


def test_stars_lie_between() -> None:
    assert [stars_rating(n).value for n in (1, 2, 3, 4, 5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [stars_rating(n).polarity for n in (1, 3, 5)] == ["negative", "neutral", "positive"]
    assert stars_rating(99).value == 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("👍👍👍", 1.0),
        ("👎 👎", 0.0),
        ("⭐⭐⭐⭐", 0.75),
        ("⭐", 1.0),
        ("4 estrelas", 0.75),
        ("2/5", 0.25),
        ("1 star", 0.0),
        ("5 ⭐", 1.0),
        ("2⭐️", 0.25),
        ("👍" * 100, 1.0),
        ("🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f", None),
    ],
)
def test_messages_that_are_nothing_but_a_rating(text: str, value: float | None) -> None:
    rating = text_rating(text)
    assert rating is not None
    assert rating.value == value


@pytest.mark.parametrize(
    "text", ["", "oi", "👍 quanto custa o de casal?", "5", "tenho 4", "10/5", "nota 4 de 5, mas caro"]
)
def test_messages_that_say_more(text: str) -> None:
    assert text_rating(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [("Ótimo!", 1.0), ("muito ruim", 0.0), ("errado", 0.0), ("PÉSSIMO", 0.0), ("perfeito", 1.0), ("wrong", 0.0)],
)
def test_words_in_a_quoted_reply(text: str, value: float) -> None:
    rating = word_rating(text)
    assert rating is not None
    assert rating.value == value


@pytest.mark.parametrize("text", ["", "não", "quanto custa", "ótimo, e o prazo de entrega?", "bom dia"])
def test_words_that_rate_nothing(text: str) -> None:
    assert word_rating(text) is None
