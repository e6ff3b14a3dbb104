"""adapters."""

import contextlib
from pathlib import Path
from typing import Any

import click

from bot.cli.common import as_json_option, check_context, print_json, print_table, session, settings, whoami
from bot.models import main_server
from core import artifacts, registry
from core.errors import BadInput, ModelUnavailable, NpllmError
from core.settings import EMBEDDED
from core.tables import AdapterVersion
from integrations.supabase import artifact_store


@click.group()
def adapters() -> None:
    """Adapter versions and their files."""


@adapters.command("list")
@click.option("--context", default=None)
@as_json_option
def list_(context: str | None, as_json: bool) -> None:
    """All versions; the champion of each context is marked."""
    with session() as db:
        check_context(db, context)
        versions = registry.all_versions(db, context)
        champions = {v.id for v in versions if (c := registry.champion(db, v.context)) and c.id == v.id}
        found = [describe(version) | {"champion": version.id in champions} for version in versions]
    if as_json:
        print_json(found)
    else:
        rows = [
            (
                f["name"],
                "champion" if f["champion"] else f["state"],
                f["source"],
                f["parent"],
                f["created_at"][:16],
                f["sha256"][:12],
            )
            for f in found
        ]  # noqa: E501
        print_table(("version", "state", "from", "parent", "made", "sha256"), rows, empty="No version yet.")


@adapters.command()
@click.argument("version")
@as_json_option
def show(version: str, as_json: bool) -> None:
    """One version: where it comes from, what it learned, what the gate measured."""
    with session() as db:
        found = registry.by_name(db, version)
        facts = describe(found) | {"manifest": found.manifest, "reasons": found.reasons}
    if as_json:
        print_json(facts)
        return
    m = facts["manifest"]
    click.echo(f"{facts['name']}: {facts['state']}, from {facts['source']}, parent {m.get('parent') or 'none'}")
    click.echo(f"  base      {m['base']['model']} {m['base']['revision']}")
    counts = m.get("counts") or {"generated": m.get("generated", 0)}
    told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())
    seed = f", seed {m['seed']}" if "seed" in m else ""
    click.echo(f"  learned   {told} with {m.get('strategy', 'no strategy named')}{seed}")
    click.echo(f"  examples  {len(m.get('examples', []))} of its own, {len(m.get('inherited_examples', []))} inherited")
    for name, file in m["files"].items():
        click.echo(f"  {name}  {file['bytes']} bytes  {file['sha256'][:16]}")
    for reason in facts["reasons"]:
        click.echo(f"  ! {reason}")


@adapters.command()
@click.argument("version", required=False)
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Check a folder that is not registered.")
def verify(version: str | None, folder: Path | None) -> None:
    """Prove a version's files, all versions' without a name: hashes, types, finite weights."""
    if folder is not None:
        artifacts.verify(folder)
        click.echo(f"{folder}: fine")
        return
    store, failed = artifact_store(settings()), 0
    with session() as db:
        chosen = [registry.by_name(db, version)] if version else registry.all_versions(db)
    for one in chosen:
        try:
            artifacts.verify(store.fetch(one.location, one.sha256), sha256=one.sha256, base_revision=one.base_revision)
            click.echo(f"{one.name}: fine")
        except NpllmError as error:
            failed += 1
            click.secho(f"{one.name}: {error}", fg="red", err=True)
    if failed:
        raise SystemExit(1)


@adapters.command("import")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--context", default="customers", show_default=True)
@click.option("--drill", is_flag=True, help="A deliberately harmful version, to practise a rollback with.")
@click.option("--reason", required=True, help="Why it comes in past the night's gate; kept with it.")
@as_json_option
def import_(folder: Path, context: str, drill: bool, reason: str, as_json: bool) -> None:
    """Register a version that was made elsewhere. Its files are proved and fit the base; no gate has measured it."""
    if not reason.strip():
        raise BadInput("An import needs a reason.", "Add --reason TEXT.")
    with session() as db:
        registry.get_context(db, context)  # before its name becomes a folder's
    served = None
    with contextlib.suppress(ModelUnavailable):  # then the model server compares when it loads the version
        served = main_server(settings()).base_revision()
    manifest = artifacts.verify(folder, base_revision=served)
    _compare_with_base(folder)
    sha256 = artifacts.file_sha256(folder / artifacts.MANIFEST)
    location = artifact_store(settings()).put(folder, context=context, sha256=sha256)
    with session() as db:
        version = registry.register(
            db, context=context, source="drill" if drill else "import", location=location, sha256=sha256,
            manifest=manifest, reasons=[f"imported by {whoami()}: {reason}"],
        )  # fmt: skip
        facts = describe(version)
    print_json(facts) if as_json else click.echo(f"registered as {facts['name']}")


def _compare_with_base(folder: Path) -> None:
    """With the base that is here; elsewhere the model server compares when it loads the version."""
    from integrations.huggingface.embedded_base import config_folder

    if not settings().local_base and settings().base_model == EMBEDDED:
        return  # INFERENCE_URL alone: its base is another one
    if (base := config_folder(settings().base_model, settings().data_dir)) is not None:
        from integrations.huggingface.adapters import check_fits

        check_fits(folder, base)


def describe(version: AdapterVersion) -> dict[str, Any]:
    return {
        "id": str(version.id),
        "name": version.name,
        "context": version.context,
        "number": version.number,
        "state": version.state,
        "source": version.source,
        "parent": version.manifest.get("parent"),
        "base": version.base_model,
        "base_revision": version.base_revision,
        "location": version.location,
        "sha256": version.sha256,
        "created_at": version.created_at.isoformat(),
    }
