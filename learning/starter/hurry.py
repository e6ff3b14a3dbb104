"""Questions as people type them: no capitals, no accents, short forms, a slip of the finger."""

import random
import re
import unicodedata

from core.prompts import Language

_SHORT: dict[Language, dict[str, str]] = {
    "pt": {"você": "vc", "vocês": "vcs", "quanto": "qto", "quantos": "qtos", "para": "pra", "está": "tá", "não": "nao",
           "porque": "pq", "que": "q", "quando": "qdo", "também": "tbm", "por favor": "pfv", "hoje": "hj", "com": "c",
           "tudo": "td", "beleza": "blz", "obrigado": "obg", "mesmo": "msm", "agora": "agr"},
    "en": {"you": "u", "are": "r", "please": "pls", "do you": "do u", "what's": "whats", "I": "i"},
}  # fmt: skip


def typed(text: str, language: Language, rng: random.Random) -> str:
    """`text` as somebody in a hurry would type it; two times in five as it is."""
    roll = rng.random()
    if roll < 0.42:
        return text
    text = text.lower() if rng.random() < 0.7 else text
    if rng.random() < 0.6:
        text = text.rstrip("?.! ")
    if language == "pt" and rng.random() < 0.6:
        text = without_accents(text)
    if roll > 0.72:
        for word, short in _SHORT[language].items():
            if rng.random() < 0.5:
                text = re.sub(rf"\b{word}\b", short, text)
    if roll > 0.88:
        text = _slip(text, rng)
    return text


def without_accents(text: str) -> str:
    """ "não" -> "nao"."""
    return "".join(char for char in unicodedata.normalize("NFD", text) if not unicodedata.combining(char))


def _slip(text: str, rng: random.Random) -> str:
    """Swap or drop one letter of one long word, figures excepted."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) > 5 and word.isalpha()]
    if not long:
        return text
    i = rng.choice(long)
    at = rng.randrange(1, len(words[i]) - 2)
    start, first, second, end = words[i][:at], words[i][at], words[i][at + 1], words[i][at + 2 :]
    words[i] = start + second + (first if rng.random() < 0.5 else "") + end
    return " ".join(words)
