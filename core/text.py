"""Text as people write it: one way to fold it, one way to split it, one way to read a phone number."""

import re
import unicodedata

_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|\n+")
_USER_ID = re.compile(r"[A-Z]{2}\.(?:ENT\.)?[A-Za-z0-9]+")


def fold(text: str) -> str:
    """Lower case without accents: 'Colchão' and 'colchao' are one word to a customer."""
    return unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()


def words(text: str) -> list[str]:
    """The folded words of a text."""
    return re.findall(r"[a-z0-9]+", fold(text))


def length(text: str) -> int:
    """Characters as the messengers count them, in UTF-16: most emoji are two."""
    return len(text) + sum(character > "\uffff" for character in text)


def split_text(text: str, limit: int) -> list[str]:
    """Parts of at most `limit` characters (`length`), cut at paragraphs or sentences, else at spaces, never inside a
    word that fits."""
    parts: list[str] = []
    rest = text.strip()
    while length(rest) > limit:
        room = limit
        while (over := length(rest[:room]) - limit) > 0:
            room -= (over + 1) // 2
        window = rest[: room + 1]
        ends = [match.start() for match in _SENTENCE_END.finditer(window) if match.start() > room // 3]
        spaces = [match.start() for match in re.finditer(r"\s", window)]
        cut = ends[-1] if ends else spaces[-1] if spaces else room
        parts.append(rest[:cut].strip())
        rest = rest[cut:].strip()
    return [*parts, rest] if rest or not parts else parts


def canonical_phone(number: str) -> str | None:
    """E.164 in one form a person; None if it is no phone number.

    WhatsApp names older Brazilian accounts without the ninth digit that everybody dials, and numbers of Argentina and
    Mexico with a digit for mobiles (9, 1) after the country that is not always there: both are one person. Brazilian
    mobiles have the ninth digit here, the others none.
    """
    number = number.removeprefix("whatsapp:")
    digits = re.sub(r"[^0-9]", "", number)
    if re.search(r"[^0-9\s+().-]", number):
        return None  # a user id such as BR.5511987650001 has digits too
    if len(digits) == 12 and digits.startswith("55") and digits[4] in "6789":
        digits = f"{digits[:4]}9{digits[4:]}"
    elif len(digits) == 13 and digits.startswith(("549", "521")):
        digits = digits[:2] + digits[3:]
    return f"+{digits}" if 8 <= len(digits) <= 15 else None  # ITU-T E.164: at most 15 digits


def phone_spellings(phone: str) -> set[str]:
    """The digits that vendors may write for a phone in its canonical form: the inverse of `canonical_phone`."""
    digits = phone.lstrip("+")
    older = {digits[:4] + digits[5:]} if len(digits) == 13 and digits.startswith("55") and digits[4] == "9" else set()
    mobile = {"54": f"549{digits[2:]}", "52": f"521{digits[2:]}"}.get(digits[:2]) if len(digits) == 12 else None
    return {digits, *older, *filter(None, [mobile])}


def is_user_id(address: str) -> bool:
    """WhatsApp's id of a person who hides the number behind a username (BSUID): a country, a dot, letters and digits.
    Those of a group of businesses have ENT in between.
    https://developers.facebook.com/documentation/business-messaging/whatsapp/business-scoped-user-ids
    """
    return _USER_ID.fullmatch(address) is not None
