"""Whole nights on a tiny model and a real database: learned, refused, skipped, killed, claimed once."""

import threading
import uuid
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import nights
import pytest
from sqlalchemy import Engine, create_engine, select, text, update
from sqlalchemy.exc import OperationalError

from bot import privacy
from bot.nights import claim, fresh_examples, request_now
from bot.ops.portuguese import in_portuguese
from core import artifacts, registry
from core.db import transaction
from core.errors import BadInput, Conflict, NightError
from core.schedule import STRATEGIES
from core.settings import Settings
from core.tables import AdapterVersion, ConsolidationRun, Customer, Evaluation, Event, Message, TrainingExample, now
from learning import consolidate as night
from learning import gate
from learning.claims import Claim, NightTaken
from learning.evaluate import Scores
from learning.gate import Asked
from learning.night import KNOWN, _retentions
from learning.strategies import NIGHTLY

TONIGHT = date(2026, 11, 27)


@pytest.fixture
def here(database_url: str, base_folder: Path, tmp_path: Path) -> Settings:
    return nights.night_settings(database_url, base_folder, tmp_path / "data")


@pytest.fixture(autouse=True)
def _polite(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model says nothing polite, and slowly."""
    monkeypatch.setattr(
        "learning.gate.ask_courtesy",
        lambda base, versions, checks, **options: {name: Asked([True] * len(checks), 60.0) for name in versions},
    )


def asked_for(engine: Engine, settings: Settings, **options: Any) -> uuid.UUID:
    with transaction(engine) as session:
        return request_now(session, "customers", settings, requested_by="test", **options)


def run_of(engine: Engine, run_id: uuid.UUID) -> ConsolidationRun:
    with transaction(engine) as session:
        return session.get_one(ConsolidationRun, run_id)


def versions(engine: Engine) -> list[AdapterVersion]:
    with transaction(engine) as session:
        return list(session.scalars(select(AdapterVersion).order_by(AdapterVersion.number)))


def slept(
    engine: Engine, settings: Settings, count: int = 24, lesson: str = "Quer que eu reserve?", **options: Any
) -> ConsolidationRun:
    with transaction(engine) as session:
        nights.a_day(session, count, lesson)
    run_id = asked_for(engine, settings, **options)
    night.consolidate(run_id, settings)
    return run_of(engine, run_id)


def test_a_night_learns_and_registers_a_version(engine: Engine, here: Settings) -> None:
    run = slept(engine, here, strategy="mas+ema+replay")
    assert run.state == "registered", run.reasons
    (version,) = versions(engine)
    assert (version.name, version.source, version.run_id) == ("customers-v1", "night", run.id)
    folder = here.data_dir / "adapters" / "customers" / version.sha256
    manifest = artifacts.verify(folder, sha256=version.sha256, base_revision=version.base_revision)
    assert manifest["strategy"] == "mas+ema+replay"
    assert {artifacts.IMPORTANCE, artifacts.FAST} <= set(manifest["files"])
    assert manifest["overhead"] > 0
    with transaction(engine) as session:
        learned = session.scalars(
            select(TrainingExample.sha256).where(TrainingExample.run_id == run.id, TrainingExample.split == "train")
        ).all()
        assert sorted(manifest["examples"]) == sorted(learned)
        gain = session.scalar(select(Evaluation).where(Evaluation.suite == "gain"))
        assert gain is not None
        assert gain.value < 0
        assert len(gain.details["challenger"]) == gain.examples
        length = session.scalar(select(Evaluation).where(Evaluation.suite == "latency"))
        assert length is not None
        assert (length.value, length.details) == (60.0, {"champion": 60.0})
        types = set(session.scalars(select(Event.type)))
    assert {"consolidation.scheduled", "learning.triggered", "version.registered", "consolidation.completed"} <= types
    assert run.progress["retention"] >= 0.95


def test_the_next_night_continues_the_champion_with_replay_and_mas(engine: Engine, here: Settings) -> None:
    slept(engine, here)
    with transaction(engine) as session:
        session.execute(text("UPDATE npllm.contexts SET champion_id = (SELECT id FROM npllm.adapter_versions)"))
    with transaction(engine) as session:
        for i in range(24):
            answer = nights.turn(session, nights.conversation(session), f"Prazo do item {i}?", f"{i} dias.")
            nights.review(session, answer, "correct", f"São {i} dias. Boa noite de sono!")
    run_id = asked_for(engine, here)
    night.consolidate(run_id, here.model_copy(update={"learning_rate": 5e-3, "retention_target": 0.7}))
    run = run_of(engine, run_id)
    assert run.state == "registered", run.reasons
    first, second = versions(engine)
    assert second.parent_id == first.id
    assert second.manifest["lineage"] == [first.sha256]
    assert second.manifest["counts"]["replayed"] > 0
    # The ancestor's examples can be found from the child, those replayed tonight among its own.
    found = set(second.manifest["examples"]) | set(second.manifest["inherited_examples"])
    assert set(first.manifest["examples"]) <= found
    assert second.manifest["training"]["penalty_share"] >= 0
    with transaction(engine) as session:
        replayed = session.scalars(select(TrainingExample).where(TrainingExample.replayed > 0)).all()
        assert len(replayed) == second.manifest["counts"]["replayed"]


def test_what_importance_was_estimated_from_is_in_the_manifest(engine: Engine, here: Settings) -> None:
    """A champion of another strategy left none: a few earlier examples stand for what it knows."""
    slept(engine, here, strategy="naive")
    crowned(engine)
    run = slept(engine, here.model_copy(update={"retention_target": 0.7}), lesson="Boa noite!", strategy="mas")
    assert run.state == "registered", run.reasons
    first, second = versions(engine)
    assert len(set(second.manifest["examples"]) & set(first.manifest["examples"])) == KNOWN


def test_too_little_is_skipped_and_waits_for_the_next_night(engine: Engine, here: Settings) -> None:
    run = slept(engine, here, count=3)
    assert run.state == "skipped"
    assert "5 are needed" in run.reasons[0]
    with transaction(engine) as session:
        assert session.scalars(select(TrainingExample)).all() == []
    again = slept(engine, here, count=20)
    assert again.funnel["considered"] == 23


@pytest.mark.parametrize("count", [1, 9])
def test_where_nothing_can_be_held_out_nothing_is_trained_and_it_waits(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(night, "_train", lambda *arguments: pytest.fail("It trained."))
    run = slept(engine, here, count=count, minimum=1)
    assert (run.state, "hold any out" in run.reasons[0]) == ("skipped", True)
    with transaction(engine) as session:
        assert fresh_examples(session, "customers") == count


def test_a_night_that_learns_nothing_is_refused_with_reasons(engine: Engine, here: Settings) -> None:
    run = slept(engine, here.model_copy(update={"learning_rate": 1e-9}))
    assert run.state == "refused"
    assert "learned nothing" in run.reasons[0]
    assert versions(engine) == []
    with transaction(engine) as session:
        assert session.scalars(select(Evaluation)).all() != []


def test_a_loss_that_is_no_number_registers_nothing(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learning import train

    monkeypatch.setattr(train, "accumulate", lambda *_, **__: float("nan"))
    run = slept(engine, here)
    assert run.state == "failed"
    assert "loss became nan at step 0" in run.reasons[0]
    assert versions(engine) == []


@pytest.mark.parametrize("strategy", ["naive", "replay", "ewc+replay", "ema+replay", "balanced", "deep"])
def test_other_strategies_run(engine: Engine, here: Settings, strategy: str) -> None:
    run = slept(engine, here, strategy=strategy)
    assert run.state == "registered", run.reasons
    assert versions(engine)[0].manifest["strategy"] == strategy


def test_an_unknown_strategy_is_named(engine: Engine, here: Settings) -> None:
    """By the one who asks already; a row that has it all the same ends at once."""
    assert STRATEGIES == NIGHTLY
    with pytest.raises(BadInput, match="mas\\+replay"):
        asked_for(engine, here, strategy="hope")
    run_id = asked_for(engine, here)
    with transaction(engine) as session:
        session.get_one(ConsolidationRun, run_id).strategy = "hope"
    assert night.consolidate(run_id, here) == "failed"
    assert "mas+replay" in run_of(engine, run_id).reasons[0]


KILL_POINTS = [
    ("_curate", "before"),
    ("_curate", "after"),
    ("_train", "before"),
    ("_train", "after"),
    ("_register", "before"),
    ("_register", "after"),
]


class Killed(BaseException):
    """Like SIGKILL: nothing of ours runs after it."""


def killed(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch, point: str, dies: Callable[..., Any]
) -> uuid.UUID:
    """A night of twenty corrections that ended where `point` became `dies`; after that it is as it was."""
    original = getattr(night, point)
    monkeypatch.setattr(night, point, dies)
    with transaction(engine) as session:
        nights.a_day(session, 20)
    run_id = asked_for(engine, here)
    with pytest.raises(Killed):
        night.consolidate(run_id, here)
    monkeypatch.setattr(night, point, original)
    return run_id


@pytest.mark.parametrize(("point", "when"), KILL_POINTS)
def test_killed_anywhere_it_ends_with_one_version(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch, point: str, when: str
) -> None:
    original = getattr(night, point)

    def dies(*arguments: Any, **options: Any) -> Any:
        if when == "after":
            original(*arguments, **options)
        raise Killed

    run_id = killed(engine, here, monkeypatch, point, dies)
    with transaction(engine) as session:  # a killed worker's lease runs out
        session.execute(text("UPDATE npllm.consolidation_runs SET leased_until = now() - interval '1 second'"))
    if point == "_register" and when == "after":
        with pytest.raises(NightTaken):
            night.consolidate(run_id, here)
    else:
        assert night.consolidate(run_id, here) == "registered"
    (version,) = versions(engine)
    run = run_of(engine, run_id)
    assert (run.state, run.version_id) == ("registered", version.id)
    folder = here.data_dir / "adapters" / "customers" / version.sha256
    artifacts.verify(folder, sha256=version.sha256)


@pytest.mark.parametrize("point", ["_train", "_register"])
def test_who_withdraws_while_it_lies_still_is_not_in_it(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Killed before it trained, or after: what it goes on with is what may be learned then."""

    def dies(*_: Any) -> Any:
        raise Killed

    run_id = killed(engine, here, monkeypatch, point, dies)
    with transaction(engine) as session:
        gone = session.scalars(select(TrainingExample).where(TrainingExample.split == "train")).first()
        assert gone is not None
        session.execute(update(Customer).where(Customer.id == gone.customer_id).values(consent="denied"))
        session.execute(text("UPDATE npllm.consolidation_runs SET leased_until = now() - interval '1 second'"))
    assert night.consolidate(run_id, here) == "registered"
    (version,) = versions(engine)
    assert gone.sha256 not in version.manifest["examples"]
    assert len(version.manifest["examples"]) > 5


def test_a_night_does_not_end_because_its_progress_cannot_be_told(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        nights.a_day(session, 24)
    claimed = Claim(engine, asked_for(engine, here))
    claimed.release()
    claimed.engine = create_engine("postgresql+psycopg://nobody@127.0.0.1:1/nothing")
    claimed.tell(step=1)


def test_the_first_night_says_nothing_of_what_is_kept(engine: Engine, here: Settings) -> None:
    run = slept(engine, here)
    assert run.progress["retention"] == 1.0
    with transaction(engine) as session:
        assert _retentions(session, "customers") == []


def test_a_night_that_kills_its_worker_again_and_again_is_given_up(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> Any:
        raise Killed

    monkeypatch.setattr(night, "_train", dies)
    with transaction(engine) as session:
        nights.a_day(session, 20)
    run_id = asked_for(engine, here)
    for _ in range(3):
        with pytest.raises(Killed):
            night.consolidate(run_id, here)
        with transaction(engine) as session:
            session.execute(text("UPDATE npllm.consolidation_runs SET leased_until = now() - interval '1 second'"))
    assert night.consolidate(run_id, here) == "failed"
    assert "ended 3 times" in run_of(engine, run_id).reasons[0]


def test_two_workers_one_night(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        nights.a_day(session, 20)
    run_id = asked_for(engine, here)
    outcomes: list[str] = []

    def work() -> None:
        try:
            outcomes.append(night.consolidate(run_id, here))
        except NightTaken:
            outcomes.append("taken")

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["registered", "taken"]
    assert len(versions(engine)) == 1


def test_two_clocks_one_night(engine: Engine, here: Settings) -> None:
    made: list[bool] = []

    def tick() -> None:
        with transaction(engine) as session:
            made.append(claim(session, "customers", here, TONIGHT, sequence=0, requested_by="clock") is not None)

    threads = [threading.Thread(target=tick) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.count(True) == 1


def test_asking_twice_names_the_running_night(engine: Engine, here: Settings) -> None:
    asked_for(engine, here)
    with pytest.raises(Conflict, match="asleep already"):
        asked_for(engine, here)


def test_a_changed_parent_is_refused_before_it_is_loaded(engine: Engine, here: Settings) -> None:
    slept(engine, here)
    (version,) = versions(engine)
    with transaction(engine) as session:
        session.execute(text("UPDATE npllm.contexts SET champion_id = (SELECT id FROM npllm.adapter_versions)"))
        nights.a_day(session, 20, lesson="Outra lição.")
    weights = here.data_dir / "adapters" / "customers" / version.sha256 / artifacts.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    run_id = asked_for(engine, here)
    assert night.consolidate(run_id, here) == "failed"
    assert "changed since it was published" in run_of(engine, run_id).reasons[0]
    assert len(versions(engine)) == 1
    with transaction(engine) as session:
        assert fresh_examples(session, "customers") == 20


def crowned(engine: Engine) -> None:
    """The newest version serves."""
    with transaction(engine) as session:
        session.execute(
            text(
                "UPDATE npllm.contexts SET champion_id ="
                " (SELECT id FROM npllm.adapter_versions ORDER BY number DESC LIMIT 1)"
            )
        )


def test_a_deep_night_begins_at_the_base_with_everything(engine: Engine, here: Settings) -> None:
    first = slept(engine, here)
    crowned(engine)
    with transaction(engine) as session:
        nights.a_day(session, 24, lesson="Posso ajudar em mais alguma coisa?")
    run_id = asked_for(engine, here, strategy="deep")
    night.consolidate(run_id, here.model_copy(update={"epochs": 8, "retention_target": 0.7}))
    run = run_of(engine, run_id)
    assert run.state == "registered", run.reasons
    old, deep = versions(engine)
    assert (deep.parent_id, deep.manifest["lineage"], deep.manifest["inherited_examples"]) == (None, [], [])
    assert set(old.manifest["examples"]) < set(deep.manifest["examples"])
    assert deep.manifest["counts"]["new"] == first.funnel["learned"] + run.funnel["learned"]
    assert old.manifest["strategy"] == "wise+replay"


def test_fast_weights_go_from_night_to_night(engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    from learning import ema

    slept(engine, here)
    crowned(engine)
    with transaction(engine) as session:
        nights.a_day(session, 24, lesson="Até logo!")
    loaded: list[Path] = []
    original = ema.load_fast
    monkeypatch.setattr(ema, "load_fast", lambda path: loaded.append(path) or original(path))
    night.consolidate(asked_for(engine, here), here)
    (version, *_) = versions(engine)
    assert [path.parent.name for path in loaded] == [version.sha256]


def test_nothing_new_and_everything_again(engine: Engine, here: Settings) -> None:
    """After an erasure: a night without one new example learns what is left, and is judged on earlier hold-outs."""
    slept(engine, here)
    run_id = asked_for(engine, here, strategy="deep", minimum=1, rebuild=True)
    night.consolidate(run_id, here)
    run = run_of(engine, run_id)
    assert run.state == "registered", run.reasons
    first, again = versions(engine)
    assert again.manifest["examples"] == first.manifest["examples"]


def test_a_night_stops_at_its_limit_and_says_so(engine: Engine, here: Settings) -> None:
    run = slept(engine, here.model_copy(update={"sleep_max_minutes": 1e-6}))
    assert "limit" in run.progress["stopped"]
    assert "after step 0 of" in run.progress["stopped"]
    assert run.state == "refused"  # nothing learned, nothing registered


def test_what_was_erased_while_a_night_trained_is_in_no_version(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = night._register

    def after_an_erasure(*arguments: Any) -> str:
        with transaction(engine) as session:
            session.delete(session.scalars(select(TrainingExample).where(TrainingExample.split == "train")).first())
        return register(*arguments)

    monkeypatch.setattr(night, "_register", after_an_erasure)
    run = slept(engine, here)
    assert run.state == "failed"
    assert "erased" in run.reasons[0]
    assert versions(engine) == []
    assert not list((here.data_dir / "adapters").rglob("*.safetensors"))
    assert not list((here.data_dir / "nights").rglob("*.safetensors"))


@pytest.mark.parametrize("what", ["withdrawn", "deleted", "said before", "undone"])
def test_what_may_be_learned_no_longer_when_it_is_published_is_in_no_version(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    slept(engine, here)
    crowned(engine)
    register = night._register

    def after_a_change(*arguments: Any) -> str:
        with transaction(engine) as session:
            learned = session.scalars(
                select(TrainingExample).where(TrainingExample.split == "train").order_by(TrainingExample.id.desc())
            ).first()
            assert learned is not None
            if what == "withdrawn":
                session.get_one(Customer, learned.customer_id).consent = "denied"
            elif what == "deleted":
                session.get_one(Message, session.get_one(Message, learned.message_id).in_reply_to).deleted_at = now()
            elif what == "said before":  # as bot/signals.py leaves an example whose history holds a deleted message
                learned.dropped, learned.messages, learned.answer = "deleted", [], ""
            else:
                session.execute(update(AdapterVersion).values(state="quarantined"))
        return register(*arguments)

    monkeypatch.setattr(night, "_register", after_a_change)
    run = slept(engine, here.model_copy(update={"retention_target": 0.7}), lesson="Boa noite de sono!")
    assert run.state == "failed"
    assert ("whose weights it continues" if what == "undone" else "took them back") in run.reasons[0]
    assert in_portuguese(run.reasons[0]).endswith("A próxima noite aprende o que resta.")
    assert len(versions(engine)) == 1
    assert len(list((here.data_dir / "adapters").rglob(artifacts.WEIGHTS))) == 1


def test_one_example_that_is_too_long_does_not_end_the_night(engine: Engine, here: Settings) -> None:
    with transaction(engine) as session:
        answer = nights.turn(session, nights.conversation(session), "E esta pergunta? " * 900, "Sim.")
        nights.review(session, answer, "approve")
    run = slept(engine, here)
    assert run.state == "registered", run.reasons
    assert run.funnel["dropped: too long"] == 1


def test_what_a_failed_night_would_have_learned_is_new_to_the_next(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any) -> None:
        raise NightError("The loss became nan at step 3.")

    with monkeypatch.context() as patch:
        patch.setattr(night, "_train", broken)
        assert slept(engine, here).state == "failed"
    with transaction(engine) as session:
        assert fresh_examples(session, "customers") == 24
    run_id = asked_for(engine, here)
    assert night.consolidate(run_id, here) == "registered"


def test_refused_weights_stay_nowhere(engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = Scores([float("nan")] * 4, [0.0] * 4)
    monkeypatch.setattr(night, "_measure", lambda *arguments: [(scores, scores)] * 3)
    run = slept(engine, here)
    assert (run.state, run.reasons) == ("refused", [gate.NOT_FINITE])
    assert not list(here.data_dir.rglob("*.safetensors"))


def test_an_erasure_waits_for_the_version_that_is_being_registered(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    register = registry.register
    refused: list[str] = []

    def beside_an_erasure(*arguments: Any, **facts: Any) -> Any:
        try:
            with transaction(engine) as session:
                session.execute(text("SET LOCAL lock_timeout = '100ms'"))
                customer = session.scalars(
                    select(TrainingExample.customer_id).where(TrainingExample.split == "train")
                ).first()
                privacy.erase(session, str(customer), actor="test")
        except OperationalError as error:
            refused.append(str(error))
        return register(*arguments, **facts)

    monkeypatch.setattr(registry, "register", beside_an_erasure)
    assert slept(engine, here).state == "registered"
    assert "lock timeout" in refused[0]
    monkeypatch.undo()
    with transaction(engine) as session:
        customer = session.scalars(select(TrainingExample.customer_id).where(TrainingExample.split == "train")).first()
        assert privacy.erase(session, str(customer), actor="test").versions == ["customers-v1"]


def test_a_night_that_goes_on_after_an_erasure_takes_nothing_up_that_had_learned_it(
    engine: Engine, here: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*arguments: Any) -> str:
        raise KeyboardInterrupt

    with transaction(engine) as session:
        nights.a_day(session, 24)
    run_id = asked_for(engine, here)
    with monkeypatch.context() as patch:
        patch.setattr(night, "_judge_and_publish", killed)
        with pytest.raises(KeyboardInterrupt):
            night.consolidate(run_id, here)
    with transaction(engine) as session:
        erased = session.scalars(select(TrainingExample).where(TrainingExample.split == "train")).first()
        assert erased is not None
        privacy.erase(session, str(erased.customer_id), actor="test")
        session.execute(text("UPDATE npllm.consolidation_runs SET leased_until = now() - interval '1 second'"))
    assert night.consolidate(run_id, here) == "registered"
    assert erased.sha256 not in versions(engine)[0].manifest["examples"]
