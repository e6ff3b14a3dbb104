"""Settings: every error names its variable, a key alone changes nothing, a running system lends what is not set."""

import json
from pathlib import Path

import pytest
from pydantic import SecretStr

from core.errors import SettingError
from core.settings import EMBEDDED, Settings, default_data_dir, load_settings, runtime_file, variable_names


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("PORT", "0"),
        ("PORT", "70000"),
        ("PORT", "eighty"),
        ("LANGUAGE", "fr"),
        ("TIMEZONE", "Brazil/Atlantis"),
        ("TIMEZONE", "../../etc/passwd"),
        ("LOG_LEVEL", "LOUD"),
        ("SIMULATOR", "maybe"),
        ("PUBLIC_BASE_URL", "shop.example.com"),
        ("INFERENCE_URL", "vllm:8000/v1"),
        ("INFERENCE_URL", "http://vllm:8000"),
        ("SUPABASE_URL", "abc.supabase.co"),
        ("REPLY_MAX_TOKENS", "2"),
        ("REPLY_TIMEOUT", "0"),
        ("REPLY_TIMEOUT", "nan"),
        ("RETRIEVAL_PASSAGES", "0"),
        ("HISTORY_TURNS", "-1"),
        ("AWAKE_THREADS", "0"),
        ("CONVERSATION_IDLE_HOURS", "0"),
        ("LEASE_SECONDS", "1"),
        ("LEASE_SECONDS", "inf"),
        ("REVIEW_CLAIM_MINUTES", "0"),
        ("REVIEW_SAMPLE", "1.5"),
        ("SLEEP_HOURS", "night"),
        ("SLEEP_HOURS", "25:00-06:00"),
        ("SLEEP_MINIMUM_EXAMPLES", "0"),
        ("SLEEP_STRATEGY", "hope"),
        ("PUBLIC_BASE_URL", "https://"),
        ("OPENAI_BASE_URL", "api.openai.com/v1"),
        ("LOCAL_MODEL_URL", "http://127.0.0.1:port/v1"),
        ("SLACK_API_BASE_URL", "slack.com/api"),
        ("TWILIO_WHATSAPP_FROM", "+5511999990000"),
        ("CHAT_ALLOWED_ORIGINS", "www.example.com"),
        ("CHAT_ALLOWED_ORIGINS", "https://www.example.com/shop"),
        ("ALERT_WEBHOOK_URL", "example.com/hook"),
        ("ALERT_WEBHOOK_SECRET", "not base64"),
        ("SMTP_URL", "mail.example.com:587"),
        ("CONVERSATION_IDLE_HOURS", "1e20"),  # more than a date can carry
        ("REVIEW_CLAIM_MINUTES", "1e20"),
        ("HANDOVER_MINUTES", "1e20"),
        ("MEDIA_DAYS", "1e20"),
        ("LEASE_SECONDS", "1e20"),
        ("SLEEP_IDLE_MINUTES", "1e20"),
        ("REPLAY_SHARE", "1"),
        ("LORA_RANK", "1000"),
        ("EPOCHS", "0"),
        ("RETENTION_TARGET", "0.5"),
        ("SLACK_LEARNING", "perhaps"),
        ("FEEDBACK_BUTTONS", "perhaps"),
        ("TRUSTED_PROXIES", "proxy.internal"),
        ("TRUSTED_PROXIES", "127.0.0.1, 10.0.0.1/8"),  # a network's address ends in zeros
        ("TRUSTED_PROXIES", "127.0.0.1 10.0.0.1"),
        ("TRUSTED_PROXIES", "*, 127.0.0.1"),
        ("SLACK_OPERATORS", "@ana"),
        ("SLACK_OPERATORS", "U0ANA,ana@example.com"),
        ("SLACK_OPERATORS", "S0TEAM"),
        ("SLACK_REVIEWERS", "U0ANA U0RUI"),
    ],
)
def test_every_error_names_the_variable(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingError, match=rf"Wrong setting: {variable}: ") as error:
        load_settings()
    assert ".env" in error.value.next_step


def test_several_errors_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "x")
    monkeypatch.setenv("LANGUAGE", "fr")
    with pytest.raises(SettingError, match=r"PORT: .*LANGUAGE: "):
        load_settings()


def test_a_secret_in_an_address_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SMTP_URL", "smtp://user:very-secret@host:port")
    with pytest.raises(SettingError) as error:
        load_settings()
    assert "very-secret" not in str(error.value)


def test_origins_are_as_browsers_write_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_ALLOWED_ORIGINS", "https://WWW.example.com/, http://localhost:3000")
    assert load_settings().chat_allowed_origins == ["https://www.example.com", "http://localhost:3000"]


def test_proxies_and_people_in_slack(monkeypatch: pytest.MonkeyPatch) -> None:
    for proxies in ("*", "127.0.0.1", "10.0.0.0/8, ::1, 2001:db8::/32"):
        monkeypatch.setenv("TRUSTED_PROXIES", proxies)
        assert load_settings().trusted_proxies == proxies
    monkeypatch.setenv("SLACK_OPERATORS", "U0123ABCD, W0123ABCD, T0SHOP/U0RUI")
    assert load_settings().slack_operators == ["U0123ABCD", "W0123ABCD", "T0SHOP/U0RUI"]
    monkeypatch.setenv("SLACK_OPERATORS", "ana")
    with pytest.raises(SettingError, match="'ana' is no Slack user id .* copy the member ID"):
        load_settings()


def test_no_error_quotes_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TWILIO_AUTH_TOKEN", "very-secret")
    monkeypatch.setenv("PORT", "x")
    with pytest.raises(SettingError) as error:
        load_settings()
    assert "very-secret" not in str(error.value)
    monkeypatch.delenv("PORT")
    assert "very-secret" not in repr(load_settings())


class TestAKeyAloneChangesNothing:
    KEYS = ("OPENAI_API_KEY", "LANGSMITH_API_KEY", "SUPABASE_SECRET_KEY")

    def test_keys(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for key in self.KEYS:
            monkeypatch.setenv(key, "sk-something")
        found = load_settings()
        assert (found.base_model, found.embedding_model, found.fallback_models) == (EMBEDDED, EMBEDDED, [])
        assert found.local_base
        assert found.local_embeddings

    def test_the_base_changes_by_its_own_settings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("INFERENCE_URL", "http://vllm:8000/v1/")
        found = load_settings()
        assert found.inference_url == "http://vllm:8000/v1"
        assert not found.local_base
        assert found.local_embeddings

    def test_embeddings_change_by_theirs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDDING_MODEL", "openai:text-embedding-3-small")
        assert not load_settings().local_embeddings
        assert load_settings().local_base

    def test_the_fallback_chain_is_a_list(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FALLBACK_MODELS", " gpt-5-mini, other@https://models.example.com/v1 ,")
        assert load_settings().fallback_models == ["gpt-5-mini", "other@https://models.example.com/v1"]


class TestDoors:
    """A channel is open when all of its secrets are set; an unset one closes it."""

    CHANNELS = {
        "twilio": ("TWILIO_ACCOUNT_SID", "TWILIO_AUTH_TOKEN", "TWILIO_WHATSAPP_FROM"),
        "meta": ("META_APP_SECRET", "META_ACCESS_TOKEN", "META_PHONE_NUMBER_ID"),
        "slack": ("SLACK_SIGNING_SECRET", "SLACK_BOT_TOKEN"),
    }

    @pytest.mark.parametrize("channel", CHANNELS)
    def test_each_secret_is_needed(self, monkeypatch: pytest.MonkeyPatch, channel: str) -> None:
        assert not getattr(load_settings(), f"{channel}_open")
        for name in self.CHANNELS[channel]:
            monkeypatch.setenv(name, "whatsapp:+5511999990000")
        assert getattr(load_settings(), f"{channel}_open")
        for name in self.CHANNELS[channel]:
            monkeypatch.setenv(name, "")
            assert not getattr(load_settings(), f"{channel}_open")
            monkeypatch.setenv(name, "whatsapp:+5511999990000")


class TestSupabasesOldKey:
    def test_it_is_read_with_a_warning(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "old")
        with pytest.warns(UserWarning, match="SUPABASE_SECRET_KEY"):
            found = load_settings()
        assert found.supabase_secret_key == SecretStr("old")

    def test_the_new_one_wins(self, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
        monkeypatch.setenv("SUPABASE_SERVICE_ROLE_KEY", "old")
        monkeypatch.setenv("SUPABASE_SECRET_KEY", "new")
        assert load_settings().supabase_secret_key == SecretStr("new")
        assert not recwarn.list


class TestRunningSystem:
    """`npllm up` writes what it made up; every other command reads it, below what is set."""

    @pytest.fixture(autouse=True)
    def _up(self, tmp_path: Path) -> None:
        self.file = runtime_file(tmp_path / "data")
        self.file.parent.mkdir(parents=True)
        self.file.write_text(
            json.dumps({"DATABASE_URL": "postgresql://made/up", "TWILIO_AUTH_TOKEN": "made-up", "UNKNOWN": "x"})
        )

    def test_what_is_not_set_is_lent(self) -> None:
        found = load_settings()
        assert found.database_url == "postgresql://made/up"
        assert found.twilio_auth_token == SecretStr("made-up")

    def test_the_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://mine")
        assert load_settings().database_url == "postgresql://mine"

    def test_an_env_file_wins(self) -> None:
        Path(".env").write_text("DATABASE_URL=postgresql://mine\n")
        assert load_settings().database_url == "postgresql://mine"
        assert load_settings().twilio_auth_token == SecretStr("made-up")

    def test_an_empty_variable_counts_as_not_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "")
        assert load_settings().database_url == "postgresql://made/up"

    def test_arguments_win(self) -> None:
        assert load_settings(database_url="postgresql://argument").database_url == "postgresql://argument"

    def test_up_itself_does_not_read_what_an_earlier_run_left(self) -> None:
        assert load_settings(running=False).database_url is None

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", "5", "\xff"])
    def test_a_broken_file_is_none(self, text: str) -> None:
        self.file.write_bytes(text.encode("latin-1"))
        assert load_settings().database_url is None

    def test_no_file_is_none(self) -> None:
        self.file.unlink()
        assert load_settings().database_url is None


def test_env_files_are_read(tmp_path: Path) -> None:
    Path(".env").write_text("BUSINESS_NAME=Padaria Ipê\nSOMETHING_ELSE=1\n", encoding="utf-8")
    assert load_settings().business_name == "Padaria Ipê"


def test_where_everything_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", "/home/ana/data")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert default_data_dir() == Path("/home/ana/data/npllm")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert default_data_dir() == Path("/var/lib/npllm")
    monkeypatch.setenv("NPLLM_DATA_DIR", "~/npllm")
    assert load_settings().data_dir == Path.home() / "npllm"


def test_every_setting_has_one_variable() -> None:
    names = variable_names()
    assert len(names) == len(set(names)) == len(Settings.model_fields)
    assert "NPLLM_DATA_DIR" in names
    assert "DATA_DIR" not in names
