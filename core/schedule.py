"""When a context sleeps, and how: the deployment's settings, under its preset, under its own overrides.

A night belongs to the local date on which its window opened: at one in the morning of the 3rd, inside 22:00-06:00, it
is the night of the 2nd. Dates, not hours, are counted, so a clock that is put forward or back makes no second night
and skips none.
"""

from collections.abc import Mapping
from datetime import date, datetime, timedelta
from datetime import time as clock_time
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from core.errors import BadInput
from core.settings import NightStrategy, Settings

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]

STRATEGIES: tuple[str, ...] = get_args(NightStrategy)
# What a context is for decides how often it sleeps. `strategy` is left to SLEEP_STRATEGY where the preset has no
# opinion: what measures best is the default.
PRESETS: dict[str, dict[str, Any]] = {
    "support": {"every": "day"},
    "tutor": {"every": "week", "strategy": "mas+replay"},
    "research": {"every": "week", "strategy": "ewc+replay"},
    "company-chat": {"every": "month", "strategy": "mas+replay"},
}


class Schedule(BaseModel):
    """One context's nights. What has no default here is a setting of the deployment (`schedule_of`).

    Attributes:
        weekday, day: of a weekly and a monthly night; a month that is too short takes its last day.
        idle_minutes: nobody may have written for so long.
        minimum: new examples that a night needs.
        max_minutes: of training; then the night stops and keeps what it has learned.
        max_examples: new ones in one night; the best come first, the others wait for the next night.
        max_cost, cost_per_hour: dollars; together they are another limit of the time.
        deep_every: a night that learns everything again from the base, at the first night of each such period.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    every: Literal["day", "week", "month"] = "day"
    weekday: Weekday = "sunday"
    day: int = Field(1, ge=1, le=31)
    hours: str
    timezone: str
    idle_minutes: float = Field(ge=0, le=525_600)
    minimum: int = Field(ge=1)
    strategy: NightStrategy
    max_minutes: float = Field(gt=0)
    max_examples: int = Field(ge=1)
    max_cost: float | None = Field(gt=0)
    cost_per_hour: float = Field(ge=0)
    deep_every: Literal["never", "week", "month"]

    @field_validator("hours")
    @classmethod
    def _range(cls, value: str) -> str:
        window(value)
        return value

    @field_validator("timezone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"there is no time zone '{value}'") from None
        return value

    @property
    def seconds(self) -> float:
        """The longest a night may train, by time and by cost."""
        by_time = self.max_minutes * 60
        if self.max_cost is None or self.cost_per_hour == 0:
            return by_time
        return min(by_time, self.max_cost / self.cost_per_hour * 3600)

    def night_of(self, at: datetime) -> date | None:
        """The night that an instant lies in; None outside the sleeping hours."""
        local = at.astimezone(ZoneInfo(self.timezone))
        start, end = window(self.hours)
        if start <= end:
            return local.date() if start <= local.time() < end else None
        if local.time() >= start:
            return local.date()
        return local.date() - timedelta(days=1) if local.time() < end else None

    def last_due(self, night: date) -> date:
        """The newest date, at or before this night, for which a night is planned."""
        return _newest(night, self.every, self.weekday, self.day)

    def is_due(self, night: date, last: date | None) -> bool:
        """Whether a night is owed: none since the newest planned one. What an outage swallowed is caught up."""
        return last is None or last < self.last_due(night)

    def is_deep(self, night: date, last_deep: date | None) -> bool:
        """Whether this night should learn everything again: none has since the period began."""
        if self.deep_every == "never":
            return False
        return last_deep is None or last_deep < _newest(night, self.deep_every, self.weekday, self.day)


def schedule_of(settings: Settings, preset: str, overrides: Mapping[str, Any]) -> Schedule:
    """The schedule of a context.

    Raises:
        BadInput: the preset or an override is none.
    """
    if preset not in PRESETS:
        raise BadInput(f"There is no preset '{preset}'.", f"Choose one of {', '.join(PRESETS)}.")
    given = {
        "hours": settings.sleep_hours,
        "timezone": settings.timezone,
        "idle_minutes": settings.sleep_idle_minutes,
        "minimum": settings.sleep_minimum_examples,
        "strategy": settings.sleep_strategy,
        "max_minutes": settings.sleep_max_minutes,
        "max_examples": settings.sleep_max_examples,
        "max_cost": settings.sleep_max_cost,
        "cost_per_hour": settings.sleep_cost_per_hour,
        "deep_every": settings.sleep_deep_every,
    }
    ours = {key: value for key, value in overrides.items() if key in Schedule.model_fields}
    try:
        return Schedule(**{**given, **PRESETS[preset], **ours})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        what = first["msg"].removeprefix("Value error, ")
        raise BadInput(f"{name}: {what}.", "npllm contexts show NAME lists what may be set.") from None


def window(hours: str) -> tuple[clock_time, clock_time]:
    """'22:00-06:00' as two times of day; it may go past midnight.

    Raises:
        ValueError: it is no such range.
    """
    try:
        start, end = (clock_time.fromisoformat(part.strip()) for part in hours.split("-"))
        if start.tzinfo or end.tzinfo:
            raise ValueError("the time zone has its own setting")
    except ValueError:
        raise ValueError(f"'{hours}' is no range of hours; write 02:00-06:00") from None
    if start == end:
        raise ValueError(f"'{hours}' is no time at all; for the whole day write 00:00-23:59")
    return start, end


def _newest(night: date, every: Literal["day", "week", "month"], weekday: Weekday, day: int) -> date:
    if every == "day":
        return night
    if every == "week":
        return night - timedelta(days=(night.weekday() - WEEKDAYS.index(weekday)) % 7)
    here = _day_of_month(night.year, night.month, day)
    if here <= night:
        return here
    before = night.replace(day=1) - timedelta(days=1)
    return _day_of_month(before.year, before.month, day)


def _day_of_month(year: int, month: int, day: int) -> date:
    last = (date(year + month // 12, month % 12 + 1, 1) - timedelta(days=1)).day
    return date(year, month, min(day, last))
