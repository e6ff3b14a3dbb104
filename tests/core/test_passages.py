"""Documents are cut where a reader would."""

from hypothesis import given
from hypothesis import strategies as st

from core.passages import MAX_WORDS, indexed_text, passages_of


def test_a_short_text_is_one_passage() -> None:
    assert passages_of("Abrimos às 9h.  Fechamos\nàs 18h.") == ["Abrimos às 9h. Fechamos às 18h."]


def test_cuts_between_sentences() -> None:
    sentence = " ".join(["palavra"] * 24) + "."
    assert passages_of(" ".join([sentence] * 5)) == [f"{sentence} {sentence}"] * 2 + [sentence]


def test_a_blank_line_ends_a_passage() -> None:
    assert passages_of("Entrega em 5 dias.\n\nTroca em 30 dias.") == ["Entrega em 5 dias.", "Troca em 30 dias."]


def test_a_long_sentence_is_cut_after_commas_and_then_between_words() -> None:
    clause = " ".join(["item"] * 40) + ","
    assert passages_of(f"{clause} {clause} fim") == [clause, f"{clause} fim"]
    assert [len(part.split()) for part in passages_of("um " * 130)] == [60, 60, 10]


def test_nothing_makes_nothing() -> None:
    assert passages_of("") == []
    assert passages_of(" \n\n \n") == []


def test_the_title_is_searched_too() -> None:
    assert indexed_text("Entrega", "Leva 5 dias.") == "Entrega. Leva 5 dias."
    assert indexed_text("", "Leva 5 dias.") == "Leva 5 dias."


@given(st.text(alphabet="ab .,;\n!?", max_size=2000))
def test_no_word_is_lost_or_moved_and_no_passage_is_too_long(document: str) -> None:
    passages = passages_of(document)
    assert " ".join(passages).split() == document.split()
    assert all(0 < len(passage.split()) <= MAX_WORDS for passage in passages)
