"""The operator's console. Noun then verb; `--json` where data is printed; a non-zero exit on failure.

Commands are imported when they are called: `npllm --help` starts no database and no model.
"""

import importlib
import os
import sys

import click

from core.errors import NpllmError

# name -> (module below bot.cli, help line). Processes, which the Procfile starts, come last.
COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("system", "Run the whole system on this machine, in the foreground."),
    "status": ("system", "What runs: address, data directory, every process."),
    "demo": ("system", "The whole story on one machine, without a key press."),
    "doctor": ("doctor", "What is set up, reachable and missing, and what to do."),
    "migrate": ("system", "Bring the database to the newest migration."),
    "chat": ("talk", "Say something to the running bot."),
    "simulate": ("talk", "Send signed traffic of a vendor to the running system."),
    "events": ("events", "What happened, oldest first."),
    "sleep": ("sleep", "Nights: ask for one, follow it, look back."),
    "contexts": ("contexts", "Who is served, and when they sleep."),
    "rollout": ("rollout", "Start, steer and explain rollouts."),
    "adapters": ("adapters", "Adapter versions and their files."),
    "handover": ("handover", "Conversations that a person takes over."),
    "annotate": ("annotate", "The annotation queue."),
    "knowledge": ("knowledge", "What answers may be taken from."),
    "privacy": ("privacy", "Personal data."),
    "bench": ("bench", "Measure this machine and this code."),
    "web": ("processes", "Process: the web application."),
    "awake": ("processes", "Process: workers that answer."),
    "asleep": ("processes", "Process: the worker that trains."),
    "model": ("processes", "Process: the local model and embedding server."),
    "clock": ("processes", "Process: sweeper and schedule."),
    "slack": ("processes", "Process: Slack's events through a socket (SLACK_APP_TOKEN), for development."),
    "vendors": ("processes", "Process: the fake vendors that the simulator talks to."),
}


class Lazy(click.Group):
    """Imports a command's module when the command is called; expected errors are two lines, not a traceback."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"bot.cli.{COMMANDS[name][0]}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except NpllmError as error:
            click.secho(error.message, fg="red", err=True)
            if error.next_step:
                click.echo(error.next_step, err=True)
            sys.exit(1)
        except UnicodeEncodeError as error:
            if error.reason != "surrogates not allowed":
                raise
            click.secho("A text that was given is not UTF-8.", fg="red", err=True)
            click.echo("Convert it first: iconv -f latin1 -t utf-8", err=True)
            sys.exit(1)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)


@click.command(cls=Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="npllm")
def main() -> None:
    """npllm: a messaging bot that learns overnight."""
