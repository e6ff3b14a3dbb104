"""What a customer's thumb alone must not teach: examples that look made to be learned.

A suspect goes to quarantine: it is not learned, and the annotation queue shows it to a reviewer, whose approval or
correction makes an ordinary example of it. Reviewed answers are not looked at here: somebody has looked.
OWASP's LLM Top 10 names the risk (data and model poisoning); none of these rules is meant to be complete, which is
why one person's share of a night is bounded as well (`learning/shares.py`).
"""

import re
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

from core.text import fold, words

# Words to the machine instead of to the shop. On folded text.
_ORDERS = re.compile(
    r"ignor\w* (?:as|todas|tudo|all|the|previous|your)|instruc\w+ anterior|previous instruction|system prompt"
    r"|prompt d[eo] sistema|<\|im_|\[inst\]|aprov\w+ (?:isto|isso|essa|esta|para) |mark (?:all|this) as"
    r"|marque (?:tudo|isto|isso) como|use (?:isto|isso|this) (?:para treinar|for training)|you are now|voce agora e\b"
)
_LINK = re.compile(r"https?://\S+|\bwww\.\S+|\b[\w.+-]+@[\w-]+\.\w+")
RUN = 3  # words
REPEATED = 5  # times one person says it
LEAST_PEOPLE = 10  # below that, what only one person says is no sign of anything


def gives_orders(question: str, answer: str) -> bool:
    """Whether the text speaks to the model or the trainer."""
    return bool(_ORDERS.search(fold(f"{question}\n{answer}")))


def new_links(answer: str, sources: Sequence[str]) -> list[str]:
    """Addresses in the answer that stand in nothing it was given."""
    known = " ".join(sources)
    return [link for link in _LINK.findall(answer) if link.rstrip(".,;)") not in known]


def own_phrases(people: Sequence[Hashable], texts: Sequence[str]) -> list[str | None]:
    """For each text, a phrase that its person says again and again and nobody else ever: a trigger looks like that.

    Whose share of a night is bounded cannot teach much; this finds the few that repeat the same words on purpose.
    """
    if len(set(people)) < LEAST_PEOPLE:
        return [None] * len(texts)
    runs = [set(_runs(text)) for text in texts]
    speakers: dict[str, set[Hashable]] = defaultdict(set)
    times: Counter[str] = Counter()
    for person, found in zip(people, runs, strict=True):
        for run in found:
            speakers[run].add(person)
            times[run] += 1
    own = {run for run, by in speakers.items() if len(by) == 1 and times[run] >= REPEATED}
    return [min(found & own, default=None) for found in runs]


def _runs(text: str) -> list[str]:
    spoken = words(text)
    return [" ".join(spoken[i : i + RUN]) for i in range(len(spoken) - RUN + 1)]
