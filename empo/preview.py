"""`empo preview`: what a recipe would train on and with, without training and without weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from empo.alignment.launching import quiet_dependencies, repeated_rows
from empo.alignment.settings import DEFAULTS, BaseSettings, DpoSettings, SftSettings
from empo.corpora import Corpus
from empo.emotions import LABELS, OPPOSITES, load_opposites
from empo.records import UserError
from empo.settings import option, resolve

_SETTINGS = {"base": BaseSettings, "sft": SftSettings, "dpo": DpoSettings}
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass
class PreviewSettings:
    """Settings of `empo preview`, beside those of the recipe."""

    recipe: Literal["base", "sft", "dpo"] | None = option(
        None, help="which recipe the settings are for (default: by the name of the config file)"
    )
    architecture: str | None = option(
        None,
        help="config.json of the model, for a hub model that is not in the cache "
        "(default: the one beside the config file)",
    )
    show: int = option(1, help="number of rows whose tokens are printed")


def preview_command(argv: Sequence[str]) -> int:
    """Tokens with the loss mask, lengths, steps, parameters and memory of a recipe, untrained.

    Example: empo preview --config recipes/zephyr-7b/dpo.yaml --dialogues ED_FOLDER
    """
    quiet_dependencies()
    kind, config = _kind(argv)
    from trl import DPOConfig, SFTConfig

    (options, settings, args), _ = resolve(
        argv, PreviewSettings, _SETTINGS[kind], DPOConfig if kind == "dpo" else SFTConfig,
        prog="empo preview", description=preview_command.__doc__ or "",
        defaults={**DEFAULTS, "bf16": False, "use_cpu": True},
    )  # fmt: skip
    from empo.alignment.dpo import check_batches
    from empo.alignment.sft import check_packing
    from empo.alignment.training import read_splits

    if kind == "dpo":
        check_batches(settings, args)
    elif kind == "sft":
        check_packing(args, settings.attention)
    table = OPPOSITES
    if kind == "dpo" and settings.opposites:
        table = load_opposites(settings.opposites)
    own_table = table is not OPPOSITES
    print(f"== {kind} recipe")
    train, _ = read_splits(settings, None if own_table else LABELS)
    print("\n== tokens")
    rows, by_tokens = len(train.dialogues), None
    tokenizer = None
    try:
        tokenizer = _tokenizer(kind, settings, train)
        rows, by_tokens = _tokens(kind, settings, args, train, table, tokenizer, options.show)
    except UserError as error:
        print(f"tokens and lengths cannot be shown: {error}")
    _steps(args, settings, rows, by_tokens)
    print("\n== model")
    architecture = options.architecture
    beside = config.with_name("config.json") if config else None
    if architecture is None and beside is not None and beside.is_file():
        architecture = str(beside)
    _model(kind, settings, args, architecture, tokenizer)
    return 0


def _kind(argv: Sequence[str]) -> tuple[str, Path | None]:
    words = list(argv)

    def value_of(flag: str) -> str | None:
        return words[words.index(flag) + 1] if flag in words[:-1] else None

    config = Path(value_of("--config") or "")
    kind = value_of("--recipe") or next((k for k in _SETTINGS if config.name.startswith(k)), None)
    if "--help" in words or "-h" in words:
        kind = kind or "sft"
    if kind not in _SETTINGS:
        raise UserError(
            "empo preview: cannot tell the recipe; give --config recipes/M/{base,sft,dpo}.yaml or "
            "--recipe base|sft|dpo."
        )
    return kind, config if config.name else None


def _tokenizer(kind: str, settings: Any, train: Corpus) -> Any:
    from empo import models, small_models

    if kind == "base":
        texts = [turn.text for dialogue in train.dialogues for turn in dialogue.turns]
        message = settings.system_message or ""
        return small_models.train_tokenizer([*texts, message], settings.vocab_size)
    return models.load_tokenizer(models.resolve(settings.model, revision=settings.revision))


def _tokens(
    kind: str, settings: Any, args: Any, train: Corpus, table: Any, tokenizer: Any, shown: int
) -> tuple[int, dict[str, Any] | None]:
    """Print rows with their loss mask and what the maximum length does.

    Returns the rows that are left, packed ones where they are packed, and the facts of the batches
    where they are cut by tokens.
    """
    from empo.alignment.batches import TokenBudgetBatches
    from empo.alignment.dpo import training_rows
    from empo.alignment.sft import IGNORED, pack_rows, sft_rows
    from empo.mining.filed_draws import FiledDraws
    from empo.preferences import Draws
    from empo.prompts import ChatFormat

    template = settings.chat_template or ("zephyr" if kind == "base" else None)
    chat = ChatFormat(tokenizer, template, settings.system_message)
    if kind == "dpo":
        exchanges = train.exchanges()
        several = settings.rejected_per_prompt
        if settings.pairs:
            draws = FiledDraws(settings.pairs, exchanges, several)
            exchanges = draws.exchanges
        else:
            draws = Draws(exchanges, table, args.seed)
        rows, lengths = training_rows(
            exchanges, draws, chat, settings, args, settings.processes or 1
        )
        for row in rows.select(range(min(shown, len(rows)))):
            print(f"{row['id']}: marked with | is what the loss is on")
            _show(tokenizer, row["prompt_ids"], [False] * len(row["prompt_ids"]))
            for name, ids in [("chosen", row["chosen_ids"])] + [
                (f"rejected in epoch {draw // several}", ids)
                for draw, ids in enumerate(row["rejected_pool"])
            ]:
                print(f"  {name}:")
                _show(tokenizer, ids, [True] * len(ids))
    else:
        loss_on = getattr(settings, "loss_on", "replies") if kind == "base" else "replies"
        rows, lengths = sft_rows(train.dialogues, chat, args.max_length, loss_on)
        for row in rows.select(range(min(shown, len(rows)))):
            print("marked with | is what the loss is on")
            _show(tokenizer, row["input_ids"], [label != IGNORED for label in row["labels"]])
        share = lengths["supervised_tokens"] / (lengths["mean_tokens"] * lengths["rows"])
        print(f"{lengths['supervised_tokens']:,} tokens carry a loss ({share:.0%})")
    print(
        f"{lengths['rows']:,} rows, mean {lengths['mean_tokens']} tokens, longest "
        f"{lengths['max_tokens']}, limit {args.max_length}: {lengths['shortened']:,} would lose "
        f"their oldest turns, {lengths['filtered']:,} would be left out"
    )
    if unsupervised := lengths.get("unsupervised"):
        print(f"{unsupervised:,} more are left out: no token of them carries a loss")
    if kind == "sft" and args.packing:
        packed = pack_rows(rows, args.max_length)[1]
        print(f"packed into {packed['rows']:,} rows, {packed['fill']:.0%} filled")
        return packed["rows"], None
    if kind == "dpo" and settings.tokens_per_batch is not None:
        batches = TokenBudgetBatches(
            rows["length"],
            settings.tokens_per_batch,
            args.per_device_train_batch_size,
            args.seed,
            settings.processes or 1,
        )
        return lengths["rows"], batches.facts()
    return lengths["rows"], None


def _show(tokenizer: Any, ids: Sequence[int], marks: Sequence[bool]) -> None:
    for marked, group in groupby(zip(ids, marks, strict=True), key=lambda pair: pair[1]):
        tokens = [token for token, _ in group]
        text = tokenizer.decode(tokens).replace("\n", "\\n")
        print(f"    {'|' if marked else ' '} {len(tokens):>4}  {text}")


def _steps(args: Any, settings: Any, rows: int, by_tokens: dict[str, Any] | None) -> None:
    processes = settings.processes or 1
    batch = args.per_device_train_batch_size * processes
    whole = batch * args.gradient_accumulation_steps
    batches = (
        math.ceil(rows / batch)
        if by_tokens is None
        else math.ceil(by_tokens["batches_per_epoch"] / processes)
    )
    steps = math.ceil(batches / args.gradient_accumulation_steps)
    in_all = args.max_steps if args.max_steps > 0 else math.ceil(steps * args.num_train_epochs)
    print("\n== steps")
    if by_tokens is not None:
        print(
            f"{rows:,} rows in {by_tokens['batches_per_epoch']:,} batches of "
            f"{by_tokens['min_rows']} to {by_tokens['max_rows']} rows, on average "
            f"{by_tokens['mean_tokens']:,} of {settings.tokens_per_batch:,} tokens = {steps:,} steps "
            f"per epoch, {in_all:,} in all"
        )
        return
    print(
        f"{rows:,} rows / batch {whole} ({args.per_device_train_batch_size} per process x "
        f"{processes} x {args.gradient_accumulation_steps} accumulated) = {steps:,} steps per "
        f"epoch, {in_all:,} in all"
    )
    repeated = repeated_rows(rows, batch) if processes > 1 else 0
    if repeated:
        print(f"{repeated} rows are seen twice per epoch so that every process is equally full")


def _model(kind: str, settings: Any, args: Any, architecture: str | None, tokenizer: Any) -> None:
    """Build the model on the meta device and print parameters, adapter shapes and memory."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from empo import models, small_models
    from empo.alignment.training import fresh_adapter

    if kind == "base":
        name = f"{settings.layers} layers of width {settings.hidden_size}"
        with torch.device("meta"):
            model = small_models.small_base(
                tokenizer, settings.hidden_size, settings.layers, settings.heads, 512
            )
        adapter, dtype = None, "float32"
    else:
        dtype = settings.dtype
        name = settings.model
        if architecture is None:
            name = models.resolve(settings.model, revision=settings.revision).base
        config = _architecture(architecture or name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
        adapter = fresh_adapter(settings)
        own = Path(settings.model) / "adapter_config.json"
        if getattr(settings, "sft_adapter", "merge") == "keep" and own.is_file():
            adapter = LoraConfig.from_pretrained(settings.model)  # trained on, not made afresh
            adapter.inference_mode = False
    total = model.num_parameters()
    print(f"{name}: {total:,} parameters, {model.config.model_type} architecture, {dtype}")
    trainable = total
    if adapter is not None:
        with torch.device("meta"):
            model = get_peft_model(model, adapter)
        weights = {n: p for n, p in model.named_parameters() if p.requires_grad}
        trainable = sum(p.numel() for p in weights.values())
        layer = [(n, p) for n, p in weights.items() if ".layers.0." in n]
        layers = model.config.num_hidden_layers
        print(f"adapter: rank {adapter.r}, alpha {adapter.lora_alpha}, {layers} x these shapes:")
        for target in sorted(adapter.target_modules):
            shapes = [tuple(p.shape) for n, p in layer if f".{target}." in n]
            print(f"    {target:<10} A {shapes[0]}  B {shapes[1]}")
    print(f"trainable: {trainable:,} ({trainable / (total + (trainable if adapter else 0)):.1%})")
    _memory(kind, settings, args, model, total, trainable, adapter is not None)


def _architecture(source: str) -> Any:
    from transformers import AutoConfig

    from empo.models import check_code

    try:
        check_code(str(Path(source).parent if Path(source).is_file() else source))
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, UserError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{source}: the architecture cannot be read: {reason} Give a local config.json with "
            "--architecture."
        ) from None


def _memory(
    kind: str, settings: Any, args: Any, model: Any, total: int, trainable: int, adapted: bool
) -> None:
    """A rough estimate per process without sharding: what is kept, and the activations of a step."""
    width = (
        0.55
        if getattr(settings, "load_in_4bit", False)
        else _BYTES.get(getattr(settings, "dtype", "float32"), 4)
    )
    config = model.config
    rows = args.per_device_train_batch_size * (2 if kind == "dpo" else 1)
    tokens = rows * (args.max_length or 1024)
    per_layer = config.hidden_size * (2 if args.gradient_checkpointing else 34)
    activation_bytes = 2 if args.bf16 or width < 4 else 4
    reference = 0
    if kind == "dpo":
        kept = getattr(settings, "sft_adapter", "merge") == "keep"
        reference = trainable * 4 * kept if adapted else total * width
    state_bytes = 2 if "8bit" in str(args.optim) else 8
    parts = {
        "base weights": total * width,
        "adapter, float32": trainable * 4 if adapted else 0,
        "reference copy": reference,
        "gradients": trainable * 4,
        "AdamW states": trainable * state_bytes,
        f"activations of {tokens:,} tokens": tokens
        * per_layer * config.num_hidden_layers * activation_bytes,
    }  # fmt: skip
    print("\n== memory per process, not sharded (estimate)")
    for name, size in parts.items():
        if size:
            print(f"    {size / 2**20:12,.1f} MiB  {name}")
    print(f"    {sum(parts.values()) / 2**20:12,.1f} MiB  in all")
