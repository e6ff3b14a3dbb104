"""What a night's examples are about: vectors, K-means, and a few words for each topic.

The vectors are the ones that answers are looked up with (EMBEDDING_MODEL). Where no server gives them, character
n-grams stand in: worse at paraphrase, good enough to tell deliveries from prices.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.errors import NpllmError
from core.settings import Settings
from core.text import fold, words
from integrations.openai.embeddings import embeddings_of

log = logging.getLogger(__name__)

LEAST = 20  # questions worth dividing
MOST_TOPICS = 20
FAR = 4.0  # standard deviations from its topic's centre at which a question is like nothing else
LABEL_WORDS = 3


@dataclass(frozen=True)
class Topics:
    """Labels in the order of the questions; `outlier` marks those far from every topic's centre."""

    labels: list[str]
    outlier: list[bool]


def find_topics(questions: Sequence[str], vectors: NDArray[np.float64], *, seed: int) -> Topics:
    """Divide questions into topics.

    Args:
        vectors: one row of length 1 per question.
    """
    from sklearn.cluster import KMeans

    count = len(questions)
    if count < LEAST:
        return Topics(["all"] * count, [False] * count)
    clusters = min(MOST_TOPICS, max(2, round(math.sqrt(count / 2))))
    means = KMeans(clusters, n_init=4, random_state=seed % 2**32).fit(vectors)
    distances = np.linalg.norm(vectors - means.cluster_centers_[means.labels_], axis=1)
    # One limit for all: within a small topic a standard deviation of its own says nothing.
    limit = distances.mean() + FAR * distances.std()
    names = _names(questions, means.labels_, clusters)
    return Topics([names[topic] for topic in means.labels_], [bool(far) for far in distances > limit])


def embed(questions: Sequence[str], settings: Settings) -> tuple[NDArray[np.float64], str]:
    """Vectors of length 1, and which model they are of."""
    client = embeddings_of(settings)
    try:
        vectors = [client.embed(questions[start : start + 64]) for start in range(0, len(questions), 64)]
        return _unit(np.array([row for part in vectors for row in part], dtype=np.float64)), client.name
    except NpllmError as error:
        log.warning("Topics come from letters alone: %s", error)
        return letters(questions), "letters"


def letters(texts: Sequence[str], size: int = 256) -> NDArray[np.float64]:
    """Hashed counts of character n-grams, of length 1."""
    from sklearn.feature_extraction.text import HashingVectorizer

    hashing = HashingVectorizer(analyzer="char_wb", ngram_range=(3, 5), n_features=size, preprocessor=fold)
    return _unit(np.asarray(hashing.transform(texts).todense(), dtype=np.float64))


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12), dtype=np.float64)


def _names(questions: Sequence[str], topics: NDArray[np.int32], count: int) -> list[str]:
    """The words that a topic has more of than the others; two topics with the same words get numbers."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    tf_idf = TfidfVectorizer(analyzer=_long_words, sublinear_tf=True)
    joined = [" ".join(question for question, of in zip(questions, topics, strict=True) if of == topic)
              for topic in range(count)]  # fmt: skip
    try:
        table = tf_idf.fit_transform(joined).toarray()
    except ValueError:  # not one word of four letters in all of them
        return [f"topic {number + 1}" for number in range(count)]
    vocabulary = tf_idf.get_feature_names_out()
    names: list[str] = []
    for row in table:
        best = [str(vocabulary[i]) for i in np.argsort(-row, kind="stable")[:LABEL_WORDS] if row[i] > 0]
        name = " ".join(best) or f"topic {len(names) + 1}"
        names.append(name if name not in names else f"{name} {len(names) + 1}")
    return names


def _long_words(text: str) -> list[str]:
    return [word for word in words(text) if len(word) > 3 and not word.isdigit()]
