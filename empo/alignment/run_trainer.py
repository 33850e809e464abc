"""What every trainer does beside its library's: cards, measuring, the end of a run that diverges."""

from __future__ import annotations

import logging
import math
import signal
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
import trl.trainer.utils
from accelerate.utils import reduce
from datasets import Dataset
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from transformers.trainer_utils import EvalLoopOutput
from trl.models import unwrap_model_for_generation

from empo.alignment.batches import TokenBudgetBatches
from empo.alignment.callbacks import SeedSampler
from empo.alignment.guards import FirstStep, check_replies, named
from empo.alignment.memory import memory_explained
from empo.cards import model_card
from empo.checkpoints.trainer import SealedTrainer
from empo.records import UserError, finite, write_json, write_text
from empo.runs import Run

logger = logging.getLogger(__name__)

ROWS = "rows"
"""Key of a batch under which the places of its rows in the data set are."""


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


class RunTrainer(SealedTrainer):
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
        for rows in (kwargs["train_dataset"], kwargs.get("eval_dataset")):
            if rows is not None and "chosen_ids" in rows.column_names:
                check_replies(rows, kwargs["processing_class"].eos_token_id)
        super().__init__(*args, **kwargs)
        self.first_step = FirstStep(self)
        self.add_callback(self.first_step)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """The trainer's; UserError with what to lower where the memory does not suffice."""
        with memory_explained(self, "training"):
            return super().train(*args, **kwargs)

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
        """Stop on all processes before an optimizer step on what is not finite.

        DeepSpeed has stepped by then, and says -1 of a norm that is not finite, and None where its
        configuration leaves the norm out; fp16 leaves overflown steps out. Losses always count.
        """
        norm = super()._get_grad_norm(model, grad_norm)
        batches, self._step_batches = self._step_batches, []
        losses = torch.stack([batch.loss.float() for batch in batches])
        broken = ~torch.isfinite(losses).all()
        value = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if value is not None and self.accelerator.mixed_precision != "fp16":
            value = torch.as_tensor(value, dtype=torch.float32, device=self.args.device)
            broken = broken | ~torch.isfinite(value) | (value < 0)
        asked = torch.tensor(self.stop.number is not None, device=self.args.device)
        some_broken, some_asked = reduce(torch.stack([broken, asked]).float(), "sum").tolist()
        if some_broken:
            stop_on_non_finite(self, batches, None if value is None else float(value))
        if some_asked:
            self.stopped_by = self.stop.number or signal.SIGTERM  # or: it reached others only
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
        with memory_explained(self, "evaluation"):
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
        with memory_explained(self, "replies"), whole as model:
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
        if isinstance(sampler, BatchRebalanceSampler):
            sampler.seed = self.args.seed  # the library's is fixed
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


def dialogue_ids(dataset: Dataset, rows: torch.Tensor) -> list[str]:
    """Whom the rows at these places are of: one dialogue each, packed rows several."""
    found = [dataset[int(row)]["id"] for row in rows]
    return [name for ids in found for name in ([ids] if isinstance(ids, str) else ids)]


def stop_on_non_finite(trainer: RunTrainer, batches: Sequence[Batch], norm: float | None) -> None:
    """Write down what the failed step was made of, and raise UserError with what to try."""
    args, state = trainer.args, trainer.state
    rank = f"-process-{args.process_index}" if args.world_size > 1 else ""
    path = Path(args.output_dir) / f"non_finite{rank}.json"
    entries = [
        {
            "loss": finite(batch.loss.item()),
            **(
                {"input_ids": batch.input_ids.tolist()}
                if batch.rows is None
                else {"ids": dialogue_ids(trainer.train_dataset, batch.rows)}
            ),
        }
        for batch in batches
    ]
    facts = {"step": state.global_step + 1, "epoch": state.epoch, "gradient_norm": finite(norm)}
    tensors = trainer.first_step.not_finite()
    write_json(path, facts | {"tensors": tensors, "batches": entries})
    raise UserError(
        f"step {state.global_step + 1}: loss or gradient is not finite (null in {path}, which names "
        "the rows of the step). Look at the rows, and try in another output_dir a lower "
        "learning_rate, a longer warmup, a lower max_grad_norm, or bf16 in place of fp16. The "
        "checkpoints before it are finite, the last may be spoiled already."
        + (f" Not finite are the gradients of {named(tensors)}." if tensors else "")
    )
