"""Threads follow what the rest of the machine leaves."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from integrations.huggingface import spare_cores
from integrations.huggingface.spare_cores import SpareCores


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Four cores whose clocks stand still until `pass_time` is called."""
    at = SimpleNamespace(now=100.0, user=50.0, own=5.0)
    monkeypatch.setattr(spare_cores, "available_cores", lambda: 4)
    monkeypatch.setattr(spare_cores.time, "monotonic", lambda: at.now)
    monkeypatch.setattr(spare_cores.time, "process_time", lambda: at.own)
    monkeypatch.setattr(
        spare_cores.psutil, "cpu_times", lambda: SimpleNamespace(user=at.user, nice=0.0, system=0.0, idle=0.0)
    )

    def pass_time(*, others: float, own: float = 0.0, seconds: float = 1.0) -> None:
        at.now += seconds
        at.user += (others + own) * seconds
        at.own += own * seconds

    return pass_time


def test_one_thread_until_it_is_known_better(machine: Callable[..., None]) -> None:
    cores = SpareCores(4)
    assert cores.now() == 1
    machine(others=0.1)
    assert cores.now() == 4


@pytest.mark.parametrize(("others", "threads"), [(0.0, 4), (0.2, 4), (0.5, 3), (1.0, 3), (2.2, 2), (3.1, 1), (6.0, 1)])
def test_others_come_first(others: float, threads: int, machine: Callable[..., None]) -> None:
    cores = SpareCores(4)
    machine(others=others, own=1.7)
    assert cores.now() == threads


def test_never_more_than_allowed(machine: Callable[..., None]) -> None:
    cores = SpareCores(2)
    machine(others=0.0)
    assert cores.now() == 2


def test_a_lent_core_is_left_alone(machine: Callable[..., None]) -> None:
    cores = SpareCores(4)
    machine(others=1.0)
    with cores.lend(), cores.lend():
        assert cores.now() == 1
    assert cores.now() == 3


def test_a_short_while_says_nothing_new(machine: Callable[..., None]) -> None:
    cores = SpareCores(4)
    machine(others=0.0)
    assert cores.now() == 4
    machine(others=4.0, seconds=0.05)
    assert cores.now() == 4
    machine(others=4.0, seconds=0.3)
    assert cores.now() == 1


def test_on_this_machine_it_gives_something_sensible() -> None:
    assert 1 <= SpareCores(2).now() <= 2
