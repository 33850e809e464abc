"""What SFT, DPO and small bases share: corpora, the run folder, training to its end, its facts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from empo.alignment.callbacks import (
    LOG,
    ON_REPLIES,
    BestCheckpoint,
    Lines,
    LogFile,
    Progress,
    log_entry,
)
from empo.alignment.checkpoints import explained, last_checkpoint, sweep
from empo.alignment.launching import repeated_rows
from empo.alignment.run_trainer import RunTrainer
from empo.alignment.settings import DataSettings, TuningSettings
from empo.corpora import Corpus, load_corpus
from empo.emotions import LABELS
from empo.models import ModelSource, lora_config, weights_identity
from empo.prompts import ChatFormat
from empo.records import UserError, finite, write_jsonl
from empo.runs import Run

logger = logging.getLogger(__name__)

_WEIGHTS = ("sha256", "revision", "commit")
_VOLATILE = {"output_dir", "processes", "threads", "logging_dir", "hub_token", "reference_cache"}


def read_splits(
    settings: DataSettings, labels: Collection[str] | None = LABELS
) -> tuple[Corpus, Corpus]:
    """The training and the validation corpus of a recipe, with counts on the screen; `labels` as in `load_corpus`."""
    source = settings.dialogues
    if settings.valid is None and Path(source).is_file():
        raise UserError(
            f"valid: {source} is a single file; name the validation corpus in `valid`, or give a "
            "folder with train and valid files."
        )
    options = (settings.mapping, labels, settings.limit)
    train = load_corpus(source, settings.split, *options)
    valid = load_corpus(settings.valid or source, "valid", *options)
    if os.environ.get("RANK", "0") == "0":
        print(train.summary(), valid.summary(), sep="\n")
    return train, valid


def start_run(
    args: TrainingArguments,
    command: str,
    settings: dict[str, Any],
    launch: dict[str, Any],
    corpora: Sequence[Corpus],
    threads: int | None = None,
) -> Run:
    """Open the run folder `args.output_dir` on every process; the main process writes it.

    Raises UserError on all processes where the folder holds another run, or one on other data than
    those of `corpora`, also where that run is complete.
    """
    kept = {key: value for key, value in settings.items() if key not in _VOLATILE}
    if "output_dir" not in settings:
        raise UserError("--output-dir: missing (folder of the run)")
    with args.main_process_first(local=False, desc="opening the run folder"):
        run = Run.start(args.output_dir, command, kept)
        run.facts.update(name=Path(args.output_dir).name, seed=args.seed, launch=launch)
        if args.process_index == 0 and not run.complete:
            run.save()
    _same_data(run, corpora)
    set_seed(args.seed)
    if threads is not None:
        torch.set_num_threads(threads)
    if run.complete and args.process_index == 0:
        print(f"{args.output_dir}: this run is complete.")
    return run


def _same_data(run: Run, corpora: Sequence[Corpus]) -> None:
    """UserError naming the corpus file that is another one than when the run began."""
    begun = run.facts.get("identity", {}).get("data")
    for there, corpus in zip(begun or (), corpora, strict=False):
        if there == corpus.files:
            continue
        of = next((now for now in corpus.files if now not in there), corpus.files[0])
        source = Path(corpus.source)
        file = source / of["file"] if "file" in of and source.is_dir() else corpus.source
        raise UserError(
            f"{run.folder}: this run was trained on other data: {file} ({corpus.split}) is not the "
            f"file that it began with.\n  - there: {there}\n  - now: {corpus.files}\n"
            "Restore it, or choose another output folder."
        )


def base_facts(source: ModelSource, folder: str) -> dict[str, Any]:
    """The entry of run.json that identifies the base; `relative` finds it when both are moved."""
    facts = {"name": source.base, **weights_identity(source.base, source.revision)}
    if Path(source.base).is_dir():
        facts["relative"] = os.path.relpath(source.base, folder)
    return {"base_model": facts}


def fresh_adapter(settings: TuningSettings) -> LoraConfig | None:
    """The LoRA of these settings, or None where all weights are trained."""
    if settings.full_training:
        return None
    return lora_config(
        settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.lora_targets
    )


def template_facts(chat: ChatFormat) -> dict[str, Any]:
    """What prompts look like in this run: read again by generation."""
    return {
        "system_message": chat.system_message,
        "template": chat.plain_template,
        "template_sha256": chat.sha256,
    }


def length_facts(lengths: list[int], shortened: int, filtered: list[str]) -> dict[str, Any]:
    """Counts of what the maximum length did to the rows, for run.json and the card."""
    if not lengths:
        raise UserError("no row is left: everything is longer than max_length. Raise max_length.")
    return {
        "rows": len(lengths),
        "mean_tokens": round(sum(lengths) / len(lengths), 1),
        "max_tokens": max(lengths),
        "shortened": shortened,
        "filtered": len(filtered),
        "filtered_ids": filtered,
    }


def train(trainer: RunTrainer, run: Run) -> None:
    """Train to the end, from the last checkpoint where there is one, and save into the run folder."""
    args = trainer.args
    trainer.run = run
    identity = {
        "processes": args.world_size,
        "data": [corpus["files"] for corpus in run.facts["data"]],
        "base": {k: v for k, v in run.facts.get("base_model", {}).items() if k in _WEIGHTS},
        "template_sha256": run.facts["template_sha256"],
    }
    if "selection" in run.facts:
        identity["selection"] = {
            k: run.facts["selection"][k] for k in ("ids_sha256", "measured_with")
        }
    run.check_identity(identity)
    trainer.add_callback(LogFile(args.output_dir))
    trainer.add_callback(BestCheckpoint)
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress if sys.stderr.isatty() and not args.disable_tqdm else Lines)
    last = trainer.from_main(
        lambda: last_checkpoint(args.output_dir, run.digest, args.load_best_model_at_end)
    )
    if last is not None:
        logger.warning("continuing from %s", last)
        args.eval_on_start = False  # that evaluation is in the log already
    if trainer.is_world_process_zero():
        sweep(args.output_dir)
        run.save(trainer=args.to_dict(), **_uneven_rows(trainer))
    trainer.train(resume_from_checkpoint=last)
    history = [log_entry(logged) for logged in trainer.state.log_history]
    run.facts.update(
        steps=trainer.state.global_step,
        epochs=trainer.state.num_train_epochs,
        evaluations=[entry for entry in history if "eval_loss" in entry],
        train_runtime_s=next(
            (round(entry["train_runtime"], 1) for entry in history if "train_runtime" in entry),
            None,
        ),
    )
    if trainer.measure is not None or args.load_best_model_at_end:
        known = {"split": "valid", "n": run.facts["lengths"]["valid"]["rows"]} | run.facts.get(
            "selection", {}
        )
        run.facts["selection"] = known | _chosen(trainer, history)
    with explained(Path(args.output_dir), args.output_dir):
        trainer.save_model(_internal_call=True)  # a push waits until the run is complete
    if trainer.is_world_process_zero():
        write_jsonl(Path(args.output_dir) / LOG, history)


def _chosen(trainer: RunTrainer, history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By what the weights of a run were chosen, what was measured, and which step it became."""
    args, state = trainer.args, trainer.state
    key = args.metric_for_best_model if args.load_best_model_at_end else None
    if key is not None:
        key = f"eval_{key.removeprefix('eval_')}"
    keys = [name for name in (*ON_REPLIES, key) if any(name in entry for entry in history)]
    facts: dict[str, Any] = {
        "metric": key,
        "greater_is_better": args.greater_is_better if key else None,
        "values": [
            {name: entry.get(name) for name in ("step", *dict.fromkeys(keys))}
            for entry in history
            if "eval_loss" in entry
        ],
        "best_step": None,
        "best_value": None,
    }
    if key is None:
        facts["reason"] = "nothing was chosen: the weights are those of the last step"
    elif state.best_model_checkpoint is None:
        facts["reason"] = (
            f"no checkpoint has a value of {key}: the weights are those of the last step"
        )
        logger.warning(facts["reason"])
    else:
        facts["best_step"] = state.best_global_step
        facts["best_value"] = finite(state.best_metric)
    return facts


def finish(trainer: RunTrainer, run: Run) -> None:
    """Mark the run complete, and publish it where that was asked for."""
    if trainer.is_world_process_zero():
        run.save(status="complete")
    trainer.accelerator.wait_for_everyone()
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def _uneven_rows(trainer: RunTrainer) -> dict[str, Any]:
    """Say how many rows an epoch sees twice, or not at all, so that all batches are full."""
    args, rows = trainer.args, len(trainer.train_dataset)
    batch = args.per_device_train_batch_size * args.world_size
    if trainer.batches is not None:
        facts = trainer.batches.facts()
        print(
            f"{rows:,} rows in {facts['batches_per_epoch']:,} batches of {facts['min_rows']} to "
            f"{facts['max_rows']} rows, {facts['mean_tokens']:,} tokens on average"
        )
        return {"batches": facts, "rows_repeated_per_epoch": 0}
    shape = f"{args.world_size} x {args.per_device_train_batch_size}"
    if args.dataloader_drop_last:
        dropped = rows % batch
        print(f"{rows:,} rows in batches of {shape}: {dropped} are left out in every epoch")
        return {"rows_dropped_per_epoch": dropped}
    repeated = repeated_rows(rows, batch) if args.world_size > 1 else 0
    if repeated:
        print(f"{rows:,} rows in batches of {shape}: {repeated} are seen twice in every epoch")
    return {"rows_repeated_per_epoch": repeated}
