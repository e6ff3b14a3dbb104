"""handover."""

import uuid

import click

from bot import handover as it
from bot.cli.common import as_json_option, print_json, print_table, session, settings, whoami
from core import jobs
from core.errors import NotFound
from core.tables import Conversation
from integrations.redis.queue import connect, enqueue, need_redis

by_option = click.option("--by", default=None, help="Who does this. Default: the log-in name.")


@click.group()
def handover() -> None:
    """Conversations that a person of the team takes over from the bot."""


@handover.command("list")
@click.option("--all", "everything", is_flag=True, help="Those that were given back too.")
@as_json_option
def list_(everything: bool, as_json: bool) -> None:
    """Who asks for a person, oldest first."""
    with session() as db:
        found = it.listing(db, everything=everything)
    if as_json:
        print_json(
            [
                {
                    "id": str(row.id), "conversation": str(talk.id), "channel": talk.channel, "asked_at": row.asked_at,
                    "asked_by": row.asked_by, "taken_by": row.taken_by, "returned_by": row.returned_by,
                }
                for row, talk in found
            ]
        )  # fmt: skip
        return
    rows = [
        (row.id, talk.channel, f"{row.asked_at:%d.%m. %H:%M}", row.asked_by, row.taken_by, row.returned_by)
        for row, talk in found
    ]
    print_table(("id", "channel", "asked", "by", "taken by", "given back by"), rows, empty="Nobody asks for a person.")


@handover.command()
@click.argument("conversation")
@by_option
def start(conversation: str, by: str | None) -> None:
    """Hand a conversation over that nobody asked for (its id: npllm events list)."""
    try:
        key = uuid.UUID(conversation)
    except ValueError:
        raise NotFound(f"'{conversation}' is no conversation's id.", "npllm events list") from None
    with session() as db:
        talk = db.get(Conversation, key)
        if talk is None:
            raise NotFound(f"There is no conversation {conversation}.", "npllm events list")
        click.echo(it.ask(db, settings(), talk, by=by or whoami()).id)


@handover.command()
@click.argument("id")
@by_option
def take(id: str, by: str | None) -> None:
    """Say "mine"."""
    with session() as db:
        it.take(db, it.find(db, id), by=by or whoami())


@handover.command()
@click.argument("id")
@click.argument("text")
@by_option
def reply(id: str, text: str, by: str | None) -> None:
    """Answer the customer as a person; takes the conversation if nobody has."""
    with session() as db:
        lane = it.reply(db, it.find(db, id), text, by=by or whoami())
    enqueue(connect(need_redis(settings())), jobs.SEND, lane)


@handover.command("return")
@click.argument("id")
@by_option
def return_(id: str, by: str | None) -> None:
    """Give the conversation back to the bot."""
    with session() as db:
        it.give_back(db, it.find(db, id), by=by or whoami())
