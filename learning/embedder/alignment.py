"""Which English words a Portuguese word stands for, from translated sentences alone: IBM model 1.

Model 1 (Brown et al. 1993, "The Mathematics of Statistical Machine Translation", §4.4) knows nothing of word
order. It asks only which word of one sentence explains which word of the other, and expectation-maximisation
sharpens the answer: "prazo de entrega | delivery time" leaves open which word is which, until a thousand other
pairs show "entrega" beside "delivery" without "time". It has one optimum, so there is nothing to tune but the
number of rounds.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

NULL = ""  # an English word that nothing in the Portuguese sentence explains


def translations(
    pairs: Sequence[tuple[list[str], list[str]]], *, rounds: int = 8, keep: float = 0.05
) -> dict[str, dict[str, float]]:
    """For each Portuguese word its English translations.

    Args:
        pairs: (Portuguese words, English words) of one sentence each; a pair may stand in several times.
        keep: translations below this probability are left out, and the others scaled to add up to one.

    Returns:
        Portuguese word -> {English word: probability}; words that only ever align with nothing are absent.
    """
    portuguese: dict[str, int] = {NULL: 0}
    english: dict[str, int] = {}
    weights: Counter[tuple[tuple[str, ...], tuple[str, ...]]] = Counter((tuple(p), tuple(e)) for p, e in pairs)
    source: list[np.ndarray] = []
    target: list[np.ndarray] = []
    owner: list[np.ndarray] = []
    share: list[float] = []
    for (left, right), weight in weights.items():
        rows = [portuguese.setdefault(word, len(portuguese)) for word in (NULL, *left)]
        for word in right:
            # One English token of one sentence is one "owner": its candidates' probabilities add up to its weight.
            owner.append(np.full(len(rows), len(share), dtype=np.int64))
            source.append(np.array(rows, dtype=np.int64))
            target.append(np.full(len(rows), english.setdefault(word, len(english)), dtype=np.int64))
            share.append(float(weight))
    if not share:
        return {}
    source_at, target_at, owner_at = np.concatenate(source), np.concatenate(target), np.concatenate(owner)
    weight_of = np.array(share)
    # One cell per pair of words that ever meet.
    cells, cell_at = np.unique(source_at * len(english) + target_at, return_inverse=True)
    cell_source = cells // len(english)
    probability = np.full(len(cells), 1.0 / len(english))
    for _ in range(rounds):
        scores = probability[cell_at]
        scores *= (weight_of / np.bincount(owner_at, weights=scores, minlength=len(share)))[owner_at]
        counts = np.bincount(cell_at, weights=scores, minlength=len(cells))
        probability = counts / np.bincount(cell_source, weights=counts, minlength=len(portuguese))[cell_source]

    names, meanings = list(portuguese), list(english)
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for cell in np.flatnonzero(probability >= keep):
        word = names[cell_source[cell]]
        if word != NULL:
            found[word][meanings[cells[cell] % len(english)]] = float(probability[cell])
    return {word: {e: p / sum(options.values()) for e, p in options.items()} for word, options in found.items()}
