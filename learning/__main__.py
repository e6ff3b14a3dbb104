"""What a night would learn, without learning it.

    python -m learning --context customers

`npllm sleep now --dry-run` runs this in a process of its own: bot and learning never import one another. Everything
happens in a transaction that is rolled back. Prints one JSON object.
"""

import json
import uuid
from typing import Any

import click
from sqlalchemy import select

from core import registry
from core.db import get_engine
from core.errors import NpllmError, SettingError
from core.schedule import schedule_of
from core.settings import Settings, load_settings
from core.tables import ConsolidationRun, TrainingExample, now
from integrations.huggingface.embedded_base import config_folder
from learning.curate import curate
from learning.dataset import fitting

SHOWN = 20  # examples


@click.command()
@click.option("--context", default="customers")
def main(context: str) -> None:
    """Curate, tell, and take it back."""
    try:
        click.echo(json.dumps(rehearse(context, load_settings()), ensure_ascii=False))
    except NpllmError as error:
        raise click.ClickException(str(error)) from error


def rehearse(context: str, settings: Settings) -> dict[str, Any]:
    """The funnel, the topics and some of the examples that tonight's night would learn.

    Raises:
        SettingError: there is no database.
    """
    from sqlalchemy.orm import Session

    if not settings.database_url:
        raise SettingError("There is no database.", "Start `npllm up`, or set DATABASE_URL.")
    with get_engine(settings.database_url).connect() as connection, Session(connection) as session:
        run = ConsolidationRun(
            id=uuid.uuid4(), context=context, night=now().date(), sequence=-1, strategy="none", seed=0, state="skipped"
        )
        session.add(run)
        session.flush()
        sleeper = registry.get_context(session, context)
        limit = schedule_of(settings, sleeper.preset, sleeper.overrides).max_examples
        base = config_folder(settings.base_model, settings.data_dir)  # a rehearsal fetches none
        fits = fitting(base) if base else lambda example: True
        funnel = curate(session, context, run.id, settings, limit=limit, fits=fits)
        rows = session.scalars(select(TrainingExample).where(TrainingExample.run_id == run.id)).all()
        learned = [row for row in rows if row.dropped is None]
        topics: dict[str, int] = {}
        for row in learned:
            topics[row.topic or "all"] = topics.get(row.topic or "all", 0) + 1
        found = {
            "context": context,
            "funnel": funnel,
            "topics": dict(sorted(topics.items(), key=lambda item: -item[1])),
            "examples": [
                {"question": row.messages[-1]["content"], "answer": row.answer, "source": row.source,
                 "reward": row.reward, "topic": row.topic, "split": row.split}
                for row in learned[:SHOWN]
            ],
        }  # fmt: skip
        session.rollback()
    return found


if __name__ == "__main__":
    main()
