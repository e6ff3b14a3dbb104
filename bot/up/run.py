"""`npllm up`, from the first folder to the last good-bye."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import click

from bot.seed import seed
from bot.up.supervisor import Supervisor
from bot.up.system import System, make_system, only_one
from core.errors import Unavailable
from core.migrate import migrate
from core.settings import EMBEDDED, Settings, load_settings, runtime_file
from integrations.huggingface.embedded_base import embedded_base_is_here


def up(settings: Settings | None = None) -> None:
    """Run the whole system in the foreground until SIGINT or SIGTERM.

    Raises:
        NpllmError: it could not start; what was started is stopped again.
    """
    end_as_with_ctrl_c()
    settings = settings or load_settings(running=False)
    with only_one(settings.data_dir):
        began = time.monotonic()
        fetch_base(settings)
        with running(make_system(settings)) as (system, supervisor):
            _tell(system, time.monotonic() - began)
            stopping = threading.Event()
            for ending in (signal.SIGINT, signal.SIGTERM):
                signal.signal(ending, lambda *_: stopping.set())
            supervisor.watch(stopping.is_set)
            click.echo("stopping …")
    click.echo("stopped; the data stays in " + str(settings.data_dir))


def end_as_with_ctrl_c() -> None:
    """Let SIGTERM end this process as Ctrl-C does: what was started on the way is stopped again."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@contextlib.contextmanager
def running(system: System) -> Iterator[tuple[System, Supervisor]]:
    """The system started and ready for the body of the `with`; stopped after it, whatever happens."""
    facts = {"url": system.url, "data_dir": str(system.settings.data_dir), "pid": os.getpid()}
    supervisor = Supervisor(system.settings.data_dir / "logs", system.run / "status.json", facts)
    try:
        model, first = system.model_part(), system.first_parts()
        supervisor.launch(*first)
        supervisor.launch(*([model] if model else []))  # it loads while the ledger starts
        supervisor.wait_for(*first)
        migrate(system.settings.migrations_database_url or str(system.settings.database_url))
        others = system.other_parts()
        supervisor.launch(*others)
        supervisor.wait_for(*others, *([model] if model else []))
        seed(system.settings)
        yield system, supervisor
    finally:
        for ending in (signal.SIGINT, signal.SIGTERM):
            signal.signal(ending, signal.SIG_IGN)  # a second Ctrl-C must not leave a process behind
        supervisor.stop()
        runtime_file(system.settings.data_dir).unlink(missing_ok=True)


def fetch_base(settings: Settings) -> None:
    """Have the base model on disk before anything starts; its own process, because conversion needs torch."""
    if not settings.local_base:
        return
    if settings.base_model == EMBEDDED and embedded_base_is_here(settings.data_dir):
        return
    command = [sys.executable, "-m", "bot.cli", "model", "--fetch"]
    done = subprocess.run(command, check=False, env={**os.environ, "NPLLM_DATA_DIR": str(settings.data_dir)})
    if done.returncode != 0:
        raise Unavailable("The base model is not here.", "The lines above say why.")


def _tell(system: System, seconds: float) -> None:
    settings, url = system.settings, system.url
    click.echo(f"npllm runs at {url} (ready after {seconds:.1f} s); Ctrl-C stops it")
    click.echo(f"  chat      {url}/chat")
    click.echo(f"  review    {url}/review      operate   {url}/ops")
    if "OPERATOR_PASSWORD" in system.environment:
        click.echo(f"  password  {system.environment['OPERATOR_PASSWORD']} (any name)")
    click.echo(f"  data      {settings.data_dir}")
    if system.simulated:
        click.echo("  No channel is set up, so WhatsApp and Slack are simulated: npllm simulate twilio|meta|slack")
    click.echo("  Next: npllm demo shows the whole story; npllm doctor says what could be set up.")
