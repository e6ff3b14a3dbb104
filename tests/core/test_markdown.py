"""A Markdown document's passages can stand alone."""

import re

from hypothesis import given
from hypothesis import strategies as st

from core.markdown import sections_of
from core.passages import MAX_WORDS


def passages(document: str) -> list[str]:
    return [passage for section in sections_of(document) for passage in section.passages()]


def test_each_begins_with_its_heading_and_a_heading_alone_is_none() -> None:
    document = "# Loja\n\n## Entrega\n\nEm 5 dias.\n\n## Posso trocar?\n\nSim, em 30 dias.\n\n## Vazio\n"
    assert passages(document) == ["Entrega: Em 5 dias.", "Posso trocar? Sim, em 30 dias."]
    assert [section.above for section in sections_of(document)] == [("Loja",), ("Loja",)]


def test_a_heading_ends_with_the_next_of_its_level() -> None:
    found = sections_of("# A\n\n## B\n\n### C\n\num\n\n## D\n\ndois\n\nE\n=\n\ntrês")
    assert [(section.above, section.heading) for section in found] == [(("A", "B"), "C"), (("A",), "D"), ((), "E")]


def test_what_stands_before_the_first_heading_has_none() -> None:
    assert passages("Abrimos às 9h.\n\n# Pix\n\nSem taxa.") == ["Abrimos às 9h.", "Pix: Sem taxa."]


def test_lists_are_sentences() -> None:
    assert passages("- espuma D33\n- 18 cm;\n  1. mesmo na borda") == ["espuma D33. 18 cm; mesmo na borda."]


def test_a_table_of_two_columns_is_a_list_of_pairs() -> None:
    table = "| tamanho | preço |\n|---|---|\n| solteiro | R$ 690 |\n| **casal** | R$ 990 |\n"
    assert passages(f"## Aurora\n\n{table}") == ["Aurora: preço: solteiro R$ 690, casal R$ 990."]


def test_a_cell_of_a_larger_table_has_its_row_and_column() -> None:
    table = "| | preço | altura |\n|---|---|---|\n| solteiro | R$ 690 | 18 cm |\n| casal | R$ 990 | |\n"
    assert passages(table) == ["solteiro: preço R$ 690, altura 18 cm. casal: preço R$ 990."]
    assert passages("| a | b |\n|---|---|\n") == []


def test_marks_go_and_words_and_addresses_stay() -> None:
    document = (
        "Veja **a** [troca](https://loja.example/troca), https://loja.example/a, `x` e ![foto](f.png).  \n"
        "Fim &amp; [aqui](#b)."
    )
    assert passages(document) == [
        "Veja a troca (https://loja.example/troca), https://loja.example/a, x e foto. Fim & aqui."
    ]


def test_front_matter_comments_and_tags_are_no_text() -> None:
    assert passages("---\ntitle: x\n---\n\n<!-- a -->\n\n<p>Oi <b>gente</b></p>\n\nFim<br>.") == ["Oi gente", "Fim."]


def test_a_sentence_set_large_is_text() -> None:
    assert passages(f"# {'palavra ' * 40}\n\nFim.") == [" ".join(["palavra"] * 40), "Fim."]


def test_quotes_and_code_are_text() -> None:
    assert passages("> Só com nota.\n\n```\nnpllm up\n```") == ["Só com nota.", "npllm up"]


@given(st.text(alphabet="ab #-*|_`>1.\n[]()", max_size=400))
def test_any_text_makes_passages_of_bounded_length(document: str) -> None:
    for passage in passages(document):
        assert 0 < len(passage.split()) <= MAX_WORDS
        assert not re.search(r"\n", passage)
