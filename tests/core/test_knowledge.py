"""Passages in a real Postgres: put in, changed, removed, erased, embedded, and found again."""

import uuid
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from sqlalchemy import Engine, text

from core import knowledge, search, vectors
from core.db import transaction
from core.errors import BadInput, NotFound, TooLarge
from core.letters import index_of

MODEL = "test-model"


@pytest.fixture
def context(engine: Engine) -> str:
    return make_context(engine)


def make_context(engine: Engine) -> str:
    name = f"context-{uuid.uuid4().hex[:8]}"
    with transaction(engine) as session:
        session.execute(text("INSERT INTO npllm.contexts (name) VALUES (:name)"), {"name": name})
    return name


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Vectors of four numbers that know synonyms: which of four subjects a text is about."""
    subjects = (("prazo", "entrega", "demora"), ("pix", "boleto", "pagar"), ("trocar", "devolver"), ("loja", "aberta"))
    rows = [[0.1 + any(word in text.lower() for word in subject) for subject in subjects] for text in texts]
    return [(np.array(row) / np.linalg.norm(row)).tolist() for row in rows]


def put(engine: Engine, context: str, *texts: str) -> list[uuid.UUID]:
    with transaction(engine) as session:
        return [id for t in texts for id in knowledge.add(session, context=context, language="pt", text=t)]


def find(
    engine: Engine, context: str, question: str, *, by_vector: bool = False, limit: int = 5, floor: float | None = None
) -> list[search.Hit]:
    vector = embed([question])[0] if by_vector else None
    with transaction(engine) as session:
        return search.search(
            session, context=context, question=question, query_vector=vector, model=MODEL, limit=limit, floor=floor
        )


def ids(hits: list[search.Hit]) -> list[uuid.UUID]:
    return [hit.id for hit in hits]


def reembed(engine: Engine, model: str = MODEL, using: Callable[[Sequence[str]], list[list[float]]] = embed) -> int:
    return knowledge.reembed(lambda: transaction(engine), model=model, embed=using)


def test_finds_by_letters_without_accents(engine: Engine, context: str) -> None:
    delivery, payment = put(engine, context, "A entrega leva cinco dias.", "Aceitamos cartão e boleto.")
    assert ids(find(engine, context, "aceita cartao?"))[0] == payment
    assert ids(find(engine, context, "entregam quando?"))[0] == delivery


def test_finds_by_meaning_what_shares_no_word(engine: Engine, context: str) -> None:
    delivery, _ = put(engine, context, "Entrega em cinco dias.", "Aceitamos boleto.")
    reembed(engine)
    assert find(engine, context, "quanto demora?") == []
    hits = find(engine, context, "quanto demora?", by_vector=True)
    assert hits[0].id == delivery
    assert hits[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert hits[0].lexical == pytest.approx(0, abs=0.2)


def test_another_context_is_never_seen(engine: Engine, context: str) -> None:
    """What employees may read never leaks to customers: neither by letters nor by vectors."""
    secret = put(engine, make_context(engine), "O desconto secreto dos funcionários é de 40 por cento no boleto.")
    put(engine, context, "Aceitamos boleto.")
    reembed(engine)
    for by_vector in (False, True):
        hits = find(engine, context, "desconto secreto funcionários boleto", by_vector=by_vector, limit=50, floor=0)
        assert len(hits) == 1
        assert secret[0] not in ids(hits)


def test_the_questions_language_goes_first_and_the_other_is_still_found(engine: Engine, context: str) -> None:
    with transaction(engine) as session:
        (ours,) = knowledge.add(session, context=context, language="pt", title="Pix", text="5% off.")
        (theirs,) = knowledge.add(session, context=context, language="en", title="Pix", text="5% off.")
        for language, order in (("pt", [ours, theirs]), ("en", [theirs, ours])):
            hits = search.search(
                session, context=context, question="pix", query_vector=None, model=None, limit=5, language=language
            )
            assert ids(hits) == order


def test_nothing_fits(engine: Engine, context: str) -> None:
    put(engine, context, "A entrega leva cinco dias.", "Aceitamos boleto.")
    assert find(engine, context, "xyzzy") == []
    assert find(engine, make_context(engine), "entrega") == []
    assert find(engine, context, "entrega", limit=0) == []


def test_the_same_passage_is_stored_once(engine: Engine, context: str) -> None:
    assert put(engine, context, "Abrimos às nove.") == put(engine, context, "Abrimos  às nove. ")
    with transaction(engine) as session:
        assert len(knowledge.list_passages(session, context)) == 1


def test_a_long_document_becomes_passages(engine: Engine, context: str) -> None:
    with transaction(engine) as session:
        made = knowledge.add(
            session, context=context, language="pt", title="Garantia", text="Uma frase de seis palavras aqui. " * 30
        )
        listed = knowledge.list_passages(session, context)
    # 30 times the same sentence, ten to a passage: three equal passages are one.
    assert len(set(made)) == len(listed) == 1
    assert listed[0].title == "Garantia"
    assert len(listed[0].text.split()) == 60


def test_a_change_is_found_at_once_and_needs_a_new_vector(engine: Engine, context: str) -> None:
    (id,) = put(engine, context, "A entrega leva cinco dias.")
    reembed(engine)
    assert ids(find(engine, context, "entrega")) == [id]
    with transaction(engine) as session:
        knowledge.update(session, id, text="Aceitamos boleto.", title="Pagamento")
    assert find(engine, context, "entrega") == []
    hit = find(engine, context, "pagamento por boleto", by_vector=True)[0]
    assert (hit.title, hit.text, hit.cosine) == ("Pagamento", "Aceitamos boleto.", None)
    assert reembed(engine) == 1
    assert find(engine, context, "boleto", by_vector=True)[0].cosine is not None


def test_a_removed_passage_is_gone_and_comes_back_when_added_again(engine: Engine, context: str) -> None:
    (id,) = put(engine, context, "A entrega leva cinco dias.")
    reembed(engine)
    with transaction(engine) as session:
        knowledge.remove(session, id)
    assert find(engine, context, "entrega") == []
    assert find(engine, context, "demora", by_vector=True, floor=0) == []
    with transaction(engine) as session, pytest.raises(NotFound):
        knowledge.remove(session, id)
    assert put(engine, context, "A entrega leva cinco dias.") == [id]
    assert ids(find(engine, context, "entrega")) == [id]


def test_erased_means_nothing_is_left(engine: Engine, context: str) -> None:
    (id,) = put(engine, context, "O telefone de Maria é 11 99999-0000.")
    reembed(engine)
    find(engine, context, "telefone de Maria")
    with transaction(engine) as session:
        knowledge.erase(session, id)
    assert find(engine, context, "telefone de Maria") == []
    with transaction(engine) as session:
        row = session.execute(text("SELECT title, text, source FROM npllm.knowledge WHERE id = :id"), {"id": id}).one()
        assert tuple(row) == ("", "", "")
        count = "SELECT count(*) FROM npllm.knowledge_embeddings WHERE knowledge_id = :id"
        assert session.execute(text(count), {"id": id}).scalar() == 0
        assert len(index_of(session, context)) == 0


def test_what_was_rolled_back_is_not_found(engine: Engine, context: str) -> None:
    put(engine, context, "Aceitamos boleto.")
    with knowledge.Session(engine) as session:
        knowledge.add(session, context=context, language="pt", text="Entrega em cinco dias.")
        # The index reads the row of its own transaction ...
        assert search.search(session, context=context, question="entrega", query_vector=None, model=None, limit=5)
        session.rollback()
    # ... and forgets it.
    assert find(engine, context, "entrega") == []
    (kept,) = put(engine, context, "A entrega é grátis.")
    assert ids(find(engine, context, "entrega")) == [kept]


def test_two_writers_at_once_lose_nothing(engine: Engine, context: str) -> None:
    """The second waits for the first, so that the stamps rise in the order of commits and no index skips a row."""
    import threading

    done: list[uuid.UUID] = []
    with transaction(engine) as session:
        first = knowledge.add(session, context=context, language="pt", text="Entrega em cinco dias.")
        other = threading.Thread(target=lambda: done.extend(put(engine, context, "Aceitamos boleto.")))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert done == []
    other.join(10)
    assert ids(find(engine, context, "entrega")) == first
    assert ids(find(engine, context, "boleto")) == done


def test_a_vector_of_a_text_that_changed_meanwhile_is_not_stored(engine: Engine, context: str) -> None:
    (id,) = put(engine, context, "A entrega leva cinco dias.")
    calls = 0

    def slow(texts: Sequence[str]) -> list[list[float]]:
        nonlocal calls
        calls += 1
        if calls == 1:
            with transaction(engine) as session:
                knowledge.update(session, id, text="Aceitamos boleto.")
        return embed(texts)

    reembed(engine, using=slow)
    hit = find(engine, context, "boleto", by_vector=True)[0]
    assert calls > 1
    assert hit.cosine == pytest.approx(1.0, abs=1e-5)


def test_another_model_means_new_vectors_and_never_a_mixture(engine: Engine, context: str) -> None:
    put(engine, context, "A entrega leva cinco dias.")
    reembed(engine)
    assert find(engine, context, "demora", by_vector=True)[0].cosine is not None
    assert reembed(engine, "other", lambda texts: [[1.0, 0.0] for _ in texts]) >= 1
    # A vector of four numbers is not compared with stored ones of two.
    assert find(engine, context, "entrega demora", by_vector=True)[0].cosine is None
    assert reembed(engine) >= 1
    assert reembed(engine) == 0


def test_bad_input(engine: Engine, context: str) -> None:
    with transaction(engine) as session, pytest.raises(NotFound, match="no context 'nowhere'"):
        knowledge.add(session, context="nowhere", language="pt", text="Texto.")
    for empty in ("", "  \n", "\x00"):
        with transaction(engine) as session, pytest.raises(BadInput):
            knowledge.add(session, context=context, language="pt", text=empty)
    with transaction(engine) as session, pytest.raises(TooLarge):
        knowledge.add(session, context=context, language="pt", text="a" * (knowledge.MAX_DOCUMENT + 1))
    (id, other) = put(engine, context, "Um texto.\x00", "Outro texto.")
    with transaction(engine) as session, pytest.raises(BadInput, match="makes 2 passages"):
        knowledge.update(session, id, text="palavra " * 61)
    with transaction(engine) as session, pytest.raises(BadInput, match="exactly this"):
        knowledge.update(session, id, text="Outro texto.")
    with transaction(engine) as session, pytest.raises(NotFound):
        knowledge.update(session, uuid.uuid4(), text="Texto.")
    assert {hit.id for hit in find(engine, context, "texto")} == {id, other}


def test_listed_in_pages(engine: Engine, context: str) -> None:
    made = put(engine, context, "Um.", "Dois.", "Três.")
    with transaction(engine) as session:
        page = knowledge.list_passages(session, context, limit=2)
        rest = knowledge.list_passages(session, context, limit=2, after=page[-1].id)
    assert [passage.id for passage in [*page, *rest]] == made


@pytest.mark.parametrize("rows", [vectors.EXACT_ROWS, vectors.EXACT_ROWS + 1])
def test_a_small_context_gets_all_its_rows_and_the_nearest(
    engine: Engine, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both ways: plain HNSW under a filter answers with a fraction of a row on average, and no error."""
    monkeypatch.setattr(vectors, "EXACT_ROWS", rows - vectors.EXACT_ROWS + 299)  # 299 or 300 for 300 rows below
    random = np.random.default_rng(0)
    small, large = make_context(engine), make_context(engine)
    model = f"model-{uuid.uuid4().hex[:8]}"
    stored = random.normal(size=(3300, 8))
    with transaction(engine) as session:
        fill(session, small, stored[:300], model)
        fill(session, large, stored[300:], model)
        vectors.build_index(session, model)
        indexes = session.execute(text("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE :m"), {"m": f"%{model}%"})
        assert "hnsw" in indexes.scalar_one()
    for vector in random.normal(size=(20, 8)):
        with transaction(engine) as session:
            found = vectors.nearest(session, context=small, vector=vector, model=model, limit=10, rows=300)
            everything = vectors.nearest(session, context=small, vector=vector, model=model, limit=999, rows=300)
        distance = 1 - stored[:300] @ vector / np.linalg.norm(stored[:300], axis=1) / np.linalg.norm(vector)
        assert len(found) == 10
        assert len(everything) == 300
        assert len(set(found) & {uuid.UUID(int=int(row) + 1) for row in np.argsort(distance)[:10]}) >= 9
    with transaction(engine) as session:  # what was set is gone with the transaction
        assert session.execute(text("SELECT current_setting('hnsw.iterative_scan', true)")).scalar() in (
            "off",
            "",
            None,
        )
        for name in (small, large):
            session.execute(text("DELETE FROM npllm.knowledge WHERE context = :name"), {"name": name})


def fill(session: knowledge.Session, context: str, stored: np.ndarray, model: str) -> None:
    count = session.execute(text("SELECT count(*) FROM npllm.knowledge_embeddings WHERE model = :m"), {"m": model})
    first = count.scalar_one() + 1
    rows = [
        {"id": uuid.UUID(int=first + at), "context": context, "model": model, "vector": vectors.literal(vector)}
        for at, vector in enumerate(stored)
    ]
    session.execute(
        text(
            "INSERT INTO npllm.knowledge (id, context, language, text, sha256)"
            " VALUES (:id, :context, 'pt', '-', CAST(:id AS text))"
        ),
        rows,
    )
    session.execute(
        text(
            "INSERT INTO npllm.knowledge_embeddings (knowledge_id, model, context, embedding)"
            f" VALUES (:id, :model, :context, CAST(:vector AS {vectors.schema(session)}.vector))"
        ),
        rows,
    )


def test_the_indexes_that_search_relies_on_are_there(engine: Engine) -> None:
    """Without them nothing fails, it is only slow: 50 rows among 100,000 took 245 ms instead of 1."""
    with transaction(engine) as session:
        found = session.execute(text("SELECT indexdef FROM pg_indexes WHERE tablename LIKE 'knowledge%'")).scalars()
        columns = [definition.split("(")[-1].rstrip(")") for definition in found]
    assert {"context, model", "context, updated_at", "context, sha256"} <= set(columns)


def test_a_markdown_passage_is_found_by_the_headings_around_it(engine: Engine, context: str) -> None:
    document = "# Colchões\n\n## Aurora\n\nCasal R$ 990.\n\n## Brisa\n\nCasal R$ 1.950.\n\n# Pix\n\nSem taxa.\n"
    with transaction(engine) as session:
        knowledge.add(session, context=context, language="pt", text=document, markdown=True)
    assert [hit.text for hit in find(engine, context, "quanto é o Brisa?", limit=1)] == ["Brisa: Casal R$ 1.950."]
    assert {hit.text[:5] for hit in find(engine, context, "colchões")} == {"Auror", "Brisa"}


def test_another_document_and_another_context_keep_theirs(engine: Engine, context: str) -> None:
    other = make_context(engine)
    with transaction(engine) as session:
        for where, source in ((context, "a.md"), (context, "b.md"), (other, "a.md")):
            knowledge.add(session, context=where, language="pt", text=f"De {source} em {where}.", source=source)
        (now,) = knowledge.add(session, context=context, language="pt", text="Agora outra coisa.", source="a.md")
        assert knowledge.remove_others(session, context, source="a.md", keep=[now]) == 1
        left = [passage.text for where in (context, other) for passage in knowledge.list_passages(session, where)]
    assert left == [f"De b.md em {context}.", "Agora outra coisa.", f"De a.md em {other}."]
