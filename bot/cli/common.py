"""What the commands share: the database of the running system, printing, who is asking."""

import getpass
import json
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text
from sqlalchemy.orm import Session

from core import registry
from core.db import get_engine, need_database, transaction
from core.settings import Settings, get_settings

as_json_option = click.option("--json", "as_json", is_flag=True, help="Print data for machines.")
context_option = click.option("--context", default="customers", show_default=True, help="Which context.")


@contextmanager
def session() -> Iterator[Session]:
    """A transaction on the running system's database."""
    with transaction(get_engine(need_database(get_settings()), pool_size=2)) as opened:
        yield opened


def check_context(db: Session, context: str | None) -> None:
    """A list of a context that does not exist would be empty, and look like good news."""
    if context is not None:
        registry.get_context(db, context)


def settings() -> Settings:
    return get_settings()


def whoami() -> str:
    """The log-in name: the actor of the audit trail."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, ensure_ascii=False, default=str))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, empty: str = "Nothing yet.") -> None:
    """Cells are what people wrote: no markup. Ids stay whole in a narrow terminal: the next command needs them."""
    if not rows:
        click.echo(empty)
        return
    cells = [["–" if value is None else shown(str(value)) for value in row] for row in rows]
    table = Table(box=None, pad_edge=False)
    for number, column in enumerate(columns):
        whole = max(len(row[number]) for row in cells) if column == "id" else None
        table.add_column(column, overflow="fold", min_width=whole)
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table, crop=False)


def shown(text: str) -> str:
    """A text that somebody wrote, without what would steer a terminal."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "�" for c in text)
