"""The fictional mattress shop that npllm shows itself with: what it knows, and questions to measure retrieval.

Nothing here is about a real business. The passages are the knowledge that `npllm demo` and a fresh installation
start with; the questions are held out: retrieval and the starter adapter are measured on them, and no training
reads them.

    passages("customers", "pt")   what customers may be told, in Portuguese
    questions("pt", "test")       questions as customers type them, each with the id of the passage that answers it
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

import yaml

from core.prompts import LANGUAGES, Language

# Defaults of the settings BUSINESS_NAME and ASSISTANT_NAME.
BUSINESS_NAME = "Alvorada Colchões"
ASSISTANT_NAME = "Lia"

Context = Literal["customers", "employees"]
Split = Literal["valid", "test"]
CONTEXTS: tuple[Context, ...] = get_args(Context)


@dataclass(frozen=True)
class Passage:
    """One small group of facts. `id` is unique within a language; the two languages share ids."""

    id: str
    context: Context
    language: Language
    title: str
    text: str


@dataclass(frozen=True)
class Question:
    """A held-out question.

    Attributes:
        passage: id of the passage that answers it, in the same language.
        figures: the numbers that a right answer must give, written as in the passage ("1.290"); often none.
    """

    text: str
    passage: str
    context: Context
    language: Language
    split: Split
    figures: tuple[str, ...] = ()


def passages(context: Context, language: Language) -> list[Passage]:
    """The shop's knowledge in one language, in the order of the file."""
    return [Passage(id, context, language, *texts[language]) for id, texts in _knowledge()[context].items()]


def questions(language: Language, split: Split, context: Context | None = None) -> list[Question]:
    """Held-out questions, of one context or (None) of all. Tune on `valid`, report on `test`, train on neither."""
    return [
        question
        for question in _questions()
        if question.language == language and question.split == split and context in (None, question.context)
    ]


@cache
def _knowledge() -> dict[Context, dict[str, dict[Language, list[str]]]]:
    text = files(__package__).joinpath("passages.yaml").read_text(encoding="utf-8")
    knowledge: dict[Context, dict[str, dict[Language, list[str]]]] = yaml.safe_load(text)
    return knowledge


@cache
def _questions() -> tuple[Question, ...]:
    lines = files(__package__).joinpath("questions.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines if line]
    return tuple(Question(**{**record, "figures": tuple(record.get("figures", ()))}) for record in records)


__all__ = [
    "ASSISTANT_NAME", "BUSINESS_NAME", "CONTEXTS", "LANGUAGES", "Context", "Language", "Passage", "Question", "Split",
    "passages", "questions",
]  # fmt: skip
