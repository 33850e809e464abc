"""Base models, adapter chains, LoRA, quantisation, and small bases from scratch."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo.records import RUN_SCHEMA, UserError, read_json, sha256, write_json
from empo.runs import read_run, versions

if TYPE_CHECKING:
    import torch
    from peft import LoraConfig
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

MERGED = "merged"
"""Sub-folder of an adapter run in which its merged model lies."""


@dataclass(frozen=True)
class ModelSource:
    """A base model and the adapters on top of it, in the order in which they are applied."""

    base: str
    adapters: tuple[str, ...] = ()
    revision: str | None = None
    run: dict[str, Any] = field(default_factory=dict)

    def facts(self) -> dict[str, Any]:
        """What identifies the weights: for manifests."""
        return {
            "base": {"name": self.base, **weights_identity(self.base, self.revision)},
            "adapters": [{"name": name, **weights_identity(name)} for name in self.adapters],
        }


def resolve(
    model: str, adapter: str | None = None, revision: str | None = None, merged: bool = True
) -> ModelSource:
    """Find base and adapter chain of a hub id, a model folder, an adapter folder or a run folder.

    A run's merged weights stand for its adapter where they exist and `merged` is true. `adapter`
    overrides the chain. Raises UserError where a folder holds no model, an unfinished run, or an
    adapter trained on another base.
    """
    folder = Path(model)
    if adapter is not None:
        base = resolve(model, revision=revision)
        run = read_run(adapter)
        if not (Path(adapter) / "adapter_config.json").is_file():
            raise UserError(f"{adapter}: the folder holds no adapter (adapter_config.json).")
        _check_base(Path(adapter), base.base)
        return ModelSource(base.base, (adapter,), revision, run or base.run)
    if not folder.is_dir():
        local = model.startswith((".", "/", "~")) or model.count("/") != 1
        if local or folder.exists() or folder.parent.is_dir():
            raise UserError(f"{model}: no such model folder, and not a hub id (owner/name).")
        return ModelSource(model, revision=revision)
    run = read_run(folder) or {}
    if (folder / MERGED / "run.json").is_file() and merged:
        return ModelSource(str(folder / MERGED), run=run)
    if (folder / "adapter_config.json").is_file():
        config = read_json(folder / "adapter_config.json")
        base = str(config["base_model_name_or_path"])
        beside = run.get("base_model", {}).get("relative")
        if beside and (folder / beside).is_dir():
            base = os.path.relpath(folder / beside)
        _check_base(folder, base)
        return ModelSource(base, (str(folder),), config.get("revision"), run)
    if (folder / "config.json").is_file():
        return ModelSource(model, run=run)
    raise UserError(f"{model}: the folder holds neither config.json nor adapter_config.json.")


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
    recorded = read_json(manifest).get("base_model", {}) if manifest.is_file() else {}
    found = weights_identity(base).get("sha256")
    name = recorded.get("name") or read_json(adapter / "adapter_config.json").get(
        "base_model_name_or_path"
    )
    on_hub = [
        not Path(str(model)).is_absolute() and not Path(str(model)).is_dir()
        for model in (name, base)
    ]
    if name and all(on_hub) and name != base:
        raise UserError(f"{adapter}: this adapter was trained on {name}, not on {base}.")
    if found and recorded.get("sha256") and recorded["sha256"] != found:
        raise UserError(
            f"{adapter}: this adapter was trained on {recorded['name']} "
            f"(weights {recorded['sha256'][:12]}), but {base} has the weights {found[:12]}. "
            "Give the base it was trained on."
        )


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
    try:
        tokenizer = AutoTokenizer.from_pretrained(holder, revision=source.revision)
    except (OSError, ValueError) as error:
        raise _cannot_load("tokenizer", holder, error) from None
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

    Adapters below the last are merged into the weights in memory.
    Safetensors only, no remote code.
    Raises UserError where weights cannot be loaded or an adapter does not fit its base.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    options: dict[str, Any] = {"dtype": getattr(torch, dtype), "revision": source.revision}
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
        model = AutoModelForCausalLM.from_pretrained(source.base, use_safetensors=True, **options)
    except (OSError, ValueError, ImportError) as error:
        raise _cannot_load("model", source.base, error) from None
    for number, adapter in enumerate(source.adapters, start=1):
        last = number == len(source.adapters)
        model = _with_adapter(model, adapter, source.base, trainable and last)
        if not last:
            model = model.merge_and_unload()
    try:
        return model.to(device) if device is not None else model
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"device {device!r} cannot be used: {' '.join(str(error).split())[:200]}"
        ) from None


def _with_adapter(model: PreTrainedModel, adapter: str, base: str, trainable: bool) -> Any:
    from peft import PeftModel

    if not (Path(adapter) / "adapter_model.safetensors").is_file() and Path(adapter).is_dir():
        raise UserError(f"{adapter}: no adapter_model.safetensors; pickled adapters are not read.")
    try:
        return PeftModel.from_pretrained(model, adapter, is_trainable=trainable)
    except (RuntimeError, ValueError, OSError) as error:
        first = " ".join(str(error).split())[:300]
        raise UserError(f"{adapter}: the adapter does not fit the base {base}: {first}") from None


def _cannot_load(what: str, name: str, error: Exception) -> UserError:
    reason = " ".join(str(error).split())[:400]
    return UserError(
        f"{name}: the {what} cannot be loaded: {reason} "
        "(A hub id needs the network or a filled cache; a folder needs safetensors weights.)"
    )


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
    """LoRA on the named linear layers; embeddings and head stay frozen."""
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(targets),
        bias="none",
        task_type="CAUSAL_LM",
    )


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer for a small base; its role markers are single special tokens.

    It has no chat template yet: `empo.prompts.ChatFormat` is given one by name.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=special[3:],
    )


def small_base(
    tokenizer: PreTrainedTokenizerBase, hidden: int, layers: int, heads: int, max_positions: int
) -> PreTrainedModel:
    """A randomly initialised model of the Mistral architecture, small enough for a CPU."""
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=max(1, heads // 2),
        max_position_embeddings=max_positions,
        sliding_window=None,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return MistralForCausalLM(config)
