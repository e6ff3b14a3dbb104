"""Business hours as they are written."""

from datetime import datetime

import pytest

from core.hours import is_open, parse_hours


@pytest.mark.parametrize(
    ("text", "at", "there"),
    [
        ("", "2026-11-29T03:00", True),
        ("mon-fri 09:00-18:00", "2026-11-27T09:00", True),
        ("mon-fri 09:00-18:00", "2026-11-27T18:00", False),
        ("mon-fri 09:00-18:00", "2026-11-28T10:00", False),
        ("seg-sex 09:00-18:00, sab 09:00-13:00", "2026-11-28T10:00", True),
        ("SAT-MON 10:00-12:00", "2026-11-30T11:00", True),
        ("sat-mon 10:00-12:00", "2026-12-01T11:00", False),
    ],
)
def test_whether_somebody_is_there(text: str, at: str, there: bool) -> None:
    assert is_open(parse_hours(text), datetime.fromisoformat(at)) is there


@pytest.mark.parametrize("text", ["always", "mon 9-18", "mon-xyz 09:00-18:00", "mon 09:00-25:00"])
def test_what_makes_no_sense_is_named(text: str) -> None:
    with pytest.raises(ValueError, match=r"mon-fri|hour"):
        parse_hours(text)
