"""doctor."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

import click
import httpx
from sqlalchemy import text

from bot.cli.common import as_json_option, print_json
from bot.up.system import is_running, read_status
from core.db import get_engine, vector_schema
from core.errors import NpllmError
from core.migrate import is_current
from core.partitions import unprotected
from core.settings import EMBEDDED, Settings, load_settings

State = Literal["ok", "off", "warn", "bad"]
SIGNS: dict[State, str] = {"ok": "✓", "off": "·", "warn": "!", "bad": "✗"}
COLOURS: dict[State, str | None] = {"ok": "green", "off": None, "warn": "yellow", "bad": "red"}


@dataclass(frozen=True)
class Finding:
    """One thing looked at; `bad` keeps the system from working."""

    state: State
    part: str
    says: str
    to_do: str = ""


@click.command()
@click.option(
    "--history", "of_history", is_flag=True, help="Instead: prove the invariants on everything that happened."
)
@as_json_option
def doctor(of_history: bool, as_json: bool) -> None:
    """What is set up, reachable and missing, and what to do. Exit status 1 if something keeps it from working."""
    if of_history:
        history(as_json)
        return
    settings = load_settings()
    findings: list[Finding] = []
    for look in (place, database, redis, model, embeddings, channels, pauses, pages, outside):
        for finding in look(settings):
            findings.append(finding)
            if not as_json:
                say(finding)
    if as_json:
        print_json([asdict(finding) for finding in findings])
    if any(finding.state == "bad" for finding in findings):
        raise SystemExit(1)


def history(as_json: bool) -> None:
    """Ledger, outbox and event log against bot/history.py's rules. Exit status 1 if one is broken."""
    from bot.cli.common import session
    from bot.history import RULES, check

    with session() as db:
        found = check(db)
    if as_json:
        print_json({"figures": found.figures, "violations": [asdict(violation) for violation in found.violations]})
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in found.figures.items()))
        broken = {violation.rule for violation in found.violations}
        for rule in RULES:
            say(Finding("bad" if rule in broken else "ok", "history", rule))
        for violation in found.violations[:50]:
            click.echo(f"{'':15}→ {violation.subject}: {violation.says} ({violation.rule})")
    if found.violations:
        raise SystemExit(1)


def say(finding: Finding) -> None:
    click.secho(f"{SIGNS[finding.state]} {finding.part:<12} {finding.says}", fg=COLOURS[finding.state])
    if finding.to_do:
        click.echo(f"{'':15}→ {finding.to_do}")


def place(settings: Settings) -> Iterator[Finding]:
    folder = settings.data_dir
    running = is_running(folder)
    if running:
        status = read_status(folder)
        yield Finding("ok", "system", f"runs at {status.get('url')} (npllm status)")
        for name, process in status.get("processes", {}).items():
            if process["state"] != "running":
                yield Finding("warn", "system", f"{name} is {process['state']}, {process['restarts']} restarts",
                              f"Look at {folder / 'logs' / (name + '.log')}")  # fmt: skip
    elif not settings.database_url:
        yield Finding("bad", "system", "does not run, and no DATABASE_URL is set", "npllm up")
    if folder.exists():
        free = shutil.disk_usage(folder).free
        writable = os.access(folder, os.W_OK)
        state: State = "bad" if not writable else "warn" if free < 2**30 else "ok"
        what = f"{folder}, {free / 2**30:.1f} GB free" if writable else f"{folder} cannot be written"
        yield Finding(state, "data", what, "" if state == "ok" else "Set NPLLM_DATA_DIR, or free some space.")
    else:
        yield Finding("off", "data", f"{folder} does not exist yet", "npllm up makes it.")


def database(settings: Settings) -> Iterator[Finding]:
    if not settings.database_url:
        return
    try:
        engine = get_engine(settings.database_url)
        with engine.connect() as connection:
            version = connection.execute(text("SHOW server_version")).scalar()
            yield Finding("ok", "database", f"Postgres {version} answers")
            if not is_current(connection):
                yield Finding("bad", "database", "is not at the newest migration", "npllm migrate")
                return
            if open_tables := unprotected(connection):
                yield Finding("bad", "database", f"without row-level security: {', '.join(open_tables)}",
                              "npllm migrate; on Supabase such a table can be read over REST.")  # fmt: skip
        yield Finding(
            "ok", "database", f"migrated; pgvector in schema '{vector_schema(engine)}'; row-level security on"
        )
    except NpllmError as error:
        yield Finding("bad", "database", error.message, error.next_step)
    except Exception as error:
        reason = str(error).splitlines()[0]
        yield Finding("bad", "database", f"does not answer: {reason}", "Check DATABASE_URL, or `npllm status`.")


def redis(settings: Settings) -> Iterator[Finding]:
    if not settings.redis_url:
        return
    from integrations.redis.queue import connect

    try:
        info = connect(settings.redis_url).info("server")
        yield Finding("ok", "redis", f"version {info.get('redis_version')} answers")
    except Exception as error:
        yield Finding("bad", "redis", f"does not answer: {error}", "Check REDIS_URL, or `npllm status`.")


def model(settings: Settings) -> Iterator[Finding]:
    from bot.models import main_server, outside_model

    where = settings.inference_url or f"the local server ({settings.base_model})"
    try:
        listed = main_server(settings).models()
        yield Finding("ok", "model", f"{where} serves {', '.join(listed)}")
    except NpllmError as error:
        yield Finding("bad", "model", error.message, error.next_step)
    if settings.inference_url and settings.base_model == EMBEDDED:
        yield Finding("warn", "nights", "INFERENCE_URL is set and BASE_MODEL is not: nights have no base to train on",
                      "Set BASE_MODEL to the same model's hub name or folder.")  # fmt: skip
    for entry in settings.fallback_models:
        try:
            outside_model(entry, settings)
            yield Finding("ok", "fallback", entry)
        except NpllmError as error:
            yield Finding("bad", "fallback", error.message, error.next_step)


def embeddings(settings: Settings) -> Iterator[Finding]:
    from integrations.openai.embeddings import embeddings_of

    try:
        client = embeddings_of(settings)
        dimension = len(client.embed(["olá"])[0])
        yield Finding("ok", "embeddings", f"{client.name}, {dimension} dimensions")
    except NpllmError as error:
        yield Finding(
            "warn", "embeddings", f"{error.message} Passages are found by their words alone.", error.next_step
        )


def channels(settings: Settings) -> Iterator[Finding]:
    wanted: dict[str, tuple[bool, dict[str, object], Callable[[Settings], str] | None]] = {
        "twilio": (
            settings.twilio_open,
            {
                "TWILIO_ACCOUNT_SID": settings.twilio_account_sid,
                "TWILIO_AUTH_TOKEN": settings.twilio_auth_token,
                "TWILIO_WHATSAPP_FROM": settings.twilio_whatsapp_from,
            },
            None,
        ),
        "meta": (
            settings.meta_open,
            {
                "META_APP_SECRET": settings.meta_app_secret,
                "META_ACCESS_TOKEN": settings.meta_access_token,
                "META_PHONE_NUMBER_ID": settings.meta_phone_number_id,
                "META_VERIFY_TOKEN": settings.meta_verify_token,
            },
            None,
        ),
        "slack": (
            settings.slack_open,
            {
                "SLACK_SIGNING_SECRET": settings.slack_signing_secret or settings.slack_app_token,
                "SLACK_BOT_TOKEN": settings.slack_bot_token or settings.slack_installable,
            },
            _slack_says,
        ),
    }
    for name, (is_open, secrets, ask) in wanted.items():
        missing = [secret for secret, value in secrets.items() if not value]
        if is_open and not missing:
            yield Finding("ok", name, "open" + (f"; {ask(settings)}" if ask else ""))
        elif len(missing) == len(secrets):
            yield Finding("off", name, "closed", f"Set {', '.join(secrets)}.")
        else:
            yield Finding("bad" if not is_open else "warn", name, f"half set up: {', '.join(missing)} missing",
                          f"Set {', '.join(missing)}.")  # fmt: skip
    if not settings.public_base_url:
        yield Finding("warn", "channels", "PUBLIC_BASE_URL is not set: Twilio's signatures and reports need it",
                      "Set it to the https address that vendors call.")  # fmt: skip


def pauses(settings: Settings) -> Iterator[Finding]:
    """Channels that may not send now, and why."""
    if not settings.database_url:
        return
    query = "SELECT channel, until, reason FROM npllm.channel_pauses WHERE until > now() ORDER BY channel"
    try:
        with get_engine(settings.database_url).connect() as connection:
            for channel, until, reason in connection.execute(text(query)):
                yield Finding("warn", channel, f"sends nothing until {until:%d %b %H:%M %Z}: {reason}",
                              "It goes on by itself once that is mended.")  # fmt: skip
    except Exception:
        return  # `database` says what is wrong


def _slack_says(settings: Settings) -> str:
    """Whether the token is good; asked of Slack (or of the fake vendor), a short time."""
    if settings.slack_bot_token is None:
        return "workspaces install it at /slack/install"
    headers = {"Authorization": f"Bearer {settings.slack_bot_token.get_secret_value()}"}
    try:
        answer = httpx.post(f"{settings.slack_api_base_url}/auth.test", headers=headers, timeout=5.0).json()
        return "token accepted" if answer.get("ok") else f"token refused: {answer.get('error')}"
    except (httpx.HTTPError, ValueError):
        return "Slack does not answer from here"


def pages(settings: Settings) -> Iterator[Finding]:
    for name, secret, what in (
        ("website", settings.session_secret, "SESSION_SECRET"),
        ("log-in", settings.operator_password, "OPERATOR_PASSWORD"),
    ):
        if secret:
            yield Finding("ok", name, "open")
        else:
            yield Finding("off", name, "closed", f"Set {what}.")


def outside(settings: Settings) -> Iterator[Finding]:
    if settings.langsmith_api_key:
        yield Finding("ok", "langsmith", f"redacted traces to project '{settings.langsmith_project}'")
    else:
        yield Finding("off", "langsmith", "no traces", "Set LANGSMITH_API_KEY for redacted traces.")
    if settings.supabase_url and settings.supabase_secret_key:
        yield Finding("ok", "supabase", f"adapter files in bucket '{settings.supabase_bucket}'")
        if settings.supabase_service_role_key:
            yield Finding("warn", "supabase", "SUPABASE_SERVICE_ROLE_KEY is a kind of key that ends in 2026",
                          "Make a secret key (sb_secret_...) and set SUPABASE_SECRET_KEY.")  # fmt: skip
    else:
        yield Finding("off", "supabase", "adapter files in the data directory")
