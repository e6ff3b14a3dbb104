"""One night, top to bottom.

    claim      the night's row; a killed worker's lease runs out, and the next one goes on where it stopped
    curate     what people said of answers -> examples of this night
    replay     examples of earlier nights, drawn by priority
    train      from the champion's weights, as the strategy says (learning/strategies.py, learning/learn.py)
    evaluate   what was learned, what was kept, against the champion: the gate
    publish    seal, keep, register; or refuse, with the reasons

Every stage ends with a commit, and a stage that runs twice does no harm: the night's examples carry its id, the
trainer has a checkpoint, a sealed folder is used again, and the version is registered in the same transaction that
ends the night. So a night killed anywhere leaves one registered version or none.
"""

import dataclasses
import logging
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from core import artifacts, events, registry
from core.db import get_engine, transaction
from core.errors import ArtifactError, NightError, SettingError
from core.memory import give_back, return_large_blocks
from core.settings import Settings
from core.tables import AdapterVersion, ConsolidationRun, Evaluation, TrainingExample, now
from integrations.huggingface.spare_cores import SpareCores
from learning import record, replay
from learning.claims import MAX_ATTEMPTS, Claim
from learning.curate import curate, to_example
from learning.dataset import Example, fitting
from learning.night import Material, Night, material_of, open_night
from learning.starter import courtesy
from learning.starter.seed import ensure_starter_examples
from learning.taken_back import take_back, withdrawn_since

log = logging.getLogger(__name__)

# Held-out examples of tonight below which a look says too little: to stop a training by, to choose a point by.
STOP_LEAST, CHOOSE_LEAST = 30, 8


def consolidate(run_id: uuid.UUID, settings: Settings) -> str:
    """Run (or go on with) one night; returns its final state.

    Raises:
        NightTaken: another worker has it.
    """
    if not settings.database_url:
        raise SettingError("There is no database.", "Start `npllm up`, or set DATABASE_URL.")
    return_large_blocks()
    engine = get_engine(settings.database_url)
    claim = Claim(engine, run_id)
    try:
        attempts = _count_attempt(claim)
        if attempts > MAX_ATTEMPTS:
            reason = f"It ended {MAX_ATTEMPTS} times without a result; see the worker's log."
            state = _end(claim, "failed", [reason], keep_examples=False)
        else:
            state = _stages(open_night(claim, engine, settings))
    except (NightError, ArtifactError, SettingError) as error:  # trying again would end the same way
        log.warning("The night stopped: %s", error)
        state = _end(claim, "failed", [str(error)], keep_examples=False)
    finally:
        claim.release()
    # Weights that were refused stay nowhere: an erasure would not find them.
    shutil.rmtree(settings.data_dir / "nights" / str(run_id), ignore_errors=True)
    return state


def _stages(night: Night) -> str:
    fits = fitting(night.base.path)
    _curate(night, fits)
    material = material_of(night).that(lambda row: fits(to_example(row)))
    if len(material.new) < night.minimum:
        reason = f"{len(material.new)} new examples, {night.minimum} are needed."
        return _end(night.claim, "skipped", [reason], keep_examples=False)
    if len(material.held_out) < 2:
        reason = "Too few new examples to hold any out: nothing could prove that anything was learned. They wait."
        return _end(night.claim, "skipped", [reason], keep_examples=False)
    night.folder = night.folder / material.name(night.parent)
    night.folder.mkdir(parents=True, exist_ok=True)
    if not (night.sealed / artifacts.MANIFEST).exists():
        _train(night, material)
        give_back()
    return _judge_and_publish(night, material)


def _curate(night: Night, fits: Callable[[Example], bool]) -> None:
    """New examples, once per night: a second worker finds the funnel written."""
    with transaction(night.engine) as session:
        run = night.claim.fence(session)
        if run.stage == "scheduled":
            if night.champion is not None and night.champion.source == "starter":
                ensure_starter_examples(session, night.context)
            run.funnel = curate(
                session, night.context, run.id, night.settings, seed=night.seed, limit=night.schedule.max_examples,
                fits=fits,
            )  # fmt: skip
            run.stage = "curated"
        else:  # it goes on after a while in which somebody may have said "não treinar"
            take_back(session, night.context)


def _train(night: Night, material: Material) -> None:
    """Imports torch: nothing above does."""
    import torch

    from learning import lora, parallel
    from learning.publish import seal
    from learning.train import Progress, Recipe
    from learning.training import Training

    settings = night.settings
    cores = SpareCores(settings.training_threads or 2)
    torch.set_num_threads(cores.now())
    night.claim.tell(stage="train")
    parent = None
    if night.parent is not None:
        parent = registry.fetch_verified(night.store, night.parent, base_revision=night.base.revision)

    def report(progress: Progress) -> None:
        torch.set_num_threads(cores.now())  # the day goes on beside the night: take what it leaves
        night.claim.tell(
            step=progress.step, steps=progress.steps, loss=round(progress.loss, 4),
            seconds_left=round(progress.remaining, 1),
        )  # fmt: skip

    def examples(rows: list[TrainingExample]) -> list[Any]:
        return [to_example(row) for row in rows]

    recipe = Recipe(learning_rate=settings.learning_rate, epochs=settings.epochs, seed=night.seed)
    strength = _strength(night)
    training = Training(
        base=night.base, parent=parent, rank=settings.lora_rank, strategy=night.strategy, new=examples(material.new),
        replayed=examples(material.replayed), known=examples(material.known), share=material.share,
        holdout=examples(material.held_out) if len(material.held_out) >= STOP_LEAST else [], strength=strength,
        chosen_by=[examples(some) for some in _judges(material)], recipe=recipe,
        checkpoint=night.folder / "checkpoint.pt", seconds=night.schedule.seconds,
    )  # fmt: skip
    parallel.share(training)
    adapted, learned = training.run(report)
    result = learned.result
    if result.out_of_time:
        limit = f"It stopped at its limit of {night.schedule.seconds / 60:.0f} minutes"
        night.claim.tell(stopped=f"{limit}, after step {len(result.losses)} of {result.steps}.")
    facts = record.provenance(night, material) | {
        "training": {**dataclasses.asdict(recipe), "seconds": round(result.seconds, 1), "steps": result.steps,
                     "best_step": result.best_step, "penalty_share": round(result.penalty_share, 4),
                     "strength": strength if night.strategy.penalty else None},
        "overhead": round(learned.overhead, 4),
        "replay_share": round(learned.replay_share, 4),
        "nearness": learned.nearness,
        "share_of_parameters": round(lora.share_of_parameters(adapted), 4),
    }  # fmt: skip
    seal(
        adapted, night.sealed, importance=learned.memory.importance, fast=learned.memory.fast, facts=facts,
        card=record.card(night, material),
    )  # fmt: skip
    with transaction(night.engine) as session:
        night.claim.fence(session).stage = "trained"
    night.claim.tell(
        training_seconds=round(result.seconds, 1), overhead=facts["overhead"], replay_share=facts["replay_share"]
    )


def _judges(material: Material) -> list[list[TrainingExample]]:
    """The hold-outs of tonight and of earlier nights, where there is enough of tonight's to choose by."""
    if len(material.held_out) < CHOOSE_LEAST:
        return []
    return [some for some in (material.held_out, material.old_held_out) if some]


def _strength(night: Night) -> float:
    """Lambda: MAS_STRENGTH where it is set, else what was found on `valid` for this base."""
    from learning.strategies import strength_of

    if night.settings.mas_strength is not None:
        return night.settings.mas_strength
    return strength_of(night.base.name, night.strategy)


def _judge_and_publish(night: Night, material: Material) -> str:
    from learning import gate

    night.claim.tell(stage="evaluate")
    folder = None
    if night.champion is not None:
        folder = registry.fetch_verified(night.store, night.champion, base_revision=night.base.revision)
    base, champion, challenger = _measure(night, material, folder)
    give_back()
    if not gate.is_finite(*challenger):
        return _end(night.claim, "refused", [gate.NOT_FINITE])
    polite = gate.ask_courtesy(
        night.base, {"champion": folder, "challenger": night.sealed},
        courtesy.checks(assistant=night.settings.assistant_name, business=night.settings.business_name),
        threads=night.settings.training_threads or 2,
    )  # fmt: skip
    groups = [[record.group_of(example) for example in rows] for rows in (material.held_out, material.old_held_out)]
    ages = [record.age_in_words(example) for example in material.old_held_out]
    verdict = gate.judge(
        new=gate.Compared(challenger[0], champion[0], base[0], groups[0]),
        old=gate.Compared(challenger[1], champion[1], base[1], groups[1], ages),
        target=night.settings.retention_target,
        courtesies=(polite["challenger"], polite["champion"]),
    )
    figures = {
        "gain": verdict.gain.mean,
        "gain_low": verdict.gain.low,
        "gain_high": verdict.gain.high,
        "retention": verdict.retention,
        "gain_retention": verdict.gain_retention,
    }
    night.claim.tell(**{name: round(value, 4) for name, value in figures.items() if value is not None})
    evaluations = record.evaluations(night, verdict, champion, challenger)
    if not verdict.accepted:
        return _end(night.claim, "refused", verdict.reasons, evaluations=evaluations)
    return _register(night, material, evaluations)


def _measure(night: Night, material: Material, champion: Path | None) -> list[tuple[Any, Any]]:
    """Scores of the base, the champion (without one: the base) and the challenger, on the new and the old hold-out.

    All three on the same base and in the same products; what is measured is the sealed folder, not memory.
    """
    from learning import lora
    from learning.dataset import encode
    from learning.evaluate import score
    from learning.quick import quick_products

    base, tokenizer = lora.load_base(night.base.path)
    sets = [
        [encode(tokenizer, to_example(example)) for example in examples]
        for examples in (material.held_out, material.old_held_out)
    ]

    def measure(subject: Any) -> tuple[Any, Any]:
        new, old = (score(subject, rows, tokenizer.pad_token_id) for rows in sets)
        return new, old

    challenger = lora.load_adapter(base, night.sealed)
    with quick_products(challenger):
        with challenger.disable_adapter():
            found = [measure(challenger)]
        if champion is not None:
            challenger.load_adapter(str(champion), "champion")
            challenger.set_adapter("champion")
            found.append(measure(challenger))
            challenger.set_adapter("default")
        else:
            found.append(found[0])
        found.append(measure(challenger))
    return found


def _register(night: Night, material: Material, evaluations: list[Evaluation]) -> str:
    """Keep the files, then one transaction: version, evaluations, replay counts, the night's end."""
    manifest = artifacts.verify(night.sealed, base_revision=night.base.revision)
    sha256 = artifacts.file_sha256(night.sealed / artifacts.MANIFEST)
    location = night.store.put(night.sealed, context=night.context, sha256=sha256)
    with transaction(night.engine) as session:
        run = night.claim.fence(session)
        if reason := _not_to_be_published(session, night, manifest["examples"]):
            night.store.remove(location)
            shutil.rmtree(night.folder, ignore_errors=True)
            raise NightError(f"{reason}: nothing is registered.", "The next night learns what is left.")
        version = registry.register(
            session, context=night.context, source="night", location=location, sha256=sha256, manifest=manifest,
            parent_id=night.parent.id if night.parent else None, run_id=run.id,
        )  # fmt: skip
        for evaluation in evaluations:
            evaluation.version_id = version.id
        replay.mark(session, material.replayed)
        run.version_id = version.id
        _close(session, run, "registered", [], evaluations, version=version.name)
    shutil.rmtree(night.folder, ignore_errors=True)
    return "registered"


def _not_to_be_published(session: Session, night: Night, trained: list[str]) -> str | None:
    """Why these weights must not be, for what happened since the night began; None where they may."""
    # Locked until the version is there: an erasure waits (bot/privacy.py), and then finds it.
    there = session.scalars(
        select(TrainingExample.id)
        .where(TrainingExample.context == night.context, TrainingExample.sha256.in_(trained))
        .with_for_update(read=True)
    ).all()
    if len(there) != len(trained):
        return "Data that it trained on was erased meanwhile"
    if withdrawn_since(session, night.context, trained):
        return "Somebody whose words it trained on took them back meanwhile"
    parent = session.get(AdapterVersion, night.parent.id) if night.parent else None
    if parent is not None and parent.state != "registered":
        return f"{parent.name}, whose weights it continues, is {parent.state} since"
    return None


def _end(
    claim: Claim,
    state: str,
    reasons: list[str],
    *,
    evaluations: list[Evaluation] | None = None,
    keep_examples: bool = True,
) -> str:
    """Close a night without a version."""
    with transaction(claim.engine) as session:
        run = claim.fence(session)
        if not keep_examples:
            # Too few tonight, or it failed: they wait for the next night, together with what comes until then.
            for example in session.scalars(select(TrainingExample).where(TrainingExample.run_id == run.id)):
                session.delete(example)
        _close(session, run, state, reasons, evaluations or [])
    return state


def _close(
    session: Session, run: ConsolidationRun, state: str, reasons: list[str], evaluations: list[Evaluation], **facts: Any
) -> None:
    session.add_all(evaluations)
    run.state, run.stage, run.reasons, run.ended_at, run.leased_until = state, "done", reasons, now(), None
    run.progress = {**run.progress, **facts}
    events.record(
        session, "consolidation.completed", context=run.context, run=str(run.id), state=state, reasons=reasons,
        funnel=run.funnel, **facts,
    )  # fmt: skip


def _count_attempt(claim: Claim) -> int:
    with transaction(claim.engine) as session:
        run = claim.fence(session)
        attempts = int(run.progress.get("attempts", 0)) + 1
        run.progress = {**run.progress, "attempts": attempts}
        return attempts
