"""What a fresh installation starts with, once, and only for the shop it belongs to."""

from pathlib import Path
from typing import Any

import pytest
from factories import make_adapter, make_version
from servers import ScriptedModel
from sqlalchemy import Engine, func, select, text

from bot import seed
from core import knowledge, registry, shop
from core.db import transaction
from core.errors import ArtifactError
from core.events import listing
from core.settings import Settings
from core.tables import AdapterVersion


@pytest.fixture
def settings(settings: Settings, _addresses: dict[str, str], model: ScriptedModel) -> Settings:
    """Passages are embedded by the scripted model server."""
    return settings.model_copy(update={"local_model_url": _addresses["local_model_url"]})


@pytest.fixture
def starter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "starter"
    make_adapter(folder)
    monkeypatch.setattr(seed, "starter_folder", lambda: folder)
    return folder


def counted(engine: Engine) -> tuple[int, int, int]:
    """(passages, vectors, versions)."""
    with transaction(engine) as session:
        passages = len(knowledge.list_passages(session, "customers", limit=1000))
        vectors = session.scalar(text("SELECT count(*) FROM npllm.knowledge_embeddings")) or 0
        return passages, vectors, session.scalar(select(func.count()).select_from(AdapterVersion)) or 0


def test_the_shops_knowledge_and_the_starter_once(settings: Settings, engine: Engine, starter: Path) -> None:
    seed.seed(settings)
    passages, vectors, versions = first = counted(engine)
    assert passages >= 40
    assert vectors >= passages
    assert versions == len(shop.CONTEXTS)
    with transaction(engine) as session:
        for context in shop.CONTEXTS:
            champion = registry.champion(session, context)
            assert champion is not None
            assert (champion.number, champion.source) == (1, "starter")
        assert "embedding.generated" in {event["type"] for event in listing(session)}
    seed.seed(settings)
    assert counted(engine) == first


def test_another_business_begins_with_its_own(settings: Settings, engine: Engine, starter: Path) -> None:
    seed.seed(settings.model_copy(update={"business_name": "Padaria Ipê"}))
    assert counted(engine)[0] == 0


def test_another_base_gets_no_starter(settings: Settings, engine: Engine, starter: Path) -> None:
    seed.seed(settings.model_copy(update={"base_model": "owner/other"}))
    assert counted(engine)[2] == 0


def test_a_context_that_has_a_version_is_left_alone(settings: Settings, engine: Engine, starter: Path) -> None:
    with transaction(engine) as session:
        mine = make_version(session, champion=True).id
    seed.seed_starter(settings)
    with transaction(engine) as session:
        champion = registry.champion(session, "customers")
        assert champion is not None
        assert champion.id == mine


def test_without_an_embedder_passages_are_found_by_their_words(settings: Settings, engine: Engine) -> None:
    seed.seed_knowledge(settings.model_copy(update={"local_model_url": "http://127.0.0.1:9/v1"}))
    passages, vectors, _ = counted(engine)
    assert passages > 0
    assert vectors == 0
    assert seed.embed_knowledge(settings) > 0  # `npllm knowledge reembed`, later


def test_a_starter_that_was_changed_is_refused(settings: Settings, engine: Engine, starter: Path) -> None:
    weights = next(starter.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError):
        seed.seed_starter(settings)
    assert counted(engine)[2] == 0


def test_where_the_package_brings_none_there_is_none(settings: Settings, monkeypatch: Any) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert seed.starter_folder() is None
