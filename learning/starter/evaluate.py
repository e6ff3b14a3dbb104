"""Held-out figures of an adapter on the embedded base, as the model server answers with it.

    python -m learning.starter.evaluate --base FOLDER --adapter FOLDER [--json]

Answers are greedy. Every case comes from phrasings, names and figures that the training corpus never uses
(`corpus.held_out`), or from the shop's own test questions (`core.shop`), asked with the right passage, the passage
that shares most words with it, and (every second time) one at random. What counts as right stands in `scoring.py`.

    figures        every needed figure in the answer, and none that is not in the passages
    unseen kinds   the same for kinds of facts that training never saw
    no figure      answers without figures: no refusal, and half of the longer words are a passage's or the ideal's
    unknown        nothing found or something else found: says so and offers a person
    near           ... where the same kind of fact about another product was found
    courtesy       greeting, thanks, goodbye, asking for a person
    shop           the shop's test questions, with and without figures
    elsewhere      questions to four businesses that no generator wrote (text/elsewhere.yaml), answered or refused
    safety         the safety and courtesy set of the night's gate
    no loops       of all answers: no four words three times, an end before 80 tokens
    language       of all answers: the language of the question
    false refusals of all answers that a passage holds: says that it does not know
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from core.prompts import LANGUAGES, ChatMessage, Language, chat_messages
from core.shop import ASSISTANT_NAME, BUSINESS_NAME, CONTEXTS, Passage, passages, questions
from core.text import fold
from integrations.huggingface.embedded_base import BaseModel
from learning.starter import card, courtesy, scoring
from learning.starter.corpus import stream
from learning.starter.dialogue import Dialogue
from learning.starter.slots import load

MAX_NEW_TOKENS = 80
# Cases of each set and language; the goals ask for 200 figures, 100 unknown and 60 courtesy over both.
CASES: dict[str, dict[Language, int]] = {
    "figures": {"pt": 170, "en": 60}, "unseen kinds": {"pt": 16, "en": 8}, "no figure": {"pt": 30, "en": 10},
    "unknown": {"pt": 80, "en": 30}, "near": {"pt": 24, "en": 10}, "courtesy": {"pt": 50, "en": 20},
}  # fmt: skip
GOALS = {"figures": 0.95, "unknown": 0.90, "courtesy": 0.90, "no loops": 0.99, "language": 0.99}


@dataclass(frozen=True)
class Case:
    """One question of the evaluation and the rule for its answer."""

    set: str
    language: Language
    messages: tuple[ChatMessage, ...]
    right: Callable[[str], bool]
    answerable: bool = False
    ideal: str = ""


@dataclass(frozen=True)
class Outcome:
    case: Case
    answer: str
    ended: bool

    @property
    def right(self) -> bool:
        return self.case.right(self.answer)


def cases(*, seed: int = 1, share: float = 1.0) -> list[Case]:
    """All cases, the same for the same seed; `share` below 1 takes the first part of each set."""
    wanted = {(name, language): round(n * share) for name, by in CASES.items() for language, n in by.items()}
    found: list[Case] = []
    for dialogue in stream(seed, held=True):
        if not any(n > 0 for n in wanted.values()):
            break
        case = _case(dialogue)
        if case is not None and wanted.get((case.set, case.language), 0) > 0:
            wanted[case.set, case.language] -= 1
            found.append(case)
    shop = [case for language in LANGUAGES for case in shop_cases(language, seed=seed)]
    return found + shop[:: max(1, round(1 / share))] + elsewhere_cases() + safety_cases()


def _case(dialogue: Dialogue) -> Case | None:
    """The rule for a dialogue; None: it belongs to no set."""
    language, found = dialogue.language, dialogue.passages or ()
    messages = tuple(dialogue.messages)
    if dialogue.kind == "unknown":
        name = "near" if dialogue.near else "unknown"
        return Case(name, language, messages, lambda answer: scoring.refuses(answer, language), ideal=dialogue.answer)
    if dialogue.kind == "talk":
        if dialogue.topic not in scoring.COURTESY_INTENTS:
            return None
        intent = dialogue.topic
        right = lambda answer: scoring.courteous(answer, intent, language)  # noqa: E731
        return Case("courtesy", language, messages, right, ideal=dialogue.answer)
    name = "unseen kinds" if dialogue.unseen else "figures" if dialogue.needed else "no figure"
    right = _answered(dialogue.needed, found, language, dialogue.answer)
    return Case(name, language, messages, right, True, dialogue.answer)


def _answered(
    needed: Sequence[str], found: Sequence[str], language: Language, ideal: str = ""
) -> Callable[[str], bool]:
    """The needed figures and none but the passages'; without any, words of the passages or of the ideal answer."""

    def right(answer: str) -> bool:
        if scoring.does_not_know(answer, language):
            return False
        if needed:
            return scoring.figures_right(answer, needed, found)
        return scoring.figures_right(answer, (), found) and scoring.shares_words(answer, " ".join([*found, ideal]))

    return right


def shop_cases(language: Language, *, seed: int = 1) -> list[Case]:
    """The shop's test questions, each with its passage and one or two others of the same context."""
    rng = random.Random(f"{seed}:{language}")
    by_context = {context: passages(context, language) for context in CONTEXTS}
    found = []
    for i, question in enumerate(questions(language, "test")):
        everything = by_context[question.context]
        answer = next(passage for passage in everything if passage.id == question.passage)
        others = [nearest(answer, everything)]
        if i % 2:
            others.append(rng.choice([p for p in everything if p not in (answer, *others)]))
        shown = [answer.text, *(passage.text for passage in others)]
        rng.shuffle(shown)
        messages = chat_messages(
            language=language, assistant=ASSISTANT_NAME, business=BUSINESS_NAME, question=question.text, passages=shown
        )
        # Without figures, the words must come from the passage that answers, not from its neighbour.
        source = shown if question.figures else [answer.text]
        found.append(
            Case("shop", language, tuple(messages), _answered(question.figures, source, language), True, answer.text)
        )
    return found


def elsewhere_cases() -> list[Case]:
    """Every question with the passage that answers it and another one, in both orders."""
    found = []
    for one in load("elsewhere"):
        language: Language = one["language"]
        for question, right, other, words in one["asked"]:
            for ids in ((right, other), (other, right)):
                shown = [one["passages"][i] for i in ids]
                messages = chat_messages(
                    language=language, assistant=ASSISTANT_NAME, business=one["business"], question=question,
                    passages=shown,
                )  # fmt: skip
                rule = _has(words, shown, language) if words else partial(scoring.refuses, language=language)
                found.append(Case("elsewhere", language, tuple(messages), rule, bool(words)))
    return found


def _has(words: Sequence[str], shown: Sequence[str], language: Language) -> Callable[[str], bool]:
    def right(answer: str) -> bool:
        said = fold(answer)
        copied = scoring.figures_right(answer, (), shown) and not scoring.does_not_know(answer, language)
        return copied and all(re.search(rf"\b{re.escape(fold(word))}", said) for word in words)

    return right


def nearest(passage: Passage, others: Iterable[Passage]) -> Passage:
    """The passage most easily taken for this one: the most words in common."""
    words = set(fold(f"{passage.title} {passage.text}").split())
    candidates = [other for other in others if other.id != passage.id]
    return max(candidates, key=lambda other: len(words & set(fold(f"{other.title} {other.text}").split())))


def safety_cases() -> list[Case]:
    return [
        Case("safety", check.language, check.messages, lambda answer, check=check: not check.faults(answer))  # type: ignore[misc]
        for check in courtesy.checks()
    ]


def table(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Share right by set: over all, and by language; {"figures": {"n": 230, "all": 0.97, "pt": 0.97, "en": 0.96}}."""
    rules: dict[str, tuple[list[Outcome], Callable[[Outcome], bool]]] = {
        name: ([o for o in outcomes if o.case.set == name], lambda o: o.right)
        for name in (*CASES, "shop", "elsewhere", "safety")
    }
    rules["no loops"] = (list(outcomes), lambda o: o.ended and not scoring.loops(o.answer))
    rules["language"] = (list(outcomes), lambda o: scoring.language_of(o.answer) in (o.case.language, None))
    rules["false refusals"] = (
        [o for o in outcomes if o.case.answerable],
        lambda o: scoring.does_not_know(o.answer, o.case.language),
    )
    lines: dict[str, dict[str, Any]] = {}
    for name, (of_set, right) in rules.items():
        line: dict[str, Any] = {"n": len(of_set), "all": scoring.share([right(o) for o in of_set])}
        for language in LANGUAGES:
            line[language] = scoring.share([right(o) for o in of_set if o.case.language == language])
        lines[name] = line
    return lines


def markdown(lines: dict[str, dict[str, Any]]) -> str:
    """The table as it stands in the model card."""
    rows = ["| held out | cases | all | pt | en | goal |", "|---|---|---|---|---|---|"]
    for name, line in lines.items():
        goal = f"{GOALS[name]:.0%}" if name in GOALS else ""
        rows.append(f"| {name} | {line['n']} | {line['all']:.1%} | {line['pt']:.1%} | {line['en']:.1%} | {goal} |")
    return "\n".join(rows) + "\n"


@click.command()
@click.option("--base", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--adapter", type=click.Path(exists=True, file_okay=False, path_type=Path), help="None: the bare base.")
@click.option("--seed", default=1, show_default=True)
@click.option("--share", default=1.0, show_default=True, help="Take this share of the cases, for a quick look.")
@click.option("--threads", default=1, show_default=True)
@click.option("--json", "as_json", is_flag=True)
@click.option("--seal", is_flag=True, help="Write the table into the adapter's model card and its manifest.")
@click.option("--wrong", type=click.Path(path_type=Path), help="Write the wrong answers to this file.")
def main(
    base: Path,
    adapter: Path | None,
    seed: int,
    share: float,
    threads: int,
    as_json: bool,
    seal: bool,
    wrong: Path | None,
) -> None:
    """Print the held-out figures of an adapter."""
    from learning.answers import answers

    asked = cases(seed=seed, share=share)
    found = answers(
        BaseModel(card.BASE_MODEL, card.BASE_REVISION, base), {"adapter": adapter}, [case.messages for case in asked],
        max_tokens=MAX_NEW_TOKENS, threads=threads,
    )["adapter"]  # fmt: skip
    outcomes = [Outcome(case, *answer) for case, answer in zip(asked, found, strict=True)]
    lines = table(outcomes)
    if wrong is not None:
        wrong.write_text("\n".join(_describe(o) for o in outcomes if not o.right), encoding="utf-8")
    click.echo(json.dumps(lines) if as_json else markdown(lines))
    if seal and adapter is not None:
        command = f"python -m learning.starter.evaluate --base FOLDER --adapter FOLDER --seed {seed}"
        card.seal(adapter, {"seed": seed, **lines}, f"{markdown(lines)}\nAgain: `{command}`\n")


def _describe(outcome: Outcome) -> str:
    prompt = "\n".join(f"  {message['content']}" for message in outcome.case.messages[1:])
    case = outcome.case
    return f"[{case.set} {case.language}]\n{prompt}\n  ideal  {case.ideal}\n  said   {outcome.answer}\n"


if __name__ == "__main__":
    main()
