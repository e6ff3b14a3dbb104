"""LoRA adapters (Hu et al. 2021, arXiv 2106.09685) on a frozen base: build, load, save.

The base is never trained: PEFT freezes it, and `check_share` proves that the adapter is a small part of it.
"""

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from core.artifacts import ALLOWED_TARGETS, CONFIG, WEIGHTS
from core.errors import NightError

MAX_SHARE = 0.10  # of all parameters


def load_base(path: Path | str) -> tuple[Any, Any]:
    """The frozen base in fp32 (bf16 on a GPU), and its tokenizer.

    bf16 is twice as fast on a GPU. On a CPU the whole model in bf16 was slower than fp32; learning/quick.py is not.
    """
    disable_progress_bar()
    on_gpu = torch.cuda.is_available()
    if on_gpu:  # cuDNN's attention gave gradients that are not finite for one padded batch of eight (docs/log.md)
        torch.backends.cuda.enable_cudnn_sdp(False)
    model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.bfloat16 if on_gpu else torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    model.requires_grad_(False)
    return (model.to("cuda") if on_gpu else model), tokenizer


def new_adapter(model: Any, *, base_name: str, base_revision: str, rank: int = 16, seed: int = 0) -> PeftModel:
    """A fresh adapter on every linear layer but the output's ("LoRA learns less and forgets less", 2405.09673).

    A starts random (by seed), B at zero: the model says what the base says until the first step.
    """
    targets = sorted(
        {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
        & ALLOWED_TARGETS
    )
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=0.0, target_modules=targets, task_type="CAUSAL_LM",
        base_model_name_or_path=base_name, revision=base_revision,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*base_model_name_or_path.* was renamed")
        adapted = get_peft_model(model, config)
    # PEFT puts the folder the base was loaded from in its place; a version names its base.
    adapted.peft_config["default"].base_model_name_or_path = base_name
    check_share(adapted)
    return adapted


def load_adapter(model: Any, folder: Path) -> PeftModel:
    """Continue from a version's folder (verified before: `core.artifacts.verify`), its factors in fp32, trainable."""
    adapted = PeftModel.from_pretrained(model, folder, is_trainable=True)
    for parameter in trainable(adapted).values():
        parameter.data = parameter.data.float()  # the penalty's (theta - theta*)^2 underflows in 16 bits
    check_share(adapted)
    return adapted


def trainable(model: Any) -> dict[str, torch.nn.Parameter]:
    """The adapter's factors by name, in a fixed order."""
    return {name: parameter for name, parameter in sorted(model.named_parameters()) if parameter.requires_grad}


def share_of_parameters(model: Any) -> float:
    """Trained parameters over all parameters, as a fraction."""
    adapter = sum(parameter.numel() for parameter in trainable(model).values())
    return adapter / sum(parameter.numel() for parameter in model.parameters())


def check_share(model: Any) -> None:
    if (share := share_of_parameters(model)) >= MAX_SHARE:
        raise NightError(
            f"The adapter would train {share:.1%} of the parameters, more than {MAX_SHARE:.0%}.", "Lower LORA_RANK."
        )


def save_adapter(model: PeftModel, folder: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write weights and configuration into `folder`, which must not exist yet; the manifest is the caller's."""
    folder.mkdir(parents=True)
    config = model.peft_config["default"]
    base_name, revision = config.base_model_name_or_path, config.revision
    model.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's template card; ours says something
    config_file = folder / CONFIG
    facts = json.loads(config_file.read_text())
    # save_pretrained may put the base's local path here; a version names its base, never a machine's folder.
    facts |= {"base_model_name_or_path": base_name, "revision": revision}
    config_file.write_text(json.dumps(facts, indent=2, sort_keys=True) + "\n")
    if dtype != torch.float32:
        weights = {name: tensor.to(dtype) for name, tensor in load_file(folder / WEIGHTS).items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
