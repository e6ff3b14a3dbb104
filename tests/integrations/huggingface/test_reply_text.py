"""Text comes in whole characters and stops where it must, however tokens cut it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from integrations.huggingface.reply_text import ReplyText


def bytes_tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


TOKENIZER = bytes_tokenizer()


def said(text: str, stops: list[str]) -> tuple[ReplyText, list[str]]:
    reply = ReplyText(TOKENIZER, stops)
    pieces = []
    for token in TOKENIZER.encode(text).ids:
        pieces.append(reply.push(token))
        if reply.stopped:
            return reply, pieces
    pieces.append(reply.finish())
    return reply, pieces


@given(st.text(max_size=40).filter(lambda text: "\ufffd" not in text))
def test_pieces_make_up_the_text_and_are_never_broken(text: str) -> None:
    reply, pieces = said(text, [])
    assert "".join(pieces) == reply.text == text
    assert all("\ufffd" not in piece for piece in pieces)


@given(st.text(alphabet="abã\n", max_size=30), st.lists(st.text(alphabet="abã\n", min_size=1, max_size=4), max_size=3))
def test_nothing_of_or_after_a_stop_string_is_said(text: str, stops: list[str]) -> None:
    reply, pieces = said(text, stops)
    first_ends = [text.find(stop) + len(stop) for stop in stops if stop in text]
    if not first_ends:
        assert (reply.text, reply.stopped) == (text, False)
    else:
        assert reply.stopped
        shortest = text[: min(first_ends)]
        assert reply.text == shortest[: min(shortest.find(stop) for stop in stops if stop in shortest)]
    assert "".join(pieces) == reply.text


def test_what_may_become_a_stop_string_is_held_back() -> None:
    reply = ReplyText(TOKENIZER, ["FIM"])
    pieces = [reply.push(token) for token in TOKENIZER.encode("oi FIFIo").ids]
    assert pieces == ["o", "i", " ", "", "", "FI", "", "FIo"]


def test_bytes_of_a_character_that_never_comes_are_dropped() -> None:
    reply = ReplyText(TOKENIZER, [])
    for token in TOKENIZER.encode("sim 😀").ids[:-1]:
        reply.push(token)
    reply.finish()
    assert reply.text == "sim "


@pytest.mark.parametrize("text", ["Olá, tudo bem?", "São R$ 1.199,90 à vista.", "  dois espaços  e\n\nlinhas 😀"])
def test_with_a_real_vocabulary(text: str, tmp_path: Path) -> None:
    """A BPE with merges, learnt here: tokens are words and pieces of them, with their leading space."""
    from tokenizers import trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=320, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(["Olá, tudo bem? São dois espaços à vista e linhas"] * 5, trainer)
    reply = ReplyText(tokenizer, [])
    pieces = [reply.push(token) for token in tokenizer.encode(text).ids]
    reply.finish()
    assert reply.text == text
    assert all("\ufffd" not in piece for piece in pieces)
