"""The shop's data: whole, in both languages, and fit for measuring retrieval."""

import re
from itertools import product

import pytest

from core.prompts import LANGUAGES
from core.shop import CONTEXTS, passages, questions
from core.text import words

FIGURE = re.compile(r"\d+(?:[.,-]\d+)*")
EVERYTHING = list(product(CONTEXTS, LANGUAGES))


class TestPassages:
    @pytest.mark.parametrize(("context", "language"), EVERYTHING)
    def test_are_many_short_and_distinct(self, context, language):
        found = passages(context, language)
        assert len(found) >= (60 if context == "customers" else 20)
        assert max(len(passage.text.split()) for passage in found) <= 25
        assert len({passage.id for passage in found}) == len({passage.text for passage in found}) == len(found)
        assert all(p.context == context and p.language == language and p.title and p.text for p in found)

    @pytest.mark.parametrize("context", CONTEXTS)
    def test_say_the_same_in_both_languages(self, context):
        portuguese, english = (passages(context, language) for language in LANGUAGES)
        assert [p.id for p in portuguese] == [p.id for p in english]
        for pt, en in zip(portuguese, english, strict=True):
            figures = [sorted(re.sub("[.,]", "", f) for f in FIGURE.findall(p.text)) for p in (pt, en)]
            assert figures[0] == figures[1], pt.id

    def test_ids_do_not_cross_contexts(self):
        customers, employees = ({p.id for p in passages(context, "pt")} for context in CONTEXTS)
        assert not customers & employees


class TestQuestions:
    @pytest.mark.parametrize("language", LANGUAGES)
    def test_are_enough_and_split_once(self, language):
        valid, test = questions(language, "valid"), questions(language, "test")
        assert len(valid) >= 60
        assert len([q for q in test if q.context == "customers"]) >= 120
        texts = [" ".join(words(q.text)) for q in [*valid, *test]]
        assert len(set(texts)) == len(texts)

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_name_a_passage_that_holds_their_figures(self, language):
        found = {p.id: p for context in CONTEXTS for p in passages(context, language)}
        for question in [*questions(language, "valid"), *questions(language, "test")]:
            passage = found[question.passage]
            assert passage.context == question.context
            assert set(question.figures) <= set(FIGURE.findall(passage.text)), question

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_half_share_few_words_with_their_passage(self, language):
        """Else lexical search alone would look perfect."""
        found = {p.id: p for context in CONTEXTS for p in passages(context, language)}
        asked = questions(language, "test")
        shared = [_content(q.text) & _content(f"{found[q.passage].title} {found[q.passage].text}") for q in asked]
        assert 0.4 <= sum(len(words) < 2 for words in shared) / len(asked) <= 0.8

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_reach_every_passage(self, language):
        asked = {q.passage for split in ("valid", "test") for q in questions(language, split)}
        assert asked == {p.id for context in CONTEXTS for p in passages(context, language)}

    def test_of_one_context(self):
        assert {q.context for q in questions("pt", "test", "employees")} == {"employees"}


def _content(text: str) -> set[str]:
    return {word for word in words(text) if len(word) > 3 or word.isdigit()}
