"""What SFT, DPO and small bases share: corpora, the run folder, training to its end, its facts."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import set_seed

from empo.alignment.callbacks import (
    LOG,
    ON_REPLIES,
    Lines,
    LogFile,
    Progress,
    TokensSeen,
    log_entry,
)
from empo.alignment.data_settings import DataSettings
from empo.alignment.launching import repeated_rows
from empo.alignment.run_trainer import RunTrainer
from empo.alignment.settings import TuningSettings
from empo.checkpoints import explained, last_checkpoint, sweep
from empo.checkpoints.processes import from_main
from empo.corpora import Corpus, load_corpus
from empo.emotions import LABELS
from empo.models import ModelSource, lora_config, weights_identity
from empo.process import Stopped
from empo.prompts import ChatFormat
from empo.records import UserError, finite, write_jsonl
from empo.runs import ACCEPT, ANEW, LOCK, Run, alone, free_folder, now

logger = logging.getLogger(__name__)

_WEIGHTS = ("sha256", "revision", "commit")
_WITHOUT_EFFECT = set(
    "output_dir fresh accept_changes processes threads reference_cache hub_token push_to_hub "
    "hub_model_id hub_private_repo hub_revision report_to run_name project trackio_space_id "
    "disable_tqdm log_level log_level_replica log_on_each_node logging_dir save_total_limit "
    "ddp_timeout dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
    "dataloader_prefetch_factor".split()
)
"""Settings that are not meant to move a number (`threads` and a shared cache move the last digits); a
run is continued with others."""
_FIXED = set(
    "model revision full_training lora_r lora_targets load_in_4bit sft_adapter vocab_size "
    "hidden_size layers heads optim learning_rate weight_decay adam_beta1 adam_beta2 "
    "adam_epsilon lora_alpha select_by metric_for_best_model greater_is_better".split()
)
"""Settings that a checkpoint's weights, optimizer or choice have in them; others would fail or mislead."""


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


@contextmanager
def start_run(
    args: TrainingArguments,
    command: str,
    settings: DataSettings,
    given: dict[str, Any],
    launch: dict[str, Any],
    corpora: Sequence[Corpus],
    learnt_from: Mapping[str, Any] | None = None,
) -> Iterator[Run]:
    """Hold the run folder `args.output_dir` while the run works in it; the main process writes.

    With `settings.fresh` it is a new folder beside one that is in use. `learnt_from` are the digests
    of what else is learnt from, as for `check_same`. Raises UserError on all processes where another
    command works in the folder, or it holds another run, or one on other data than those of
    `corpora`, or a complete one that learnt from something else.
    """
    if "output_dir" not in given:
        raise UserError("--output-dir: missing (folder of the run)")
    kept = {key: value for key, value in given.items() if key not in _WITHOUT_EFFECT}
    asked = Path(args.output_dir)
    with ExitStack() as held:

        def opened() -> tuple[str, dict[str, Any]]:
            folder = free_folder(asked) if settings.fresh else asked
            held.enter_context(alone(folder / LOCK, folder))
            run = Run.start(folder, command, kept, settings.accept_changes, _FIXED)
            run.facts.update(name=folder.name, seed=args.seed, launch=launch)
            if not (run.complete or run.changed):
                run.save(status="running")
            return str(folder), run.facts

        args.output_dir, facts = from_main(opened)
        run = Run(Path(args.output_dir), facts)
        if settings.fresh and args.process_index == 0:
            print(
                f"a new run in {args.output_dir}; give this folder, without --fresh, to continue it"
            )
        _same_data(run, corpora, settings.accept_changes)
        if run.complete:
            _learnt_from_the_same(run, learnt_from or {})
        set_seed(args.seed)
        if settings.threads is not None:
            torch.set_num_threads(settings.threads)
        if run.complete and args.process_index == 0:
            print(f"{args.output_dir}: this run is complete.")
        yield run


def _same_data(run: Run, corpora: Sequence[Corpus], accept: bool) -> None:
    """UserError naming the corpus file that is another one than when the run began."""
    begun = run.facts.get("identity", {}).get("data")
    for there, corpus in zip(begun or (), corpora, strict=False):
        if there == corpus.files or (accept and not run.complete):
            continue
        of = next((now for now in corpus.files if now not in there), corpus.files[0])
        source = Path(corpus.source)
        file = source / of["file"] if "file" in of and source.is_dir() else corpus.source
        raise UserError(
            f"{run.folder}: this run was trained on other data: {file} ({corpus.split}) is not the "
            f"file that it began with.\n  - there: {there}\n  - now: {corpus.files}\n"
            f"Restore it.{'' if run.complete else f' {ACCEPT}'} {ANEW}"
        )


def _learnt_from_the_same(run: Run, learnt_from: Mapping[str, Any]) -> None:
    """UserError where a complete run learnt from other pairs or another reward than would be now."""
    begun = run.facts.get("identity", {})
    differing = [
        f"{name}: {begun[name]!r} there, {value!r} now"
        for name, value in learnt_from.items()
        if begun.get(name, value) != value
    ]
    if differing:
        raise UserError(
            f"{run.folder}: this run is complete, and something that it learnt from is not what it "
            "was:\n"
            + "\n".join(f"  - {line}" for line in differing)
            + f"\nIt stays as it is. {ANEW}"
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


def check_same(
    run: Run,
    args: TrainingArguments,
    accept: bool,
    learnt_from: Mapping[str, Any] | None = None,
) -> None:
    """Record what a run is made of beside its settings, or compare it where the run is continued.

    `learnt_from`, beside the corpora: `pairs`, the facts of their files, or `reward`, the digests of
    its raters' weights. Before training. Raises UserError as `Run.check_identity` does.
    """
    identity = {
        "processes": args.world_size,
        "sharding": _sharding(args, run.facts["launch"]),
        "precision": args.mixed_precision,
        "data": [corpus["files"] for corpus in run.facts["data"]],
        "base": {k: v for k, v in run.facts.get("base_model", {}).items() if k in _WEIGHTS},
        "template_sha256": run.facts["template_sha256"],
        **(learnt_from or {}),
    }
    if "selection" in run.facts:
        identity["selection"] = {
            k: run.facts["selection"][k] for k in ("ids_sha256", "measured_with")
        }
    sharded = identity["sharding"] != "none"  # each process has its own part of the optimizer
    run.check_identity(identity, accept, ("base", "sharding", *["processes"] * sharded))


def _sharding(args: TrainingArguments, launch: dict[str, Any]) -> str:
    """By what weights and optimizer are spread over the processes."""
    kind = launch["actual"]["type"]
    if kind == "DEEPSPEED":
        return f"DeepSpeed ZeRO-{args.deepspeed_plugin.zero_stage}"
    return kind if kind == "FSDP" else "none"


class SamePlace(TrainerCallback):
    """Writes run.json when training begins, and refuses to go on from a place that is no place now.

    The trainer finds its place in the data from the number of steps: with another number of steps
    to an epoch that is another place, or behind the end.
    """

    def __init__(self, run: Run, facts: dict[str, Any]) -> None:
        self.run = run
        self.facts = facts

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Raises UserError on all processes."""
        batches = len(kwargs["train_dataloader"])
        steps = max(1, math.ceil(batches / args.gradient_accumulation_steps))
        begun = self.run.facts.setdefault("steps_per_epoch", steps)
        if begun != steps and state.global_step:
            raise UserError(
                f"{self.run.folder}: an epoch had {begun:,} optimizer steps and would now have "
                f"{steps:,}, so step {state.global_step:,} would be another place in the data. Keep "
                f"rows and processes x batch x accumulation as they were. {ANEW}"
            )
        if state.is_world_process_zero:
            self.run.save(status="running", steps_per_epoch=steps, **self.facts)


def train(trainer: RunTrainer, run: Run) -> None:
    """Train to the end, from the last checkpoint where there is one, and save into the run folder.

    SIGTERM and Ctrl-C save a checkpoint after the step, and raise `Stopped`.
    """
    args = trainer.args
    trainer.run = run
    trainer.add_callback(LogFile(args.output_dir))
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress if sys.stderr.isatty() and not args.disable_tqdm else Lines)
    trainer.add_callback(TokensSeen(trainer))
    last = from_main(
        lambda: last_checkpoint(args.output_dir, run.digests, args.load_best_model_at_end)
    )
    if last is not None:
        logger.warning("continuing from %s", last)
        args.eval_on_start = False  # that evaluation is in the log already
    start = {"when": now(), "from_step": int(last.rpartition("-")[2]) if last else 0}
    facts = {"trainer": args.to_dict(), "starts": [*run.facts.get("starts", ()), start]}
    if trainer.is_world_process_zero():
        sweep(args.output_dir)
        facts |= _uneven_rows(trainer)
    trainer.add_callback(SamePlace(run, facts))
    try:
        with trainer.stopping():
            trainer.train(resume_from_checkpoint=last)
    except Stopped:
        if trainer.is_world_process_zero():
            run.save(status="stopped")
        raise
    history = [log_entry(logged) for logged in trainer.state.log_history]
    run.facts.update(
        steps=trainer.state.global_step,
        epochs=trainer.state.num_train_epochs,
        evaluations=[entry for entry in history if "eval_loss" in entry],
        # of a continued run it would be the time since then
        train_runtime_s=next(
            (
                round(e["train_runtime"], 1)
                for e in history
                if last is None and "train_runtime" in e
            ),
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
