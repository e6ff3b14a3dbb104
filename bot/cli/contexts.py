"""contexts."""

from typing import Any

import click
import yaml

from bot.cli.common import as_json_option, print_json, print_table, session, settings
from core import registry
from core.errors import BadInput, Conflict
from core.schedule import PRESETS, Schedule, schedule_of
from core.tables import Context

MAX_NAME = 60  # it is part of versions' names and of folders' on disk


@click.group()
def contexts() -> None:
    """Contexts: who is served, in which language, and when they sleep."""


@contexts.command(name="list")
@as_json_option
def list_contexts(as_json: bool) -> None:
    """All contexts with their presets."""
    with session() as db:
        rows = [_describe(context) for context in db.query(Context).order_by(Context.name)]
    if as_json:
        print_json(rows)
        return
    table = [(r["name"], r["preset"], r["language"], r["schedule"]["every"], r["schedule"]["strategy"]) for r in rows]
    print_table(("context", "preset", "language", "sleeps every", "strategy"), table)


@contexts.command()
@click.argument("name")
@as_json_option
def show(name: str, as_json: bool) -> None:
    """One context: its preset, what it overrides, and what comes of both."""
    with session() as db:
        facts = _describe(registry.get_context(db, name))
    if as_json:
        print_json(facts)
        return
    rows = [(key, value, "overridden" if key in facts["overrides"] else "") for key, value in facts["schedule"].items()]
    click.echo(f"{name}: preset {facts['preset']}, language {facts['language']}")
    print_table(("setting", "value", ""), rows)


@contexts.command()
@click.argument("name")
@click.option("--preset", default="support", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@click.option("--language", type=click.Choice(["pt", "en"]), default="pt", show_default=True)
def add(name: str, preset: str, language: str) -> None:
    """A new context, with its own knowledge, versions and schedule."""
    if not name.isidentifier() or len(name) > MAX_NAME:
        raise BadInput(
            f"'{name}' is no name for a context.", f"Take up to {MAX_NAME} letters, digits and _, such as partners."
        )
    schedule_of(settings(), preset, {})
    with session() as db:
        if db.get(Context, name) is not None:
            raise Conflict(f"There is a context '{name}' already.", f"npllm contexts show {name}")
        db.add(Context(name=name, preset=preset, language=language))
    click.echo(f"{name}: npllm knowledge add --context {name} gives it something to say")


@contexts.command(name="set")
@click.argument("name")
@click.argument("assignments", nargs=-1, required=True)
def set_values(name: str, assignments: tuple[str, ...]) -> None:
    """Change settings of a context: KEY=VALUE ..., KEY= takes an override back; preset=NAME changes the preset."""
    with session() as db:
        context = registry.get_context(db, name)
        overrides = dict(context.overrides)
        for assignment in assignments:
            key, equals, value = assignment.partition("=")
            if not equals or key not in ("preset", *Schedule.model_fields):
                raise BadInput(
                    f"'{assignment}' sets nothing.",
                    f"Write KEY=VALUE; keys: preset, {', '.join(Schedule.model_fields)}.",
                )
            if key == "preset":
                context.preset = value
            elif value:
                overrides[key] = _value(value) if key not in ("hours", "timezone") else value
            else:
                overrides.pop(key, None)
        schedule_of(settings(), context.preset, overrides)  # refused here, not at night
        context.overrides = overrides
    click.echo(f"{name} is changed.")


def _value(text: str) -> Any:
    """A number, a word or a list, as YAML reads it; what is no YAML stays text, and the schedule refuses it."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _describe(context: Context) -> dict[str, Any]:
    schedule = schedule_of(settings(), context.preset, context.overrides)
    return {
        "name": context.name, "preset": context.preset, "language": context.language, "overrides": context.overrides,
        "schedule": schedule.model_dump(),
    }  # fmt: skip
