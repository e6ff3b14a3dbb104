"""What every act of the story uses: the clock, the street, and the end of a story whose step did not happen."""

import contextlib
import time
from typing import Any

import click
from sqlalchemy.orm import Session

from bot.demo.people import Street
from core.db import get_engine, need_database, transaction
from core.errors import NpllmError
from core.settings import Settings


class StepFailed(NpllmError):
    """A step of the story did not happen."""


class Story:
    """Prints steps and keeps the clock."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.engine = get_engine(need_database(settings))
        self.street = Street(settings)
        self.began = time.monotonic()

    def act(self, title: str) -> None:
        click.secho(f"\n{title}", bold=True)

    def tell(self, text: str) -> None:
        click.echo(f"  {time.monotonic() - self.began:5.1f} s  {text}")

    def must(self, happened: Any, what: str) -> None:
        if not happened:
            raise StepFailed(
                f"This did not happen: {what}.", "Look at `npllm status` and the logs in the data directory."
            )

    def session(self) -> contextlib.AbstractContextManager[Session]:
        return transaction(self.engine)

    def until(self, seconds: float, look: Any, what: str) -> Any:
        """Wait for `look` to give something true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.2)
        self.must(False, what)
