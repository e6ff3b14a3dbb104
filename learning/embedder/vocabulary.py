"""The Portuguese vocabulary: which words get a row of their own, and what the row starts as.

English MiniLM breaks "colchões" into "co ##lch ##oes", pieces that mean nothing together. Here each word of the
training pairs becomes one token, and its row starts as the average of the rows of its English translations. That
alone, before any training, does most of the work.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
import simplemma
from simplemma.strategies.dictionaries.dictionary_factory import DefaultDictionaryFactory
from tokenizers import Tokenizer

from core.text import fold
from learning.embedder.alignment import translations
from learning.embedder.pairs import Pair

# The hand-written pairs are few and right; this many copies of each stand against the thousands that are aligned.
COPIES = {"words": 20, "sentences": 3, "shop": 3}
MAX_ALIGNED_WORDS = 60  # a longer sentence aligns badly, and costs the square of its length


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """Words as the encoder's own tokenizer sees them: lower case, no accents, punctuation apart and left out."""
    plain = tokenizer.normalizer.normalize_str(text)
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain) if word.isalnum()]


def choose(
    pairs: Sequence[Pair], tokenizer: Tokenizer, embeddings: np.ndarray, *, size: int
) -> tuple[list[str], np.ndarray]:
    """The new words, most frequent first, and their rows (words, hidden).

    Args:
        tokenizer, embeddings: of the original model.
        size: the most words to take.
    """
    aligned: list[tuple[list[str], list[str]]] = []
    counts: Counter[str] = Counter()
    for pair in pairs:
        left, right = words_of(tokenizer, pair.portuguese), words_of(tokenizer, pair.english)
        if left and right and max(len(left), len(right)) <= MAX_ALIGNED_WORDS:
            aligned += [(left, right)] * COPIES.get(pair.source, 1)
        counts.update(left)
    meaning = translations(aligned)
    # Numbers, names and loan words read the same in both languages: the original vocabulary has them.
    meaning = {word: options for word, options in meaning.items() if word.isalpha() and options.get(word, 0) < 0.5}
    rows = {word: _average(options, tokenizer, embeddings) for word, options in meaning.items()}
    lemmas = _by_lemma(rows, counts)
    chosen = sorted(rows, key=lambda word: (-counts[word], word))[:size]
    # What is left of the room goes to other forms of the words met: "entregaremos" where only "entregar" was.
    for form, lemma in _forms(lemmas):
        if len(chosen) >= size:
            break
        if form not in rows:
            rows[form] = lemmas[lemma]
            chosen.append(form)
    made = np.stack([rows[word] for word in chosen]).astype(np.float32)
    # An average is shorter than what it averages; the original rows have lengths around 1.
    return chosen, made / np.linalg.norm(made, axis=1, keepdims=True)


def _average(options: dict[str, float], tokenizer: Tokenizer, embeddings: np.ndarray) -> np.ndarray:
    """The average of the translations' rows; a translation of several pieces counts as their average."""
    total = np.zeros(embeddings.shape[1])
    for word, probability in options.items():
        ids = tokenizer.encode(word, add_special_tokens=False).ids
        total += probability * embeddings[ids].mean(axis=0)
    return total


def _by_lemma(rows: dict[str, np.ndarray], counts: Counter[str]) -> dict[str, np.ndarray]:
    """Dictionary form -> average row of its forms, weighted by how often they stand in the pairs."""
    groups: dict[str, list[str]] = defaultdict(list)
    for word in rows:
        groups[_plain(simplemma.lemmatize(word, lang="pt"))].append(word)
    return {
        lemma: np.average([rows[form] for form in forms], axis=0, weights=[counts[form] + 1 for form in forms])
        for lemma, forms in groups.items()
    }


def _forms(lemmas: dict[str, np.ndarray]) -> Iterable[tuple[str, str]]:
    """(form, lemma) of the words in `lemmas` from simplemma's dictionary; short forms first, as the commoner ones."""
    dictionary = DefaultDictionaryFactory().get_dictionary("pt")
    found: dict[str, str] = {}
    for form, lemma in dictionary.items():
        plain, base = _plain(form), _plain(lemma)
        if base in lemmas and plain.isalpha() and 3 <= len(plain) <= 14:
            found.setdefault(plain, base)
    return sorted(found.items(), key=lambda item: (len(item[0]), item[0]))


def _plain(word: str | bytes) -> str:
    return fold(word.decode() if isinstance(word, bytes) else word)
