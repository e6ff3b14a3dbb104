"""rollout: the verbs of `bot/rollout_verbs.py`, printed. Who has a shell on the machine is an operator."""

from typing import Any

import click
from sqlalchemy import Engine

from bot.cli.common import print_json, whoami
from bot.rollout_verbs import Answer, Door
from bot.rollout_verbs import rollout as verbs
from core.db import get_engine, need_database
from core.settings import get_settings


class Printed(click.Group):
    """Makes the door, and prints what a verb says through it."""

    def invoke(self, ctx: click.Context) -> Any:
        ctx.obj = Door(_database, whoami(), frozenset({"admin"}), local=True, show=show)
        answer = super().invoke(ctx)
        show(answer)
        if not answer.ok:
            raise SystemExit(1)


def _database() -> Engine:
    return get_engine(need_database(get_settings()), pool_size=2)


def show(answer: Answer) -> None:
    print_json(answer.data) if answer.as_json else click.echo(answer.text)


rollout = Printed("rollout", commands=verbs.commands, help=verbs.help)
