"""Drift: by hand, fair by enumeration, and the delays of the reference re-measured."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core import drift

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARE = st.floats(0.02, 0.98)
RATE = st.floats(0.02, 0.98)
HISTORY = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans(), SHARE), max_size=12)


class TestByHand:
    def test_one_dislike_in_one_stream(self) -> None:
        """Reference 0.75: a dislike is (1 - rate) / 0.25 as likely under each fall; R starts at (0 + 1)."""
        expected = np.mean([(1 - (0.75 - fall)) / 0.25 for fall in (0.05, 0.10, 0.20, 0.40)])
        assert drift.one_stream([0.0], reference=0.75) == pytest.approx([expected])

    def test_each_vote_starts_a_bet_of_its_own(self) -> None:
        factors = [(1 - (0.75 - fall)) / 0.25 for fall in (0.05, 0.10, 0.20, 0.40)]
        assert drift.one_stream([0.0, 0.0], reference=0.75)[1] == pytest.approx(np.mean([(f + 1) * f for f in factors]))

    def test_nothing_seen(self) -> None:
        assert not len(drift.one_stream([], reference=0.7))
        assert not len(drift.two_arm([], [], [], historic=0.7))


class TestFair:
    @given(history=HISTORY, w=SHARE, p=RATE, better=st.floats(0.0, 1.0))
    def test_two_arms_grow_by_one_at_most_while_the_champion_is_not_worse(
        self, history: list[tuple[float, bool, float]], w: float, p: float, better: float
    ) -> None:
        y, arm, weights = ([v[i] for v in history] for i in range(3))
        before = drift.two_arm(y, arm, weights, historic=0.75)
        now = float(before[-1]) if len(before) else 0.0
        expected = sum(
            chance * likely * drift.two_arm([*y, outcome], [*arm, of], [*weights, w], historic=0.75)[-1]
            for of, chance, rate in ((True, w, p + better * (1 - p)), (False, 1 - w, p))
            for outcome, likely in ((1.0, rate), (0.0, 1 - rate))
        )
        assert expected <= (now + 1) * (1 + 1e-9)

    @given(history=st.lists(st.sampled_from([0.0, 0.5, 1.0]), max_size=12), reference=RATE, above=st.floats(0.0, 1.0))
    def test_one_stream_grows_by_one_at_most_while_it_is_not_below_its_reference(
        self, history: list[float], reference: float, above: float
    ) -> None:
        before = drift.one_stream(history, reference=reference)
        now, rate = float(before[-1]) if len(before) else 0.0, reference + above * (1 - reference)
        good, bad = (drift.one_stream([*history, y], reference=reference)[-1] for y in (1.0, 0.0))
        assert rate * good + (1 - rate) * bad <= (now + 1) * (1 + 1e-9)

    @given(history=HISTORY.filter(bool), at=st.integers(1, 12))
    def test_an_earlier_look_sees_the_beginning(self, history: list[tuple[float, bool, float]], at: int) -> None:
        y, arm, w = ([v[i] for v in history] for i in range(3))
        at = min(at, len(y))
        whole = drift.two_arm(y, arm, w, historic=0.75)
        assert whole[:at] == pytest.approx(drift.two_arm(y[:at], arm[:at], w[:at], historic=0.75), rel=1e-9)

    def test_a_night_of_dislikes_stays_a_number(self) -> None:
        assert np.isfinite(drift.one_stream([0.0] * 5000, reference=0.75)).all()


class TestDelays:
    """Change after 5,000 ratings of a stream at 0.75, as in the reference (§2.3); fixed seed, few runs."""

    @pytest.fixture(autouse=True)
    def _seed(self) -> None:
        self.rng = np.random.default_rng(20261127)

    def stream(self, fall: float) -> np.ndarray:
        return (self.rng.random(9000) < np.where(np.arange(9000) < 5000, 0.75, 0.75 - fall)).astype(float)

    @pytest.mark.parametrize(("fall", "median"), [(0.10, 400), (0.20, 110)])
    def test_a_fall_in_one_stream_is_found(self, fall: float, median: int) -> None:
        runs = [drift.one_stream(self.stream(fall), reference=0.73) >= drift.ONE_STREAM_ALARM for _ in range(60)]
        early = sum(bool(alarm[:5000].any()) for alarm in runs)
        assert early <= 7
        assert np.median([np.argmax(alarm[5000:]) for alarm in runs]) <= median

    def test_a_fallen_version_is_found_and_a_fallen_world_is_not(self) -> None:
        def alarms(champion: float, holdback: float) -> list[np.ndarray]:
            found = []
            for _ in range(40):
                arm = self.rng.random(9000) < 0.9
                rate = np.where(np.arange(9000) < 5000, 0.75, np.where(arm, champion, holdback))
                y = (self.rng.random(9000) < rate).astype(float)
                found.append(drift.two_arm(y, arm, np.full(9000, 0.9), historic=0.75) >= drift.TWO_ARM_ALARM)
            return found

        version = [int(np.argmax(a[5000:])) if a[5000:].any() else 4000 for a in alarms(0.55, 0.75)]
        assert np.median(version) <= 1000
        assert sum(bool(a.any()) for a in alarms(0.55, 0.55)) <= 9  # 9,000 votes / 100,000: 3.6 of 40


class TestInputs:
    def test_the_same_mix_is_no_shift_however_small_the_day(self) -> None:
        rng = np.random.default_rng(1)
        mix = {"pt": 0.9, "en": 0.07, "es": 0.03}
        for n in (60, 300, 3000):
            days = [dict(zip(mix, map(int, rng.multinomial(n, list(mix.values()))), strict=True)) for _ in range(200)]
            month = {value: int(5000 * share) for value, share in mix.items()}
            assert sum(drift.shifts({"language": month}, {"language": day})[0].shifted for day in days) <= 4

    def test_another_language_is_a_shift(self) -> None:
        (found,) = drift.shifts({"language": {"pt": 900, "en": 100}}, {"language": {"pt": 100, "en": 100}})
        assert (found.trait, found.shifted) == ("language", True)

    def test_by_hand(self) -> None:
        """0.9, 0.1 against 0.5, 0.5: 0.4 ln 1.8 ... = 0.4 (ln(0.9/0.5) + ln(0.5/0.1)) = 0.879, less 2/100,000."""
        found = drift.stability({"a": 90_000, "b": 10_000}, {"a": 50_000, "b": 50_000})
        assert found == pytest.approx(0.879, abs=1e-3)

    @given(st.dictionaries(st.sampled_from("abcd"), st.integers(0, 500), max_size=4))
    def test_nothing_moves_against_itself(self, counts: dict[str, int]) -> None:
        assert drift.stability(counts, counts) == 0.0

    def test_an_empty_day_says_nothing(self) -> None:
        assert drift.stability({}, {"a": 5}) == 0.0
        assert not drift.shifts({"topic": {"a": 500}}, {"topic": {"b": 3}})[0].shifted

    @pytest.mark.parametrize(("n", "bin"), [(0, "0-15"), (15, "0-15"), (16, "16-31"), (511, "256-511"), (9000, "512+")])
    def test_lengths(self, n: int, bin: str) -> None:
        assert drift.length_of("x" * n) == bin
