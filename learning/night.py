"""What the stages of a night share: who sleeps, from which weights, on which examples."""

import hashlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from core import events, registry
from core.db import transaction
from core.schedule import Schedule, schedule_of
from core.settings import Settings
from core.tables import AdapterVersion, ConsolidationRun, Evaluation, TrainingExample
from integrations.huggingface.embedded_base import BaseModel, resolve_base
from integrations.supabase import artifact_store
from learning import replay
from learning.claims import Claim
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
        known: a few that stand for what the champion knows, where it left no importance and a penalty wants it.
    """

    new: list[TrainingExample]
    held_out: list[TrainingExample]
    replayed: list[TrainingExample]
    share: float
    old_held_out: list[TrainingExample]
    known: list[TrainingExample]

    @property
    def trained(self) -> list[TrainingExample]:
        """Whatever has a part in the weights."""
        return [*self.new, *self.replayed, *self.known]

    def name(self, parent: AdapterVersion | None) -> str:
        """Of the folder for what is trained on them from these weights. Where an erasure took an example or the parent
        away, a night that goes on finds no checkpoint that had learned from them."""
        trained = sorted(row.sha256 for row in self.trained)
        return hashlib.sha256(" ".join([parent.sha256 if parent else "", *trained]).encode()).hexdigest()[:16]

    def that(self, fits: Callable[[TrainingExample], bool]) -> "Material":
        """Only what fits: another base may count more tokens than the one an earlier night was curated for."""

        def kept(rows: list[TrainingExample]) -> list[TrainingExample]:
            return [row for row in rows if fits(row)]

        return Material(
            kept(self.new), kept(self.held_out), kept(self.replayed), self.share, kept(self.old_held_out),
            kept(self.known),
        )  # fmt: skip


def open_night(claim: Claim, engine: Engine, settings: Settings) -> Night:
    """Read the claimed row and what it depends on, and fetch the base if it is not here."""
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


def material_of(night: Night) -> Material:
    """The examples of this night and those of earlier ones that it needs; the same whenever it is asked."""
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
        known = replay.draw(earlier, KNOWN, seed=night.seed) if night.strategy.penalty else []
        return Material(new, held_out, drawn, share, replay.draw(old, OLD_HOLDOUT, seed=night.seed), known)


def _retentions(session: Session, context: str) -> list[float]:
    """What earlier nights' challengers kept on earlier hold-outs, newest first."""
    query = (
        select(Evaluation.value)
        .join(ConsolidationRun, ConsolidationRun.id == Evaluation.run_id)
        .where(
            ConsolidationRun.context == context,
            Evaluation.suite == "retention",
            Evaluation.metric == "accuracy_share",
            Evaluation.examples > 0,  # where nothing was held out before, nothing was kept nor lost
        )
        .order_by(Evaluation.created_at.desc())
        .limit(30)
    )
    return list(session.scalars(query))
