"""When somebody is there: `mon-fri 09:00-18:00, sat 09:00-13:00`."""

import re
from datetime import datetime, time

DAYS = {
    "mon": 0, "tue": 1, "wed": 2, "thu": 3, "fri": 4, "sat": 5, "sun": 6,
    "seg": 0, "ter": 1, "qua": 2, "qui": 3, "sex": 4, "sab": 5, "dom": 6,
}  # fmt: skip
_PART = re.compile(r"([a-z]{3})(?:-([a-z]{3}))?\s+(\d\d:\d\d)-(\d\d:\d\d)")

Hours = list[tuple[frozenset[int], time, time]]


def parse_hours(text: str) -> Hours:
    """(weekdays, from, until) of each part; nothing for an empty text.

    Raises:
        ValueError: a part is not DAY[-DAY] HH:MM-HH:MM.
    """
    hours: Hours = []
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        found = _PART.fullmatch(part)
        if found is None or found[1] not in DAYS or (found[2] or found[1]) not in DAYS:
            raise ValueError(f"'{part}' is not like mon-fri 09:00-18:00")
        first, last = DAYS[found[1]], DAYS[found[2] or found[1]]
        days = frozenset((first + step) % 7 for step in range((last - first) % 7 + 1))
        hours.append((days, time.fromisoformat(found[3]), time.fromisoformat(found[4])))
    return hours


def is_open(hours: Hours, at: datetime) -> bool:
    """Whether somebody is there at a local time; always where no hours are given."""
    return not hours or any(at.weekday() in days and start <= at.time() < end for days, start, end in hours)
