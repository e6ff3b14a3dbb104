"""What an emoji, stars or a short word says about an answer.

Skin tones, variation selectors and genders are dropped first; Slack's names go through its aliases. An emoji
nobody listed is neutral and kept as it came.
"""

import re
import unicodedata
from dataclasses import dataclass

from core.messages import Polarity, Signal


@dataclass(frozen=True)
class Rating:
    """`value` is in [0, 1]: 👎 0, 👍 1, stars in between; None says nothing about quality (neutral)."""

    polarity: Polarity
    value: float | None
    signal: Signal


_POSITIVE = frozenset(
    "👍 ❤ 🧡 💛 💚 💙 💜 🖤 🤍 💖 💗 ♥ 🫶 😍 🥰 😊 😀 😃 😄 😁 🙂 ☺ 😘 🤩 😂 🤗 😉"
    " 🎉 🙏 👏 🙌 💯 ✅ 🔥 ⭐ 🌟 👌 🤝".split()
)
_NEGATIVE = frozenset("👎 😡 😠 🤬 😞 😔 😕 🙁 ☹ 😢 😭 😤 💔 ❌ 🤮 🤢 😒 🙄 😖 😩 😫 🤦 ⛔ 🚫 😾 🖕".split())
# Slack's names (https://slack.com/help: emoji; aliases as the API sends them) to the emoji above.
_SLACK_NAMES = {
    "+1": "👍", "thumbsup": "👍", "-1": "👎", "thumbsdown": "👎", "heart": "❤", "heart_eyes": "😍", "smile": "😄",
    "smiley": "😃", "grinning": "😀", "blush": "😊", "slightly_smiling_face": "🙂", "tada": "🎉", "clap": "👏",
    "raised_hands": "🙌", "pray": "🙏", "100": "💯", "white_check_mark": "✅", "heavy_check_mark": "✅", "fire": "🔥",
    "joy": "😂", "star": "⭐", "star2": "🌟", "ok_hand": "👌", "rage": "😡", "angry": "😠", "disappointed": "😞",
    "confused": "😕", "cry": "😢", "sob": "😭", "x": "❌", "no_entry": "⛔", "face_with_rolling_eyes": "🙄",
    "slightly_frowning_face": "🙁", "white_frowning_face": "☹", "broken_heart": "💔", "unamused": "😒",
    "no_entry_sign": "🚫", "face_palm": "🤦", "handshake": "🤝", "star-struck": "🤩", "orange_heart": "🧡",
    "yellow_heart": "💛", "green_heart": "💚", "blue_heart": "💙", "purple_heart": "💜", "black_heart": "🖤",
    "white_heart": "🤍", "sparkling_heart": "💖", "heartpulse": "💗", "hearts": "♥", "heart_hands": "🫶",
    "smiling_face_with_3_hearts": "🥰", "grin": "😁", "relaxed": "☺", "kissing_heart": "😘", "hugging_face": "🤗",
    "wink": "😉", "grinning_face_with_star_eyes": "🤩", "face_with_symbols_on_mouth": "🤬",
    "serious_face_with_symbols_covering_mouth": "🤬", "pensive": "😔", "triumph": "😤", "face_vomiting": "🤮",
    "face_with_open_mouth_vomiting": "🤮", "nauseated_face": "🤢", "confounded": "😖", "weary": "😩",
    "tired_face": "😫", "woman-facepalming": "🤦", "man-facepalming": "🤦", "pouting_cat": "😾",
    "middle_finger": "🖕", "reversed_hand_with_middle_finger_extended": "🖕",
}  # fmt: skip
_POSITIVE_WORDS = frozenset("otimo excelente perfeito maravilha adorei gostei ajudou great perfect helpful".split())
_NEGATIVE_WORDS = frozenset("ruim pessimo horrivel errado errada incorreto wrong bad useless".split())
_FLAG_WORDS = frozenset("problema denunciar problem".split())
_STARS = re.compile(r"^\s*([1-5])\s*(?:/\s*5|estrelas?|stars?|⭐)\s*$", re.I)
# Skin tones, variation selectors, joiners, genders, and the letters inside the flags of England, Scotland and Wales.
_MODIFIERS = re.compile("[\U0001f3fb-\U0001f3ff\ufe0f\ufe0e\u200d\u2640\u2642\U000e0020-\U000e007f]")
_LONGEST = 200  # characters of a message that is nothing but a rating; as many are kept of it


def emoji_rating(raw: str) -> Rating:
    """One reaction's emoji."""
    emoji = _MODIFIERS.sub("", raw.strip())
    if emoji in _POSITIVE:
        return Rating("positive", 1.0, "reaction")
    if emoji in _NEGATIVE:
        return Rating("negative", 0.0, "reaction")
    return Rating("neutral", None, "reaction")


def slack_rating(name: str) -> Rating:
    """One reaction's name as Slack sends it: `+1::skin-tone-3`."""
    return emoji_rating(_SLACK_NAMES.get(name.split("::")[0], ""))


def stars_rating(stars: int) -> Rating:
    value = (min(max(stars, 1), 5) - 1) / 4
    return Rating("positive" if stars >= 4 else "negative" if stars <= 2 else "neutral", value, "stars")


def text_rating(text: str) -> Rating | None:
    """A message that is nothing but a rating: emoji alone, stars, or (in a quoted reply) a word; else None."""
    stripped = _MODIFIERS.sub("", text.strip())
    if not stripped or len(stripped) > _LONGEST:
        return None
    if set(stripped.replace(" ", "")) == {"⭐"}:
        return stars_rating(stripped.count("⭐")) if stripped.count("⭐") > 1 else Rating("positive", 1.0, "reaction")
    if match := _STARS.match(stripped):
        return stars_rating(int(match[1]))
    characters = [c for c in stripped if not c.isspace()]
    if all(_is_emoji(c) for c in characters):
        ratings = [emoji_rating(c) for c in characters]
        known = [rating for rating in ratings if rating.value is not None]
        return known[0] if known else Rating("neutral", None, "reaction")
    return None


def word_rating(text: str) -> Rating | None:
    """One or two words that rate, for quoted replies only: on its own 'errado' may be about anything."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = re.findall(r"[a-z]+", plain)
    if not 1 <= len(words) <= 2 or "?" in text:
        return None
    if len(words) == 1 and words[0] in _FLAG_WORDS:  # "sem problema" is none
        return Rating("negative", 0.0, "flag")
    if words[0] in ("nao", "not") and words[-1] in _POSITIVE_WORDS:
        return Rating("negative", 0.0, "keyword")  # a bare "não" or "não quero" answers a question, it rates nothing
    if set(words) <= _POSITIVE_WORDS | {"muito", "very"} and set(words) & _POSITIVE_WORDS:
        return Rating("positive", 1.0, "keyword")
    if set(words) <= _NEGATIVE_WORDS | {"muito", "very"} and set(words) & _NEGATIVE_WORDS:
        return Rating("negative", 0.0, "keyword")
    return None


def _is_emoji(character: str) -> bool:
    return unicodedata.category(character) in ("So", "Sk", "Cn") or character in "♥☺☹"
