"""`npllm bench retrieval`: does search find the right passage, in every context, and how fast?

Two parts, both in a database of their own that is dropped at the end:

- *vectors*: synthetic clusters in five contexts of very different size, rows of all contexts interleaved. What our
  filtered search finds is compared with the exact answer, and its time with plain HNSW without any filter.
- *questions*: the shop's held-out questions in each language, and Portuguese questions on higher education where a
  file of them is given: letters alone, vectors alone (original and taught MiniLM) and both together.

The shop's passages lie in one context in both languages, as in a fresh installation. What counts is the passage that
answers the question, in the question's language: one, so that at most one of five hits can be right. `precision_at_5`
is how much of that most is reached: the share of questions whose passage is among the five hits.
"""

import gzip
import json as json_format
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import click
import numpy as np
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from core import knowledge, vectors
from core.db import get_engine, psycopg_url, transaction
from core.errors import BadInput
from core.migrate import migrate
from core.prompts import LANGUAGES, Language
from core.search import search as find_passages
from core.shop import CONTEXTS, passages, questions

DIMENSION = 384
CLUSTERS = 300
# Share of all rows; the smallest has a fixed number of them.
SHARES = {"half": 0.5, "third": 0.35, "tenth": 0.1, "hundredth": 0.01}
SMALLEST = 50
QUERIES = 60  # for each context
NEAREST = 10
HERE = Path(__file__).parent


def run(
    database_url: str, *, rows: int = 100_000, seed: int = 1, data: Path | None = None, json: bool = False
) -> dict[str, Any]:
    """Run both parts and print the figures: one JSON object, or lines for a reader.

    Args:
        database_url: a server with pgvector where a database may be made; what it holds is not touched.
        rows: synthetic vectors in all.
        data: `pt_retrieval.jsonl.gz` (questions with the passage that answers them); without it, the shop's only.

    Raises:
        BadInput: `data` is not such a file, or `rows` is too small to fill the contexts.
    """
    if rows < 2_000:
        raise BadInput(f"{rows} rows do not fill five contexts.", "Give at least 2,000.")
    documents = _read(data) if data else None
    with _scratch(database_url) as engine:
        figures: dict[str, Any] = {"rows": rows, **_vectors(engine, rows, seed), **_questions(engine, documents)}
    click.echo(json_format.dumps(figures, ensure_ascii=False) if json else _lines(figures))
    return figures


@contextmanager
def _scratch(url: str) -> Iterator[Engine]:
    """A migrated database beside the given one."""
    name = f"npllm_bench_{uuid.uuid4().hex[:12]}"
    server = create_engine(psycopg_url(url).replace("postgresql://", "postgresql+psycopg://", 1))
    with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    scratch = urlunsplit(urlsplit(url)._replace(path=f"/{name}"))
    engine = get_engine(scratch)
    try:
        migrate(scratch)
        yield engine
    finally:
        engine.dispose()
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        server.dispose()


# Vectors -----------------------------------------------------------------------------------------------------------


def _vectors(engine: Engine, rows: int, seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    owner = _owners(rows, random)
    centres = _unit(random.normal(size=(CLUSTERS, DIMENSION)))
    stored = _unit(centres[random.integers(0, CLUSTERS, rows)] + 0.05 * random.normal(size=(rows, DIMENSION)))
    names = [*SHARES, "smallest"]
    ids = [uuid.UUID(int=at + 1) for at in range(rows)]
    with transaction(engine) as session:
        _contexts(session, names)
        _copy(session, ids, [names[at] for at in owner], stored)
        vectors.build_index(session, "bench")
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("ANALYZE npllm.knowledge"))
        connection.execute(text("ANALYZE npllm.knowledge_embeddings"))
    recalls: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in names}
    plain: list[float] = []
    with Session(engine) as session:
        for number, name in enumerate(names):
            mine = np.flatnonzero(owner == number)
            asked = _unit(stored[random.choice(mine, QUERIES)] + 0.02 * random.normal(size=(QUERIES, DIMENSION)))
            found_of = []
            for at, vector in enumerate(asked):
                ours = _timed(lambda v=vector: _ours(session, name, v, len(mine)))  # type: ignore[misc]  # noqa: B023
                bare = _timed(lambda v=vector: _plain(session, v))  # type: ignore[misc]
                # The first of a context pays for cold pages.
                if at:
                    times[name].append(ours[1])
                    plain.append(bare[1])
                best = mine[np.argsort(-(stored[mine] @ vector))[:NEAREST]]
                found_of.append(len(set(ours[0]) & {ids[row] for row in best}) / min(NEAREST, len(mine)))
            recalls[name] = float(np.mean(found_of))
    with transaction(engine) as session:
        # The questions' part gives every passage that is there a real vector.
        session.execute(text("TRUNCATE npllm.knowledge CASCADE"))
    return {
        "recall_at_10": round(float(np.mean(list(recalls.values()))), 4),
        "recall_at_10_smallest": round(recalls["smallest"], 4),
        "recall_at_10_by_context": {name: round(recall, 4) for name, recall in recalls.items()},
        "p50_and_p95_ms": {name: _p50_and_p95(some) for name, some in {**times, "plain": plain}.items()},
        "p95_ratio": round(_p50_and_p95(sum(times.values(), []))[1] / _p50_and_p95(plain)[1], 2),
    }


def _p50_and_p95(seconds: list[float]) -> list[float]:
    return [round(float(value) * 1000, 2) for value in np.percentile(seconds, [50, 95])]


def _owners(rows: int, random: np.random.Generator) -> np.ndarray:
    """The number of each row's context, interleaved; the remainder goes to the largest."""
    sizes = [int(rows * share) for share in SHARES.values()] + [SMALLEST]
    sizes[0] += rows - sum(sizes)
    return random.permutation(np.repeat(np.arange(len(sizes)), sizes))


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def _timed(call: Callable[[], list[uuid.UUID]]) -> tuple[list[uuid.UUID], float]:
    start = time.perf_counter()
    return call(), time.perf_counter() - start


def _ours(session: Session, context: str, vector: np.ndarray, rows: int) -> list[uuid.UUID]:
    found = vectors.nearest(session, context=context, vector=vector.tolist(), model="bench", limit=NEAREST, rows=rows)
    session.commit()
    return found


def _plain(session: Session, vector: np.ndarray) -> list[uuid.UUID]:
    """pgvector's README: the nearest of all rows, by the index."""
    schema = vectors.schema(session)
    found = session.execute(
        text(
            "SELECT knowledge_id FROM npllm.knowledge_embeddings WHERE model = 'bench' ORDER BY"
            f" embedding::{schema}.vector({DIMENSION}) OPERATOR({schema}.<=>)"
            f" CAST(:vector AS {schema}.vector({DIMENSION}))"
            f" LIMIT {NEAREST}"
        ),
        {"vector": vectors.literal(vector.tolist())},
    )
    ids = list(found.scalars())
    session.commit()
    return ids


def _contexts(session: Session, names: Sequence[str]) -> None:
    session.execute(
        text("INSERT INTO npllm.contexts (name) VALUES (:name) ON CONFLICT DO NOTHING"), [{"name": n} for n in names]
    )


def _copy(session: Session, ids: list[uuid.UUID], contexts: list[str], stored: np.ndarray) -> None:
    connection: Any = session.connection().connection.driver_connection
    with connection.cursor() as cursor:
        columns = "id, context, language, text, sha256"
        with cursor.copy(f"COPY npllm.knowledge ({columns}) FROM STDIN") as copy:
            for id, context in zip(ids, contexts, strict=True):
                copy.write_row((id, context, "pt", "-", str(id)))
        columns = "knowledge_id, model, context, embedding"
        with cursor.copy(f"COPY npllm.knowledge_embeddings ({columns}) FROM STDIN") as copy:
            for id, context, vector in zip(ids, contexts, stored, strict=True):
                copy.write_row((id, "bench", context, vectors.literal(vector.tolist())))


# Questions ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Set:
    """Questions in one language about the documents of one context.

    Attributes:
        document: passage id -> the document it was cut from, and that one's language.
        asked: (question, document that answers it).
    """

    context: str
    language: Language
    document: dict[uuid.UUID, tuple[str, Language]]
    asked: list[tuple[str, str]]


def _questions(engine: Engine, documents: list[dict[str, Any]] | None) -> dict[str, Any]:
    # torch is imported here, by the one who asks for this bench.
    from integrations.huggingface.embedder import ORIGINAL, TAUGHT, load_embedder

    with transaction(engine) as session:
        sets = _shop(session)
        if documents:
            sets["pt_retrieval"] = [_documents(session, documents)]
    shop = [part for name in ("shop_pt", "shop_en") for part in sets[name]]
    off_topic = _off_topic()
    asked = [question for parts in sets.values() for part in parts for question, _ in part.asked] + off_topic
    lists: dict[str, dict[str, list[float]]] = {name: {} for name in sets}
    result: dict[str, Any] = {}
    for model in (ORIGINAL, TAUGHT):
        embedder = load_embedder(model, Path())
        knowledge.reembed(lambda: transaction(engine), model=model, embed=embedder.embed)
        known = dict(zip(asked, embedder.embed(asked), strict=True))
        with transaction(engine) as session:
            search, letters = _Search(session, model, known), _Search(session, None, known)
            for name, parts in sets.items():
                if model == ORIGINAL:
                    lists[name]["letters"] = _recall(parts, letters.hybrid)
                lists[name][f"vectors {model}"] = _recall(parts, search.vectors)
                lists[name][f"hybrid {model}"] = _recall(parts, search.hybrid)
            if model == TAUGHT:
                result = {"precision_at_5": _precision(shop, search), **_floor(search, shop, off_topic)}
    return {**result, "recall_at_1_and_3": lists}


def _shop(session: Session) -> dict[str, list[_Set]]:
    sets: dict[str, list[_Set]] = {f"shop_{language}": [] for language in LANGUAGES}
    for context in CONTEXTS:
        document = {
            id: (passage.id, language)
            for language in LANGUAGES
            for passage in passages(context, language)
            for id in knowledge.add(session, context=context, language=language, title=passage.title, text=passage.text)
        }
        for language in LANGUAGES:
            asked = [(question.text, question.passage) for question in questions(language, "test", context)]
            sets[f"shop_{language}"].append(_Set(context, language, document, asked))
    return sets


def _documents(session: Session, records: list[dict[str, Any]]) -> _Set:
    _contexts(session, ["documents"])
    document: dict[uuid.UUID, tuple[str, Language]] = {
        id: (record["id"], "pt")
        for record in records
        if record["type"] == "passage"
        for id in knowledge.add(session, context="documents", language="pt", text=record["text"], source=record["id"])
    }
    asked = [(r["text"], r["passage"]) for r in records if r["type"] == "question" and r["split"] == "test"]
    return _Set("documents", "pt", document, asked)


@dataclass(frozen=True)
class _Search:
    """One way to search. `model` None: by letters alone."""

    session: Session
    model: str | None
    known: dict[str, list[float]]

    def hybrid(self, part: _Set, question: str) -> list[uuid.UUID]:
        return self.found(part, question, limit=30, floor=0)

    def found(self, part: _Set, question: str, *, limit: int, floor: float | None = None) -> list[uuid.UUID]:
        hits = find_passages(
            self.session, context=part.context, question=question, limit=limit, language=part.language, floor=floor,
            query_vector=self.known[question] if self.model else None, model=self.model,
        )  # fmt: skip
        return [hit.id for hit in hits]

    def vectors(self, part: _Set, question: str) -> list[uuid.UUID]:
        assert self.model
        return vectors.nearest(
            self.session, context=part.context, vector=self.known[question], model=self.model, limit=30, rows=0
        )


def _recall(parts: list[_Set], search: Callable[[_Set, str], list[uuid.UUID]]) -> list[float]:
    """Share of the questions whose document is the first, and among the first three, in the question's language."""
    places = []
    for part in parts:
        for question, right in part.asked:
            found = [part.document[id] for id in search(part, question)]
            ranked = list(dict.fromkeys(name for name, language in found if language == part.language))
            places.append(ranked.index(right) if right in ranked else len(ranked) + 3)
    return [round(float(np.mean([place < depth for place in places])), 4) for depth in (1, 3)]


def _precision(parts: list[_Set], search: _Search) -> float:
    """Share of the questions whose passage is among five hits, whatever the language of the others."""
    reached = []
    for part in parts:
        for question, right in part.asked:
            found = [part.document[id] for id in search.found(part, question, limit=5, floor=0)]
            reached.append((right, part.language) in found)
    return round(float(np.mean(reached)), 4)


def _floor(search: _Search, shop: list[_Set], off_topic: list[str]) -> dict[str, float]:
    """How often the floor errs: nothing for a question that has an answer, something for one that has none."""
    answered = [bool(search.found(part, question, limit=1)) for part in shop for question, _ in part.asked]
    misled = [bool(search.found(part, question, limit=1)) for part in shop for question in off_topic]
    return {"false_empty": round(1 - float(np.mean(answered)), 4), "false_hit": round(float(np.mean(misled)), 4)}


def _off_topic() -> list[str]:
    lines = (HERE / "off_topic.tsv").read_text(encoding="utf-8").splitlines()
    return [line.split("\t")[2] for line in lines if line.startswith("test\t")]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            records: list[dict[str, Any]] = [json_format.loads(line) for line in file]
        if not {"passage", "question"} <= {record["type"] for record in records}:
            raise ValueError("no passages or no questions")
        return records
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path} cannot be read as questions: {error!r}.", "Give gzipped JSON lines of passages and questions."
        ) from None


def _lines(figures: dict[str, Any]) -> str:
    lines = [f"{name}: {value}" for name, value in figures.items() if not isinstance(value, dict)]
    lines += [f"recall@10 in {name}: {value}" for name, value in figures["recall_at_10_by_context"].items()]
    lines += [f"{name}: p50 {p50} ms, p95 {p95} ms" for name, (p50, p95) in figures["p50_and_p95_ms"].items()]
    for name, lists in figures["recall_at_1_and_3"].items():
        lines += [f"{name}, {way}: recall@1 {first:.3f}, @3 {third:.3f}" for way, (first, third) in lists.items()]
    return "\n".join(lines)
