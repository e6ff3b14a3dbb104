"""The operator's verbs: the same behind Slack's /rollout and on the command line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from factories import make_version, make_votes
from sqlalchemy import Engine, select

from bot import rollout_line, rollouts
from bot.cli import main
from bot.rollout_verbs import run
from core import registry
from core.db import get_engine, transaction
from core.rollouts import PRESETS, Plan, Stage
from core.tables import AdapterVersion, Rollout, RolloutEvent

QUICK = Plan("quick", (Stage(0.25, 30, 0.0, 0.15), Stage(0.5, 30, 0.0, 0.15)), epoch="stage")
Cli = Callable[..., Result]


@pytest.fixture
def engine(database_url: str) -> Engine:
    return get_engine(database_url)


@pytest.fixture
def cli(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """`npllm rollout ...` on this test's database."""
    monkeypatch.setenv("DATABASE_URL", database_url)
    return lambda *words: CliRunner().invoke(main, ["rollout", *words])


@pytest.fixture
def versions(engine: Engine) -> tuple[str, str]:
    """A champion and a version that could follow it."""
    with transaction(engine) as session:
        return make_version(session, champion=True).name, make_version(session).name


@pytest.fixture
def running(engine: Engine, versions: tuple[str, str]) -> str:
    with transaction(engine) as session:
        rollout_line.start(session, versions[1], QUICK, actor="test")
    return versions[1]


def say(engine: Engine, words: str, *roles: str) -> str:
    return run(engine, words, actor="ana", roles=roles or ("ops",))


def state(engine: Engine) -> tuple[str, float]:
    with transaction(engine) as session:
        rollout = session.scalars(select(Rollout).order_by(Rollout.started_at.desc())).first()
        assert rollout is not None
        return rollout.state, rollout.weight


def test_a_line_of_words_starts_and_steers(engine: Engine, versions: tuple[str, str]) -> None:
    assert f"{versions[1]} against {versions[0]}" in say(engine, f"start {versions[1]} --preset large")
    assert state(engine) == ("running", 0.05)
    say(engine, "set-weight 12 --reason 'more votes'")
    assert state(engine) == ("running", 0.12)
    say(engine, "pause")
    assert state(engine)[0] == "paused"
    say(engine, "resume")
    say(engine, "promote")
    assert state(engine) == ("running", 0.25)
    assert "needs a reason" in say(engine, "promote --full")
    say(engine, 'promote --full --reason "a fix that cannot wait"')
    assert state(engine) == ("promoted", 1.0)
    with transaction(engine) as session:
        trail = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id)).all()
        assert [event.verb for event in trail] == ["start", "set-weight", "pause", "resume", "promote", "promote"]
        assert {event.actor for event in trail} == {"ana"}
        assert trail[-1].reason == "a fix that cannot wait"
        champion = registry.champion(session, "customers")
        assert champion is not None
        assert champion.name == versions[1]
    assert "'customers' is served by " + versions[0] in say(engine, "undo --reason drill")
    assert f"{versions[1]} may be started again" in say(engine, f"retry {versions[1]}")


def test_a_weight_by_hand_is_told_from_the_steps_own(engine: Engine, running: str) -> None:
    by_hand = "Its weight was set by hand; the step's own is 25%."
    assert by_hand not in say(engine, "status")
    assert by_hand in say(engine, "set-weight 60")
    assert by_hand in say(engine, "explain")


def test_history_names_the_version_of_every_row(engine: Engine, versions: tuple[str, str], running: str) -> None:
    for words in ("set-weight 60", "undo --reason drill", "undo", f"retry {versions[0]}"):
        say(engine, words)
    rows = [line.split("  ", 2)[2] for line in say(engine, "history").splitlines()]
    assert rows == [
        f"retry {versions[0]} → registered", f"undo {versions[0]} → base", f"abort {running} → aborted, 0%  drill",
        f"set-weight {running} → running, 60%", f"start {running} → running, 25%",
    ]  # fmt: skip


def test_undo_says_which_of_the_two_it_took_back(engine: Engine, versions: tuple[str, str], running: str) -> None:
    said = say(engine, "undo")
    assert said == (
        f"The rollout of {running} is aborted; {versions[0]} stays and serves 'customers'."
        f" A second undo takes {versions[0]} back."
    )
    assert say(engine, "undo") == "'customers' is served by base now."


def test_who_waits_is_listed(engine: Engine, running: str) -> None:
    with transaction(engine) as session:
        waits = make_version(session).name
    say(engine, f"start {waits} --queue")
    first, second = say(engine, "list").splitlines()
    assert running in first
    assert second.startswith(f"customers: {waits} against")
    assert ", waiting," in second


class TestWhoWaits:
    @pytest.fixture
    def waits(self, engine: Engine, running: str) -> str:
        with transaction(engine) as session:
            name = make_version(session).name
        say(engine, f"start {name} --queue")
        return name

    def test_status_names_it(self, engine: Engine, cli: Cli, waits: str) -> None:
        assert f"Next in line: {waits}; `npllm rollout abort {waits}`" in say(engine, "status")
        assert json.loads(cli("status", "--json").output)["next"] == waits

    def test_it_is_withdrawn_by_its_name_and_the_running_one_stays(
        self, engine: Engine, running: str, waits: str
    ) -> None:
        assert (
            say(engine, f"abort {waits} --reason 'wrong night'") == f"{waits} no longer waits; it may be started again."
        )
        with transaction(engine) as session:
            event = session.scalars(select(RolloutEvent).order_by(RolloutEvent.id.desc())).first()
            assert event is not None
            assert (event.actor, event.verb, event.before) == ("ana", "abort", {"state": "waiting"})
            assert event.reason == "withdrawn by ana: wrong night"
            assert registry.by_name(session, waits).state == "registered"
            assert rollouts.require_current(session, "customers").version_id == registry.by_name(session, running).id
        assert waits not in say(engine, "status")
        assert "has no rollout to abort" in say(engine, f"abort {waits}")
        assert "waits until" in say(engine, f"start {waits} --queue")

    def test_the_running_one_is_aborted_by_its_name_and_who_waits_begins(
        self, engine: Engine, running: str, waits: str
    ) -> None:
        assert f"Next in line: {waits}" in say(engine, f"abort {running}")
        with transaction(engine) as session:
            rollout_line.next_in_line(session, "customers")
        assert waits in say(engine, "status")

    def test_with_nothing_active_abort_stops_it_from_beginning(self, engine: Engine, cli: Cli, waits: str) -> None:
        say(engine, "abort")
        assert json.loads(cli("abort", "--json").output)["state"] == "superseded"
        with transaction(engine) as session:
            rollout_line.next_in_line(session, "customers")
            assert rollouts.current(session, "customers") is None


def test_who_may_look_may_not_steer(engine: Engine, running: str) -> None:
    for verb in (
        "abort", "pause", "set-weight 50", "promote", "undo", f"retry {running}", f"start {running}", "resume",
    ):  # fmt: skip
        assert "takes the role" in say(engine, verb, "viewer")
    assert state(engine) == ("running", 0.25)
    for verb in ("status", "explain", "history", "list"):
        assert "takes the role" not in say(engine, verb, "viewer")
        assert "takes the role" in say(engine, verb, "nobody")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("", "abort: Back to the stable version"),
        ("help", "explain: Why it stands"),
        ("status --help", "pause: Stop advancing"),
        ("shoot", "No such command 'shoot'. /rollout help lists the verbs."),
        ("set-weight many", "'many' is not a valid float"),
        ("start 'customers-v1", "No closing quotation. /rollout help lists the verbs."),
        ("start customers-v99", "There is no version 'customers-v99'"),
        ("status", "has had no rollout yet"),
        ("status --watch", "needs the command line"),
        ("lint /etc/passwd", "on the command line only"),
        ("start customers-v1 --plan /etc/passwd", "on the command line only"),
        ("undo --to-version 7", "There is no version 'customers-v7'"),
        ("abort --context customers", "nothing to abort"),
        ("abort --context customer", "There is no context 'customer'"),
        ("undo --context customer", "There is no context 'customer'"),
        ("pause --context customer", "There is no context 'customer'"),
        ("status --context customer", "There is no context 'customer'"),
        ("history --context customer", "There is no context 'customer'"),
    ],
)
def test_mistakes_are_told(engine: Engine, words: str, part: str) -> None:
    assert part in say(engine, words)


def test_status_ends_well_only_where_all_is_well(cli: Cli, engine: Engine, running: str) -> None:
    found = cli("status", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.output)["state"] == "running"
    assert cli("status", "--watch", "--timeout", "0").exit_code == 1  # it has not ended
    assert cli("pause").exit_code == 0
    assert cli("status").exit_code == 1
    assert cli("promote", "--full", "--reason", "drill").exit_code == 0
    assert cli("status", "--watch", "--timeout", "60").exit_code == 0
    missing = cli("status", "--context", "employees")
    assert missing.exit_code == 1


def test_every_verb_prints_data(cli: Cli, running: str, engine: Engine) -> None:
    with transaction(engine) as session:
        rollout = rollouts.require_current(session, "customers")
        make_votes(session, rollout.id, 40, challenger=0.8, control=0.8)
    shown: dict[str, Any] = {
        verb: json.loads(cli(*verb.split(), "--json").output)
        for verb in ("explain", "list", "history", "set-weight 30", "pause", "resume", "promote", "abort", "abort ")
    }
    assert shown["explain"]["evidence"]["challenger"]["votes"] > 0
    assert {"harm", "no_worse", "stage_votes"} <= {fact["name"] for fact in shown["explain"]["facts"]}
    assert shown["list"][0]["version"] == running
    assert shown["history"][0]["verb"] == "start"
    assert shown["set-weight 30"]["weight"] == 0.3
    assert shown["promote"]["stage"] == 1
    assert (shown["abort"]["state"], shown["abort"]["weight"]) == ("aborted", 0.0)
    assert shown["abort "]["state"] == "idle"


def test_a_plan_is_read_from_a_file(cli: Cli, engine: Engine, versions: tuple[str, str], tmp_path: Path) -> None:
    example = cli("lint", "--example").output
    path = tmp_path / "plan.yaml"
    path.write_text(example)
    assert "5% → 25% → 50% → 100%" in cli("lint", str(path)).output
    assert cli("start", versions[1], "--plan", str(path)).exit_code == 0
    assert state(engine) == ("running", 0.05)
    assert cli("lint").exit_code == 2
    assert "--example" in cli("lint").stderr
    broken = tmp_path / "broken.yaml"
    broken.write_text("steps: [{setWeight: 500}]")
    assert cli("lint", str(broken)).exit_code == 1
    assert cli("lint", str(tmp_path / "none.yaml")).exit_code == 1
    broken.write_text(example + "mode: ab\n")
    for refused in (cli("lint", str(broken)), cli("start", versions[1], "--queue", "--plan", str(broken))):
        assert refused.exit_code == 1
        assert "mode stands there twice" in refused.stderr


def test_a_quarantined_version_needs_retry(engine: Engine, running: str) -> None:
    say(engine, "abort --reason 'it swears'")
    with transaction(engine) as session:
        version = session.scalars(select(AdapterVersion).where(AdapterVersion.name == running)).one()
        assert (version.state, version.reasons) == ("quarantined", ["aborted by ana: it swears"])
    assert "quarantined" in say(engine, f"start {running}")
    say(engine, f"retry {running}")
    assert "running" in say(engine, f"start {running} --preset small")


def test_presets_are_named(engine: Engine, versions: tuple[str, str]) -> None:
    for name in PRESETS:
        assert name in say(engine, f"start {versions[1]} --preset nonsense")
