"""Answers of several versions at once: each in its place, the same as alone, and written somehow on any base."""

from pathlib import Path
from typing import Any

import pytest

from core import artifacts
from core.errors import ArtifactError, SettingError
from core.prompts import chat_messages
from integrations.huggingface.embedded_base import BaseModel
from learning import answers as module
from learning.answers import answers
from learning.lora import save_adapter, trainable

QUESTIONS = ("Qual é o prazo?", "Oi", "Quanto custa o colchão de casal, e em quantas vezes posso pagar?")
ASKED = [
    chat_messages(language="pt", assistant="Ana", business="Casa", question=question, passages=["O prazo é de 3 dias."])
    for question in QUESTIONS
]


@pytest.fixture
def tiny(base_folder: Path) -> BaseModel:
    return BaseModel("tiny", "sha256:tiny", base_folder)


@pytest.fixture
def version(adapted: Any, tmp_path: Path) -> Path:
    for name, parameter in trainable(adapted).items():
        if "lora_B" in name:
            parameter.data *= 40  # far from the base, which says next to nothing
    folder = tmp_path / "version"
    save_adapter(adapted, folder)
    artifacts.write_manifest(folder, {"base": {"model": "tiny", "revision": "sha256:tiny"}})
    return folder


def test_each_version_answers_every_question_in_its_place(tiny: BaseModel, version: Path) -> None:
    together = answers(tiny, {"base": None, "new": version}, ASKED, max_tokens=8)
    for number, asked in enumerate(ASKED[:2]):
        assert answers(tiny, {"new": version}, [asked], max_tokens=8)["new"] == [together["new"][number]]
    assert together["base"] != together["new"]
    assert len({found.text for found in together["new"]}) == len(ASKED)


def test_a_base_that_the_server_refuses_is_written_with_all_the_same(
    tiny: BaseModel, version: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = answers(tiny, {"base": None, "new": version}, ASKED, max_tokens=4)

    def refuses(base: BaseModel, **options: Any) -> None:
        raise SettingError("tiny cannot be served here.")

    monkeypatch.setattr(module, "ServingModel", refuses)
    elsewhere = answers(tiny, {"base": None, "new": version}, ASKED, max_tokens=4)
    assert {name: [found.ended for found in of] for name, of in elsewhere.items()} == {
        name: [found.ended for found in of] for name, of in here.items()
    }
    assert len({found.text for found in elsewhere["new"]}) == len(ASKED)


def test_a_changed_folder_answers_nothing(tiny: BaseModel, version: Path) -> None:
    with (version / "adapter_model.safetensors").open("ab") as weights:
        weights.write(b"0")
    with pytest.raises(ArtifactError):
        answers(tiny, {"new": version}, ASKED, max_tokens=4)
