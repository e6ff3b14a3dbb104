"""Reading payloads that may hold anything: a signed webhook is genuine, not well-formed."""

import hashlib
import json
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from core.errors import BadInput

MAX_DEPTH = 64  # objects within objects; the vendors' deepest (Slack's rich text) have about a dozen
LONGEST_WAIT = 24 * 3600.0  # seconds; a Retry-After beyond it is taken for this


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> list[dict[str, Any]]:
    """The objects in a list; nothing where it is no list."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    """A string as it is, a whole number as its digits (ids come as either); anything else is no text."""
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else ""


def read_object(raw: str | bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        BadInput: no JSON, no object, or nested deeper than any vendor nests.
    """
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise BadInput("The body is not a JSON object.", "Point the vendor's webhook at the address of its own door.")
    if _deeper_than(value, MAX_DEPTH):
        raise BadInput(f"The body is nested more than {MAX_DEPTH} deep.", "No vendor sends this; look at who does.")
    return value


def digest(value: Any) -> str:
    """One name for one JSON value, however often it comes: for what has no id of its own."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


def retry_after(header: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header: seconds or a date; None where it says neither."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(header).astimezone(UTC) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), LONGEST_WAIT) if seconds == seconds else None  # NaN is unequal to itself


def _deeper_than(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    return any(_deeper_than(item, levels - 1) for item in (value.values() if isinstance(value, dict) else value))
