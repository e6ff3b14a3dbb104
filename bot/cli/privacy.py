"""privacy."""

import sys

import click

from core.redact import Redactor


@click.group()
def privacy() -> None:
    """Personal data."""


@privacy.command()
@click.option("--keep", multiple=True, help="A name that is no personal data (a product's, the assistant's).")
def redact(keep: tuple[str, ...]) -> None:
    """Read lines on standard input and write them redacted; one line knows nothing of the others."""
    for line in sys.stdin:
        click.echo(Redactor(keep=keep)(line.rstrip("\n")))
