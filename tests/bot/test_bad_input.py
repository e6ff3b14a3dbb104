"""Bad input that no other file's subject is: a full disk, a door that does not exist, adapters that must not come in.

Each is a clear error that names the next step, and leaves nothing half-written. The other kinds are proved where they
come in: signatures, secrets, sizes and bodies in test_hooks.py and test_chat_api.py, blank messages and NUL in
test_chat.py, reactions to the unknown in test_signals.py, data directories and ports in up/test_system.py.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from click.testing import CliRunner
from factories import make_adapter, make_answer, make_version, write_safetensors
from fastapi.testclient import TestClient
from servers import ScriptedModel
from sqlalchemy import Engine, select
from street import Street

from bot.app import create_app
from bot.cli import main
from bot.router import Served
from bot.simulator import traffic
from bot.wiring import Awake
from core import artifacts
from core.db import transaction
from core.errors import ArtifactError, WrongBase
from core.settings import Settings
from core.tables import AdapterVersion, Feedback


@contextmanager
def a_full_disk(settings: Settings, table: str) -> Iterator[None]:
    """Postgres says what it says when it cannot extend a file."""
    with psycopg.connect(str(settings.database_url), autocommit=True) as connection:
        connection.execute(
            "CREATE FUNCTION npllm.full_disk() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
            " RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$"
        )
        connection.execute(
            f"CREATE TRIGGER full_disk BEFORE INSERT ON npllm.{table} EXECUTE FUNCTION npllm.full_disk()"
        )
        try:
            yield
        finally:
            connection.execute("DROP FUNCTION npllm.full_disk CASCADE")


class TestFullDisk:
    def test_at_the_door_nothing_is_acknowledged_and_the_next_delivery_is_taken(
        self, settings: Settings, engine: Engine
    ) -> None:
        signed = traffic.meta_text(settings, "Oi", sender="+5511987650001")
        with TestClient(create_app(settings)) as client:
            with a_full_disk(settings, "inbound_events"):
                answer = client.post("/hooks/meta", content=signed.body, headers=signed.headers)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["next_step"]
            assert client.post("/hooks/meta", content=signed.body, headers=signed.headers).status_code == 200
        with psycopg.connect(str(settings.database_url)) as connection:
            assert connection.execute("SELECT count(*) FROM npllm.inbound_events").fetchone() == (1,)

    def test_in_a_turn_nothing_is_sent_and_the_turn_comes_again(
        self, settings: Settings, street: Street, vendors: Any
    ) -> None:
        with a_full_disk(settings, "outbox"):
            lane = street.meta("Qual colchão?")
            street.answer(lane)
        assert vendors.texts() == []
        assert street.messages("out") == []
        (event,) = street.events()
        assert (event.handled_at, event.attempts) == (None, 1)
        with psycopg.connect(str(settings.database_url)) as connection:
            connection.execute("UPDATE npllm.inbound_events SET not_before = NULL")
        street.answer(lane)
        assert len(street.messages("in")) == 1
        assert vendors.texts()


@pytest.mark.parametrize("path", ["/hooks/telegram", "/hooks/", "/hooks/meta/more", "/api/nothing", "/nothing"])
def test_a_door_that_does_not_exist(settings: Settings, path: str) -> None:
    with TestClient(create_app(settings)) as client:
        for method in ("GET", "POST"):
            answer = client.request(method, path, content=b"{}")
            assert answer.status_code == 404
            assert answer.json()["next_step"]


def test_a_form_that_lacks_something_says_what(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        answer = client.post("/login", data={"name": "rita"})
    assert answer.status_code == 422
    assert "password" in answer.json()["error"]
    assert "rita" not in answer.text  # what somebody typed is not sent back


def test_an_unknown_channel_cannot_be_simulated() -> None:
    done = CliRunner().invoke(main, ["simulate", "telegram"])
    assert done.exit_code == 2
    assert "'twilio', 'meta', 'slack'" in done.stderr


def test_a_reaction_to_a_message_nobody_sent_is_kept_and_answered_by_nobody(
    street: Street, vendors: Any, engine: Engine
) -> None:
    with transaction(engine) as session:
        make_answer(session)
    street.answer(street.meta_reacts("wamid.unknown", "👎"))
    with transaction(engine) as session:
        assert [row.message_id for row in session.scalars(select(Feedback))] == [None]
    (event,) = street.events()
    assert event.handled_at is not None
    assert vendors.texts() == []


# Adapters -------------------------------------------------------------------------------------------------------------


def _nan(folder: Path) -> None:
    values = np.full((4, 8), np.nan, dtype="<f4").tobytes()
    write_safetensors(
        folder / artifacts.WEIGHTS,
        {f"base_model.model.model.layers.0.self_attn.q_proj.lora_{side}.weight": ("F32", values) for side in "AB"},
    )
    artifacts.write_manifest(folder, {"base": artifacts.read_manifest(folder)["base"], "parent": None})


def _changed(folder: Path) -> None:
    data = bytearray((folder / artifacts.WEIGHTS).read_bytes())
    data[-1] ^= 1
    (folder / artifacts.WEIGHTS).write_bytes(data)


BAD: dict[str, Any] = {
    "changed bytes": _changed,
    "NaN weights": _nan,
    "a .bin file": lambda folder: (folder / "pytorch_model.bin").write_bytes(b"x"),
    "no manifest": lambda folder: (folder / artifacts.MANIFEST).unlink(),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_adapter_that_must_not_come_in(
    settings: Settings, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    make_adapter(tmp_path / "made")
    BAD[kind](tmp_path / "made")
    done = CliRunner().invoke(main, ["adapters", "import", str(tmp_path / "made"), "--reason", "a test"])
    assert done.exit_code == 1
    assert len(done.stderr.strip().splitlines()) == 2  # what is wrong, and what to do
    with transaction(engine) as session:
        assert session.scalars(select(AdapterVersion)).all() == []
    store = tmp_path / "data" / "adapters"
    assert not store.exists() or list(store.rglob("*.safetensors")) == []


@pytest.mark.parametrize("kind", ["changed bytes", "a .bin file"])
def test_one_that_was_changed_after_it_came_in_is_never_loaded(
    awake: Awake, model: ScriptedModel, tmp_path: Path, kind: str
) -> None:
    with transaction(awake.engine) as session:
        version = make_version(session, store=awake.models.store, folder=tmp_path / "v")
    folder = Path(awake.models.store.fetch(version.location, version.sha256))
    for path in (folder, *folder.iterdir()):
        path.chmod(0o755)
    BAD[kind](folder)
    with pytest.raises(ArtifactError) as error:
        awake.models.load(Served(version.id, version.name, version.location, version.sha256))
    assert error.value.next_step
    assert model.loaded == []


def test_one_of_another_base_names_both(tmp_path: Path) -> None:
    sha256 = make_adapter(tmp_path / "v")
    with pytest.raises(WrongBase) as error:
        artifacts.verify(tmp_path / "v", sha256=sha256, base_revision="sha256:" + "1" * 64)
    assert error.value.next_step
