"""What stops a training that would come to nothing: tensors that the first step does not train, or
that it changes though they are frozen; replies that say nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import reduce
from datasets import Dataset
from peft import PeftModel
from torch.distributed.tensor import DTensor
from torch.utils.hooks import RemovableHandle
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from empo.records import UserError

if TYPE_CHECKING:
    from empo.alignment.run_trainer import RunTrainer

_SHOWN = 5
"""Names in a message; the others are counted."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PIECE = {"cpu": 2**15, "cuda": 2**22}
"""Words at a time: what a cache holds, what fills a GPU."""
_MIX = -7046029254386353131
"""2**64 over the golden ratio, odd: multiplying by it modulo 2**64 loses nothing."""
_PAIRED = {"lora_A": "lora_B", "lora_B": "lora_A"}
_PAIRED |= {"lora_embedding_A": "lora_embedding_B", "lora_embedding_B": "lora_embedding_A"}


def local(tensor: torch.Tensor) -> torch.Tensor:
    """The part of a tensor that lies on this process: its shard where ZeRO-3 or FSDP cut it."""
    if isinstance(tensor, DTensor):
        return tensor.to_local()
    return getattr(tensor, "ds_tensor", tensor)


def digest(tensor: torch.Tensor) -> torch.Tensor:
    """Number of the bits of a tensor and their places, int64 on its device; no copy of it is made.

    One value that changes always changes it, several with all but certainty. (The XOR of
    `torch.hash_tensor` is 0 for every even number of equal values, such as a norm's weights.)
    """
    words = tensor.data.reshape(-1)
    width = words.element_size()
    whole = words.nbytes % 8 == 0 and words.storage_offset() * width % 8 == 0
    words = words.view(torch.int64 if whole else _WORDS[width])
    size = _PIECE.get(words.device.type, _PIECE["cuda"])
    keys = torch.arange(min(size, len(words)), device=words.device) * _MIX
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    for number, part in enumerate(words.split(size)):
        mixed = part + keys[: len(part)]
        mixed += torch.tensor(number * size) * _MIX
        mixed *= _MIX
        mixed ^= (mixed >> 32) & 0xFFFFFFFF
        total += mixed.sum()
    return total


def frozen_tensors(model: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and local part of all that a training leaves alone: weights, and buffers that are saved."""
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            yield name, local(parameter)
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}".lstrip("."), local(buffer)


def _largest(tensor: torch.Tensor) -> torch.Tensor:
    """Largest absolute value, NaN where one is NaN."""
    part = local(tensor).detach()
    if part.numel() == 0:
        return torch.zeros((), device=part.device)
    return torch.linalg.vector_norm(part, torch.inf).float()


class FirstStep(TrainerCallback):
    """Raises UserError after the first optimizer step if it did not train what it should.

    Every trained tensor has to have a gradient that is finite and not 0, on some process and in some
    batch of the step; no frozen tensor may have changed. Of the two factors of an adapter one begins
    at 0, and as long as it is 0 the other has no gradient: that one is checked in the first step
    that begins with both. Steps that the scaler of fp16 leaves out do not count; nor do, in a
    continued run, steps without any gradient (a loss with a margin may have reached it).

    DeepSpeed takes the gradients away in the backward pass, FSDP shows them only after it: so hooks
    on the tensors note what arrives, and `grad` is read before the optimizer's step. What is noted
    stays on the device until the step is over, and the hooks go with the check.
    """

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer
        self._pending: dict[str, torch.nn.Parameter] = {}
        self._hooks: dict[str, RemovableHandle] = {}
        self._gradients: dict[str, torch.Tensor] = {}
        self._frozen: dict[str, torch.Tensor] = {}

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Watch the trained tensors, and note what the frozen ones are."""
        for hook in self._hooks.values():  # of a training that was broken off
            hook.remove()
        model = self.trainer.model
        self._pending = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._trained = len(self._pending)
        self._hooks = {
            name: parameter.register_hook(partial(self._note, name))
            for name, parameter in self._pending.items()
        }
        self._frozen = {name: digest(tensor) for name, tensor in frozen_tensors(model)}
        self._continued = state.global_step > 0

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note which adapters begin the step with a factor of 0."""
        self._gradients.clear()
        if self._pending:
            weights = dict(self.trainer.model.named_parameters())
            partners = {name: weights.get(_partner(name)) for name in self._pending}
            self._open = {
                name: torch.ones(()) if partner is None else _largest(partner)
                for name, partner in partners.items()
            }

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Note the gradients that are there."""
        for name, parameter in self._pending.items():
            if parameter.grad is not None:
                self._note(name, parameter.grad)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Check, on all processes alike."""
        if not self._pending:
            return
        accelerator, names = self.trainer.accelerator, list(self._pending)
        scaled = accelerator.mixed_precision == "fp16"
        left_out = scaled and accelerator.optimizer_step_was_skipped
        nothing = torch.zeros(())
        sizes = _row([self._gradients.get(name, nothing) for name in names], args.device)
        arrived = [torch.tensor(name in self._gradients) for name in names]
        now = dict(frozen_tensors(self.trainer.model)) if self._frozen else {}
        noted = [
            _row(arrived, args.device),
            (sizes != 0).float(),
            (~torch.isfinite(sizes)).float(),
            (_row([self._open[name] for name in names], args.device) != 0).float(),
            _row(
                [digest(now[name]) != before for name, before in self._frozen.items()], args.device
            ),
            torch.full((1,), float(left_out), device=args.device),
        ]
        counts = reduce(torch.cat(noted), "sum").split([len(row) for row in noted])
        got, not_zero, not_finite, ready, changed, skipped = (row.tolist() for row in counts)
        # a fused optimizer leaves a step out by itself, and accelerate does not see it
        skipped = skipped[0] or (scaled and any(not_finite))
        if skipped or (self._continued and not any(not_zero)):
            return
        checked = [number for number, name in enumerate(names) if ready[number]]
        missing = [names[n] for n in checked if not got[n]]
        zero = [names[n] for n in checked if got[n] and not not_zero[n]]
        broken = [names[n] for n in checked if not_finite[n]]
        moved = [name for name, much in zip(self._frozen, changed, strict=True) if much]
        problems = self._problems(missing, zero, broken, moved)
        self._frozen = {}
        for number in checked:
            self._hooks.pop(names[number]).remove()
            del self._pending[names[number]]
        self._gradients.clear()
        if problems:
            raise UserError(
                f"step {state.global_step} did not train what it should:\n"
                + "\n".join(f"  - {problem}" for problem in problems)
            )

    def not_finite(self) -> list[str]:
        """Trained tensors whose gradient is not finite in this step, as far as they are watched."""
        return [name for name, size in self._gradients.items() if not torch.isfinite(size)]

    def _note(self, name: str, gradient: torch.Tensor) -> None:
        size = _largest(gradient)
        before = self._gradients.get(name)
        self._gradients[name] = size if before is None else torch.maximum(before, size)

    def _problems(
        self, missing: list[str], zero: list[str], broken: list[str], moved: list[str]
    ) -> list[str]:
        trainer = self.trainer
        adapters = isinstance(trainer.accelerator.unwrap_model(trainer.model), PeftModel)
        of = f"of {self._trained:,} trained tensors"
        problems = []
        if missing:
            problems.append(
                f"{named(missing)} {of} got no gradient: the loss does not depend on them. "
                + (
                    "Leave layers that the model does not use out of lora_targets"
                    if adapters
                    else "Freeze what the model does not use"
                )
                + (
                    ", or set gradient_checkpointing_kwargs: {use_reentrant: false}, since the "
                    "other kind of checkpointing cuts what does not begin in a trained tensor."
                    if trainer.args.gradient_checkpointing
                    else ", or find what detaches them in the forward pass."
                )
            )
        if zero:
            problems.append(
                f"{named(zero)} {of} got a gradient of 0 everywhere. Either something multiplies "
                "them by 0"
                + (" (lora_alpha: 0 does)" if adapters else "")
                + ", or it is too small for half precision: bf16 in place of fp16, dtype: float32."
            )
        if broken:
            problems.append(
                f"{named(broken)} {of} got a gradient that is not finite. Try dtype: float32, and "
                "look at the rows of the step."
            )
        if moved:
            problems.append(
                f"{named(moved)} of {len(self._frozen):,} frozen tensors changed. Something writes "
                "to them in place (a callback, a layer of its own, an optimizer that was given "
                "them); what is saved would not be what was trained."
            )
        return problems


def _row(values: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """Single values of any device as one float tensor."""
    if not values:
        return torch.zeros(0, device=device)
    return torch.stack([value.to(device, torch.float32) for value in values])


def _partner(name: str) -> str | None:
    """The other factor of an adapter's product, None of what is no factor."""
    parts = name.split(".")
    paired = [_PAIRED.get(part, part) for part in parts]
    return None if paired == parts else ".".join(paired)


def named(names: Sequence[str]) -> str:
    """How many, and the first of them."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return f"{len(names):,} ({', '.join(names[:_SHOWN])}{more})"


def check_replies(rows: Dataset, end: int | None) -> None:
    """Refuse preference rows in which a reply says nothing: no token, or only `end` of text."""
    empty = []
    for row in rows.select_columns(["id", "chosen_ids", "rejected_pool"]):
        replies = {"chosen": [row["chosen_ids"]], "rejected": row["rejected_pool"]}
        empty += [
            f"{row['id']!r} ({kind})"
            for kind, several in replies.items()
            if any(not set(reply) - {end} for reply in several)
        ]
    if empty:
        raise UserError(
            f"{named(empty)} of {len(rows):,} rows have a reply without a token. Either it is empty "
            "in the corpus, or the chat template does not mark what it says as the listener's: "
            "remove these dialogues, or set chat_template."
        )
