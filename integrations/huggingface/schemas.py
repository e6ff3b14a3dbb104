"""What requests may say, in the words of OpenAI's API and of vLLM's LoRA endpoints.

A field that would change the answer and is not supported is refused; one that changes nothing (user, metadata, store,
service_tier) is ignored, as OpenAI-compatible servers do.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from integrations.huggingface.sampling import Sampling

# Field → what it may say: its neutral values.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "web_search_options": (None,),
    "top_k": (None, -1, 0),
    "min_p": (None, 0, 0.0),
    "min_tokens": (None, 0),
    "structured_outputs": (None,),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
}


def _characters(text: str) -> str:
    """JSON can carry half of a surrogate pair, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text holds half a character (a lone surrogate)") from None
    return text


Text = Annotated[str, AfterValidator(_characters)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Stop = Annotated[Text, StringConstraints(min_length=1, max_length=200)]


class TextPart(BaseModel):
    type: Literal["text"]
    text: Text


class Message(BaseModel):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart]

    def as_template_reads_it(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": text}


class StreamOptions(BaseModel):
    include_usage: bool = False


class ChatRequest(BaseModel):
    """POST /v1/chat/completions. Unlike OpenAI's, the default temperature is 0: the same question, the same answer."""

    model_config = ConfigDict(extra="allow")

    model: Name
    messages: Annotated[list[Message], Field(min_length=1, max_length=500)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=2)] | None = None
    ignore_eos: bool = False
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def _refuse_what_is_not_supported(cls, fields: Any) -> Any:
        if isinstance(fields, dict):
            for name, neutral in _UNSUPPORTED.items():
                if name in fields and fields[name] not in neutral:
                    raise ValueError(f"`{name}` is not supported by this server")
        return fields

    @property
    def sampling(self) -> Sampling:
        return Sampling(
            temperature=self.temperature or 0.0,
            top_p=1.0 if self.top_p is None else self.top_p,
            seed=self.seed,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            repetition_penalty=self.repetition_penalty or 1.0,
        )

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def wants_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class LoadAdapter(BaseModel):
    """POST /v1/load_lora_adapter, as vLLM's; `sha256` is the version's hash in the registry, checked if given."""

    lora_name: Name
    lora_path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")] | None = None


class UnloadAdapter(BaseModel):
    """POST /v1/unload_lora_adapter."""

    lora_name: Name


class EmbeddingRequest(BaseModel):
    """POST /v1/embeddings. Texts only: token numbers would be those of another tokenizer."""

    model: Name
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
