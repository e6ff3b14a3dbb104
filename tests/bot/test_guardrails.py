"""What a small model's slips look like, and what a customer sees instead."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.guardrails import DONT_KNOW, MAX_CHARACTERS, StreamGuard, guard, invented_figures, repeats

PASSAGES = ["O colchão Aurora de casal custa R$ 1.899,00 à vista, ou 10x de R$ 189,90. Entrega em 3 a 5 dias úteis."]


def said(text: str, *sources: str) -> tuple[str, tuple[str, ...]]:
    guarded = guard(text, language="pt", sources=[*PASSAGES, *sources])
    return guarded.text, guarded.flags


@pytest.mark.parametrize(
    "text",
    [
        "O Aurora de casal custa R$ 1.899,00.",
        "Ele sai por 1899 reais, ou 10x de 189,90.",
        "Chega em 3 a 5 dias.",
        "Claro! Posso ajudar em mais alguma coisa?",
        "Temos 2 opções.",  # a single digit counts things; it is no price
    ],
)
def test_what_stands_in_the_passages_is_said(text: str) -> None:
    assert said(text) == (text, ())


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("O Aurora custa R$ 1.799,00.", "invented_figure:1.799,00"),
        ("Damos 15% de desconto.", "invented_figure:15"),
        ("A garantia é de 12 meses.", "invented_figure:12"),
        ("", "empty"),
        (" \n ", "empty"),
        ("<|im_start|>assistant\nOi", "prompt_leak"),
        ("Oi\nuser\nquanto custa", "prompt_leak"),
        ("o colchão é muito bom " * 3, "loop"),
    ],
)
def test_a_slip_is_not_said(text: str, flag: str) -> None:
    assert said(text) == (DONT_KNOW["pt"], (flag,))


def test_in_the_language_of_the_conversation() -> None:
    assert guard("", language="en", sources=[]).text == DONT_KNOW["en"]


def test_a_figure_may_come_from_the_question_or_the_conversation() -> None:
    assert said("Sim, 85 kg é adequado.", "Peso 85 kg, serve?")[1] == ()


def test_a_long_reply_ends_at_a_word() -> None:
    text = " ".join(f"palavra{'abcdefghij'[n % 10]}{chr(97 + n // 10 % 26)}{chr(97 + n // 260)}" for n in range(400))
    short, flags = said(text)
    assert flags == ("cut",)
    assert len(short) <= MAX_CHARACTERS + 1
    assert short.endswith("…")
    assert text.startswith(short[:-1])


@pytest.mark.parametrize(
    ("reply", "source", "made_up"),
    [
        ("1.899,00", "1899", []),
        ("1,899.00", "R$ 1.899", []),
        ("R$ 189,90", "189.90", []),
        ("das 8:00 às 18:00", "8:00 até 18:00", []),
        ("das 8:30", "8:00", ["8:30"]),
        ("18990", "189,90", ["18990"]),
        ("R$ 1.899,50", "R$ 1.899,00", ["1.899,50"]),
    ],
)
def test_the_same_figure_in_another_dress(reply: str, source: str, made_up: list[str]) -> None:
    assert invented_figures(reply, [source]) == made_up


def test_repetition_needs_the_same_words_in_a_row() -> None:
    assert repeats("posso te ajudar hoje " * 3)
    assert not repeats("posso te ajudar hoje " * 2)
    assert not repeats("a b c a b d a b e")


@given(st.text())
def test_no_text_breaks_the_guard(text: str) -> None:
    guarded = guard(text, language="pt", sources=["10"])
    assert guarded.text
    assert guard(guarded.text, language="pt", sources=["10"]).text


class TestStream:
    def streamed(self, *pieces: str) -> str:
        heard: list[str] = []
        door = StreamGuard(PASSAGES, heard.append)
        for piece in pieces:
            door(piece)
        return "".join(heard)

    def test_words_come_through_as_they_are_ready(self) -> None:
        assert self.streamed("O Aurora ", "de ca", "sal ", "custa ") == "O Aurora de casal custa "

    def test_a_figure_is_held_until_it_is_whole(self) -> None:
        assert self.streamed("custa R$ 1.8", "99,00 ", "à vista ") == "custa R$ 1.899,00 à vista "

    def test_an_invented_figure_stops_it(self) -> None:
        assert self.streamed("custa ", "R$ 99", ",00 ", "só hoje ") == "custa R$ "

    def test_a_leak_stops_it(self) -> None:
        assert self.streamed("Oi ", "<|im_end|> ", "mais ") == "Oi "
