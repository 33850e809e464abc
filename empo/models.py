"""Base models, adapter chains, LoRA, quantisation."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo import hub
from empo.adapters import (
    ADAPTER_CONFIG,
    adapter_config,
    check_targets,
    check_tensors,
    put_on,
)
from empo.records import RUN_SCHEMA, UserError, sha256, write_json
from empo.redaction import reason, redacted
from empo.runs import read_facts, read_run, versions
from empo.templates import check_template
from empo.untrusted import CONFIGS, CONVERT, configs_of, refuse_code, require_safetensors

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

TRUST = (
    "Read the code, and if you trust it, set `trust_remote_code: true`: only the command itself can, "
    "and only for the model that it names. Where transformers has a class of its own for such a "
    "model, take the field out of a local copy."
)
"""What to do about a model that comes with code."""

MERGED = "merged"
"""Sub-folder of an adapter run in which its merged model lies."""


@dataclass(frozen=True)
class ModelSource:
    """A base model and the adapters on top of it, in the order in which they are applied."""

    base: str
    adapters: tuple[str, ...] = ()
    revision: str | None = None
    run: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False
    """Whether the user asked for the code that comes with the base; no file can ask for it."""

    def facts(self) -> dict[str, Any]:
        """What identifies the weights: for manifests."""
        trusted = {"trust_remote_code": True} if self.trust_remote_code else {}
        return {
            "base": {"name": self.base, **weights_identity(self.base, self.revision), **trusted},
            "adapters": [{"name": name, **weights_identity(name)} for name in self.adapters],
        }


def resolve(
    model: str,
    adapter: str | None = None,
    revision: str | None = None,
    merged: bool = True,
    trust_remote_code: bool = False,
) -> ModelSource:
    """Find base and adapter chain of a hub id, a model folder, an adapter folder or a run folder.

    A run's merged weights stand for its adapter where they exist and `merged` is true. `adapter`
    overrides the chain. `trust_remote_code` lets the base bring code of its own. Raises UserError
    where a folder holds no model, an unfinished run, or an adapter trained on another base.
    """
    folder, trusted = Path(model), {"trust_remote_code": trust_remote_code}
    if adapter is not None:
        base = resolve(model, revision=revision, **trusted)
        run = read_run(adapter)
        if not (Path(adapter) / ADAPTER_CONFIG).is_file():
            raise UserError(f"{adapter}: the folder holds no adapter (adapter_config.json).")
        _check_base(Path(adapter), base.base)
        return ModelSource(base.base, (adapter,), revision, run or base.run, **trusted)
    if not folder.is_dir():
        if not _is_hub_id(model):
            raise UserError(
                f"{redacted(model)}: no such model folder, and not a hub id (owner/name)."
            )
        return ModelSource(model, revision=revision, **trusted)
    run = read_run(folder) or {}
    if (folder / MERGED / "run.json").is_file() and merged:
        return ModelSource(str(folder / MERGED), run=run, **trusted)
    if (folder / ADAPTER_CONFIG).is_file():
        config = adapter_config(folder)
        base = _base_beside(folder, run) or config["base_model_name_or_path"]
        if not Path(base).is_dir() and not _is_hub_id(base):
            raise UserError(
                f"{folder}: its base {redacted(base)!r} is no folder here, and not a hub id "
                "(owner/name). Give the base as the model and this folder as its adapter."
            )
        _check_base(folder, base)
        # a base that a file names is not one that the user trusts
        return ModelSource(base, (str(folder),), config.get("revision"), run)
    if (folder / "config.json").is_file():
        return ModelSource(model, run=run, **trusted)
    raise UserError(f"{model}: the folder holds neither config.json nor adapter_config.json.")


def _is_hub_id(name: str) -> bool:
    """Whether a name that is no folder can only mean a model on the hub."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if name.count("/") != 1 or Path(name).exists() or Path(name).parent.is_dir():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def _base_beside(folder: Path, run: dict[str, Any]) -> str | None:
    """The base of a run where its manifest finds it from the run folder."""
    beside = run.get("base_model", {}).get("relative")
    if beside is None:
        return None
    if Path(beside).is_absolute():
        raise UserError(
            f"{folder / 'run.json'}, field 'base_model.relative': a path from this folder is "
            f"expected, not {beside!r}."
        )
    return os.path.relpath(folder / beside) if os.path.isdir(folder / beside) else None


def weights_identity(model: str, revision: str | None = None) -> dict[str, Any]:
    """Digest of a local folder's safetensors, or the commit of a hub model in the cache."""
    folder = Path(model)
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not files:
        from huggingface_hub import try_to_load_from_cache

        cached = None
        if not folder.is_dir():
            cached = try_to_load_from_cache(model, "config.json", revision=revision)
        commit = Path(cached).parent.name if isinstance(cached, str) else None
        return {"revision": revision or "main", "commit": commit}
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {sha256(file)}\n".encode())
    return {"sha256": digest.hexdigest()}


def _check_base(adapter: Path, base: str) -> None:
    """Refuse an adapter whose recorded base has other weights than the base it is to be put on."""
    holder = adapter.parent if adapter.name.startswith("checkpoint-") else adapter
    manifest = holder / "run.json"
    recorded = read_facts(manifest).get("base_model", {}) if manifest.is_file() else {}
    found = weights_identity(base).get("sha256")
    name = recorded.get("name") or adapter_config(adapter)["base_model_name_or_path"]
    on_hub = [
        not Path(str(model)).is_absolute() and not Path(str(model)).is_dir()
        for model in (name, base)
    ]
    if name and all(on_hub) and name != base:
        raise UserError(f"{adapter}: this adapter was trained on {name}, not on {base}.")
    if (Path(base) / ADAPTER_CONFIG).is_file():
        raise UserError(
            f"{adapter}: its base {base} is an adapter itself. Merge that first (`empo merge`)."
        )
    if found and recorded.get("sha256") and recorded["sha256"] != found:
        raise UserError(
            f"{adapter}: this adapter was trained on {name} "
            f"(weights {recorded['sha256'][:12]}), but {base} has the weights {found[:12]}. "
            "Give the base it was trained on."
        )


def load_config(source: ModelSource) -> PretrainedConfig:
    """The configuration of the base; UserError where it cannot be read or names code."""
    from transformers import AutoConfig

    check_code(source.base, source.revision, source.trust_remote_code)
    try:
        return AutoConfig.from_pretrained(
            source.base, revision=source.revision, trust_remote_code=source.trust_remote_code
        )
    except Exception as error:  # a configuration from elsewhere fails in its own way in every model
        raise cannot_load("configuration", source.base, error) from None


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token and without touching the embeddings.

    Padding is always masked by position, so a padding token that equals the end-of-text token is
    harmless; it is logged, because other tools mask by id and would never learn to end.
    """
    from transformers import AutoTokenizer

    holder = source.base
    for adapter in source.adapters:
        if (Path(adapter) / "tokenizer_config.json").is_file():
            holder = adapter
    check_code(holder, source.revision, source.trust_remote_code and holder == source.base)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            holder,
            revision=source.revision,
            trust_remote_code=source.trust_remote_code and holder == source.base,
        )
        tokenizer("")  # some wrong settings show only now
    except Exception as error:  # the Rust library raises the bare class
        raise cannot_load("tokenizer", holder, error) from None
    for template in _templates(tokenizer):
        check_template(template, holder)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        logger.warning(
            "%s: the padding token is the end-of-text token (%s). Padding is masked by position "
            "here, so the end of every reply is still learnt.",
            holder,
            tokenizer.eos_token,
        )
    return tokenizer


def load_model(
    source: ModelSource,
    dtype: str = "float32",
    attention: str | None = None,
    load_in_4bit: bool = False,
    device: str | torch.device | None = None,
    trainable: bool = False,
) -> PreTrainedModel:
    """The base with its adapters applied; with `trainable`, the last adapter can be trained on.

    Adapters below the last are merged into the weights in memory. Safetensors only; no code that
    comes with the model, but for a base of which the source says so. Raises UserError where weights
    cannot be loaded or are not whole, or an adapter does not fit its base.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    check_code(source.base, source.revision, source.trust_remote_code)
    if Path(source.base).is_dir():
        require_safetensors(source.base)
    for adapter in source.adapters:
        check_tensors(adapter)
    options: dict[str, Any] = {
        "dtype": getattr(torch, dtype),
        "revision": source.revision,
        "trust_remote_code": source.trust_remote_code,
        "use_safetensors": True,
        "output_loading_info": True,
    }
    if attention:
        options["attn_implementation"] = attention
    if load_in_4bit:
        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
        )
    try:
        model, report = AutoModelForCausalLM.from_pretrained(source.base, **options)
    except Exception as error:  # a configuration from elsewhere fails in its own way in every model
        raise cannot_load("model", source.base, error) from None
    if missing := sorted(report["missing_keys"]):
        raise UserError(
            f"{source.base}: the weights lack {len(missing)} tensors of the model that config.json "
            f"describes, such as {missing[0]}; they would be random. Copy the model again, or give "
            "one that was made to write text."
        )
    for number, adapter in enumerate(source.adapters, start=1):
        last = number == len(source.adapters)
        model = put_on(model, adapter, source.base, trainable and last)
        if not last:
            model = model.merge_and_unload()
    try:
        return model.to(device) if device is not None else model
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used: {' '.join(str(error).split())[:200]}"
        ) from None


def check_code(
    name: str, revision: str | None = None, trusted: bool = False, remedy: str = TRUST
) -> None:
    """Raise UserError where a model folder or hub id names code that would be run, unless `trusted`.

    Also where a configuration is no JSON, and where a hub model is neither in the cache nor to be
    had. `remedy` is a sentence.
    """
    if not trusted:
        folder = Path(name).is_dir()
        refuse_code(
            name, configs_of(name) if folder else hub.fetch(name, CONFIGS, revision), remedy
        )


def _templates(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    template = tokenizer.chat_template
    return list(template.values()) if isinstance(template, dict) else [template] * bool(template)


def cannot_load(what: str, name: str, error: Exception) -> UserError:
    """The error for a part of a model (`what`) that its library refuses, on one line."""
    if not Path(name).is_dir() and hub.offline() and isinstance(error, OSError):
        return hub.not_in_cache(what, name)
    remedy = (
        "Copy or download the folder again; weights must be safetensors."
        if Path(name).is_dir()
        else f"Check name and revision, and that you may see it. Weights must be safetensors. {CONVERT}"
    )
    return UserError(f"{name}: the {what} cannot be loaded: {reason(error)} {remedy}")


@contextmanager
def whole_weights() -> Iterator[None]:
    """Load models inside as on one process: under ZeRO-3 they would come in shards."""
    from transformers.integrations import deepspeed

    zero3 = deepspeed._hf_deepspeed_config_weak_ref
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed._hf_deepspeed_config_weak_ref = zero3


def merge(source: ModelSource, folder: str | Path, dtype: str = "float32") -> None:
    """Merge the adapter of `source` in float32, cast to `dtype`, save model, tokenizer and facts.

    `run.json`, written last, says what was merged and what prompts looked like in its training.
    """
    import torch

    with whole_weights():
        model = load_model(source)
    (Path(folder) / "run.json").unlink(missing_ok=True)  # without it the folder does not count
    model = model.merge_and_unload()
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    load_tokenizer(source).save_pretrained(folder)
    prompt_facts = ("system_message", "template", "template_sha256", "seed")
    facts = {
        "schema": RUN_SCHEMA,
        "status": "complete",
        "command": "merge",
        "dtype": dtype,
        "merged": source.facts(),
        **{key: source.run[key] for key in prompt_facts if key in source.run},
        "versions": versions(),
    }
    write_json(Path(folder) / "run.json", facts)


def lora_config(r: int, alpha: int, dropout: float, targets: Iterable[str]) -> LoraConfig:
    """LoRA on the named linear layers; embeddings and head stay frozen. See `require_targets`."""
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def require_targets(model: PreTrainedModel, targets: Iterable[str]) -> None:
    """Raise UserError where a model has not all the layers that `lora_targets` names."""
    check_targets(model, targets, "lora_targets")
