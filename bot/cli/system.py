"""up, status, demo, migrate."""

import click

from bot.cli.common import as_json_option, print_json, print_table
from core.settings import load_settings


@click.command()
def up() -> None:
    """Run the whole system on this machine, in the foreground, until Ctrl-C."""
    from bot.up.run import up as run

    run()


@click.command()
@as_json_option
def status(as_json: bool) -> None:
    """What runs: address, data directory, and each process with pid, state and restarts."""
    from bot.up.system import is_running, read_status
    from core.errors import NotFound

    settings = load_settings()
    found = read_status(settings.data_dir)
    if not is_running(settings.data_dir):
        raise NotFound(f"Nothing runs on {settings.data_dir}.", "Start it: npllm up")
    if as_json:
        print_json(found)
        return
    click.echo(f"{found['url']}   data in {found['data_dir']}")
    if settings.operator_password is not None:
        click.echo(f"password for /ops and /review: {settings.operator_password.get_secret_value()}")
    rows = [(name, p["state"], p["pid"], p["restarts"], p["port"]) for name, p in found["processes"].items()]
    print_table(("process", "state", "pid", "restarts", "port"), rows)


@click.command()
def demo() -> None:
    """The whole story on one machine, through the system's real doors, in about three minutes."""
    from bot.demo.story import tell

    tell()


@click.command()
def migrate() -> None:
    """Bring the database to the newest migration."""
    from core.db import need_database
    from core.migrate import migrate as run

    settings = load_settings()
    run(settings.migrations_database_url or need_database(settings))
    click.echo("The database is up to date.")
