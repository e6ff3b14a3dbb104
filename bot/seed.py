"""What a fresh installation starts with: the fictional shop's knowledge, and the starter adapter as version 1.

Only where BUSINESS_NAME is the shop's: a real business begins with its own (`npllm knowledge add`).
"""

import importlib.util
import logging
from collections.abc import Callable
from pathlib import Path

from sqlalchemy import select

from core import artifacts, events, knowledge, registry, shop
from core.db import get_engine, need_database, transaction
from core.errors import Conflict, ModelUnavailable
from core.prompts import LANGUAGES
from core.settings import EMBEDDED, Settings
from core.tables import AdapterVersion
from integrations.openai.embeddings import embeddings_of
from integrations.supabase import artifact_store

log = logging.getLogger(__name__)


def seed(settings: Settings) -> None:
    """Put in what is missing; a second call changes nothing."""
    if settings.business_name == shop.BUSINESS_NAME:
        seed_knowledge(settings)
    if settings.local_base and settings.base_model == EMBEDDED:
        seed_starter(settings)


def seed_knowledge(settings: Settings) -> None:
    """The shop's passages in the deployment's language and in English, for contexts that know nothing yet."""
    engine = get_engine(need_database(settings))
    for context in shop.CONTEXTS:
        with transaction(engine) as session:
            if knowledge.list_passages(session, context, limit=1):
                continue
            for language in LANGUAGES:
                for passage in shop.passages(context, language):
                    knowledge.add(
                        session, context=context, language=language, title=passage.title, text=passage.text,
                        source="shop",
                    )  # fmt: skip
    try:
        embed_knowledge(settings)
    except ModelUnavailable as error:
        log.warning("Passages are found by their words alone until `npllm knowledge reembed`: %s", error)


def embed_knowledge(settings: Settings, report: Callable[[int], None] = lambda done: None) -> int:
    """Give every passage without one its vector; returns how many."""
    engine, embedder = get_engine(need_database(settings)), embeddings_of(settings)
    if embedder is None:
        return 0
    done = knowledge.reembed(
        lambda: transaction(engine), model=embedder.name, embed=embedder.embed, report=report
    )  # fmt: skip
    if done:
        with transaction(engine) as session:
            events.record(session, "embedding.generated", model=embedder.name, passages=done)
    return done


def seed_starter(settings: Settings) -> None:
    """The starter adapter as version 1 and champion of every context that has no version yet."""
    folder = starter_folder()
    if folder is None:
        return
    engine, store = get_engine(need_database(settings)), artifact_store(settings)
    manifest = artifacts.verify(folder)
    sha256 = artifacts.file_sha256(folder / artifacts.MANIFEST)
    for context in shop.CONTEXTS:
        with transaction(engine) as session:
            if session.scalar(select(AdapterVersion.id).where(AdapterVersion.context == context).limit(1)):
                continue
        location = store.put(folder, context=context, sha256=sha256)
        with transaction(engine) as session:
            try:
                version = registry.register(
                    session, context=context, source="starter", location=location, sha256=sha256, manifest=manifest
                )
                registry.crown(session, context, version.id, expected=None)
            except Conflict:
                continue  # another starter of the same deployment was first


def starter_folder() -> Path | None:
    """Where the starter adapter lies in the installed package."""
    spec = importlib.util.find_spec("learning")
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "starter" / "adapter"
    return folder if (folder / artifacts.MANIFEST).exists() else None
