"""Every setting of the project, in one class; read at the edges, passed inward.

Values come from the environment or from `.env` in the current folder. `.env.example` lists them all, with a
sentence each (a test compares the two). A key alone changes nothing: the base model changes only by BASE_MODEL
or INFERENCE_URL, embeddings only by EMBEDDING_MODEL, the fallback chain only by FALLBACK_MODELS.
"""

import base64
import json
import os
import re
import warnings
from datetime import time
from functools import cache
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core import shop
from core.errors import SettingError
from core.hours import parse_hours
from core.prompts import Language
from core.untrusted import as_dict

EMBEDDED = "embedded"


def default_data_dir() -> Path:
    """Where everything is kept when NPLLM_DATA_DIR is not set.

    As root it is /var/lib/npllm: Postgres refuses to run as root, and the unprivileged user it drops to cannot
    look into root's home.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/npllm")
    home = os.environ.get("XDG_DATA_HOME")
    return (Path(home) if home else Path.home() / ".local" / "share") / "npllm"


# learning/strategies.py says what each does.
NightStrategy = Literal[
    "naive", "replay", "mas", "ewc", "mas+replay", "ewc+replay", "ema+replay", "mas+ema+replay", "balanced",
    "ema+balanced", "wise+replay", "wise+balanced", "deep",
]  # fmt: skip


class Settings(BaseSettings):
    """See `.env.example` for a sentence on each."""

    model_config = SettingsConfigDict(
        env_file=".env", env_file_encoding="utf-8", extra="ignore", env_ignore_empty=True, populate_by_name=True,
        allow_inf_nan=False,
    )  # fmt: skip

    # Place and shop window
    data_dir: Path = Field(default_factory=default_data_dir, validation_alias="NPLLM_DATA_DIR")
    host: str = "127.0.0.1"
    port: int | None = Field(None, ge=1, le=65535)
    public_base_url: str | None = None
    business_name: str = shop.BUSINESS_NAME
    assistant_name: str = shop.ASSISTANT_NAME
    language: Language = "pt"
    timezone: str = "America/Sao_Paulo"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    simulator: Literal["auto", "on", "off"] = "auto"

    # Ledger and doorbell
    database_url: str | None = None
    migrations_database_url: str | None = None
    redis_url: str | None = None

    # Models
    base_model: str = EMBEDDED
    inference_url: str | None = None
    inference_model: str | None = None
    fallback_models: Annotated[list[str], NoDecode] = []
    token_prices: Annotated[dict[str, tuple[float, float]], NoDecode] = {}
    embedding_model: str = EMBEDDED
    local_model_url: str = "http://127.0.0.1:8400/v1"
    local_model_key: SecretStr | None = None
    model_threads: int = Field(0, ge=0)
    reply_max_tokens: int = Field(96, ge=8, le=2048)
    reply_timeout: float = Field(30.0, gt=0)
    retrieval_passages: int = Field(2, ge=1, le=10)
    history_turns: int = Field(2, ge=0, le=20)

    # Awake
    awake_threads: int = Field(24, ge=1, le=256)
    conversation_idle_hours: float = Field(24.0, gt=0, le=87_600)
    lease_seconds: float = Field(20.0, gt=1, le=3_600)
    debounce_seconds: float = Field(1.5, ge=0, le=30)
    media_fetch: bool = False
    media_max_bytes: int = Field(5_242_880, ge=1)
    media_days: float = Field(90.0, gt=0, le=36_500)
    webhook_days: float = Field(30.0, gt=0, le=36_500)
    business_hours: str = ""
    handover_minutes: float = Field(60.0, gt=0, le=525_600)
    slack_handover_channel: str | None = None
    session_secret: SecretStr | None = None
    session_secret_previous: SecretStr | None = None
    chat_allowed_origins: Annotated[list[str], NoDecode] = []
    chat_visitor_rate: str = "30/minute"
    chat_address_rate: str = "300/minute"
    trusted_proxies: str = "127.0.0.1"

    # Twilio WhatsApp
    twilio_account_sid: str | None = None
    twilio_auth_token: SecretStr | None = None
    twilio_auth_token_previous: SecretStr | None = None
    twilio_whatsapp_from: str | None = None
    twilio_template_sid: str | None = None
    twilio_messages_per_second: float = Field(80.0, gt=0)
    twilio_api_base_url: str = "https://api.twilio.com"

    # Meta WhatsApp Cloud API
    meta_app_secret: SecretStr | None = None
    meta_app_secret_previous: SecretStr | None = None
    meta_verify_token: SecretStr | None = None
    meta_access_token: SecretStr | None = None
    meta_phone_number_id: str | None = None
    meta_template_name: str | None = None
    meta_template_language: str = "pt_BR"
    meta_messages_per_second: float = Field(80.0, gt=0)
    meta_graph_base_url: str = "https://graph.facebook.com"
    meta_graph_version: str = "v23.0"

    # Slack
    slack_signing_secret: SecretStr | None = None
    slack_signing_secret_previous: SecretStr | None = None
    slack_bot_token: SecretStr | None = None
    slack_client_id: str | None = None
    slack_client_secret: SecretStr | None = None
    slack_app_token: SecretStr | None = None
    slack_api_base_url: str = "https://slack.com/api"
    slack_learning: bool = False
    slack_stream_after: float = Field(2.0, ge=0)
    slack_operators: Annotated[list[str], NoDecode] = []
    slack_reviewers: Annotated[list[str], NoDecode] = []
    slack_review_channel: str | None = None

    # OpenAI, LangSmith, Supabase
    openai_api_key: SecretStr | None = None
    openai_base_url: str = "https://api.openai.com/v1"
    langsmith_api_key: SecretStr | None = None
    langsmith_endpoint: str = "https://api.smith.langchain.com"
    langsmith_project: str = "npllm"
    supabase_url: str | None = None
    supabase_secret_key: SecretStr | None = None
    supabase_service_role_key: SecretStr | None = None
    supabase_bucket: str = "npllm-adapters"

    # WhatsApp's template for after the 24-hour window
    template_variables: Annotated[dict[str, str], NoDecode] = {"1": "{text}"}

    # Feedback and review
    feedback_buttons: bool = True
    review_claim_minutes: float = Field(15.0, gt=0, le=525_600)
    review_sample: float = Field(0.05, ge=0, le=1)
    operator_password: SecretStr | None = None

    # Rollouts
    holdback_share: float = Field(0.05, ge=0, le=0.2)
    solicited_share: float = Field(0.08, ge=0, le=0.2)
    rollout_nightly: bool = False
    alert_slack_channel: str | None = None
    alert_email_to: Annotated[list[str], NoDecode] = []
    alert_email_from: str | None = None
    smtp_url: SecretStr | None = None
    alert_webhook_url: str | None = None
    alert_webhook_secret: SecretStr | None = None

    # Night
    sleep_hours: str = "02:00-06:00"
    sleep_idle_minutes: float = Field(15.0, ge=0, le=525_600)
    sleep_minimum_examples: int = Field(20, ge=1)
    sleep_strategy: NightStrategy = "wise+replay"
    sleep_max_minutes: float = Field(240.0, gt=0)
    sleep_max_examples: int = Field(2_000, ge=1)
    sleep_max_cost: float | None = Field(None, gt=0)
    sleep_cost_per_hour: float = Field(0.0, ge=0)
    sleep_deep_every: Literal["never", "week", "month"] = "week"
    replay_share: float = Field(0.15, ge=0, lt=1)
    mas_strength: float | None = Field(None, ge=0)
    lora_rank: int = Field(16, ge=1, le=256)
    learning_rate: float = Field(2e-4, gt=0)
    epochs: int = Field(2, ge=1, le=100)
    retention_target: float = Field(0.95, ge=0.7, le=1)
    training_threads: int = Field(0, ge=0)
    training_processes: int = Field(1, ge=1, le=64)

    @field_validator(
        "fallback_models", "chat_allowed_origins", "slack_operators", "slack_reviewers", "alert_email_to", mode="before"
    )
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @field_validator("token_prices", mode="before")
    @classmethod
    def _prices(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            pairs = [part.strip().rsplit("=", 1) for part in value.split(",") if part.strip()]
            return {name: tuple(float(price) for price in prices.split("/", 1)) for name, prices in pairs}
        except ValueError:
            raise ValueError("write NAME=IN/OUT, dollars per million tokens, separated by commas") from None

    @field_validator("template_variables", mode="before")
    @classmethod
    def _variables(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value)
        except ValueError:
            raise ValueError('is no JSON object of strings such as {"1": "{text}"}') from None

    @field_validator("data_dir", mode="after")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return value.expanduser().absolute()

    @field_validator(
        "inference_url", "public_base_url", "supabase_url", "local_model_url", "openai_base_url", "langsmith_endpoint",
        "twilio_api_base_url", "meta_graph_base_url", "slack_api_base_url", mode="after",
    )  # fmt: skip
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        return _address(value, "http", "https").rstrip("/") if value else value

    @field_validator("alert_webhook_url", mode="after")
    @classmethod
    def _called_as_it_stands(cls, value: str | None) -> str | None:
        return _address(value, "http", "https") if value else value

    @field_validator("smtp_url", mode="after")
    @classmethod
    def _mail_server(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            _address(value.get_secret_value(), "smtp", "smtps")
        return value

    @field_validator("alert_webhook_secret", mode="after")
    @classmethod
    def _signs(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            try:
                base64.b64decode(value.get_secret_value().removeprefix("whsec_"), validate=True)
            except ValueError:
                raise ValueError("must be whsec_ and base64, as Standard Webhooks writes secrets") from None
        return value

    @field_validator("chat_allowed_origins", mode="after")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        origins = [_address(origin, "http", "https").rstrip("/").lower() for origin in value]
        if any(urlsplit(origin)[2:] != ("", "", "") for origin in origins):
            raise ValueError("must be origins such as https://www.example.com, without a path")
        return origins

    @field_validator("twilio_whatsapp_from", mode="after")
    @classmethod
    def _sender(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"whatsapp:\+\d{6,15}", value):
            raise ValueError(
                "must be whatsapp: and the number, as whatsapp:+5511999990000; without it Twilio sends SMS"
            )
        return value

    @field_validator("inference_url", mode="after")
    @classmethod
    def _ends_in_v1(cls, value: str | None) -> str | None:
        if value is not None and not value.endswith("/v1"):
            raise ValueError("must end in /v1, as every OpenAI-compatible server's address does")
        return value

    @field_validator("chat_visitor_rate", "chat_address_rate", mode="after")
    @classmethod
    def _rates(cls, value: str) -> str:
        if not re.fullmatch(r"[1-9]\d{0,6}/(second|minute|hour|day)(; ?[1-9]\d{0,6}/(second|minute|hour|day))*", value):
            raise ValueError("is no rate such as 30/minute, or several with ; between them")
        return value

    @field_validator("trusted_proxies", mode="after")
    @classmethod
    def _proxies(cls, value: str) -> str:
        """Of what is neither the web server takes no notice: every visitor would have the proxy's address."""
        for part in () if value.strip() == "*" else map(str.strip, value.split(",")):
            try:
                ip_network(part)
            except ValueError:
                raise ValueError(
                    f"'{part}' is no address and no network such as 10.0.0.0/8: write them with commas, or * alone"
                ) from None
        return value

    @field_validator("slack_operators", "slack_reviewers", mode="after")
    @classmethod
    def _slack_users(cls, value: list[str]) -> list[str]:
        for one in value:
            if not re.fullmatch(r"([TE][A-Z0-9]+/)?[UW][A-Z0-9]+", one):
                raise ValueError(
                    f"'{one}' is no Slack user id such as U0123ABCD (with several workspaces T0123ABCD/U0123ABCD):"
                    " copy the member ID from the person's profile in Slack"
                )
        return value

    @field_validator("timezone", mode="after")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(value)
        except (KeyError, ValueError):
            raise ValueError("is not a time zone's name, such as America/Sao_Paulo") from None
        return value

    @field_validator("business_hours", mode="after")
    @classmethod
    def _hours(cls, value: str) -> str:
        parse_hours(value)
        return value

    @field_validator("sleep_hours", mode="after")
    @classmethod
    def _range_of_hours(cls, value: str) -> str:
        try:
            start, end = (time.fromisoformat(part.strip()) for part in value.split("-"))
        except ValueError:
            raise ValueError("is no range such as 02:00-06:00") from None
        return f"{start:%H:%M}-{end:%H:%M}"

    @model_validator(mode="after")
    def _successor_of_service_role_key(self) -> "Settings":
        if self.supabase_secret_key is None and self.supabase_service_role_key is not None:
            warnings.warn(
                "SUPABASE_SERVICE_ROLE_KEY is read, but its kind of key ends in 2026: set SUPABASE_SECRET_KEY.",
                stacklevel=2,
            )
            self.supabase_secret_key = self.supabase_service_role_key
        return self

    # What follows from the settings

    @property
    def twilio_open(self) -> bool:
        return bool(self.twilio_account_sid and self.twilio_auth_token and self.twilio_whatsapp_from)

    @property
    def meta_open(self) -> bool:
        return bool(self.meta_app_secret and self.meta_access_token and self.meta_phone_number_id)

    @property
    def slack_installable(self) -> bool:
        """Whether further workspaces may install the app."""
        return bool(self.slack_client_id and self.slack_client_secret)

    @property
    def slack_open(self) -> bool:
        """Something comes in (signed, or through a socket), and there is a token to answer with."""
        comes_in = self.slack_signing_secret or self.slack_app_token
        return bool(comes_in and (self.slack_bot_token or self.slack_installable))

    @property
    def local_base(self) -> bool:
        """Whether our own model server serves the base."""
        return self.inference_url is None

    @property
    def local_embeddings(self) -> bool:
        return not self.embedding_model.startswith("openai:")


def variable_names() -> list[str]:
    """The environment variable of every setting, in the order of the class."""
    return [str(field.validation_alias or name).upper() for name, field in Settings.model_fields.items()]


def runtime_file(data_dir: Path) -> Path:
    """Where a running `npllm up` writes the settings it made: addresses, passwords, the simulator's secrets."""
    return data_dir / "run" / "environment.json"


def load_settings(*, running: bool = True, **overrides: Any) -> Settings:
    """Read the environment afresh; what is not set there is taken from a running `npllm up`, if there is one.

    Args:
        running: False leaves a running `up` out of it.

    Raises:
        SettingError: a value makes no sense; names each variable and what is wrong with it.
    """
    settings = _validated(**overrides)
    if not running:
        return settings
    try:
        made_up = as_dict(json.loads(runtime_file(settings.data_dir).read_text()))
    except (OSError, ValueError):
        return settings
    fields = dict(zip(variable_names(), Settings.model_fields, strict=True))
    found = {fields[name]: value for name, value in made_up.items() if name in fields}
    missing = {name: value for name, value in found.items() if name not in settings.model_fields_set}
    return _validated(**{**missing, **overrides})


@cache
def get_settings() -> Settings:
    """The settings of this process, read once."""
    return load_settings()


def _address(value: str, *schemes: str) -> str:
    """Raises:
    ValueError: it is no URL of one of these schemes; the value, which may hold a password, is not repeated.
    """
    try:
        parts = urlsplit(value)
        whole = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        whole = False
    if not whole:
        raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}, and name a host")
    return value


def _validated(**values: Any) -> Settings:
    try:
        return Settings(**values)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in problem['loc']).upper()}: {problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors()
        )
        raise SettingError(f"Wrong setting: {problems}.", "Correct it in the environment or in .env.") from None
