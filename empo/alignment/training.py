"""What SFT, DPO and small bases share: logs, cards, resuming, the facts of a run."""

from __future__ import annotations

import logging
import math
import os
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import trl.trainer.utils
from accelerate.utils import reduce
from peft import LoraConfig
from torch.utils.data import DataLoader
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainingArguments,
)
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput, set_seed
from trl.models import unwrap_model_for_generation

from empo.alignment.batches import TokenBudgetBatches
from empo.alignment.callbacks import (
    LOG,
    ON_REPLIES,
    Lines,
    LogFile,
    Progress,
    SeedSampler,
    log_entry,
)
from empo.alignment.checkpoints import last_checkpoint
from empo.alignment.launching import repeated_rows
from empo.alignment.settings import DataSettings, TuningSettings
from empo.cards import model_card
from empo.corpora import Corpus, load_corpus
from empo.emotions import LABELS
from empo.models import ModelSource, lora_config, weights_identity
from empo.prompts import ChatFormat
from empo.records import UserError, finite, write_json, write_jsonl, write_text
from empo.runs import Run

logger = logging.getLogger(__name__)

ROWS = "rows"
"""Key of a batch under which the places of its rows in the data set are."""

_WEIGHTS = ("sha256", "revision", "commit")
_VOLATILE = {"output_dir", "processes", "threads", "logging_dir", "hub_token", "reference_cache"}


def score_labelled_positions_only() -> None:
    """Let trl's fused head project only positions with a label on a CPU too, as it does on a GPU.

    trl scores every position where it has no Triton, to spare compiled devices a new shape; a CPU
    only loses time by it (2.5 times per DPO step).
    """
    original = trl.trainer.utils._use_triton
    if getattr(original, "_empo", False):
        return

    def on_cpu_too(device: torch.device) -> bool:
        return device.type == "cpu" or original(device)

    on_cpu_too._empo = True  # type: ignore[attr-defined]
    trl.trainer.utils._use_triton = on_cpu_too


class Batch(NamedTuple):
    """What a step was made of: places in the data set where known, token ids, loss."""

    rows: torch.Tensor | None
    input_ids: torch.Tensor
    loss: torch.Tensor


class RunTrainer(Trainer):
    """Mixed into trl's trainers: every save carries a model card made from the run's facts.

    `measure` is asked at every evaluation, on all processes with whole weights; what it returns
    (`eval_...` to value) is logged with the loss, and checkpoints can be chosen by it.
    """

    run: Run
    batches: TokenBudgetBatches | None = None
    """The sampler of the training batches where they are cut by tokens."""

    def __init__(
        self,
        *args: Any,
        measure: Callable[[PreTrainedModel], dict[str, float | None]] | None = None,
        **kwargs: Any,
    ) -> None:
        score_labelled_positions_only()
        self.measure = measure
        self._step_batches: list[Batch] = []
        super().__init__(*args, **kwargs)

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """The trainer's step; its batch is remembered until the gradient is known to be finite."""
        rows = inputs.pop(ROWS, None)
        loss = super().training_step(model, inputs, num_items_in_batch)
        self._step_batches.append(Batch(rows, inputs["input_ids"], loss))
        return loss

    def prediction_step(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The trainer's, on what the model takes."""
        inputs.pop(ROWS, None)
        return super().prediction_step(model, inputs, *args, **kwargs)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Stop on all processes before an optimizer step that would spoil the weights."""
        norm = super()._get_grad_norm(model, grad_norm)
        batches, self._step_batches = self._step_batches, []
        if self.accelerator.scaler is None:  # with one, fp16 steps that overflow are left out
            value = torch.as_tensor(norm, dtype=torch.float32, device=self.args.device)
            losses = torch.stack([batch.loss.float() for batch in batches])
            # DeepSpeed says -1 where the norm is not finite
            broken = ~torch.isfinite(value) | (value < 0) | ~torch.isfinite(losses).all()
            if reduce(broken.float(), "sum") > 0:
                stop_on_non_finite(self, batches, value.item())
        return norm

    def evaluation_loop(
        self,
        dataloader: DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """The trainer's evaluation, and what `measure` finds beside it."""
        output = super().evaluation_loop(
            dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
        )
        if self.measure is None or metric_key_prefix != "eval":
            return output
        checkpointing = self.args.gradient_checkpointing_kwargs
        whole = (
            unwrap_model_for_generation(
                self.model_wrapped, self.accelerator, gradient_checkpointing_kwargs=checkpointing
            )
            if self.is_deepspeed_enabled
            else nullcontext(self.model)
        )
        with whole as model:
            measured = self.measure(model)
        for key, value in measured.items():
            # the trainer compares: NaN is neither less nor greater, so it is never the best
            output.metrics[key] = math.nan if value is None else value
            if value is None and self.is_world_process_zero():
                logger.warning(
                    "step %d: no reply has a value of %s; this evaluation cannot be the best",
                    self.state.global_step,
                    key,
                )
        return output

    def _get_train_sampler(self, *args: Any) -> Any:
        sampler = super()._get_train_sampler(*args)
        if isinstance(sampler, LengthGroupedSampler):
            sampler.generator = torch.Generator()
            self.add_callback(SeedSampler(sampler.generator))
        return sampler

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write the card of the run, in place of trl's."""
        if self.is_world_process_zero():
            write_text(Path(self.args.output_dir) / "README.md", model_card(self.run.facts))

    def _save(
        self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None
    ) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(output_dir or self.args.output_dir)
            write_text(folder / "README.md", model_card(self.run.facts))


def stop_on_non_finite(trainer: RunTrainer, batches: Sequence[Batch], norm: float) -> None:
    """Write down what the failed step was made of, and raise UserError with what to try."""
    args, state = trainer.args, trainer.state
    rank = f"-process-{args.process_index}" if args.world_size > 1 else ""
    path = Path(args.output_dir) / f"non_finite{rank}.json"
    named = "id" in trainer.train_dataset.column_names
    entries = [
        {
            "loss": finite(batch.loss.item()),
            **(
                {"ids": [trainer.train_dataset[int(row)]["id"] for row in batch.rows]}
                if named and batch.rows is not None
                else {"input_ids": batch.input_ids.tolist()}
            ),
        }
        for batch in batches
    ]
    facts = {"step": state.global_step + 1, "epoch": state.epoch, "gradient_norm": finite(norm)}
    write_json(path, facts | {"batches": entries})
    raise UserError(
        f"step {state.global_step + 1}: loss or gradient is not finite (null in {path}, which names "
        "the rows of the step). The weights of the last checkpoint are whole. Try a lower "
        "learning_rate, a longer warmup, a lower max_grad_norm or bf16 in place of fp16, and look at "
        "the rows."
    )


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
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress if sys.stderr.isatty() and not args.disable_tqdm else Lines)
    last = last_checkpoint(args.output_dir)
    if last is not None:
        logger.warning("continuing from %s", last)
        args.eval_on_start = False  # that evaluation is in the log already
    if trainer.is_world_process_zero():
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
        known = {"split": "valid", "n": len(trainer.eval_dataset)} | run.facts.get("selection", {})
        run.facts["selection"] = known | _chosen(trainer, history)
    trainer.save_model(_internal_call=True)  # a push waits until the run is complete
    if trainer.is_world_process_zero():
        (Path(args.output_dir) / "training_args.bin").unlink()  # a pickle; run.json has them
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
