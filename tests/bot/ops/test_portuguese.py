"""The pages speak Portuguese: every sentence that is decided anywhere has its translation, whatever its figures."""

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

import bot
from bot.ops.portuguese import SENTENCES, in_portuguese
from bot.review.queue import VERDICTS
from core.rollouts import PRESETS, STOPS, judge
from learning.gate import NOT_FINITE

ENGLISH = re.compile(r"\b(the|of|is|it|its|evidence|than|was|were|not|left|by|people)\b", re.IGNORECASE)
# Where reasons come from, and what their slots hold there; any other slot holds a figure.
SOURCES = ("core/rollouts.py", "learning/gate.py", "learning/consolidate.py", "bot/watch.py", "bot/controller.py")
SLOTS = {"age": "last night", "state": "paused", "told": "language (0.31), topic (0.44)"}
FIGURES = {
    "harm": 1.0, "harm_highest": 1.0, "no_worse": 1.0, "anchor": 1.0, "sample_ratio": 1.0, "rating_ratio": 1.0,
    "harm_solicited": 1.0, "errors": 1.0, "slow": 1.0, "unsafe": 1.0, "stage_votes": 3,
}  # fmt: skip


def samples() -> Iterator[str]:
    """Every reason that is written down in the sources, with its slots filled."""
    root = Path(bot.__file__).parent.parent
    for source in SOURCES:
        for node in ast.walk(ast.parse((root / source).read_text(encoding="utf-8"))):
            found: list[ast.expr] = []
            if isinstance(node, ast.Call):
                name = ast.unparse(node.func)
                if name in ("decision", "missing.append", "reasons.append", "wrong.append"):
                    found = node.args[1:] if name == "decision" else node.args
            elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
                found = [node.value]
            for text in found:
                if (sample := _filled(text)) and " " in sample:
                    yield sample


def _filled(text: ast.expr) -> str | None:
    if isinstance(text, ast.Constant) and isinstance(text.value, str):
        return text.value
    if not isinstance(text, ast.JoinedStr):
        return None
    parts = [
        str(part.value) if isinstance(part, ast.Constant) else SLOTS.get(ast.unparse(part.value), "7")  # type: ignore[attr-defined]
        for part in text.values
    ]
    return None if "7 more often" in "".join(parts) else "".join(parts)  # a phrase in the slot: see below


def test_every_reason_in_the_sources() -> None:
    found = [*samples(), *STOPS.values(), NOT_FINITE]
    assert len(found) > 30
    for sample in found:
        assert not ENGLISH.search(in_portuguese(sample)), in_portuguese(sample)


def test_every_refusal_that_a_page_shows() -> None:
    root, found = Path(bot.__file__).parent, []
    for source in ("handover.py", "handover_pages.py", "review/queue.py"):
        for node in ast.walk(ast.parse((root / source).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("BadInput", "Conflict", "NotAllowed"):
                found += [said for part in node.args if (said := _filled(part)) and not said.startswith("npllm ")]
    assert len(found) > 15
    for said in found:
        said = said.replace("Choose 7.", f"Choose {', '.join(VERDICTS)}.")
        assert in_portuguese(said) != said


def test_every_decision_on_odd_figures() -> None:
    high = ("harm", "harm_highest", "no_worse", "anchor", "sample_ratio", "rating_ratio", "harm_solicited", "errors",
            "slow", "unsafe")  # fmt: skip
    states, times = ("running", "paused", "held", "rolled_back"), (0.0, 1e9)
    plans = [replace(PRESETS["medium"], on_guardrail=what) for what in ("rollback", "freeze")]
    for plan, name, value, state, elapsed in product(plans, high, (30.0, 5e6, float("inf")), states, times):
        for stage in range(len(plan.stages)):
            figures = FIGURES | {name: value, "stage_votes": 500}
            decision = judge(plan, stage, figures, state=state, elapsed=elapsed, total_elapsed=elapsed / 1e5)
            for reason in decision.reasons:
                assert not ENGLISH.search(in_portuguese(reason)), reason


@pytest.mark.parametrize(
    ("english", "portuguese"),
    [
        ("3 of 30 challenger votes in this stage; 1 day, 6:00:00 left of this stage's time",
         "3 de 30 votos da nova versão nesta etapa; faltam 1 dia, 6:00:00 do tempo desta etapa"),
        ("It fell below the people held back: evidence 12,345 (limit 1,000).",
         "Ficou abaixo das pessoas reservadas: evidência 12.345 (limite 1.000)."),
        ("It forgot what was learned in the last week: loss rose by 7.5% there.",
         "Esqueceu o que foi aprendido na última semana: ali a perda subiu 7,5%."),
        ("Smoke and shadow checks failed: It said nothing.",
         "As verificações de teste e de sombra falharam: Ela não disse nada."),
        ("v0007 is newer", "v0007 é mais nova"),
        ("v0007 is quarantined", "v0007 está em quarentena"),
        ("v0007 is quarantined.", "v0007 está em quarentena."),
        ("the one of marketing is newer", "the one of marketing is newer"),
        ("porque a Ana pediu", "porque a Ana pediu"),
        ("", ""),
        (None, ""),
    ],
)  # fmt: skip
def test_figures_durations_and_what_is_not_ours(english: str | None, portuguese: str) -> None:
    assert in_portuguese(english) == portuguese


def test_no_slot_is_lost() -> None:
    for english, portuguese in SENTENCES.items():
        assert sorted(re.findall(r"\{(\w+)\}", english)) == sorted(re.findall(r"\{(\w+)\}", portuguese)), english
