"""privacy."""

import sys

import click

from bot.cli.common import as_json_option, print_json, session, settings, whoami
from core.redact import Redactor
from core.settings import Settings


@click.group()
def privacy() -> None:
    """Personal data."""


@privacy.command()
@click.option("--keep", multiple=True, help="A name that is no personal data (a product's, the assistant's).")
def redact(keep: tuple[str, ...]) -> None:
    """Read lines on standard input and write them redacted; one line knows nothing of the others."""
    for line in sys.stdin:
        click.echo(Redactor(keep=keep)(line.rstrip("\n")))


@privacy.command()
@click.argument("person")
def export(person: str) -> None:
    """Print everything that is kept of PERSON (their phone, a vendor's id of them, or their id here) as JSON."""
    from bot import privacy as it

    with session() as db:
        print_json(it.export(db, person, actor=whoami()))


@privacy.command()
@click.argument("person")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
def erase(person: str, yes: bool, as_json: bool) -> None:
    """Remove everything of PERSON, and every version that learned from them. It cannot be undone."""
    from bot import privacy as it

    if not yes:
        click.confirm(f"Erase everything of {person}, and retire the versions that learned from them?", abort=True)
    with session() as db:
        done = it.erase(db, person, actor=whoami())
    _remove_files(settings())
    if as_json:
        print_json({"contexts": done.contexts, "counts": done.counts, "versions": done.versions})
        return
    click.echo("erased: " + ", ".join(f"{count} {name}" for name, count in done.counts.items() if count))
    for version in done.versions:
        click.echo(f"retired: {version}")
    if done.versions:
        click.echo("The next night learns what is left again from the base; npllm sleep rebuild does it now.")


def _remove_files(settings: Settings) -> None:
    """The job deletes the weights; without a queue, this process does."""
    import redis

    from core import jobs
    from core.db import get_engine, need_database
    from core.errors import NpllmError
    from integrations.redis.queue import connect, enqueue, need_redis
    from integrations.supabase import artifact_store

    try:
        enqueue(connect(need_redis(settings)), jobs.ERASE)
    except (NpllmError, redis.RedisError):
        from bot.privacy import remove_files

        remove_files(get_engine(need_database(settings)), artifact_store(settings))
