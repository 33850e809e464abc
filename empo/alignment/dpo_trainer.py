"""trl's DPOTrainer on tokenised rows: re-drawn rejected replies, shared prompts, reference ahead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather, pad_across_processes, reduce
from datasets import Dataset
from peft import PeftModel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel
from transformers.trainer_utils import seed_worker
from trl import DPOTrainer
from trl.models import prepare_deepspeed
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.batches import TokenBudgetBatches
from empo.alignment.layouts import pack_pairs
from empo.alignment.memory import memory_explained
from empo.alignment.pair_batches import FollowsEpochs, SetEpoch
from empo.alignment.reference_logps import with_reference
from empo.alignment.run_trainer import RunTrainer
from empo.alignment.shared_prefix import NAME, share_prefix
from empo.records import UserError


class UnequalGather:
    """`accelerator.gather` for batches of unequal size on the processes.

    trl gathers values per pair, and the libraries below abort where their numbers differ. The
    numbers are exchanged once per batch, by `expect`.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []

    def expect(self, pairs: int, device: torch.device) -> None:
        """Tell the other processes how many pairs this one's batch has."""
        self._sizes = gather(torch.full((1,), pairs, device=device)).tolist()

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """A value per batch, or values per pair of the batch that was told of."""
        if tensor.ndim == 0:
            return gather(tensor)
        parts = gather(pad_across_processes(tensor)).chunk(len(self._sizes))
        return torch.cat([part[:size] for part, size in zip(parts, self._sizes, strict=True)])


class RedrawnDPOTrainer(RunTrainer, DPOTrainer):
    """DPO whose rejected replies change with the epoch; the collator is an `EpochCollator`.

    Where the collator lays out shared prompts, the model follows, and the first batch is computed
    both ways: UserError where they differ. With `precompute_ref_log_probs` the reference is run once
    before training and kept in `reference_folder`, under the `reference_identity` of its weights.
    Every pair of a step has the same weight, however its batches are cut; `tokens_per_batch` cuts
    them by tokens instead of rows.
    """

    def __init__(
        self,
        *args: Any,
        tokens_per_batch: int | None = None,
        reference_folder: str | Path | None = None,
        reference_identity: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.reference_folder = reference_folder
        self.reference_identity = reference_identity or {}
        self.reference_facts: dict[str, Any] = {}
        self._gather: UnequalGather | None = None
        self._compared = not kwargs["data_collator"].shared
        config, model = kwargs["args"], kwargs["model"]
        ahead = config.precompute_ref_log_probs
        adapters = kwargs.get("peft_config") is not None or isinstance(model, PeftModel)
        if adapters:  # no reference beside the policy: trl would only hash all weights
            config.precompute_ref_log_probs = False
        super().__init__(*args, **kwargs)
        config.precompute_ref_log_probs = self.precompute_ref_logps = ahead
        self.loss_is_scaled_for_ga = True  # in compute_loss
        followers: list[FollowsEpochs] = [self.data_collator]
        if tokens_per_batch is not None:
            self.batches = TokenBudgetBatches(
                self.train_dataset["length"],
                tokens_per_batch,
                config.train_batch_size,
                config.seed,
                config.world_size,
            )
            followers.append(self.batches)
            if config.world_size > 1:
                self.accelerator.gather = self._gather = UnequalGather()
        self.add_callback(SetEpoch(*followers))
        self._share()
        if ahead and adapters:
            self.train_dataset = self._precompute_ref_logps(self.train_dataset, "train", 0)
            if self.eval_dataset is not None:
                self.eval_dataset = self._precompute_ref_logps(self.eval_dataset, "valid", 0)

    def _share(self) -> None:
        if self.data_collator.shared:
            for model in (self.model, self.ref_model):
                if model is not None:
                    whole = self.accelerator.unwrap_model(model)
                    whole = whole.get_base_model() if isinstance(whole, PeftModel) else whole
                    share_prefix(whole, self.accelerator.autocast)

    def get_train_dataloader(self) -> DataLoader:
        """The trainer's, or batches by tokens."""
        if self.batches is None:
            return super().get_train_dataloader()
        args = self.args
        loader = DataLoader(
            self.train_dataset,
            batch_sampler=self.batches,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=args.dataloader_persistent_workers,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            prefetch_factor=args.dataloader_prefetch_factor,
            worker_init_fn=partial(
                seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index
            ),
        )
        return self.accelerator.prepare(loader)

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset  # the rows are tokenised; trl would filter long ones without a word

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """In place of trl's pass: every reply of every epoch, kept on disk."""
        self._share()
        name = "valid" if name == "eval" else name
        model = self.ref_model or self.model
        if self.is_deepspeed_enabled and self.ref_model is None:
            self._precompute_engine = self._precompute_engine or prepare_deepspeed(
                self.model, self.accelerator
            )
            model = self._precompute_engine

        def score(prompts: Sequence[list[int]], replies: Sequence[list[list[int]]]) -> Any:
            return self._reference(model, prompts, replies)

        # what runs: the launcher's configuration may ask for half precision, too
        precision = self.accelerator.mixed_precision
        identity = {
            **self.reference_identity,
            "autocast": precision,
            "deepspeed": self.is_deepspeed_enabled,
        }
        size = self.args.precompute_ref_batch_size or self.args.per_device_eval_batch_size
        own = Path(self.args.output_dir) / "reference"
        with memory_explained(self, "the reference"):
            rows, self.reference_facts[name] = with_reference(
                dataset,
                name,
                score,
                Path(self.reference_folder or own).expanduser(),
                identity,
                self.accelerator,
                size,
                tolerance=0.05 if self._half else 1e-3,
            )
        return rows

    @property
    def _half(self) -> bool:
        return self.accelerator.mixed_precision != "no" or self.model.dtype != torch.float32

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The trainer's; the reference stays float32, which DeepSpeed's configuration would round."""
        prepared = super()._prepare_inputs(inputs)
        for name in ("ref_chosen_logps", "ref_rejected_logps"):
            if name in inputs:
                prepared[name] = inputs[name].to(self.args.device)
        return prepared

    def _reference(
        self,
        model: torch.nn.Module,
        prompts: Sequence[list[int]],
        replies: Sequence[list[list[int]]],
    ) -> list[list[float]]:
        """Summed log-probability of every reply; the first one of a row stands for its chosen."""
        others = [several[1:] or several for several in replies]
        batch = DataCollatorForPreference(self.data_collator.pad_token_id)(
            [
                {"prompt_ids": prompt, "chosen_ids": several[0], "rejected_ids": other}
                for prompt, several, rejected in zip(prompts, replies, others, strict=True)
                for other in rejected
            ]
        )
        numbers = [len(rejected) for rejected in others]
        if self.data_collator.shared:
            batch[NAME] = pack_pairs(batch, [str(n) for n in range(len(numbers))], numbers)
        model.eval()
        chosen, rejected = self.compute_ref_log_probs(model, self._prepare_inputs(batch))
        found, begin = [], 0
        for several, number in zip(replies, numbers, strict=True):
            rest = rejected[begin : begin + number].tolist()
            found.append([chosen[begin].item(), *rest][: len(several)])
            begin += number
        return found

    def compute_loss(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """trl's mean over the pairs of a batch, weighted by its share of the step's pairs."""
        if self._gather is not None:
            self._gather.expect(len(inputs["input_ids"]) // 2, self.args.device)
        if not self._compared:
            self._compared = True
            self._compare(model, inputs)
        try:
            loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        except ValueError as error:
            if "Unknown loss type" in str(error):
                raise UserError(f"loss_type: {error}") from None
            raise
        if num_items_in_batch is None:
            return loss
        pairs = len(inputs["input_ids"]) // 2
        return loss * (pairs * self.accelerator.num_processes / num_items_in_batch)

    def _get_num_items_in_batch(
        self, batch_samples: list[dict[str, Any]], device: torch.device
    ) -> torch.Tensor:
        """Pairs of an optimizer step on all processes."""
        pairs = sum(len(batch["input_ids"]) // 2 for batch in batch_samples)
        return reduce(torch.full((), float(pairs), device=device), "sum")

    def _compare(self, model: PreTrainedModel, inputs: dict[str, Any]) -> None:
        """UserError where the shared step and separate sequences say different things."""
        mask = inputs["completion_mask"][:, 1:].bool()
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, -100)
        separate = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        checkpointing = self.args.gradient_checkpointing_kwargs
        with torch.no_grad(), disable_gradient_checkpointing(self.model, checkpointing):
            shared, apart = (
                model(**given, labels=labels, use_cache=False, fused_lm_head=True).log_probs[mask]
                for given in (separate | {NAME: inputs[NAME]}, separate)
            )
        difference = gather((shared - apart).abs().mean()).max().item()
        allowed = 0.1 if self._half else 1e-3
        if difference > allowed:  # of what is not a number the first step tells
            raise UserError(
                f"shared_prefix: on the first batch the log-probabilities of tokens are "
                f"{difference:.3g} nats off those of separate sequences (at most {allowed} is "
                "rounding). Something between ignores the mask or the positions: set "
                "shared_prefix: false."
            )
