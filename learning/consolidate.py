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
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session

from core import artifacts, events, registry
from core.db import get_engine, transaction
from core.errors import NightError, SettingError
from core.memory import give_back
from core.schedule import Schedule, schedule_of
from core.settings import Settings
from core.tables import AdapterVersion, ConsolidationRun, Evaluation, TrainingExample, now
from integrations.huggingface.embedded_base import BaseModel, resolve_base
from integrations.huggingface.spare_cores import SpareCores
from integrations.supabase import artifact_store
from learning import replay
from learning.claims import MAX_ATTEMPTS, Claim
from learning.curate import curate, to_example
from learning.starter import courtesy
from learning.starter.seed import ensure_starter_examples
from learning.strategies import Strategy, find

log = logging.getLogger(__name__)

KNOWN = 8  # rows that the champion's importance is estimated from where its night left none: each costs half a second
OLD_HOLDOUT = 36  # rows of earlier hold-outs that retention is measured on


@dataclass
class Night:
    """What the stages share.

    Attributes:
        champion: serves now; the challenger is judged against it.
        parent: whose weights are continued: the champion, or in a deep night the starter adapter (nobody's examples).
    """

    settings: Settings
    engine: Engine
    store: registry.ArtifactStore
    claim: Claim
    context: str
    strategy: Strategy
    seed: int
    minimum: int
    schedule: Schedule
    base: BaseModel
    folder: Path
    champion: AdapterVersion | None
    parent: AdapterVersion | None

    @property
    def sealed(self) -> Path:
        return self.folder / "version"


@dataclass(frozen=True)
class Material:
    """Examples of one night, as rows of the table out of their session.

    Attributes:
        share: of a night's training that is replayed.
        known: a few that stand for what the champion knows, where it left no importance.
    """

    new: list[TrainingExample]
    held_out: list[TrainingExample]
    replayed: list[TrainingExample]
    share: float
    old_held_out: list[TrainingExample]
    known: list[TrainingExample]


def consolidate(run_id: uuid.UUID, settings: Settings) -> str:
    """Run (or go on with) one night; returns its final state.

    Raises:
        NightTaken: another worker has it.
    """
    if not settings.database_url:
        raise SettingError("There is no database.", "Start `npllm up`, or set DATABASE_URL.")
    engine = get_engine(settings.database_url)
    claim = Claim(engine, run_id)
    try:
        attempts = _count_attempt(claim)
        if attempts > MAX_ATTEMPTS:
            return _end(claim, "failed", [f"It ended {MAX_ATTEMPTS} times without a result; see the worker's log."])
        return _stages(_open(claim, engine, settings))
    except NightError as error:
        log.warning("The night stopped: %s", error)
        return _end(claim, "failed", [str(error)])
    finally:
        claim.release()


def _stages(night: Night) -> str:
    _curate(night)
    material = _material(night)
    if len(material.new) < night.minimum:
        reason = f"{len(material.new)} new examples, {night.minimum} are needed."
        return _end(night.claim, "skipped", [reason], keep_examples=False)
    if not (night.sealed / artifacts.MANIFEST).exists():
        _train(night, material)
        give_back()
    return _judge_and_publish(night, material)


def _open(claim: Claim, engine: Engine, settings: Settings) -> Night:
    with transaction(engine) as session:
        run = claim.fence(session)
        champion = registry.champion(session, run.context)
        context, strategy, seed, options = run.context, find(run.strategy), run.seed, run.options
        row = registry.get_context(session, context)
        schedule = schedule_of(settings, row.preset, row.overrides)
        events.record(session, "learning.triggered", context=context, run=str(run.id), strategy=strategy.name)
        starter = session.scalar(
            select(AdapterVersion).where(
                AdapterVersion.context == run.context, AdapterVersion.source == "starter",
                AdapterVersion.state == "registered",
            )
        )  # fmt: skip
    base = resolve_base(settings.base_model, settings.data_dir)
    if champion is not None and champion.base_revision != base.revision:
        log.warning("The champion belongs to another base: this night begins with a fresh adapter.")
        champion = None
    if starter is not None and starter.base_revision != base.revision:
        starter = None
    folder = settings.data_dir / "nights" / str(claim.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    return Night(
        settings=settings,
        engine=engine,
        store=artifact_store(settings),
        claim=claim,
        context=context,
        strategy=strategy,
        seed=seed,
        minimum=int(options.get("minimum") or schedule.minimum),
        schedule=schedule,
        base=base,
        folder=folder,
        champion=champion,
        parent=starter if strategy.afresh else champion,
    )


def _curate(night: Night) -> None:
    """New examples, once per night: a second worker finds the funnel written."""
    with transaction(night.engine) as session:
        run = night.claim.fence(session)
        if run.stage == "scheduled":
            if night.champion is not None and night.champion.source == "starter":
                ensure_starter_examples(session, night.context)
            run.funnel = curate(
                session, night.context, run.id, night.settings, seed=night.seed, limit=night.schedule.max_examples
            )
            run.stage = "curated"


def _material(night: Night) -> Material:
    with transaction(night.engine) as session:
        mine = session.scalars(
            select(TrainingExample)
            .where(TrainingExample.run_id == night.claim.run_id, TrainingExample.dropped.is_(None))
            .order_by(TrainingExample.sha256)
        ).all()
        new = [example for example in mine if example.split == "train"]
        held_out = [example for example in mine if example.split == "holdout"]
        earlier = replay.buffer(session, night.context, before=night.claim.run_id)
        drawn: list[TrainingExample] = []
        share = 0.0
        if night.strategy.afresh:
            new = [*new, *earlier]
        elif night.strategy.replay:
            share = replay.share_for(night.settings.replay_share, _retentions(session, night.context))
            count = replay.count_for(len(new), share) * night.settings.epochs
            drawn = replay.draw(earlier, count, seed=night.seed)
        old = session.scalars(
            select(TrainingExample).where(
                TrainingExample.context == night.context, TrainingExample.split == "holdout",
                TrainingExample.dropped.is_(None), TrainingExample.run_id.is_distinct_from(night.claim.run_id),
            )
        ).all()  # fmt: skip
        if night.strategy.afresh and not held_out:  # after an erasure, say: nothing is new, everything is learned again
            held_out = list(old)
        return Material(
            new, held_out, drawn, share,
            replay.draw(old, OLD_HOLDOUT, seed=night.seed), replay.draw(earlier, KNOWN, seed=night.seed),
        )  # fmt: skip


def _train(night: Night, material: Material) -> None:
    """Imports torch: nothing above does."""
    import torch

    from learning import lora
    from learning.dataset import encode
    from learning.learn import learn
    from learning.train import Progress, Recipe

    settings = night.settings
    cores = SpareCores(settings.training_threads or 2)
    torch.set_num_threads(cores.now())
    torch.manual_seed(night.seed)
    night.claim.tell(stage="train")
    model, tokenizer = lora.load_base(night.base.path)
    folder = None
    if night.parent is not None:
        folder = registry.fetch_verified(night.store, night.parent, base_revision=night.base.revision)
        adapted = lora.load_adapter(model, folder)
    else:
        adapted = lora.new_adapter(
            model,
            base_name=night.base.name,
            base_revision=night.base.revision,
            rank=settings.lora_rank,
            seed=night.seed,
        )

    def rows(examples: list[TrainingExample]) -> list[Any]:
        return [encode(tokenizer, to_example(example)) for example in examples]

    def report(progress: Progress) -> None:
        torch.set_num_threads(cores.now())  # the day goes on beside the night: take what it leaves
        night.claim.tell(
            step=progress.step, steps=progress.steps, loss=round(progress.loss, 4),
            seconds_left=round(progress.remaining, 1),
        )  # fmt: skip

    recipe = Recipe(learning_rate=settings.learning_rate, epochs=settings.epochs, seed=night.seed)
    strength = _strength(night)
    with lora.quick_products(adapted):
        learned = learn(
            adapted, night.strategy, new=rows(material.new), replayed=rows(material.replayed), share=material.share,
            holdout=rows(material.held_out) if len(material.held_out) >= 30 else [],
            memory=_memory(night, folder, adapted, rows(material.known), tokenizer.pad_token_id),
            strength=strength, pad_id=tokenizer.pad_token_id, recipe=recipe, report=report,
            checkpoint=night.folder / "checkpoint.pt", deadline=time.monotonic() + night.schedule.seconds,
        )  # fmt: skip
    result = learned.result
    if result.out_of_time:
        limit = f"It stopped at its limit of {night.schedule.seconds / 60:.0f} minutes"
        night.claim.tell(stopped=f"{limit}, after step {len(result.losses)} of {result.steps}.")
    facts = _facts(night, material) | {
        "training": {**dataclasses.asdict(recipe), "seconds": round(result.seconds, 1), "steps": result.steps,
                     "best_step": result.best_step, "penalty_share": round(result.penalty_share, 4),
                     "strength": strength if night.strategy.penalty else None},
        "overhead": round(learned.overhead, 4),
        "replay_share": round(learned.replay_share, 4),
        "share_of_parameters": round(lora.share_of_parameters(adapted), 4),
    }  # fmt: skip
    from learning.publish import seal

    seal(
        adapted, night.sealed, importance=learned.memory.importance, fast=learned.memory.fast, facts=facts,
        card=_card(night, material),
    )  # fmt: skip
    with transaction(night.engine) as session:
        night.claim.fence(session).stage = "trained"
    night.claim.tell(
        training_seconds=round(result.seconds, 1), overhead=facts["overhead"], replay_share=facts["replay_share"]
    )


def _memory(night: Night, parent: Path | None, model: Any, known: list[Any], pad_id: int) -> Any:
    """What the parent's night left; importance that it did not leave is estimated from what it knew."""
    from learning import ema
    from learning.importance import Importance
    from learning.learn import Memory, estimate

    memory = Memory()
    if parent is None:
        return memory
    if (parent / artifacts.FAST).exists():
        memory.fast = ema.load_fast(parent / artifacts.FAST)
    if night.strategy.penalty is not None:
        if (parent / artifacts.IMPORTANCE).exists():
            memory.importance = Importance.load(parent / artifacts.IMPORTANCE)
        if (memory.importance is None or memory.importance.kind != night.strategy.penalty) and known:
            memory.importance = estimate(model, night.strategy.penalty, known, pad_id)
    return memory


def _strength(night: Night) -> float:
    """Lambda: MAS_STRENGTH where it is set, else what was found on `valid` for this base."""
    from learning.strategies import strength_of

    if night.settings.mas_strength is not None:
        return night.settings.mas_strength
    return strength_of(night.base.name, night.strategy)


def _retentions(session: Session, context: str) -> list[float]:
    """What earlier nights' challengers kept on earlier hold-outs, newest first."""
    query = (
        select(Evaluation.value)
        .join(ConsolidationRun, ConsolidationRun.id == Evaluation.run_id)
        .where(
            ConsolidationRun.context == context, Evaluation.suite == "retention", Evaluation.metric == "accuracy_share"
        )
        .order_by(Evaluation.created_at.desc())
        .limit(30)
    )
    return list(session.scalars(query))


def _judge_and_publish(night: Night, material: Material) -> str:
    from learning import gate

    night.claim.tell(stage="evaluate")
    folder = None
    if night.champion is not None:
        folder = registry.fetch_verified(night.store, night.champion, base_revision=night.base.revision)
    base, champion, challenger = _measure(night, material, folder)
    give_back()
    polite = gate.courtesy_passed(
        night.base, {"champion": folder, "challenger": night.sealed},
        courtesy.checks(assistant=night.settings.assistant_name, business=night.settings.business_name),
        threads=night.settings.training_threads or 2,
    )  # fmt: skip
    verdict = gate.judge(
        new=gate.Compared(challenger[0], champion[0], base[0], [_group(example) for example in material.held_out]),
        old=gate.Compared(
            challenger[1], champion[1], base[1], [_group(example) for example in material.old_held_out],
            [_age(example) for example in material.old_held_out],
        ),
        target=night.settings.retention_target,
        courtesies=(polite["challenger"], polite["champion"]),
    )  # fmt: skip
    figures = {
        "gain": verdict.gain.mean,
        "gain_low": verdict.gain.low,
        "gain_high": verdict.gain.high,
        "retention": verdict.retention,
        "gain_retention": verdict.gain_retention,
    }
    night.claim.tell(**{name: round(value, 4) for name, value in figures.items() if value is not None})
    evaluations = _rows(night, verdict, champion, challenger)
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

    base, tokenizer = lora.load_base(night.base.path)
    sets = [
        [encode(tokenizer, to_example(example)) for example in examples]
        for examples in (material.held_out, material.old_held_out)
    ]

    def measure(subject: Any) -> tuple[Any, Any]:
        new, old = (score(subject, rows, tokenizer.pad_token_id) for rows in sets)
        return new, old

    challenger = lora.load_adapter(base, night.sealed)
    with lora.quick_products(challenger):
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
        if _erased_meanwhile(session, night, manifest["examples"]):
            night.store.remove(location)
            shutil.rmtree(night.folder, ignore_errors=True)
            raise NightError(
                "Data that it trained on was erased meanwhile: nothing is registered.",
                "The next night learns what is left.",
            )
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


def _erased_meanwhile(session: Session, night: Night, trained: list[str]) -> bool:
    """Whether an example that is in these weights, or a version below them, was taken away since the night began."""
    there = session.scalar(
        select(func.count()).select_from(TrainingExample).where(
            TrainingExample.context == night.context, TrainingExample.sha256.in_(trained)
        )
    )  # fmt: skip
    parent = session.get(AdapterVersion, night.parent.id) if night.parent else None
    return there != len(trained) or (parent is not None and parent.state == "retired")


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
            # Too few tonight: they wait for the next night, together with what comes until then.
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


def _facts(night: Night, material: Material) -> dict[str, Any]:
    """The manifest's provenance: whose examples are in these weights, its ancestors' included."""
    inherited: set[str] = set()
    lineage: list[str] = []
    if night.parent is not None:
        parent = night.parent.manifest
        if night.parent.source != "starter":  # the starter's are generated: its manifest counts them
            inherited = {*parent.get("examples", []), *parent.get("inherited_examples", [])}
        lineage = [*parent.get("lineage", []), night.parent.sha256]
    trained = {example.sha256 for example in [*material.new, *material.replayed]}
    return {
        "base": {"model": night.base.name, "revision": night.base.revision},
        "context": night.context,
        "run": str(night.claim.run_id),
        "parent": night.parent.name if night.parent else None,
        "lineage": lineage,
        "strategy": night.strategy.name,
        "seed": night.seed,
        "created_at": now().isoformat(timespec="seconds"),
        "examples": sorted(trained),
        "inherited_examples": sorted(inherited - trained),
        "counts": {"new": len(material.new), "replayed": len(material.replayed), "held_out": len(material.held_out)},
    }


def _card(night: Night, material: Material) -> str:
    parent = night.parent.name if night.parent else "the frozen base"
    counts = f"{len(material.new)} new and {len(material.replayed)} replayed examples"
    return (
        f"# An adapter of the context '{night.context}'\n\n"
        f"LoRA on {night.base.name} ({night.base.revision}), trained by the night {night.claim.run_id} from {parent}"
        f" with strategy `{night.strategy.name}`, seed {night.seed}: {counts}. `manifest.json` lists their hashes, its"
        " ancestors' and the SHA-256 of every file here.\n"
    )


def _rows(night: Night, verdict: Any, champion: Any, challenger: Any) -> list[Evaluation]:
    """Every figure the decision was made from."""

    def row(
        suite: str,
        metric: str,
        value: float,
        examples: int,
        low: float | None = None,
        high: float | None = None,
        **details: Any,
    ) -> Evaluation:  # noqa: E501
        return Evaluation(
            run_id=night.claim.run_id, suite=suite, metric=metric, value=value, lower=low, upper=high,
            examples=examples, details=details,
        )  # fmt: skip

    gain, kept = verdict.gain, verdict.kept
    return [
        row("gain", "loss_difference", gain.mean, gain.rows, gain.low, gain.high,
            champion=champion[0].losses, challenger=challenger[0].losses),
        row("retention", "loss_difference", kept.mean, kept.rows, kept.low, kept.high,
            champion=champion[1].losses, challenger=challenger[1].losses),
        row("retention", "accuracy_share", verdict.retention, kept.rows, by_age=verdict.by_age),
        row("retention", "loss_rise", verdict.rise[0], kept.rows, None, verdict.rise[1]),
        row("gain", "loss_difference_to_base", verdict.over_base.mean, gain.rows, verdict.over_base.low,
            verdict.over_base.high),
        *([] if verdict.gain_retention is None else [
            row("retention", "gain_share", verdict.gain_retention, kept.rows)
        ]),
        *[row("courtesy", name, passed / max(asked, 1), asked) for name, passed, asked in verdict.courtesy],
    ]  # fmt: skip


def _group(example: TrainingExample) -> str:
    return str(example.customer_id or example.sha256)


def _age(example: TrainingExample) -> str:
    from learning.gate import age_of

    return age_of((now() - example.created_at).total_seconds() / 86400, generated=example.source == "starter")
