"""Teaches `LanguageGuess` to tell Portuguese from English, also in three words without accents."""

import random
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from integrations.huggingface.embedder import LanguageGuess

FRAGMENT_WORDS = 6  # of each text also a piece of one to so many words


def fragments(texts: Sequence[str], seed: int) -> list[str]:
    """The texts, and of each a few words in a row: what customers type."""
    chance = random.Random(seed)
    found = list(texts)
    for text in texts:
        words = text.split()
        length = chance.randint(1, FRAGMENT_WORDS)
        start = chance.randint(0, max(len(words) - length, 0))
        found.append(" ".join(words[start : start + length]))
    return found


def learn(portuguese: Sequence[str], english: Sequence[str], seed: int) -> np.ndarray:
    """The weights of `LanguageGuess`, shape (buckets + 1,), float16."""
    texts = [fragments(portuguese, seed), fragments(english, seed)]
    rows, labels = [], []
    for label, side in zip((1, 0), texts, strict=True):
        for text in side:
            if buckets := LanguageGuess.features(text):
                rows.append(buckets)
                labels.append(label)
    lengths = [len(row) for row in rows]
    values = np.repeat(1 / np.sqrt(lengths), lengths)
    matrix = csr_matrix(
        (values, np.concatenate(rows), np.concatenate([[0], np.cumsum(lengths)])),
        shape=(len(rows), LanguageGuess.BUCKETS),
    )
    model = LogisticRegression(C=30.0, max_iter=300, random_state=seed).fit(matrix, labels)
    return np.concatenate([model.coef_[0], model.intercept_]).astype(np.float16)


def accuracy(guess: LanguageGuess, portuguese: Sequence[str], english: Sequence[str], words: int) -> float:
    """Share of right guesses on the first `words` words of each text that has as many."""
    right = total = 0
    for side, texts in ((True, portuguese), (False, english)):
        for text in texts:
            if len(said := text.split()) >= words:
                right += guess.is_portuguese(" ".join(said[:words])) == side
                total += 1
    return right / total if total else 0.0
