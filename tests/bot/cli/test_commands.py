"""Each group of commands once, on a real database: what they print, what they refuse, and how."""

import json
import re
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from factories import make_adapter, make_answer, make_version
from servers import ScriptedModel
from sqlalchemy import Engine, select, update

from bot.cli import COMMANDS
from core import events
from core.db import transaction
from core.knowledge import add
from core.registry import FolderStore
from core.settings import Settings
from core.tables import AdapterVersion, AnnotationItem, ConsolidationRun
from integrations.redis.queue import connect, queue

Console = Any

FUNNEL = {"considered": 9, "dropped: no consent": 3, "dropped: person's share": 1, "learned": 3, "held out": 2}


class TestHelp:
    def test_it_lists_every_command_and_starts_nothing(self, console: Console) -> None:
        shown = console.ok("--help")
        assert all(f"  {name} " in shown for name in COMMANDS)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_each_command_explains_itself(self, console: Console, name: str) -> None:
        assert f"Usage: main {name}" in console.ok(name, "--help")

    @pytest.mark.parametrize(
        "words",
        ["annotate list", "annotate next", "adapters list", "knowledge list", "knowledge search q", "sleep history"],
    )
    def test_a_context_that_does_not_exist_is_not_an_empty_list(self, console: Console, words: str) -> None:
        assert "There is no context 'nope'." in console.fails(*words.split(), "--context", "nope")

    def test_a_command_that_does_not_exist(self, console: Console) -> None:
        assert console("slep").exit_code == 2


class TestKnowledge:
    def test_add_list_search_remove(self, console: Console, tmp_path: Path) -> None:
        page = tmp_path / "frete.txt"
        page.write_text("Entregamos em São Paulo em até 5 dias úteis, com frete grátis acima de R$ 500.")
        (id,) = console.data("knowledge", "add", str(page), "--title", "Entrega")["ids"]
        (listed,) = console.data("knowledge", "list")
        assert (listed["id"], listed["title"], listed["language"]) == (id, "Entrega", "pt")
        (hit,) = console.data("knowledge", "search", "o frete para São Paulo é grátis?")
        assert hit["id"] == id
        assert hit["cosine"] is not None
        console.ok("knowledge", "remove", id)
        assert console.data("knowledge", "search", "o frete para São Paulo é grátis?") == []
        assert console.ok("knowledge", "list").strip() == "Nothing yet."

    def test_a_changed_markdown_file_takes_the_place_of_what_it_was(self, console: Console, tmp_path: Path) -> None:
        page = tmp_path / "precos.md"
        page.write_text("# Aurora\n\nCasal por R$ 990.\n\n# Entrega\n\nEm 5 dias.\n")
        console.ok("knowledge", "add", str(page))
        page.write_text("# Aurora\n\nCasal por R$ 890.\n\n# Entrega\n\nEm 5 dias.\n")
        assert console.ok("knowledge", "add", str(page), "--replace") == "2 passages. 1 of before removed.\n"
        assert {p["text"] for p in console.data("knowledge", "list")} == {
            "Aurora: Casal por R$ 890.",
            "Entrega: Em 5 dias.",
        }
        assert console.data("knowledge", "add", str(page), "--replace")["removed"] == 0
        assert "Name a file" in console("knowledge", "add", "-", "--replace", input="texto").output

    def test_the_newest_is_in_the_list_however_many_there_are(self, console: Console, engine: Engine) -> None:
        with transaction(engine) as session:
            for number in range(101):
                add(session, context="customers", language="pt", text=f"Passagem {number}.")
        assert console.data("knowledge", "list")[-1]["text"] == "Passagem 100."

    def test_from_standard_input(self, console: Console) -> None:
        assert (
            console.ok("knowledge", "add", "-", input="The warranty of every mattress is 5 years.") == "1 passages.\n"
        )
        assert console.data("knowledge", "list")[0]["language"] == "en"

    def test_without_an_embedder_it_says_so_and_keeps_the_passage(
        self, console: Console, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("LOCAL_MODEL_URL", "http://127.0.0.1:9/v1")
        assert "knowledge reembed" in console.ok("knowledge", "add", "-", input="A troca é em 100 noites.")
        assert console.data("knowledge", "search", "troca em quantas noites?")

    def test_reembed(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        away = "http://127.0.0.1:9/v1"
        with monkeypatch.context() as patch:
            patch.setenv("LOCAL_MODEL_URL", away)
            console.ok("knowledge", "add", "-", input="A troca é em 100 noites.")
        assert console.ok("knowledge", "reembed") == "1 passages embedded\n"
        monkeypatch.setenv("LOCAL_MODEL_URL", away)
        console.ok("knowledge", "add", "-", input="Pix tem 5 % de desconto.")
        console.fails("knowledge", "reembed")

    def test_what_cannot_be_read(self, console: Console, tmp_path: Path) -> None:
        (tmp_path / "picture.png").write_bytes(b"\x89PNG\xff\xfe")
        assert "cannot be read" in console.fails("knowledge", "add", str(tmp_path / "picture.png"))
        assert "cannot be read" in console.fails("knowledge", "add", str(tmp_path / "nothing.txt"))
        console.fails("knowledge", "add", "-", input=" \n ")
        assert "UTF-8" in console.fails("knowledge", "add", "-", "--title", "caf\udce9", input="texto")  # latin1
        console.fails("knowledge", "add", "-", "--context", "nobody", input="texto")
        console.fails("knowledge", "remove", str(uuid.uuid4()))


class TestAnnotate:
    @pytest.fixture
    def items(self, engine: Engine) -> list[str]:
        with transaction(engine) as session:
            made = [
                AnnotationItem(context="customers", message_id=make_answer(session).id, reason="disliked",
                               question=f"Pergunta {n}?", answer="R", priority=1.0 - n / 10)
                for n in range(2)
            ]  # fmt: skip
            session.add_all(made)
            session.flush()
            return [str(item.id) for item in made]

    def test_list_next_submit(self, console: Console, items: list[str]) -> None:
        assert [item["id"] for item in console.data("annotate", "list")] == items
        assert console.data("annotate", "next", "--reviewer", "rita")["id"] == items[0]
        assert console.data("annotate", "next", "--reviewer", "rita")["id"] == items[1]
        done = console.data("annotate", "submit", items[0], "correct", "--text", "Melhor.", "--reviewer", "rita")
        assert (done["verdict"], done["reviewer"]) == ("correct", "rita")
        assert console("annotate", "next", "--reviewer", "rita").exit_code == 3  # nothing is open

    def test_read_by_a_person(self, console: Console, items: list[str]) -> None:
        assert "Pergunta 0?" in console.ok("annotate", "list")
        assert "? Pergunta 0?" in console.ok("annotate", "next")

    @pytest.mark.parametrize("width", ["40", "80"])
    def test_ids_are_whole_and_words_are_no_markup(
        self, console: Console, engine: Engine, items: list[str], monkeypatch: pytest.MonkeyPatch, width: str
    ) -> None:
        monkeypatch.setenv("COLUMNS", width)
        with transaction(engine) as session:
            session.execute(update(AnnotationItem).values(question="[/b] [x] \x1b[2J", answer="sim"))
        listed = console.ok("annotate", "list")
        assert all(id in listed for id in items)
        assert "[/b]" in listed
        assert "\x1b" not in listed
        claimed = console.ok("annotate", "next")
        assert "? [/b] [x] �[2J" in claimed

    def test_what_is_refused(self, console: Console, items: list[str]) -> None:
        console.ok("annotate", "next", "--reviewer", "ugo")
        assert "ugo" in console.fails("annotate", "submit", items[0], "approve", "--reviewer", "rita")
        console.fails("annotate", "submit", items[1], "correct")
        console.fails("annotate", "submit", str(uuid.uuid4()), "approve")
        assert console("annotate", "submit", items[1], "perhaps").exit_code == 2


class TestPrivacy:
    def test_redact_line_by_line(self, console: Console) -> None:
        lines = "Sou ana@example.com\nCPF 529.982.247-25, tel (11) 98765-0001\nO colchão custa R$ 1.899,00\n"
        shown = console.ok("privacy", "redact", input=lines).splitlines()
        assert len(shown) == 3
        assert shown[2] == "O colchão custa R$ 1.899,00"
        for secret in ("ana@example.com", "529.982", "98765"):
            assert secret not in "".join(shown)

    def test_nothing_in_nothing_out(self, console: Console) -> None:
        assert console.ok("privacy", "redact", input="") == ""


class TestEvents:
    def test_one_object_a_line_oldest_first(self, console: Console, engine: Engine) -> None:
        with transaction(engine) as session:
            for number in range(3):
                events.record(session, "learning.triggered", context="customers", number=number)
        lines = [json.loads(line) for line in console.ok("events", "list", "--json").splitlines()]
        assert [line["data"]["number"] for line in lines] == [0, 1, 2]
        assert set(lines[0]) == {"id", "type", "at", "context", "channel", "conversation", "data"}
        later = console.ok("events", "list", "--json", "--since", str(lines[0]["id"]), "--limit", "1")
        assert json.loads(later)["id"] == lines[1]["id"]
        assert "learning.triggered" in console.ok("events", "list")

    def test_a_conversation_is_named_as_other_commands_want_it(self, console: Console, engine: Engine) -> None:
        with transaction(engine) as session:
            talk = make_answer(session).conversation_id
            events.record(session, "reply.sent", context="customers", conversation=talk)
        assert f"conversation={talk}" in console.ok("events", "list")
        assert console.ok("handover", "start", str(talk)).strip()

    def test_nothing_yet(self, console: Console) -> None:
        assert console.ok("events", "list", "--json") == ""


class TestSleep:
    def test_asked_for_once(self, console: Console, settings: Settings, engine: Engine) -> None:
        run = console.data("sleep", "now")["run"]
        assert [job.args for job in queue(connect(str(settings.redis_url)), "asleep").jobs] == [(run,)] or [
            list(job.args) for job in queue(connect(str(settings.redis_url)), "asleep").jobs
        ] == [[run]]
        assert "asleep already" in console.fails("sleep", "now")
        assert console.data("sleep", "status")["state"] == "scheduled"
        assert [night["id"] for night in console.data("sleep", "history")] == [run]

    def test_a_nights_funnel(self, console: Console, engine: Engine) -> None:
        run = console.data("sleep", "now")["run"]
        with transaction(engine) as session:
            night = session.get_one(ConsolidationRun, uuid.UUID(run))
            night.state, night.funnel, night.reasons = "refused", dict(FUNNEL), ["too few"]
        assert console.data("sleep", "history", run)["funnel"] == FUNNEL
        shown = console.ok("sleep", "history", run)
        assert "too few" in shown
        assert sorted(FUNNEL, key=shown.index) == list(FUNNEL)

    def test_what_is_left_is_told_while_it_trains(self, console: Console, engine: Engine) -> None:
        run = console.data("sleep", "now")["run"]
        for stage, told in (("train", True), ("evaluate", False)):
            with transaction(engine) as session:
                night = session.get_one(ConsolidationRun, uuid.UUID(run))
                night.state = "running"
                night.progress = {"stage": stage, "step": 4, "steps": 4, "loss": 0.7, "seconds_left": 0}
            shown = console.ok("sleep", "status")
            assert stage in shown
            assert ("s left" in shown) is told

    def test_what_is_refused(self, console: Console) -> None:
        console.fails("sleep", "now", "--context", "nobody")
        assert "wise+replay" in console("sleep", "now", "--strategy", "hope").stderr
        console.fails("sleep", "history", "7")
        console.fails("sleep", "history", str(uuid.uuid4()))
        assert console.data("sleep", "status")["state"] == "none"


class TestAdapters:
    @pytest.fixture
    def version(self, engine: Engine, tmp_path: Path) -> AdapterVersion:
        """Its files lie where the command looks for them."""
        store = FolderStore(tmp_path / "data" / "adapters")
        with transaction(engine) as session:
            return make_version(session, store=store, folder=tmp_path / "v1", champion=True)

    def test_list_show_verify(self, console: Console, version: AdapterVersion) -> None:
        (listed,) = console.data("adapters", "list")
        assert (listed["name"], listed["champion"], listed["sha256"]) == (version.name, True, version.sha256)
        shown = console.data("adapters", "show", version.name)
        assert shown["manifest"]["base"]["model"] == "tiny"
        assert console.ok("adapters", "verify") == f"{version.name}: fine\n"
        assert "champion" in console.ok("adapters", "list")
        shown = console.ok("adapters", "show", version.name)
        assert "tiny" in shown
        assert "None" not in shown

    def test_changed_bytes_are_found(self, console: Console, version: AdapterVersion, tmp_path: Path) -> None:
        (weights,) = (tmp_path / "data" / "adapters").rglob("*.safetensors")
        weights.chmod(0o600)
        weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
        assert version.name in console.fails("adapters", "verify")

    def test_import(self, console: Console, engine: Engine, tmp_path: Path) -> None:
        make_adapter(tmp_path / "elsewhere")
        made = console.data("adapters", "import", str(tmp_path / "elsewhere"), "--drill", "--reason", "exercício")
        assert (made["source"], made["state"]) == ("drill", "registered")
        with transaction(engine) as session:
            assert "exercício" in session.scalars(select(AdapterVersion)).one().reasons[0]

    def test_what_is_refused(self, console: Console, engine: Engine, tmp_path: Path) -> None:
        console.fails("adapters", "show", "customers-v9")
        console.fails("adapters", "verify", "customers-v9")
        console.fails("adapters", "verify", "--folder", str(tmp_path / "nothing"))
        folder = tmp_path / "unsafe"
        make_adapter(folder)
        (folder / "pytorch_model.bin").write_bytes(b"x")
        console.fails("adapters", "import", str(folder), "--reason", "x")
        console.fails("adapters", "import", str(tmp_path / "nothing"), "--reason", "x")
        make_adapter(tmp_path / "fine")
        console.fails("adapters", "import", str(tmp_path / "fine"), "--reason", " ")
        console.fails("adapters", "import", str(tmp_path / "fine"), "--reason", "x", "--context", "nobody")
        with transaction(engine) as session:
            assert session.scalars(select(AdapterVersion)).all() == []

    def test_an_import_writes_nothing_outside_its_folder(self, console: Console, tmp_path: Path) -> None:
        make_adapter(tmp_path / "fine")
        console.fails("adapters", "import", str(tmp_path / "fine"), "--reason", "x", "--context", "../../outside")
        assert not (tmp_path / "outside").exists()
        assert not (tmp_path / "data" / "adapters").exists()

    def test_an_import_for_another_base_is_refused(
        self, console: Console, engine: Engine, model: ScriptedModel, tmp_path: Path
    ) -> None:
        make_adapter(tmp_path / "foreign", base={"model": "tiny", "revision": "sha256:other"})
        model.revision = "sha256:ours"
        refusal = console.fails("adapters", "import", str(tmp_path / "foreign"), "--reason", "x")
        assert "sha256:other" in refusal
        assert "BASE_MODEL" in refusal
        with transaction(engine) as session:
            assert session.scalars(select(AdapterVersion)).all() == []

    def test_an_import_that_does_not_fit_the_base_is_refused(
        self, console: Console, engine: Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        base = tmp_path / "small-base"
        base.mkdir()
        sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
        (base / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 8, **sizes}))
        monkeypatch.setenv("BASE_MODEL", str(base))
        make_adapter(tmp_path / "odd")
        refusal = console.fails("adapters", "import", str(tmp_path / "odd"), "--reason", "x")
        assert "q_proj.lora_A.weight is 32; with rank 4 this base takes 4×8." in refusal
        with transaction(engine) as session:
            assert session.scalars(select(AdapterVersion)).all() == []

    def test_an_import_while_no_model_server_runs(
        self, console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("LOCAL_MODEL_URL", "http://127.0.0.1:9/v1")
        make_adapter(tmp_path / "fine")
        console.ok("adapters", "import", str(tmp_path / "fine"), "--reason", "x")


class TestContexts:
    @pytest.mark.parametrize(
        "assignment",
        ["strategy=hope", "idle_minutes=[1", "max_minutes=.inf", "max_cost=.nan", "hours=02:00-06:00+03:00", "every=3"],
    )
    def test_what_the_night_could_not_read_is_refused_at_once(self, console: Console, assignment: str) -> None:
        assert assignment.partition("=")[0] in console.fails("contexts", "set", "customers", assignment)
        assert console.data("contexts", "show", "customers")["overrides"] == {}

    def test_a_name_that_no_folder_can_carry(self, console: Console) -> None:
        for name in ("a b", "../up", "a" * 300):
            console.fails("contexts", "add", name)

    def test_one_that_does_not_exist(self, console: Console) -> None:
        assert "contexts list" in console.fails("contexts", "show", "nobody")


class TestRolloutPlans:
    def test_the_example_is_a_plan(self, console: Console, tmp_path: Path) -> None:
        plan = tmp_path / "plan.yaml"
        plan.write_text(console.ok("rollout", "lint", "--example"))
        console.ok("rollout", "lint", str(plan))

    @pytest.mark.parametrize("text", ["", "[", "stages: 5", "stages:\n- weight: 2"])
    def test_what_is_none_is_refused(self, console: Console, tmp_path: Path, text: str) -> None:
        plan = tmp_path / "plan.yaml"
        plan.write_text(text)
        done = console("rollout", "lint", str(plan))
        assert done.exit_code != 0
        assert "Traceback" not in done.output


class TestDoctor:
    def parts(self, console: Console) -> dict[str, list[dict[str, Any]]]:
        found: dict[str, list[dict[str, Any]]] = {}
        for finding in json.loads(console("doctor", "--json").stdout):
            found.setdefault(finding["part"], []).append(finding)
        return found

    def test_a_working_system(self, console: Console) -> None:
        found = self.parts(console)
        assert [finding["state"] for finding in found["database"]] == ["ok", "ok"]
        assert found["redis"][0]["state"] == "ok"
        assert "base-model" in found["model"][0]["says"]
        assert found["embeddings"][0]["state"] == "ok"
        assert [found[channel][0]["state"] for channel in ("twilio", "meta", "slack")] == ["off"] * 3
        assert console("doctor").exit_code == 0

    def test_everything_that_is_wrong_says_what_to_do(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:9/0")
        monkeypatch.setenv("LOCAL_MODEL_URL", "http://127.0.0.1:9/v1")
        monkeypatch.setenv("META_APP_SECRET", "x")
        monkeypatch.setenv("FALLBACK_MODELS", "@nowhere")
        done = console("doctor")
        assert done.exit_code == 1
        found = self.parts(console)
        for part in ("redis", "model", "meta", "fallback"):
            assert found[part][0]["state"] == "bad", found[part]
            assert found[part][0]["to_do"]

    def test_without_anything(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL")
        assert self.parts(console)["system"][0]["to_do"] == "npllm up"

    def test_a_database_that_is_away_or_is_none(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        for url in ("postgresql://u:p@127.0.0.1:9/x", "mysql://x"):
            monkeypatch.setenv("DATABASE_URL", url)
            assert self.parts(console)["database"][0]["state"] == "bad"

    def test_no_secret_is_printed(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        secrets = {name: f"secret-{name}" for name in ("META_APP_SECRET", "SLACK_BOT_TOKEN", "OPENAI_API_KEY",
                                                       "OPERATOR_PASSWORD", "SUPABASE_SECRET_KEY")}  # fmt: skip
        for name, value in secrets.items():
            monkeypatch.setenv(name, value)
        shown = console("doctor").output + console("doctor", "--json").output
        assert not [value for value in secrets.values() if value in shown]


def on_screen(written: str) -> list[str]:
    """What a terminal shows in the end: the controls of a text that is written over and erased."""
    lines, row = [""], 0
    for control, plain in re.findall(r"\x1b\[([\d;?]*[a-zA-Z])|(\r|\n|[^\x1b\r\n]+)", written):
        if control.endswith("A"):
            row -= int(control[:-1])
        elif control == "2K":
            lines[row] = ""
        elif plain == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif plain != "\r":
            lines[row] += plain
    return [line for line in lines if line]


class TestChat:
    @pytest.mark.parametrize("pieces", [["Custa R$ ", "1.240. "], ["Custa R$ "], [], ["Outra coisa "], ["a " * 80]])
    def test_what_streamed_gives_way_to_the_answer_that_a_guard_left(
        self, console: Console, monkeypatch: pytest.MonkeyPatch, pieces: list[str]
    ) -> None:
        answer = "Custa R$ 1.240."
        events = [*(("piece", {"text": piece}) for piece in pieces), ("message", {"text": answer})]
        body = "".join(f"event: {name}\ndata: {json.dumps(data)}\n\n" for name, data in events)
        server = httpx.MockTransport(lambda request: httpx.Response(200, text=body))
        monkeypatch.setattr(httpx, "stream", httpx.Client(transport=server).stream)
        monkeypatch.setenv("PUBLIC_BASE_URL", "http://bot.example.com")
        assert console.ok("chat", "Quanto custa?") == f"{answer}\n"
        monkeypatch.setenv("FORCE_COLOR", "1")  # as a terminal is written to
        monkeypatch.setenv("TERM", "xterm")
        written = console.ok("chat", "Quanto custa?")
        assert on_screen(written) == [answer]
        seen, so_far = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", written), ""
        for piece in pieces:
            so_far += piece
            assert so_far[:40].rstrip() in seen  # it streamed


class TestErrors:
    """Two lines and exit status 1, whatever the command."""

    def test_a_database_that_is_away(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:9/x")
        for words in (("events", "list"), ("knowledge", "list"), ("adapters", "list"), ("sleep", "status")):
            assert "npllm" in console.fails(*words)

    def test_no_database_at_all(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("DATABASE_URL")
        assert "npllm up" in console.fails("annotate", "list")

    def test_a_setting_that_makes_no_sense(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PORT", "eighty")
        assert "PORT" in console.fails("events", "list")
        assert "PORT" in console.fails("doctor")

    def test_status_where_nothing_runs(self, console: Console) -> None:
        assert "npllm up" in console.fails("status")

    def test_migrate_through_a_pooler(self, console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://u:p@127.0.0.1:6543/x")
        assert "MIGRATIONS_DATABASE_URL" in console.fails("migrate")

    def test_migrate_twice(self, console: Console) -> None:
        assert console.ok("migrate") == console.ok("migrate") == "The database is up to date.\n"

    def test_chat_and_simulate_where_nothing_runs(self, console: Console) -> None:
        console.fails("chat", "oi")
        console.fails("simulate", "meta")
