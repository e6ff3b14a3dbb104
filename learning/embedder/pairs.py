"""What the embedder is taught from: sentences and words in Portuguese with their English translation.

Three sources, each with a weight: how often one of its pairs is seen in an epoch. Interface strings and manuals
prevail in the parallel file, and customers write nothing like them.
"""

import gzip
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from core.errors import BadInput

FOLDER = Path(__file__).parent

# Under CC BY-SA: weights that are passed on are trained without them.
SHARE_ALIKE = frozenset({"ntrex", "flores"})
WEIGHTS = {
    "tatoeba": 2.0,
    "chatwoot": 1.0,
    "bagisto": 1.0,
    "sylius": 1.0,
    "saleor": 1.0,
    "tico19": 1.0,
    "tldr": 0.5,
    "python_docs": 0.4,
    "words": 0.5,
    "sentences": 4.0,
    "shop": 2.0,
}


@dataclass(frozen=True)
class Pair:
    """One text in both languages.

    Args:
        weight: how often it is seen in an epoch, on average.
    """

    portuguese: str
    english: str
    source: str

    @property
    def weight(self) -> float:
        return WEIGHTS[self.source]


def parallel(path: Path, split: str) -> list[Pair]:
    """The pairs of one split of a file of parallel sentences, without those under CC BY-SA.

    Args:
        path: gzipped JSON lines with `en`, `pt`, `source`, `split`.

    Raises:
        BadInput: the file is missing or not of this form.
    """
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
        return [
            Pair(row["pt"], row["en"], row["source"])
            for row in rows
            if row["split"] == split and row["source"] not in SHARE_ALIKE
        ]
    except (OSError, ValueError, KeyError) as error:
        raise BadInput(
            f"{path} cannot be read as parallel sentences: {error!r}.", "Name the file with --data."
        ) from None


def own_sentences() -> list[Pair]:
    """The project's own customer-service sentences."""
    return [Pair(left, right, "sentences") for left, right in _columns(FOLDER / "sentences.tsv")]


def own_words() -> list[Pair]:
    """The project's own word list: dictionary forms, one pair for each translation."""
    return [
        Pair(left, meaning.strip(), "words")
        for left, right in _columns(FOLDER / "words.tsv")
        for meaning in right.split(",")
    ]


def shop_passages() -> list[Pair]:
    """The example shop's knowledge, which is written in both languages under the same ids; never its questions."""
    from core.shop import passages

    found: list[Pair] = []
    for context in ("customers", "employees"):
        english = {passage.id: passage for passage in passages(context, "en")}
        for passage in passages(context, "pt"):
            found.append(Pair(passage.title, english[passage.id].title, "shop"))
            found.append(Pair(passage.text, english[passage.id].text, "shop"))
    return found


def _columns(path: Path) -> Iterable[tuple[str, str]]:
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        columns = line.split("\t")
        if len(columns) != 2:
            raise BadInput(f"{path.name}, line {number}: {len(columns)} columns.", "Write Portuguese, a tab, English.")
        yield columns[0].strip(), columns[1].strip()
