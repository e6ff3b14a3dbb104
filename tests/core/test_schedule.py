"""When contexts sleep: windows over midnight, weeks and months, clocks that are put forward and back."""

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from core.errors import BadInput
from core.schedule import Schedule, schedule_of
from core.settings import Settings

SAO_PAULO, NEW_YORK = ZoneInfo("America/Sao_Paulo"), ZoneInfo("America/New_York")


def sleeps(**own: Any) -> Schedule:
    return schedule_of(Settings(), "support", own)


def test_a_window_past_midnight_is_one_night() -> None:
    schedule = sleeps(hours="22:00-06:00")
    evening = datetime(2026, 11, 2, 23, 30, tzinfo=SAO_PAULO)
    assert schedule.night_of(evening) == schedule.night_of(evening + timedelta(hours=5)) == date(2026, 11, 2)
    assert schedule.night_of(evening + timedelta(hours=7)) is None


def test_a_strategy_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match="strategy: Input should be 'naive', "):
        schedule_of(Settings(), "support", {"strategy": "hope"})


@pytest.mark.parametrize("hours", ["1:00", "25:00-26:00", "night", "", "00:00-00:00"])
def test_hours_that_are_none_are_refused(hours: str) -> None:
    with pytest.raises(BadInput, match="hours"):
        schedule_of(Settings(), "support", {"hours": hours})


@pytest.mark.parametrize("month", [3, 11])  # forward on 8 March 2026, back on 1 November 2026
def test_a_clock_that_is_put_forward_or_back_makes_one_night_a_date(month: int) -> None:
    schedule = sleeps(hours="01:00-04:00", timezone="America/New_York")
    start = datetime(2026, month, 1, tzinfo=UTC)
    nights: list[date] = []
    for minute in range(0, 14 * 24 * 60, 5):
        night = schedule.night_of(start + timedelta(minutes=minute))
        if night is not None and schedule.is_due(night, nights[-1] if nights else None):
            nights.append(night)
    assert len(nights) == len(set(nights))
    assert [b - a for a, b in zip(nights, nights[1:], strict=False)] == [timedelta(days=1)] * (len(nights) - 1)
    assert len(nights) >= 13


def test_a_weekly_night_that_an_outage_swallowed_is_caught_up() -> None:
    schedule = sleeps(every="week", weekday="sunday")
    sunday = date(2026, 11, 1)
    assert sunday.weekday() == 6
    assert not schedule.is_due(sunday - timedelta(days=1), last=sunday - timedelta(days=7))
    assert schedule.is_due(sunday, last=sunday - timedelta(days=7))
    assert schedule.is_due(sunday + timedelta(days=2), last=sunday - timedelta(days=7))  # the machine was away
    assert not schedule.is_due(sunday + timedelta(days=3), last=sunday + timedelta(days=2))
    assert schedule.is_due(sunday + timedelta(days=7), last=sunday + timedelta(days=2))


def test_a_monthly_night_takes_the_last_day_of_a_short_month() -> None:
    schedule = sleeps(every="month", day=31)
    assert schedule.last_due(date(2026, 2, 28)) == date(2026, 2, 28)
    assert schedule.last_due(date(2026, 2, 27)) == date(2026, 1, 31)
    assert schedule.last_due(date(2026, 1, 30)) == date(2025, 12, 31)


def test_cost_is_another_limit_of_the_time() -> None:
    assert sleeps(max_minutes=60).seconds == 3600
    assert sleeps(max_minutes=60, max_cost=1.0, cost_per_hour=4.0).seconds == 900
    assert sleeps(max_minutes=10, max_cost=1.0, cost_per_hour=4.0).seconds == 600


def test_overrides_win_over_the_preset_and_the_preset_over_the_settings() -> None:
    settings = Settings(sleep_hours="03:00-05:00", sleep_strategy="replay")
    assert schedule_of(settings, "support", {}).strategy == "replay"
    assert schedule_of(settings, "research", {}).strategy == "ewc+replay"
    tutor = schedule_of(settings, "tutor", {"weekday": "monday", "language": "en"})
    assert (tutor.every, tutor.weekday, tutor.hours) == ("week", "monday", "03:00-05:00")


@pytest.mark.parametrize("overrides", [{"every": "hour"}, {"minimum": 0}, {"timezone": "Mars/Olympus"}, {"day": 40}])
def test_an_override_that_makes_no_sense_names_its_key(overrides: dict[str, object]) -> None:
    with pytest.raises(BadInput, match=next(iter(overrides))):
        schedule_of(Settings(), "support", overrides)


def test_an_unknown_preset_names_the_known_ones() -> None:
    with pytest.raises(BadInput) as caught:
        schedule_of(Settings(), "circus", {})
    assert "company-chat" in caught.value.next_step
