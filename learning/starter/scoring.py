"""What makes an answer right, as functions of text alone.

All rules are strict where a machine can be strict (figures, loops, length) and pattern-based where people may say
the same thing in many words (not knowing, offering a person, courtesy). Patterns see text in lower case and without
accents (`fold`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from core.prompts import Language
from core.text import fold
from learning.starter.slots import figures

_NOT_KNOWING: dict[Language, re.Pattern[str]] = {
    "pt": re.compile(
        r"\bnao (tenho|sei|encontrei|achei|localizei|consta|possuo|disponho)\b|sem (essa )?informac|ainda nao sei"
        r"|\bnao ha (nenhuma |essa |mais )?(informac|respost)"
    ),
    "en": re.compile(r"\b(do|does|did)(n't| not) (know|have|find|see)\b|\bno information\b|\bnot sure\b"),
}
_PERSON: dict[Language, re.Pattern[str]] = {
    "pt": re.compile(
        r"\b(pessoa|alguem|colega|integrante|membro) (da|de nossa|do nosso) (equipe|time|atendimento)|atendente"
        r"|vendedor|consultor|a equipe (vai|pode)|falar com a equipe"
    ),
    "en": re.compile(
        r"\b(person|someone|somebody|colleague|member) (of|from|on) (the|our) team\b|\bagent\b|\bour team\b"
    ),
}
# What a right answer to a courtesy intent says; `person` is `offers_person`.
_COURTESY: dict[Language, dict[str, str]] = {
    "pt": {
        "greeting": r"\b(ola|oi|bom dia|boa tarde|boa noite)\b.*\bajudar\b|como posso ajudar",
        "thanks": r"por nada|de nada|imagina|disposicao|feliz em ajudar|e so chamar|prazer",
        "bye": r"\bate\b|tchau|otimo dia|bom dia|boa noite|e so chamar",
    },
    "en": {
        "greeting": r"\b(hello|hi|good)\b.*\bhelp\b|how can i help",
        "thanks": r"welcome|pleasure|happy to help|here if you need",
        "bye": r"\bbye\b|goodbye|great day|pleasure",
    },
}
COURTESY_INTENTS = ("greeting", "thanks", "person", "bye")
_WORDS: dict[Language, frozenset[str]] = {
    "pt": frozenset(
        "o os as de do da dos das que em no na nos nas um uma por para com sem se nao sao mas voce posso ajudar ate "
        "seu sua custa tem sou e mais isso essa esse essas equipe pessoa ou dias anos aqui sim so ola oi quem "
        "depois".split()
    ),
    "en": frozenset(
        "the is are of to and in for you we it can i on that this with your our not do have my if from by at or has am "
        "costs days years help yes hello hi person team was within made takes up".split()
    ),
}
_LOOP_WORDS, _LOOP_TIMES = 4, 3


def number(figure: str) -> str:
    """A figure without separators: "1.290", "1,290" and "1290" are the same."""
    return re.sub(r"[.,]", "", figure)


def figures_right(answer: str, needed: Iterable[str], passages: Iterable[str]) -> bool:
    """Whether the answer gives every needed figure, and none that does not stand in the passages."""
    given = {number(figure) for figure in figures(answer)}
    known = {number(figure) for passage in passages for figure in figures(passage)}
    wanted = {number(figure) for text in needed for figure in figures(text)}  # a phone number is two figures
    return wanted <= given <= known


def does_not_know(answer: str, language: Language) -> bool:
    return bool(_NOT_KNOWING[language].search(fold(answer)))


def offers_person(answer: str, language: Language) -> bool:
    return bool(_PERSON[language].search(fold(answer)))


def refuses(answer: str, language: Language) -> bool:
    """Whether it says that it does not know and offers a person of the team."""
    return does_not_know(answer, language) and offers_person(answer, language)


def courteous(answer: str, intent: str, language: Language) -> bool:
    """Whether the answer does what a greeting, thanks, a goodbye or the wish for a person calls for."""
    if intent == "person":
        return offers_person(answer, language) and not does_not_know(answer, language)
    return bool(re.search(_COURTESY[language][intent], fold(answer))) and not figures(answer)


def loops(answer: str) -> bool:
    """Whether some four words in a row come three times."""
    words = fold(answer).split()
    runs = Counter(tuple(words[i : i + _LOOP_WORDS]) for i in range(len(words) - _LOOP_WORDS + 1))
    return any(times >= _LOOP_TIMES for times in runs.values())


def language_of(text: str) -> Language | None:
    """Portuguese or English by their commonest words; None where they say nothing."""
    words = re.findall(r"[a-z]+", fold(text))
    portuguese = sum(word in _WORDS["pt"] for word in words)
    english = sum(word in _WORDS["en"] for word in words)
    if portuguese == english:
        return None
    return "pt" if portuguese > english else "en"


def shares_words(answer: str, text: str, *, at_least: float = 0.5) -> bool:
    """Whether at least this share of the answer's longer words stands in `text`: for answers without figures."""
    words = _long_words(answer)
    return bool(words) and len(words & _long_words(text)) / len(words) >= at_least


def _long_words(text: str) -> set[str]:
    return {word for word in re.findall(r"[a-z]+", fold(text)) if len(word) > 3}


def share(right: Sequence[bool]) -> float:
    """Share of True; 0 for none, so that an empty set never passes a goal."""
    return sum(right) / len(right) if right else 0.0
