"""docs/tutorials/new-integration.md names files and lines to touch: they are where it says."""

import ast
import re
from pathlib import Path

from sqlalchemy import CheckConstraint

from core.tables import Base

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/tutorials/new-integration.md").read_text()
STEP = PAGE[PAGE.index("## 4. Wire it") : PAGE.index("The route in")]


def test_what_step_four_names_is_there() -> None:
    rows = [
        re.findall(r"`([^`]+)`", cell) for row in STEP.splitlines() if row.startswith("| `") for cell in row.split("|")
    ]
    named = [(rows[number + 1], rows[number + 2]) for number in range(0, len(rows), 4)]
    assert len(named) == 9
    for files, words in named:
        paths = [ROOT / files[0]] + [(ROOT / files[0]).parent / name for name in files[1:]]
        text = "".join(path.read_text() for path in paths if path.exists())
        assert text, f"{files[0]} is gone"
        for word in words:
            if "recado" not in word and " " not in word and "/" not in word:
                assert word in text, f"{word} is not in {files[0]} any more"


def test_the_route_uses_what_the_doors_have() -> None:
    hooks = (ROOT / "bot/hooks.py").read_text()
    for word in ("closed(", "read_body(request, ", "intake.store(", "PlainTextResponse("):
        assert word in PAGE and word in hooks


def test_the_migration_changes_every_table_that_checks_the_channel() -> None:
    checked = {
        table.name
        for table in Base.metadata.tables.values()
        for rule in table.constraints
        if isinstance(rule, CheckConstraint) and str(rule.sqltext).startswith("channel IN")
    }
    named = re.search(r"for table in (\(.*\)):", PAGE)
    assert named
    assert set(ast.literal_eval(named[1])) == checked


def test_the_toy_is_wired_into_nothing() -> None:
    for folder in ("bot", "core", "learning"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "integrations.example" not in path.read_text(), path
