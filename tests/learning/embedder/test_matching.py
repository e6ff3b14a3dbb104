"""Questions with their passages: what is generated, and that matching learns it and keeps translations."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from core.shop import questions as shop_questions
from integrations.huggingface.embedder import Encoder, original_model, original_tokenizer, padded, portuguese_tokenizer
from learning.embedder import questions, vocabulary
from learning.embedder.matching import Matching, match
from learning.embedder.pairs import Pair
from learning.embedder.questions import Asked
from learning.embedder.student import Recipe, Student

ASKED = [
    Asked("em quantos dias chega?", "O prazo de entrega é de cinco dias.", ("A loja abre às nove.",)),
    Asked("que horas abre?", "A loja abre às nove."),
    Asked("posso parcelar?", "No cartão, em até dez vezes.", ("Trocas em trinta dias.", "A loja abre às nove.")),
    Asked("e se eu não gostar?", "Trocas em trinta dias."),
]
PAIRS = [
    Pair("A entrega é grátis.", "Delivery is free.", "sentences"),
    Pair("O prazo de troca é de trinta dias.", "The exchange time is thirty days.", "sentences"),
    Pair("A loja abre cedo.", "The store opens early.", "sentences"),
]


@pytest.fixture(scope="module")
def beginner() -> tuple[Student, Tokenizer, np.ndarray]:
    torch.manual_seed(1)
    embeddings = original_model().embeddings.word_embeddings.weight.detach().numpy()
    words, rows = vocabulary.choose(PAIRS, original_tokenizer(), embeddings, size=40)
    targets = Encoder(original_tokenizer(), original_model()).encode([pair.english for pair in PAIRS])
    return Student(original_model(), rows, Recipe()), portuguese_tokenizer(words), targets


def test_a_question_learns_its_passage_and_translations_are_kept(
    beginner: tuple[Student, Tokenizer, np.ndarray],
) -> None:
    student, tokenizer, targets = beginner
    told: list[tuple[int, float, float]] = []
    recipe = replace(Matching(), steps=60, batch=6, titles=2, rate=1e-3)
    match(
        student, tokenizer, ASKED, ASKED[:2], PAIRS, targets, recipe, seed=1,
        report=lambda step, matching, distance, seconds: told.append((step, matching, distance)),
    )  # fmt: skip
    assert [step for step, _, _ in told] == [50, 60]
    assert told[-1][1] < told[0][1]
    assert told[-1][2] < told[0][2]
    with torch.no_grad():
        asked, passages = (
            student(*padded([encoding.ids for encoding in tokenizer.encode_batch(texts)]))
            for texts in ([one.question for one in ASKED], [one.passage for one in ASKED])
        )
    assert (asked @ passages.T).argmax(dim=1).tolist() == [0, 1, 2, 3]


def test_a_student_goes_on_from_what_was_shipped(beginner: tuple[Student, Tokenizer, np.ndarray]) -> None:
    student, tokenizer, _ = beginner
    shipped = student.tensors()
    again = Student(original_model(), shipped["rows"].float().numpy(), Recipe())
    again.take(shipped)
    ids = padded([tokenizer.encode("A loja abre cedo.").ids])
    with torch.no_grad():
        assert torch.allclose(student(*ids), again(*ids), atol=2e-2)  # half precision on the way


def test_generated_questions_have_one_answer_and_are_none_of_the_shops() -> None:
    found = questions.asked(60, seed=3)
    assert found == questions.asked(60, seed=3)
    assert found != questions.asked(60, seed=4)
    held_out = {question.text for split in ("valid", "test") for question in shop_questions("pt", split)}
    for one in found:
        assert one.question not in held_out
        assert one.passage not in one.others
    assert len({one.passage for one in found}) > 40
    assert all(one.question and one.passage for one in questions.shop_titles())
