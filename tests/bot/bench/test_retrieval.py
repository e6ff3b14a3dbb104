"""`npllm bench retrieval`, on few rows: every figure is measured, and a bad request is refused."""

import gzip
import json
from pathlib import Path

import numpy as np
import psycopg
import pytest

from bot.bench import retrieval
from core.errors import BadInput


def databases(url: str) -> set[str]:
    with psycopg.connect(url) as connection:
        return {row[0] for row in connection.execute("SELECT datname FROM pg_database")}


def test_rows_are_shared_out_and_interleaved() -> None:
    owner = retrieval._owners(10_000, np.random.default_rng(1))
    counts = np.bincount(owner)
    assert counts.tolist() == [5350, 3500, 1000, 100, retrieval.SMALLEST]
    assert len(set(owner[:100].tolist())) > 2


def test_vectors_of_every_context_are_found(database_url: str) -> None:
    before = databases(database_url)
    with retrieval._scratch(database_url) as engine:
        figures = retrieval._vectors(engine, 2_000, seed=1)
    assert figures["recall_at_10_by_context"] == dict.fromkeys([*retrieval.SHARES, "smallest"], 1.0)
    assert figures["p95_ratio"] > 0
    assert databases(database_url) == before


def test_the_scratch_database_goes_whatever_happens(database_url: str) -> None:
    before = databases(database_url)
    with pytest.raises(RuntimeError), retrieval._scratch(database_url):
        raise RuntimeError
    assert databases(database_url) == before


def test_a_bad_request_is_refused(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="do not fill"):
        retrieval.run(database_url, rows=100)
    broken = tmp_path / "questions.gz"
    broken.write_bytes(gzip.compress(b'{"type": "passage"}\n'))
    for path in (broken, tmp_path / "missing.gz"):
        with pytest.raises(BadInput, match="cannot be read as questions"):
            retrieval.run(database_url, data=path)


@pytest.mark.slow
def test_the_whole_bench(database_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [
        {"id": "p1", "type": "passage", "text": "A biblioteca fica no segundo andar do prédio central."},
        {"id": "p2", "type": "passage", "text": "O reitor é eleito a cada quatro anos pelo conselho."},
        {"id": "q1", "type": "question", "text": "Quem elege o reitor?", "passage": "p2", "split": "test"},
        {"id": "q2", "type": "question", "text": "Onde é a biblioteca?", "passage": "p1", "split": "valid"},
    ]
    data = tmp_path / "questions.gz"
    data.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    retrieval.run(database_url, rows=2_000, data=data, json=True)
    figures = json.loads(capsys.readouterr().out)
    assert figures["rows"] == 2_000
    assert figures["recall_at_10"] == figures["recall_at_10_smallest"] == 1.0
    assert figures["p95_ratio"] > 0
    lists = figures["recall_at_1_and_3"]
    assert lists["pt_retrieval"]["hybrid minilm-pt-2"] == [1.0, 1.0]
    # What the project promises of its own search: better than each list alone, and far from noise.
    assert figures["precision_at_5"] > 0.6
    assert figures["false_hit"] < 0.25
    assert figures["false_empty"] < 0.25
    assert lists["shop_pt"]["hybrid minilm-pt-2"][0] > lists["shop_pt"]["hybrid minilm"][0]
