"""A LoRA adapter from elsewhere, against its own configuration and against the base it is put on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo.records import UserError, listed, read_json
from empo.redaction import reason
from empo.untrusted import require_safetensors, shapes

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import nn
    from transformers import PreTrainedModel

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"

_READS_ELSEWHERE = (
    "megatron_config",
    "corda_config",
    "eva_config",
    "lora_ga_config",
    "arrow_config",
)
"""Fields with which peft imports modules or reads files that a configuration names."""
_TENSOR = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")


def adapter_config(folder: str | Path) -> dict[str, Any]:
    """The configuration of an adapter.

    Raises UserError where a field that is relied on is missing or of another type, the adapter is
    no LoRA, or peft would import or read what it names.
    """
    path = Path(folder) / ADAPTER_CONFIG
    config = read_json(path)
    if not isinstance(config, Mapping):
        raise UserError(f"{path}: a JSON object is expected, not {type(config).__name__}.")
    wanted = {"peft_type": str, "base_model_name_or_path": str, "r": int}
    for field, kind in wanted.items():
        if not isinstance(config.get(field), kind):
            raise UserError(
                f"{path}, field {field!r}: {kind.__name__} is expected, not {config.get(field)!r}."
            )
    if config["peft_type"] != "LORA":
        raise UserError(
            f"{path}, field 'peft_type': {config['peft_type']} adapters are not read, only LORA."
        )
    revision = config.get("revision")
    if not isinstance(revision, str | None):
        raise UserError(f"{path}, field 'revision': a text or null is expected, not {revision!r}.")
    for field in _READS_ELSEWHERE:
        if config.get(field):
            raise UserError(
                f"{path}, field {field!r}: with it peft reads what the file names, so the adapter is "
                "not loaded. Take the field out, if it was only used to begin the training."
            )
    targets = config.get("target_modules")
    names = [targets] if isinstance(targets, str) else targets
    if not targets or not isinstance(names, list) or not all(map(_is_name, names)):
        raise UserError(
            f"{path}, field 'target_modules': names of layers are expected, not {targets!r}."
        )
    for field in ("rank_pattern", "alpha_pattern"):
        pattern = config.get(field) or {}
        if not isinstance(pattern, dict) or not all(
            _is_name(name) and isinstance(value, int) for name, value in pattern.items()
        ):
            raise UserError(
                f"{path}, field {field!r}: names of layers with a number each are expected, not "
                f"{pattern!r}."
            )
    return dict(config)


def check_tensors(folder: str | Path) -> dict[str, list[int]]:
    """Name to shape of an adapter's tensors.

    Raises UserError where there are none or only pickled ones, the file is damaged, a tensor has
    another rank than the configuration says, or a value is no finite number.
    """
    import torch
    from safetensors import safe_open

    folder = Path(folder)
    config = adapter_config(folder)
    require_safetensors(folder, WEIGHTS)
    path = folder / WEIGHTS
    found = shapes(path)
    for name, shape in found.items():
        match = _TENSOR.fullmatch(name)
        if match is None:
            continue
        rank, there = _rank(config, match[1]), shape[match[2] == "B"] if len(shape) == 2 else None
        if there != rank:
            raise UserError(
                f"{path}: {name} has the shape {shape}, but {ADAPTER_CONFIG} says rank {rank}. The "
                "two files do not belong together; copy the adapter again."
            )
    with safe_open(path, "pt") as tensors:
        for name in found:
            if not torch.isfinite(tensors.get_tensor(name).float()).all():
                raise UserError(
                    f"{path}: {name} holds NaN or an infinity, so every reply would be noise. The "
                    "training has failed or the file is damaged; take an earlier checkpoint."
                )
    return found


def _check_fits(folder: str | Path, model: PreTrainedModel, base: str) -> None:
    """Raise UserError where the tensors of an adapter belong to layers that the base has not.

    Or to layers of another size, or where a target of the adapter is no layer of the base.
    """
    config, found = adapter_config(folder), check_tensors(folder)
    path = Path(folder) / WEIGHTS
    modules = dict(model.named_modules())
    lost = sorted(
        {m[1] for name in found if (m := _TENSOR.fullmatch(name)) and m[1] not in modules}
    )
    if lost:
        raise UserError(
            f"{path}: the adapter was made for another architecture: {base} "
            f"({model.config.model_type}) has no {lost[0]} ({len(lost)} such layers). Give the base "
            f"it was trained on ({config['base_model_name_or_path']})."
        )
    for name, shape in found.items():
        match = _TENSOR.fullmatch(name)
        size = _size(modules[match[1]]) if match else None
        if size is None:
            continue
        width = shape[1] if match[2] == "A" else shape[0]
        if width != size[match[2] == "B"]:
            raise UserError(
                f"{path}: {name} has the shape {shape}, but the layer of {base} has {size[0]} inputs "
                f"and {size[1]} outputs. The adapter was made for a model of another size; give the "
                f"base it was trained on ({config['base_model_name_or_path']})."
            )
    targets = config["target_modules"]
    if isinstance(targets, list):
        check_targets(model, targets, f"{Path(folder) / ADAPTER_CONFIG}, field 'target_modules'")


def check_targets(model: PreTrainedModel, targets: Iterable[str], where: str) -> None:
    """Raise UserError, beginning with `where`, for targets of LoRA that are no linear layer of a model.

    A target is the name of a layer, or the end of its path at a dot.
    """
    names = {name for name, module in model.named_modules() if _size(module) is not None}
    missing = [
        target
        for target in targets
        if not any(name == target or name.endswith(f".{target}") for name in names)
    ]
    if missing:
        head = model.get_output_embeddings()
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if _size(module) is not None and module is not head
        }
        raise UserError(
            f"{where}: the model ({model.config.model_type}) has no linear layer "
            f"{listed(missing)}. It has: {listed(sorted(linear))}."
        )


def put_on(model: PreTrainedModel, folder: str, base: str, trainable: bool) -> PeftModel:
    """The model with the adapter of a folder on it.

    Raises UserError where the adapter does not fit the model, which is called `base`, or is not whole.
    """
    from peft import PeftModel

    _check_fits(folder, model, base)
    try:
        adapted = PeftModel.from_pretrained(model, folder, is_trainable=trainable)
    except (RuntimeError, ValueError, OSError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{folder}: the adapter does not fit the base {base}: {reason(error)[:300]}"
        ) from None
    _check_complete(folder, adapted)
    return adapted


def _check_complete(folder: str | Path, adapted: nn.Module) -> None:
    """Raise UserError where the file of an adapter lacks tensors that it should have, or has others.

    `adapted` is the model with the adapter on it; peft leaves missing tensors at their random start
    and puts surplus ones nowhere, both without an error.
    """
    from peft import get_peft_model_state_dict

    path = Path(folder) / WEIGHTS
    found = shapes(path).keys()
    needed = get_peft_model_state_dict(adapted, save_embedding_layers=False).keys()
    known = needed | get_peft_model_state_dict(adapted, save_embedding_layers=True).keys()
    for what, names in (("lacks", needed - found), ("has besides", found - known)):
        if names:
            raise UserError(
                f"{path}: the file {what} {len(names)} tensors, such as {min(names)}. It does not "
                f"belong to {ADAPTER_CONFIG}, or is not whole; copy the adapter again."
            )


def _is_name(value: object) -> bool:
    """Whether peft, which reads these as regular expressions, finds the layer of that name and no more."""
    return isinstance(value, str) and re.fullmatch(r"[\w.-]+", value) is not None


def _rank(config: Mapping[str, Any], layer: str) -> int:
    """The rank of a layer; `rank_pattern` has names of layers, or ends of them."""
    for name, rank in (config.get("rank_pattern") or {}).items():
        if layer == name or layer.endswith(f".{name}"):
            return rank
    return config["r"]


def _size(module: nn.Module) -> tuple[int, int] | None:
    """Inputs and outputs of a linear layer, also of a quantised one; None of other modules."""
    for inputs, outputs in (("in_features", "out_features"), ("nx", "nf")):
        size = getattr(module, inputs, None), getattr(module, outputs, None)
        if all(isinstance(number, int) for number in size):
            return size
    return None
