"""The processes, as the Procfile and `npllm up` start them."""

import os

import click

from core.settings import EMBEDDED, get_settings


@click.command()
@click.option("--port", type=int, default=None, help="PORT, else 8000.")
@click.option("--workers", type=int, default=1, show_default=True, help="Web processes on this port.")
def web(port: int | None, workers: int) -> None:
    """The web application."""
    import uvicorn

    from bot.impatient import ImpatientProtocol
    from bot.logs import set_up
    from core.parent import end_with_parent

    settings = get_settings()
    set_up("web", settings.log_level)
    end_with_parent()
    uvicorn.run(
        "bot.app:create_app", factory=True, host=settings.host, port=port or settings.port or 8000, workers=workers,
        log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=5,
        forwarded_allow_ips=settings.trusted_proxies, http=ImpatientProtocol,
    )  # fmt: skip


@click.command()
def awake() -> None:
    """Workers that answer."""
    from bot.workers import run_awake

    run_awake()


@click.command()
def asleep() -> None:
    """The worker that trains; it imports torch only inside a night's own process."""
    from bot.workers import run_asleep

    run_asleep()


@click.command()
def clock() -> None:
    """Sweeper and schedule."""
    from bot.clock import run_clock

    run_clock()


@click.command()
@click.option("--port", type=int, default=8400, show_default=True)
@click.option("--fetch", is_flag=True, help="Only have the base model on disk, then end.")
def model(port: int, fetch: bool) -> None:
    """The local model server, and the local embedder (/v1/chat/completions, /v1/embeddings)."""
    settings = get_settings()
    if fetch:
        from integrations.huggingface.embedded_base import resolve_base

        base = resolve_base(settings.base_model, settings.data_dir)
        click.echo(f"{base.name} ({base.revision[:19]}…) in {base.path}")
        return
    from bot.logs import set_up
    from core.parent import end_with_parent
    from integrations.huggingface import server
    from integrations.openai.embeddings import EMBEDDED_EMBEDDER

    set_up("model", settings.log_level)
    end_with_parent()
    if settings.local_model_key is not None:
        os.environ[server.KEY_VARIABLE] = settings.local_model_key.get_secret_value()
    embedder = EMBEDDED_EMBEDDER if settings.embedding_model == EMBEDDED else settings.embedding_model
    arguments = {
        "--base": settings.base_model if settings.local_base else server.NONE,
        "--embedder": embedder if settings.local_embeddings else server.NONE,
        "--data-dir": str(settings.data_dir),
        "--host": settings.host,
        "--port": str(port),
        **({"--threads": str(settings.model_threads)} if settings.model_threads else {}),
    }
    server.main([part for pair in arguments.items() for part in pair], standalone_mode=False)


@click.command()
def slack() -> None:
    """Slack's events through a socket: no public address is needed. `npllm up` runs it where SLACK_APP_TOKEN is set."""
    import asyncio

    from bot.logs import set_up
    from bot.slack.listen import listen
    from core.parent import end_with_parent

    settings = get_settings()
    set_up("slack", settings.log_level)
    end_with_parent()
    asyncio.run(listen(settings))


@click.command()
@click.option("--port", type=int, default=8500, show_default=True)
def vendors(port: int) -> None:
    """The fake vendors that the simulator talks to; on loopback only."""
    import uvicorn

    from bot.logs import set_up
    from bot.simulator.vendors import create_vendors
    from core.parent import end_with_parent

    settings = get_settings()
    set_up("vendors", settings.log_level)
    end_with_parent()
    uvicorn.run(create_vendors(settings), host="127.0.0.1", port=port, log_config=None, access_log=False)
