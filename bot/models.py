"""Asking for a version: where it is served, and having it loaded there first."""

import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from sqlalchemy import Engine

from bot.router import Served
from core import registry
from core.db import transaction
from core.errors import NotFound, NpllmError, SettingError
from core.prompts import ChatMessage
from core.settings import Settings
from integrations.openai.model import Reply, Server


class Models:
    """The main server (ours, or INFERENCE_URL) with the base and the adapters, and the outside fallbacks."""

    def __init__(self, settings: Settings, engine: Engine, store: registry.ArtifactStore) -> None:
        self.settings = settings
        self.engine = engine
        self.store = store
        self.server = main_server(settings)
        self.outside = [outside_model(entry, settings) for entry in settings.fallback_models]
        self._base: str | None = None
        self._loaded: set[str] = set()
        self._lock = threading.Lock()

    @property
    def base(self) -> str:
        """The frozen base's name on the main server: the first it lists, or INFERENCE_MODEL."""
        if self._base is None:
            listed = self.server.models()
            if not listed and not self.settings.inference_model:
                raise SettingError(f"{self.server.url}/models lists nothing.", "Set INFERENCE_MODEL.")
            self._base = self.settings.inference_model or listed[0]
        return self._base

    def reply(
        self,
        served: Served,
        messages: Sequence[ChatMessage],
        *,
        max_tokens: int,
        timeout: float,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """Ask one version of the main server; one it has forgotten (a restart) is loaded again.

        Raises:
            NpllmError: it cannot be loaded, or does not answer.
        """

        def ask(model: str) -> Reply:
            return self.server.reply(messages, model=model, max_tokens=max_tokens, timeout=timeout, on_text=on_text)

        if served.name is None:
            return ask(self.base)
        if served.name not in self._loaded:
            self.load(served)
        try:
            return ask(served.name)
        except NotFound:
            self.load(served)
            return ask(served.name)

    def load(self, served: Served) -> None:
        """Have the main server load a version whose files are proved first."""
        if served.id is None or served.name is None:
            return
        with self._lock:
            with transaction(self.engine) as session:
                version = registry.by_name(session, served.name)
            folder = registry.fetch_verified(self.store, version, base_revision=None)
            self.server.load_adapter(served.name, str(Path(folder).resolve()), served.sha256)
            self._loaded.add(served.name)

    def keep_only(self, live: Iterable[Served]) -> dict[str, NpllmError]:
        """Load what is live and let go of the rest: every loaded version costs memory and time.

        Returns what went wrong, by the version's name.
        """
        wrong: dict[str, NpllmError] = {}
        names = {served.name for served in live if served.name}
        listed = set(self.server.models())
        with self._lock:
            self._loaded = listed & (self._loaded | names)
        for served in live:
            if served.name and served.name not in listed:
                try:
                    self.load(served)
                except NpllmError as error:
                    wrong[served.name] = error  # a turn goes on with the next in its chain
        for name in sorted(self._known_versions(listed) - names):
            self.server.unload_adapter(name)
        return wrong

    def _known_versions(self, listed: set[str]) -> set[str]:
        """Of the listed models those that are versions of ours; a shared server may list others'."""
        with transaction(self.engine) as session:
            return {version.name for version in registry.all_versions(session)} & listed


def main_server(settings: Settings) -> Server:
    if settings.inference_url:
        key = settings.openai_api_key
        return Server(settings.inference_url, key.get_secret_value() if key else None)
    key = settings.local_model_key
    return Server(settings.local_model_url, key.get_secret_value() if key else None)


def outside_model(entry: str, settings: Settings) -> tuple[Server, str]:
    """One entry of FALLBACK_MODELS: NAME (at OpenAI), or NAME@https://server/v1.

    Raises:
        SettingError: neither.
    """
    name, _, url = entry.partition("@")
    if not name or (url and not url.rstrip("/").endswith("/v1")):
        raise SettingError(f"FALLBACK_MODELS: '{entry}' is no model.", "Write NAME, or NAME@https://server/v1.")
    key = settings.openai_api_key
    return Server((url or settings.openai_base_url).rstrip("/"), key.get_secret_value() if key else None), name
