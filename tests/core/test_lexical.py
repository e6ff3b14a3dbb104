"""The letter index: what it finds, what its score means, and that changes reach it."""

import uuid

import pytest

from core.lexical import LexicalIndex, grams, pieces

PASSAGES = {
    "entrega": "A entrega leva de 3 a 7 dias úteis na capital.",
    "troca": "Colchões podem ser trocados em até 30 dias, sem manchas.",
    "pix": "No pix há 5% de desconto.",
    "horario": "A loja abre de segunda a sábado, das 9h às 18h.",
}


@pytest.fixture
def index() -> LexicalIndex:
    found = LexicalIndex()
    for name, text in PASSAGES.items():
        found.put(key(name), text)
    return found


def key(name: str) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, name)


def first(index: LexicalIndex, question: str) -> uuid.UUID | None:
    return next(iter(index.search(question, 1)), None)


@pytest.mark.parametrize(
    ("question", "name"),
    [
        ("quando entregam?", "entrega"),  # another ending
        ("posso trocar o colchao", "troca"),  # no accents
        ("qual o prazo de entrga", "entrega"),  # a letter is missing
        ("QUANTO DE DESCONTO NO PIX", "pix"),
        ("colchões manchados", "troca"),
        ("abre no sabado?", "horario"),
    ],
)
def test_finds_what_shares_words(index: LexicalIndex, question: str, name: str) -> None:
    assert first(index, question) == key(name)


def test_shares_nothing_finds_nothing(index: LexicalIndex) -> None:
    assert index.search("xyzzy", 5) == {}
    assert index.search("", 5) == {}
    assert index.search("?!", 5) == {}
    assert LexicalIndex().search("entrega", 5) == {}


def test_the_score_is_a_share(index: LexicalIndex) -> None:
    """It lies between 0 and 1, and what stands in no passage lowers it: that makes a floor possible."""
    exact = max(index.search("entrega dias capital", 1).values())
    partly = max(index.search("entrega dias capital bicicleta vermelha", 1).values())
    assert 0 < partly < exact < 1


def test_scores_of_agrees_with_search(index: LexicalIndex) -> None:
    found = index.search("entrega na loja", 10)
    keys = [key(name) for name in PASSAGES]
    scores = dict(zip(keys, index.scores_of("entrega na loja", keys), strict=True))
    assert {k: v for k, v in scores.items() if v > 0} == pytest.approx(found)
    assert index.scores_of("entrega", [uuid.uuid4()]) == [0.0]


def test_changed_and_removed_passages(index: LexicalIndex) -> None:
    index.put(key("pix"), "Aceitamos boleto bancário.")
    assert first(index, "boleto") == key("pix")
    assert key("pix") not in index.search("desconto no pix", 10)
    index.drop(key("pix"))
    index.drop(key("pix"))
    assert index.search("boleto", 10) == {}
    assert len(index) == 3
    assert index.wasted == pytest.approx(2 / 5)


def test_best_first_and_no_more_than_asked(index: LexicalIndex) -> None:
    found = list(index.search("dias de entrega de segunda a sábado na capital", 2).values())
    assert len(found) == 2
    assert found == sorted(found, reverse=True)


def test_a_long_question_is_bounded(index: LexicalIndex) -> None:
    assert first(index, "entrega " * 200_000) == key("entrega")


def test_pieces() -> None:
    assert grams("pix") == (" pix", "pix ")
    assert grams("a") == ()
    assert grams("5") == (" 5 ",)
    assert pieces("É já!") == [" ja "]
