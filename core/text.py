"""Text as people write it: one way to fold it, one way to split it, one way to read a phone number."""

import re
import unicodedata

import phonenumbers

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")


def fold(text: str) -> str:
    """Lower case without accents: 'Colchão' and 'colchao' are one word to a customer."""
    return unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()


def words(text: str) -> list[str]:
    """The folded words of a text."""
    return re.findall(r"[a-z0-9]+", fold(text))


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters, cut at paragraphs or sentences, else at spaces, never inside a word
    that fits."""
    parts: list[str] = []
    rest = text.strip()
    while len(rest) > limit:
        window = rest[: limit + 1]
        ends = [match.start() for match in _SENTENCE_END.finditer(window) if match.start() > limit // 3]
        cut = ends[-1] if ends else window.rfind(" ", limit // 3)
        if cut <= 0:
            cut = limit
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [*parts, rest] if rest or not parts else parts


def canonical_phone(number: str) -> str | None:
    """E.164, a Brazilian mobile always with its ninth digit; None if it is no phone number.

    WhatsApp names older Brazilian accounts without the ninth digit that everybody dials: both are one person.
    """
    digits = re.sub(r"\D", "", number)
    if not digits:
        return None
    if len(digits) == 12 and digits.startswith("55") and digits[4] in "6789":
        digits = f"{digits[:4]}9{digits[4:]}"
    try:
        parsed = phonenumbers.parse(f"+{digits}")
    except phonenumbers.NumberParseException:
        return None
    return f"+{digits}" if phonenumbers.is_possible_number(parsed) else None
