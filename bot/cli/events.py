"""events."""

import click

from bot.cli.common import as_json_option, print_json, session
from core.events import listing


@click.group()
def events() -> None:
    """What happened, oldest first."""


@events.command("list")
@click.option("--since", type=int, default=0, metavar="ID", help="Only events after this id.")
@click.option("--limit", type=click.IntRange(1), default=None, metavar="N")
@as_json_option
def list_(since: int, limit: int | None, as_json: bool) -> None:
    """All events: id, type, at, context, channel, conversation, data; with --json one object a line."""
    with session() as db:
        for event in listing(db, since=since, limit=limit):
            if as_json:
                print_json(event)
            else:
                facts = " ".join(
                    f"{key}={value}" for key, value in event["data"].items() if value not in (None, [], {})
                )
                talk = f"conversation={event['conversation']} " if event["conversation"] else ""
                click.echo(
                    f"{event['id']:>6}  {event['at'][:19]}  {event['type']:<24} {event['channel'] or ''}  {talk}{facts}"
                )
