"""What the embedder is taught from: the right splits and licences, and never a question it is measured with."""

import gzip
import json
from pathlib import Path

import pytest

from core.errors import BadInput
from core.shop import questions
from core.text import words
from learning.embedder import pairs


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def test_share_alike_rows_and_other_splits_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"pt": "um", "en": "one", "source": "tatoeba", "split": "train"},
        {"pt": "dois", "en": "two", "source": "ntrex", "split": "train"},
        {"pt": "três", "en": "three", "source": "flores", "split": "train"},
        {"pt": "quatro", "en": "four", "source": "tldr", "split": "valid"},
    ]
    found = pairs.parallel(write(tmp_path / "pairs.gz", rows), "train")
    assert [pair.portuguese for pair in found] == ["um"]


def test_a_broken_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "text.gz").write_text("no gzip")
    for path in (tmp_path / "text.gz", tmp_path / "missing.gz", write(tmp_path / "other.gz", [{"pt": "um"}])):
        with pytest.raises(BadInput, match="cannot be read as parallel sentences"):
            pairs.parallel(path, "train")


def test_own_lists_are_whole() -> None:
    own = pairs.own_words() + pairs.own_sentences()
    assert len(own) > 1500
    assert all(pair.portuguese and pair.english and pair.weight > 0 for pair in own)


def test_no_held_out_question_is_taught() -> None:
    asked = {
        tuple(words(question.text))
        for language in ("pt", "en")
        for split in ("valid", "test")
        for question in questions(language, split)
    }
    taught = pairs.own_sentences() + pairs.shop_passages()
    assert not asked & {tuple(words(text)) for pair in taught for text in (pair.portuguese, pair.english)}
