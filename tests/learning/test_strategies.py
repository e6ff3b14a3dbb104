"""The ways to sleep have the same names where they are set and where they are carried out."""

from typing import get_args

from core.settings import StrategyName
from learning.strategies import NIGHTLY


def test_settings_know_every_way_that_a_night_takes() -> None:
    assert get_args(StrategyName) == tuple(NIGHTLY)
