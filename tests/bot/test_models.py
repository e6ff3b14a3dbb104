"""Asking for a version: loaded where it is not, again where it was forgotten, never where its files are not proved."""

from pathlib import Path

import pytest
from factories import make_version
from servers import ScriptedModel

from bot.models import Models, main_server, outside_model
from bot.router import BASE, Served
from bot.wiring import Awake
from core.db import transaction
from core.errors import ArtifactError, ModelUnavailable, NotFound, SettingError
from core.prompts import ChatMessage
from core.settings import Settings
from core.tables import AdapterVersion

ASK: list[ChatMessage] = [{"role": "user", "content": "Oi"}]


@pytest.fixture
def models(awake: Awake) -> Models:
    return awake.models


@pytest.fixture
def version(awake: Awake, tmp_path: Path) -> AdapterVersion:
    with transaction(awake.engine) as session:
        return make_version(session, store=awake.models.store, folder=tmp_path / "v")


def served(version: AdapterVersion) -> Served:
    return Served(version.id, version.name, version.location, version.sha256)


def ask(models: Models, whom: Served) -> str:
    return models.reply(whom, ASK, max_tokens=8, timeout=5).text


def test_the_base_is_the_first_that_is_listed(models: Models) -> None:
    assert models.base == "base-model"
    assert ask(models, BASE) == "base-model: Oi"


def test_or_what_is_set(models: Models) -> None:
    models.settings = models.settings.model_copy(update={"inference_model": "other"})
    assert models.base == "other"


def test_a_version_is_loaded_before_its_first_reply(
    models: Models, model: ScriptedModel, version: AdapterVersion
) -> None:
    assert ask(models, served(version)) == f"{version.name}: Oi"
    assert model.loaded == [version.name]


def test_one_the_server_has_forgotten_is_loaded_again(
    models: Models, model: ScriptedModel, version: AdapterVersion
) -> None:
    ask(models, served(version))
    model.loaded.clear()
    assert ask(models, served(version)) == f"{version.name}: Oi"


def test_changed_files_are_never_loaded(models: Models, model: ScriptedModel, version: AdapterVersion) -> None:
    for path in Path(models.store.fetch(version.location, version.sha256)).glob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError):
        ask(models, served(version))
    assert model.loaded == []


def test_a_server_that_fails_says_so(models: Models, model: ScriptedModel) -> None:
    model.failing = {"base-model"}
    with pytest.raises(ModelUnavailable):
        ask(models, BASE)


def test_an_unknown_base_is_not_found(models: Models) -> None:
    models.settings = models.settings.model_copy(update={"inference_model": "nobody"})
    with pytest.raises(NotFound):
        ask(models, BASE)


def test_only_what_is_live_stays_loaded(awake: Awake, models: Models, model: ScriptedModel, tmp_path: Path) -> None:
    with transaction(awake.engine) as session:
        old, new = (make_version(session, store=awake.models.store, folder=tmp_path / f"v{n}") for n in (1, 2))
    model.loaded = ["somebody-elses", old.name]
    models.keep_only([BASE, served(new)])
    assert model.loaded == ["somebody-elses", new.name]


def test_where_the_main_server_is(settings: Settings) -> None:
    assert main_server(settings).url == "http://127.0.0.1:8400/v1"
    outside = settings.model_copy(update={"inference_url": "http://vllm:8000/v1"})
    assert main_server(outside).url == "http://vllm:8000/v1"


def test_fallback_models(settings: Settings) -> None:
    server, name = outside_model("gpt-5-mini", settings)
    assert (server.url, name) == ("https://api.openai.com/v1", "gpt-5-mini")
    server, name = outside_model("mistral@https://models.example.com/v1/", settings)
    assert (server.url, name) == ("https://models.example.com/v1", "mistral")
    for wrong in ("", "@https://x/v1", "name@https://x"):
        with pytest.raises(SettingError, match="FALLBACK_MODELS"):
            outside_model(wrong, settings)
