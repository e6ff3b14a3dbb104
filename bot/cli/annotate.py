"""annotate."""

import click

from bot.cli.common import as_json_option, check_context, print_json, print_table, session, settings, shown, whoami
from bot.review import queue


@click.group()
def annotate() -> None:
    """The annotation queue: list, next, submit."""


@annotate.command("list")
@click.option("--context", default=None)
@as_json_option
def list_(context: str | None, as_json: bool) -> None:
    """All open items, the most urgent first."""
    with session() as db:
        check_context(db, context)
        items = [queue.as_json(item) for item in queue.open_items(db, context)]
    if as_json:
        print_json(items)
    else:
        rows = [(i["id"], i["reason"], i["version"], i["question"][:50], i["answer"][:60]) for i in items]
        print_table(("id", "why", "version", "question", "answer"), rows, empty="The queue is empty.")


@annotate.command("next")
@click.option("--reviewer", default=None, help="Default: the log-in name.")
@click.option("--context", default=None)
@as_json_option
def next_(reviewer: str | None, context: str | None, as_json: bool) -> None:
    """Claim one more item."""
    with session() as db:
        check_context(db, context)
        item = queue.claim_next(db, reviewer or whoami(), settings(), context)
        found = queue.as_json(item) if item else None
    if as_json:
        print_json(found)
    elif found is None:
        click.echo("The queue is empty.")
    else:
        click.echo(f"{found['id']}  ({found['reason']}, {found['version']})")
        for asked, answered in found["history"]:
            click.echo(shown(f"  … {asked}\n    {answered}"))
        click.echo(shown(f"  ? {found['question']}\n  ! {found['answer']}"))
        for passage in found["passages"] or []:
            click.echo(f"    - {passage}")
    if found is None:
        raise SystemExit(3)


@annotate.command()
@click.argument("item_id")
@click.argument("verdict", type=click.Choice(queue.VERDICTS))
@click.option("--text", "corrected", default=None, help="The corrected answer, for `correct`.")
@click.option("--comment", default=None)
@click.option("--reviewer", default=None, help="Default: the log-in name.")
@as_json_option
def submit(
    item_id: str,
    verdict: queue.Verdict,
    corrected: str | None,
    comment: str | None,
    reviewer: str | None,
    as_json: bool,
) -> None:
    """Decide about a claimed item: approve, correct (with --text) or reject."""
    with session() as db:
        annotation = queue.submit(db, item_id, reviewer or whoami(), verdict, corrected=corrected, comment=comment)
        facts = {"id": str(annotation.id), "item": item_id, "verdict": verdict, "reviewer": annotation.reviewer}
    print_json(facts) if as_json else click.echo(f"{verdict}: stored")
