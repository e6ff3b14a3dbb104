"""The evidence: fair bets by exact enumeration, small cases by hand, and error rates by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from core import evidence

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

SHARE = st.floats(0.02, 0.98)
RATE = st.floats(0.02, 0.98)
VOTE = st.tuples(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.booleans(), SHARE)
HISTORY = st.lists(VOTE, max_size=12)


def columns(votes: list[tuple[float, bool, float]]) -> tuple[list[float], list[bool], list[float]]:
    return [v[0] for v in votes], [v[1] for v in votes], [v[2] for v in votes]


class TestByHand:
    def test_one_dislike_of_the_canary(self) -> None:
        """Base rate 0.75 before any vote; a dislike is likelier under each fall than under the mixture."""
        found = evidence.harm([0.0], [True], [0.5], historic=0.75)
        expected = []
        for fall in (0.05, 0.10, 0.20, 0.40):
            worse, base = 1 - (0.75 - fall), 1 - 0.75
            expected.append(worse / (0.5 * worse + 0.5 * base))
        assert found == pytest.approx([np.mean(expected)])
        assert found[0] > 1

    def test_one_like_of_the_canary_speaks_against_harm(self) -> None:
        assert evidence.harm([1.0], [True], [0.5], historic=0.75)[0] < 1

    def test_the_base_rate_is_learned_from_the_bases_votes_only(self) -> None:
        """20 prior votes at 0.75, then one base dislike: 15 / 21 when the second vote comes."""
        found = evidence.harm([0.0, 0.0], [False, True], [0.5, 0.5], historic=0.75)
        first, second = [], []
        for fall in (0.05, 0.10, 0.20, 0.40):
            base, canary = 0.75, 0.75 - fall
            first.append((1 - base) / (0.5 * (1 - canary) + 0.5 * (1 - base)))
            base = 15 / 21
            canary = base - fall
            second.append(first[-1] * (1 - canary) / (0.5 * (1 - canary) + 0.5 * (1 - base)))
        assert found == pytest.approx([np.mean(first), np.mean(second)])

    def test_odds_are_doubled_and_more(self) -> None:
        found = evidence.worse_odds([1.0], [True], [0.5], historic=0.01)
        expected = []
        for times in (2.0, 4.0, 16.0):
            odds = times * 0.01 / 0.99
            worse = odds / (1 + odds)
            expected.append(worse / (0.5 * worse + 0.5 * 0.01))
        assert found == pytest.approx([np.mean(expected)])

    def test_the_projection_is_symmetric_where_the_problem_is(self) -> None:
        """Rate 0.5, even split, margin 0.2: the nearest pair is (0.4, 0.6)."""
        found = evidence.least_favourable(np.array([0.5]), np.array([0.5]), 0.2)
        assert found == pytest.approx([0.6], abs=1e-6)

    def test_one_like_where_the_projection_is_known(self) -> None:
        assert evidence.no_worse([1.0], [True], [0.5], margin=0.2, historic=0.5) == pytest.approx([0.5 / 0.4])
        assert evidence.no_worse([0.0], [True], [0.5], margin=0.2, historic=0.5) == pytest.approx([0.5 / 0.6])

    def test_units_that_all_go_to_one_arm(self) -> None:
        """Even split: tilts 1/2, 2/3, 3/2, 2 give the canary 1/3, 2/5, 3/5, 2/3."""
        found = evidence.sample_ratio([True], [0.5])
        assert found == pytest.approx([np.mean([1 / 3, 2 / 5, 3 / 5, 2 / 3]) / 0.5])

    def test_wilsons_interval(self) -> None:
        """8 of 10: the textbook's 0.490 to 0.943."""
        found = evidence.interval(8.0, 10)
        assert (found.rate, found.votes) == (0.8, 10)
        assert (found.low, found.high) == pytest.approx((0.490, 0.943), abs=0.001)

    def test_no_votes_are_no_data_and_say_so_in_json(self) -> None:
        found = evidence.interval(0.0, 0)
        assert (found.rate, found.low, found.high, found.votes) == (None, 0.0, 1.0, 0)


class TestFairBets:
    """The expectation of the next factor, by enumeration of arm and outcome, whatever was seen before."""

    @given(history=HISTORY, w=SHARE, p=RATE, historic=RATE)
    def test_harm_expects_one_when_the_arm_makes_no_difference(
        self, history: list[tuple[float, bool, float]], w: float, p: float, historic: float
    ) -> None:
        y, canary, weights = columns(history)
        before = evidence.last(evidence.harm(y, canary, weights, historic=historic))
        expected = 0.0
        for arm, chance in ((True, w), (False, 1 - w)):
            for outcome, likely in ((1.0, p), (0.0, 1 - p)):
                after = evidence.harm([*y, outcome], [*canary, arm], [*weights, w], historic=historic)[-1]
                expected += chance * likely * after
        assert expected == pytest.approx(before, rel=1e-9)

    @given(history=HISTORY, w=SHARE, p=RATE)
    def test_worse_odds_expect_one_when_the_arm_makes_no_difference(
        self, history: list[tuple[float, bool, float]], w: float, p: float
    ) -> None:
        y, canary, weights = columns(history)
        before = evidence.last(evidence.worse_odds(y, canary, weights, historic=0.01))
        expected = sum(
            chance * likely * evidence.worse_odds([*y, outcome], [*canary, arm], [*weights, w], historic=0.01)[-1]
            for arm, chance in ((True, w), (False, 1 - w))
            for outcome, likely in ((1.0, p), (0.0, 1 - p))
        )
        assert expected == pytest.approx(before, rel=1e-9)

    @given(units=st.lists(st.tuples(st.booleans(), SHARE), max_size=12), w=SHARE)
    def test_the_split_expects_one_when_drawn_as_logged(self, units: list[tuple[bool, float]], w: float) -> None:
        canary, weights = [u[0] for u in units], [u[1] for u in units]
        before = evidence.last(evidence.sample_ratio(canary, weights))
        expected = w * evidence.sample_ratio([*canary, True], [*weights, w])[-1]
        expected += (1 - w) * evidence.sample_ratio([*canary, False], [*weights, w])[-1]
        assert expected == pytest.approx(before, rel=1e-9)

    @given(
        history=HISTORY,
        w=SHARE,
        historic=RATE,
        margin=st.sampled_from([0.05, 0.10, 0.15]),
        base=st.floats(0.0, 1.0),
        deeper=st.floats(0.0, 1.0),
    )
    def test_no_worse_expects_at_most_one_for_every_canary_that_is_worse_by_the_margin(
        self, history: list[tuple[float, bool, float]], w: float, historic: float, margin: float, base: float,
        deeper: float,
    ) -> None:  # fmt: skip
        y, canary, weights = columns(history)
        base = margin + base * (1 - margin)
        worse = (base - margin) * deeper  # anywhere from 0 to the margin's edge
        before = evidence.last(evidence.no_worse(y, canary, weights, margin=margin, historic=historic))
        expected = 0.0
        for arm, chance, p in ((True, w, worse), (False, 1 - w, base)):
            for outcome, likely in ((1.0, p), (0.0, 1 - p)):
                after = evidence.no_worse(
                    [*y, outcome], [*canary, arm], [*weights, w], margin=margin, historic=historic
                )[-1]
                expected += chance * likely * after
        assert expected <= before * (1 + 1e-4)

    @given(w=st.floats(0.05, 0.95), p=st.floats(0.2, 0.95), margin=st.sampled_from([0.05, 0.10, 0.15]))
    def test_the_projection_is_the_nearest_pair(self, w: float, p: float, margin: float) -> None:
        def distance(q: float) -> float:
            def kl(a: float, b: float) -> float:
                return a * math.log(a / b) + (1 - a) * math.log((1 - a) / (1 - b))

            return w * kl(p, q - margin) + (1 - w) * kl(p, q)

        found = float(evidence.least_favourable(np.array([p]), np.array([w]), margin)[0])
        nearest = min(distance(q) for q in np.linspace(max(p, margin) + 1e-6, min(p + margin, 1) - 1e-6, 400))
        assert distance(found) <= nearest + 1e-9


class TestLooking:
    @given(votes=st.lists(VOTE, min_size=1, max_size=40), at=st.integers(1, 40))
    def test_an_earlier_look_sees_the_beginning_of_a_later_one(
        self, votes: list[tuple[float, bool, float]], at: int
    ) -> None:
        """Looking again, or often, changes nothing: what was known after a vote stays what it was."""
        y, canary, w = columns(votes)
        at = min(at, len(y))
        for whole, part in (
            (evidence.harm(y, canary, w, historic=0.75), evidence.harm(y[:at], canary[:at], w[:at], historic=0.75)),
            (
                evidence.no_worse(y, canary, w, margin=0.1, historic=0.75),
                evidence.no_worse(y[:at], canary[:at], w[:at], margin=0.1, historic=0.75),
            ),
            (evidence.sample_ratio(canary, w), evidence.sample_ratio(canary[:at], w[:at])),
        ):
            assert whole[:at] == pytest.approx(part, rel=1e-9)

    @given(units=st.lists(st.tuples(st.booleans(), SHARE), min_size=1, max_size=30), seed=st.integers(0, 99))
    def test_the_split_does_not_depend_on_the_order_of_units(self, units: list[tuple[bool, float]], seed: int) -> None:
        shuffled = [units[i] for i in np.random.default_rng(seed).permutation(len(units))]
        one = evidence.sample_ratio([u[0] for u in units], [u[1] for u in units])[-1]
        other = evidence.sample_ratio([u[0] for u in shuffled], [u[1] for u in shuffled])[-1]
        assert one == pytest.approx(other, rel=1e-9)

    def test_votes_count_in_the_order_they_were_given(self) -> None:
        """The base rate is what was known before a vote, so a base vote must not reach back."""
        early = evidence.harm([0.0, 0.0], [False, True], [0.5, 0.5], historic=0.75)
        late = evidence.harm([0.0, 0.0], [True, False], [0.5, 0.5], historic=0.75)
        assert early[-1] != pytest.approx(late[-1])

    def test_nothing_seen_is_one_and_says_neither(self) -> None:
        for process in (
            evidence.harm([], [], [], historic=0.75),
            evidence.worse_odds([], [], [], historic=0.01),
            evidence.no_worse([], [], [], margin=0.1, historic=0.75),
            evidence.sample_ratio([], []),
        ):
            assert evidence.last(process) == 1.0

    def test_overwhelming_evidence_stays_a_number(self) -> None:
        """A split gone wrong for days, or a night of nothing but errors: JSON and Postgres know no infinity."""
        many = 20_000
        ratio = evidence.sample_ratio([True] * many, [0.05] * many)
        harm = evidence.harm([1.0, 0.0] * many, [False, True] * many, [0.5] * 2 * many, historic=0.75)
        errors = evidence.worse_odds([0.0, 1.0] * many, [False, True] * many, [0.5] * 2 * many, historic=0.01)
        equal = evidence.no_worse(
            [1.0] * 4 * many, [False, True] * 2 * many, [0.5] * 4 * many, margin=0.15, historic=0.9
        )
        for process in (ratio, harm, errors, equal):
            assert np.all(np.isfinite(process))
            assert process[-1] > 1e100


class TestErrorRates:
    """Quick simulations with a fixed seed; the reference's own figures come from 4,000 repetitions."""

    @pytest.fixture(autouse=True)
    def _seed(self) -> None:
        self.rng = np.random.default_rng(20261121)

    def votes(
        self,
        n: int,
        base: float | NDArray[np.float64],
        canary: float | NDArray[np.float64],
        w: float | NDArray[np.float64],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        weights = np.broadcast_to(np.asarray(w, dtype=float), n)
        arm = self.rng.random(n) < weights
        rate = np.where(arm, canary, base)
        return (self.rng.random(n) < rate).astype(float), arm, weights

    @pytest.mark.parametrize("w", [0.25, 0.5])
    def test_equal_arms_are_rarely_rolled_back(self, w: float) -> None:
        """alpha = 0.02 over the whole rollout, looked at after each of 3,000 votes."""
        runs = 1000
        false = sum(evidence.harm(*self.votes(3000, 0.75, 0.75, w), historic=0.75).max() >= 50 for _ in range(runs))
        assert false / runs <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / runs)

    @pytest.mark.parametrize(("fall", "median", "p90"), [(0.20, 80, 160), (0.40, 25, 45)])
    def test_real_harm_is_found_quickly(self, fall: float, median: int, p90: int) -> None:
        """Canary votes until rollback at a share of 25 %."""
        delays = []
        for _ in range(300):
            y, arm, w = self.votes(2000, 0.75, 0.75 - fall, 0.25)
            crossed = np.flatnonzero(evidence.harm(y, arm, w, historic=0.75) >= 50)
            delays.append(int(arm[: crossed[0] + 1].sum()) if len(crossed) else 10_000)
        assert np.median(delays) <= median
        assert np.quantile(delays, 0.9) <= p90

    @pytest.mark.parametrize("margin", [0.15, 0.05])
    def test_a_canary_at_the_margin_is_rarely_promoted(self, margin: float) -> None:
        """alpha = 0.05, at the null's edge, where it is hardest."""
        runs = 600
        false = sum(
            evidence.no_worse(*self.votes(1200, 0.75, 0.75 - margin, 0.5), margin=margin, historic=0.75).max() >= 20
            for _ in range(runs)
        )
        assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)

    def test_an_equal_canary_is_promoted(self) -> None:
        delays = []
        for _ in range(100):
            y, arm, w = self.votes(1500, 0.75, 0.75, 0.5)
            crossed = np.flatnonzero(evidence.no_worse(y, arm, w, margin=0.15, historic=0.75) >= 20)
            delays.append(crossed[0] if len(crossed) else 10_000)
        assert np.median(delays) < 400

    def test_falling_satisfaction_under_changing_weights_proves_nothing(self) -> None:
        """0.85 to 0.65 over a week in both arms while the share goes 5, 25, 50 %: pooled rates fail 78 to 100 %."""
        runs, n = 800, 3000
        base = np.linspace(0.85, 0.65, n)
        w = np.repeat([0.05, 0.25, 0.50], n // 3)
        rolled_back, pooled = 0, 0
        for _ in range(runs):
            y, arm, weights = self.votes(n, base, base, w)
            rolled_back += bool(evidence.harm(y, arm, weights, historic=0.75).max() >= 50)
            canary, control = np.cumsum(arm), np.cumsum(~arm)
            rates = np.cumsum(y * arm) / np.maximum(canary, 1), np.cumsum(y * ~arm) / np.maximum(control, 1)
            pooled += bool(np.any((canary >= 30) & (rates[0] < rates[1] - 0.05)))
        assert rolled_back / runs <= 0.02 + 3 * math.sqrt(0.02 * 0.98 / runs)
        assert pooled / runs > 0.5  # what would have happened without the logged probability

    def test_a_wrong_split_is_noticed_and_a_right_one_is_not(self) -> None:
        def highest(drawn: float, logged: float) -> float:
            arm = self.rng.random(2000) < drawn
            return float(evidence.sample_ratio(arm, np.full(2000, logged)).max())

        assert sum(highest(0.25, 0.25) >= 1000 for _ in range(300)) <= 2  # alpha = 0.001
        assert all(highest(0.35, 0.25) >= 1000 for _ in range(20))
        assert all(highest(0.17, 0.25) >= 1000 for _ in range(20))

    def test_failing_replies_are_found(self) -> None:
        """Errors of 1 % against 20 %: within 30 canary replies, mostly."""
        delays = []
        for _ in range(100):
            y, arm, w = self.votes(1000, 0.01, 0.20, 0.25)
            crossed = np.flatnonzero(evidence.worse_odds(y, arm, w, historic=0.01) >= 100)
            delays.append(int(arm[: crossed[0] + 1].sum()) if len(crossed) else 10_000)
        assert np.median(delays) <= 30


class TestAnchor:
    """Thirty nights of slightly worse candidates: what one night's margin lets pass adds up, unless a point stays."""

    def lineage(self, *, anchored: bool, nights: int = 30) -> float:
        """How far the champion is from the base in the end; each candidate is 2.5 points worse, give or take 1."""
        rng = np.random.default_rng(20261127)
        held, base, champion, n = 0.10, 0.75, 0.75, 3000
        share = (1 - held) * 0.5 / ((1 - held) * 0.5 + held)
        for _ in range(nights):
            candidate = champion + rng.normal(-0.025, 0.01)
            at_base, canary = rng.random(n) < held, rng.random(n) < 0.5
            y = (rng.random(n) < np.where(at_base, base, np.where(canary, candidate, champion))).astype(float)
            arms, fixed = ~at_base, at_base | canary
            half, to_base = np.full(arms.sum(), 0.5), np.full(fixed.sum(), share)
            passes = evidence.no_worse(y[arms], canary[arms], half, margin=0.05, historic=base).max() >= 20
            if anchored:
                new = (canary & ~at_base)[fixed]
                passes &= evidence.no_worse(y[fixed], new, to_base, margin=0.05, historic=base)[-1] >= 20
            if passes and evidence.harm(y[arms], canary[arms], half, historic=base).max() < 50:
                champion = candidate
        return champion - base

    def test_margins_do_not_add_up(self) -> None:
        assert self.lineage(anchored=False) < -0.15
        assert self.lineage(anchored=True) > -0.08


def test_a_sentence_does_not_tell_three_hundred_digits() -> None:
    assert [evidence.said(value, 1) for value in (0.04, 19.96, 999_999.0)] == ["0.0", "20.0", "999999.0"]
    assert evidence.said(1e300) == evidence.said(math.inf) == "over a million"
