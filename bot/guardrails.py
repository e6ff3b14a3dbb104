"""What may not be said: a small model's slips are caught between its mouth and the customer.

A guarded reply says so (`flags`), and a rollout counts it. The strongest rule is about figures: a price, a term or
a percentage that stands in none of the passages, the question or the conversation was made up.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from core.prompts import Language
from core.text import words

MAX_CHARACTERS = 2_000
_FIGURE = re.compile(r"\d+(?:[.,:/]\d+)*")
_LEAK = re.compile(r"<\|im_(?:start|end)\|>|^(?:system|assistant|user)\s*\n", re.I | re.M)

DONT_KNOW: dict[Language, str] = {
    "pt": "Não tenho essa informação com certeza. Quer que eu chame uma pessoa da equipe?",
    "en": "I do not have that information for sure. Shall I call a person of the team?",
}
TROUBLE: dict[Language, str] = {
    "pt": "Desculpe, tive um problema para responder agora. Tente de novo daqui a pouco, ou escreva ATENDENTE para "
    "falar com uma pessoa da equipe.",
    "en": "Sorry, I had a problem answering just now. Try again in a while, or write AGENT to talk to a person of the "
    "team.",
}
ASK_RATING: dict[Language, str] = {
    "pt": "Esta resposta ajudou? Responda com 👍 ou 👎.",
    "en": "Was this answer helpful? Reply with 👍 or 👎.",
}
CANNOT_READ: dict[Language, str] = {
    "pt": "Ainda não consigo abrir este tipo de mensagem. Pode escrever em texto, por favor?",
    "en": "I cannot open this kind of message yet. Could you write it as text, please?",
}

DID_IT_HELP: dict[Language, str] = {"pt": "Esta resposta ajudou?", "en": "Did this answer help?"}
PROBLEM: dict[Language, str] = {"pt": "Problema", "en": "Problem"}  # on a button: at most 20 characters


@dataclass(frozen=True)
class Guarded:
    """What will be said, and why it is not what the model said (empty: it is)."""

    text: str
    flags: tuple[str, ...] = ()


def guard(text: str, *, language: Language, sources: Sequence[str]) -> Guarded:
    """The reply as it may be said.

    Args:
        sources: everything a figure may come from: passages, the question, the conversation.
    """
    text = text.strip()
    if not text:
        return Guarded(DONT_KNOW[language], ("empty",))
    if _LEAK.search(text):
        return Guarded(DONT_KNOW[language], ("prompt_leak",))
    if repeats(text):
        return Guarded(DONT_KNOW[language], ("loop",))
    if made_up := invented_figures(text, sources):
        return Guarded(DONT_KNOW[language], (f"invented_figure:{made_up[0]}",))
    if len(text) > MAX_CHARACTERS:
        return Guarded(text[:MAX_CHARACTERS].rsplit(" ", 1)[0] + "…", ("cut",))
    return Guarded(text)


def repeats(text: str, *, size: int = 4, times: int = 3) -> bool:
    """Whether some run of `size` words comes `times` times: a small model's loop."""
    spoken = words(text)
    runs: dict[tuple[str, ...], int] = {}
    for i in range(len(spoken) - size + 1):
        run = tuple(spoken[i : i + size])
        runs[run] = runs.get(run, 0) + 1
        if runs[run] >= times:
            return True
    return False


def invented_figures(text: str, sources: Sequence[str]) -> list[str]:
    """Figures of the reply that stand nowhere in what it was given. '1.899,00' and '1899' are the same figure."""
    known = {_number(figure) for source in sources for figure in _FIGURE.findall(source)}
    return [figure for figure in _FIGURE.findall(text) if _number(figure) not in known and len(_number(figure)) > 1]


def _number(figure: str) -> str:
    """A figure without its dress: thousands' points, and cents where they are zero."""
    figure = re.sub(r"[.,](?=\d{3}(?:\D|$))", "", figure)
    return re.sub(r"[.,]00$", "", figure).replace(",", ".")


class StreamGuard:
    """Lets a reply through word by word while it is being generated, and stops at the first figure made up.

    What was held back is replaced by the guarded reply at the end.
    """

    def __init__(self, sources: Sequence[str], on_text: Callable[[str], None]) -> None:
        self.sources = sources
        self.on_text = on_text
        self.held = ""
        self.stopped = False

    def __call__(self, piece: str) -> None:
        if self.stopped:
            return
        self.held += piece
        ready, space, self.held = self.held.rpartition(" ")
        if invented_figures(ready, self.sources) or _LEAK.search(ready):
            self.stopped = True
        elif ready:
            self.on_text(ready + space)
