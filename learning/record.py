"""What is written down of a night: where the weights come from, the card beside them, and every figure of the gate."""

from typing import Any

from core.tables import Evaluation, TrainingExample, now
from learning.night import Material, Night


def provenance(night: Night, material: Material) -> dict[str, Any]:
    """The manifest's provenance: whose examples are in these weights, its ancestors' included."""
    inherited: set[str] = set()
    lineage: list[str] = []
    if night.parent is not None:
        parent = night.parent.manifest
        if night.parent.source != "starter":  # the starter's are generated: its manifest counts them
            inherited = {*parent.get("examples", []), *parent.get("inherited_examples", [])}
        lineage = [*parent.get("lineage", []), night.parent.sha256]
    trained = {example.sha256 for example in material.trained}
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


def card(night: Night, material: Material) -> str:
    parent = night.parent.name if night.parent else "the frozen base"
    counts = f"{len(material.new)} new and {len(material.replayed)} replayed examples"
    return (
        f"# An adapter of the context '{night.context}'\n\n"
        f"LoRA on {night.base.name} ({night.base.revision}), trained by the night {night.claim.run_id} from {parent}"
        f" with strategy `{night.strategy.name}`, seed {night.seed}: {counts}. `manifest.json` lists their hashes, its"
        " ancestors' and the SHA-256 of every file here.\n"
    )


def evaluations(night: Night, verdict: Any, champion: Any, challenger: Any) -> list[Evaluation]:
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
        *([] if verdict.characters is None else [
            row("latency", "answer_characters", verdict.characters[0], verdict.courtesy[0][2],
                champion=verdict.characters[1])
        ]),
    ]  # fmt: skip


def group_of(example: TrainingExample) -> str:
    return str(example.customer_id or example.sha256)


def age_in_words(example: TrainingExample) -> str:
    from learning.gate import age_of

    return age_of((now() - example.created_at).total_seconds() / 86400, generated=example.source == "starter")
