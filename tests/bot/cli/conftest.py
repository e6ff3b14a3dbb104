"""`npllm` on this test's own database and Redis."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result
from servers import ScriptedModel

from bot.cli import main
from core.settings import Settings, get_settings


class Console:
    """Runs commands; `ok` and `data` want success, `fails` wants two lines and exit status 1."""

    def __call__(self, *words: str, input: str | None = None) -> Result:
        get_settings.cache_clear()
        return CliRunner().invoke(main, list(words), input=input)

    def ok(self, *words: str, input: str | None = None) -> str:
        done = self(*words, input=input)
        assert done.exit_code == 0, done.output
        return done.stdout

    def data(self, *words: str, input: str | None = None) -> Any:
        return json.loads(self.ok(*words, "--json", input=input))

    def fails(self, *words: str, input: str | None = None) -> str:
        """What an expected failure prints: what is wrong, then what to do; never a traceback."""
        done = self(*words, input=input)
        assert done.exit_code == 1, done.output
        assert done.exception is None or isinstance(done.exception, SystemExit)
        assert 1 <= len(done.stderr.strip().splitlines()) <= 2, done.stderr
        return done.stderr


@pytest.fixture
def console(
    settings: Settings, _addresses: dict[str, str], model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Any]:
    monkeypatch.setenv("DATABASE_URL", str(settings.database_url))
    monkeypatch.setenv("REDIS_URL", str(settings.redis_url))
    monkeypatch.setenv("LOCAL_MODEL_URL", _addresses["local_model_url"])
    return Console()
