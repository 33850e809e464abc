"""The exponential moving average of the weights, evaluated and saved in their place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

BENEATH = "weights.safetensors"
"""File of a checkpoint with what lies beneath its model: the weights under their average, or the
average where the checkpoint is from within an epoch."""
AVERAGE, WEIGHTS = "average", "weights"


class WeightAverage(TrainerCallback):
    """Evaluates and saves the exponential moving average of the weights, and trains on beneath it.

    Average of step t: d a + (1 - d) w with d = min(decay, (1 + t) / (10 + t)). A small corpus makes
    single steps noisy; the average is what is kept. At the end of an epoch average and weights
    change places, so that the trainer evaluates and saves the average; the weights themselves lie
    beside it in the checkpoint, and a training that goes on from there takes up both.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.other: dict[str, torch.Tensor] = {}
        self.shows_average = False

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Begin with the weights as they are, or with both as a checkpoint has them."""
        self.other = {name: p.detach().clone() for name, p in self.trained.items()}
        if state.global_step:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            with safe_open(folder / BENEATH, "pt", device=str(args.device)) as file:
                self.other = {name: file.get_tensor(name) for name in self.trained}
                self.shows_average = file.metadata()["beneath"] == WEIGHTS

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Train on the weights."""
        self._show(average=False)

    @torch.no_grad()
    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move the average towards the weights."""
        step = state.global_step
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        for name, parameter in self.trained.items():
            self.other[name].lerp_(parameter, share)

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Evaluate and save the average."""
        self._show(average=True)

    def write(self, folder: str | Path) -> None:
        """Put the one of weights and average that the model does not show into a checkpoint."""
        values = {name: value.contiguous() for name, value in self.other.items()}
        beneath = {"beneath": WEIGHTS if self.shows_average else AVERAGE}
        save_file(values, Path(folder) / BENEATH, beneath)

    @torch.no_grad()
    def _show(self, average: bool) -> None:
        if self.shows_average == average:
            return
        for name, parameter in self.trained.items():
            held = self.other[name]
            self.other[name] = parameter.detach().clone()
            parameter.copy_(held)
        self.shows_average = average
