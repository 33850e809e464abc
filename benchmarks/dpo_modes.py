"""Ways to run a DPO step, trl's and ours, on one set of weights: what benchmarks/dpo_step.py times."""

from __future__ import annotations

import contextlib
import copy
import gc
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from empo.records import UserError

if TYPE_CHECKING:
    import torch

EPOCHS = 3
"""Draws of a pair, one rejected reply each."""

BETA, ALPHA = 0.05, 64


@dataclass(frozen=True)
class Shape:
    """A Mistral model, and the ranks it is measured with."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    lora_r: tuple[int, ...]


SHAPES = {
    "tiny": Shape(2, 64, 4, 2, 128, 512, (8,)),
    "small": Shape(8, 512, 8, 2, 1792, 32_000, (64,)),
    "7b": Shape(32, 4096, 32, 8, 14_336, 32_000, (64, 1024)),
}


@dataclass(frozen=True)
class Mode:
    """How a step is run; `own_head`: trl chooses the positions that its head scores."""

    ours: bool
    checkpointing: bool = False
    reference_ahead: bool = True
    rejected: int = 1
    own_head: bool = False


OURS = "shared prefix"
MODES = {
    "trl defaults": Mode(False, checkpointing=True, reference_ahead=False, own_head=True),
    "trl best": Mode(False),
    "trl best, checkpointing": Mode(False, checkpointing=True),
    "trl best, re-draw": Mode(False, reference_ahead=False),
    OURS: Mode(True),
    "shared prefix, checkpointing": Mode(True, checkpointing=True),
    "shared prefix, K=3": Mode(True, rejected=3),
    "shared prefix, reference in the step": Mode(True, reference_ahead=False),
}


class Trainers:
    """The trainers of all modes on one set of weights; `parameters` counts those that take part.

    `out_of_memory` has the modes that the device was too small for.
    """

    def __init__(self, base: Any, rank: int, device: torch.device, folder: str) -> None:
        from empo.alignment.pair_batches import EpochCollator

        gc.collect()  # the trainers of another rank
        self.device = device
        self.out_of_memory: set[str] = set()
        multiple = 64 if device.type == "cuda" else None  # as recipes/zephyr-7b/dpo.yaml
        self._collators: dict[tuple[bool, int], Any] = {
            (True, number): EpochCollator(
                0, pad_to_multiple_of=multiple, rejected_per_prompt=number, shared=True
            )
            for number in (1, EPOCHS)
        }
        self._trainers: dict[tuple[bool, bool], Any] = {}
        adapters: dict[str, torch.nn.Parameter] = {}
        for ours in (False, True):
            for checkpointing in (False, True):
                trainer = self._trainer(base, rank, ours, checkpointing, folder)
                self._trainers[ours, checkpointing] = trainer
                adapters = adapters or _random_adapters(trainer.model)
                _share(trainer.model, adapters)
        self._collators[False, 1] = self._trainers[False, False].data_collator  # trl's own
        self.parameters = {
            "base": sum(p.numel() for p in base.parameters()),
            "embeddings": base.get_input_embeddings().weight.numel(),
            "adapters": sum(p.numel() for p in adapters.values()),
        }

    def _trainer(self, base: Any, rank: int, ours: bool, checkpointing: bool, folder: str) -> Any:
        import torch
        from datasets import Dataset
        from trl import DPOConfig

        from empo.alignment.dpo_trainer import RedrawnDPOTrainer
        from empo.alignment.settings import TARGETS
        from empo.models import lora_config

        cpu = self.device.type == "cpu"
        row = token_rows([[2] * (2 + EPOCHS)], random.Random(0), 4)[0]
        # another model on the same tensors, so that each side changes only its own `forward`
        tensors = {id(tensor): tensor for tensor in (*base.parameters(), *base.buffers())}
        given = {"data_collator": self._collators[True, 1]} if ours else {}
        with torch.device(self.device):  # else large adapters are made on the CPU first
            trainer = (RedrawnDPOTrainer if ours else _tokenised_trainer())(
                model=copy.deepcopy(base, tensors),
                args=DPOConfig(
                    output_dir=folder,
                    use_cpu=cpu,
                    bf16=not cpu,
                    beta=BETA,
                    gradient_checkpointing=checkpointing,
                    report_to="none",
                    disable_tqdm=True,
                ),
                train_dataset=Dataset.from_list([row | _pair(row)]),
                processing_class=_tokenizer(),
                peft_config=lora_config(rank, ALPHA, 0.0, TARGETS),
                **given,
            )
        # what `train` does before its first step
        if checkpointing:
            trainer.model.activation_checkpointing_enable(
                activation_checkpointing_kwargs=trainer.args.activation_checkpointing_kwargs
            )
        trainer.accelerator.prepare_model(trainer.model)
        trainer.current_gradient_accumulation_steps = 1
        return trainer

    def round(
        self, rows: list[dict[str, Any]], names: Sequence[str], rng: random.Random
    ) -> dict[str, Any]:
        """Our pass before training, then the named modes on the same pairs, in an order of its own.

        The values of the pass are the reference's in all modes that have it ahead. Raises UserError
        where losses are not equal that have to be, in float32.
        """
        begin = self.clock()
        values = self._reference(rows)
        done: dict[str, Any] = {"reference_pass": self.clock() - begin, "steps": {}}
        for row, (chosen, *rejected) in zip(rows, values, strict=True):
            row |= {"ref_chosen_logp": chosen, "ref_rejected_pool": rejected}
        order = [name for name in names if name not in self.out_of_memory]
        rng.shuffle(order)
        steps = {name: self.step(name, rows) for name in order}
        done["steps"] = {name: steps[name] for name in MODES if steps.get(name)}
        losses = [step["loss"] for name, step in done["steps"].items() if MODES[name].rejected == 1]
        done["loss_difference"] = max(losses, default=0.0) - min(losses, default=0.0)
        if self.device.type == "cpu" and not done["loss_difference"] <= 1e-4:
            raise UserError(
                f"the modes do not compute the same loss ({min(losses)} to {max(losses)}), so their "
                "times say nothing. One of the trainers, or a new version of trl, is at fault."
            )
        return done

    def _reference(self, rows: Sequence[dict[str, Any]]) -> list[list[float]]:
        trainer = self._trainers[True, False]
        replies = [[row["chosen_ids"], *row["rejected_pool"]] for row in rows]
        return trainer._reference(trainer.model, [row["prompt_ids"] for row in rows], replies)

    def step(self, name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
        """Seconds, loss, tokens and (on a GPU) peak MB of a step; None where memory is short."""
        import torch

        mode = MODES[name]
        trainer = self._trainers[mode.ours, mode.checkpointing]
        examples = list(rows) if mode.ours else [_pair(row) for row in rows]
        begin = time.process_time()
        batch = self._collators[mode.ours, mode.rejected](examples)
        collating = time.process_time() - begin
        batch = trainer._prepare_inputs(batch)
        trainer.precompute_ref_logps = mode.reference_ahead
        trainer.model.zero_grad()
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        loss = None
        with _trls_own_head() if mode.own_head else contextlib.nullcontext():
            begin = self.clock()
            # cleared below, where nothing refers to the step any more
            with contextlib.suppress(torch.OutOfMemoryError):
                loss = trainer.training_step(trainer.model, dict(batch)).item()
            seconds = self.clock() - begin
        if mode.ours:
            trainer._step_batches.clear()
        if loss is None:
            trainer.model.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
            self.out_of_memory.add(name)
            return None
        pairs = len(rows) * mode.rejected
        computed = batch["shared_prefix"]["ids"] if mode.ours else batch["input_ids"]
        real = sum(map(_shared_tokens, rows, [mode.rejected] * len(rows)))
        return {
            "seconds": seconds,
            "collating": collating,
            "loss": loss,
            "tokens_per_pair": computed.numel() / pairs,
            "real_tokens_per_pair": (real if mode.ours else batch["attention_mask"].sum().item())
            / pairs,
            "useful_tokens": real,
            **({"memory": torch.cuda.max_memory_allocated() / 1e6} if cuda else {}),
        }

    def clock(self) -> float:
        """Seconds: of the CPU that this process has used, or wall time when the GPU is done."""
        if self.device.type == "cpu":
            return time.process_time()
        import torch

        torch.cuda.synchronize()
        return time.perf_counter()


def base_model(shape: Shape, device: torch.device) -> Any:
    """A Mistral model with random weights, made on the device; bfloat16 on a GPU, else float32."""
    import torch
    from transformers import AutoModelForCausalLM, MistralConfig

    config = MistralConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        sliding_window=None,
    )
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")


def token_rows(
    lengths: Sequence[Sequence[int]], rng: random.Random, vocabulary: int
) -> list[dict[str, Any]]:
    """Rows as recipes/dpo.py makes them, of random tokens; tokens of prompt, chosen, rejected."""

    def ids(number: int) -> list[int]:
        return [rng.randrange(3, vocabulary) for _ in range(number)]

    return [
        {
            "id": str(place),
            "row": place,
            "prompt_ids": ids(prompt),
            "chosen_ids": ids(chosen),
            "rejected_pool": [ids(reply) for reply in rejected],
        }
        for place, (prompt, chosen, *rejected) in enumerate(lengths)
    ]


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    """The first draw of a row, in the columns of trl."""
    pair = {key: row[key] for key in ("prompt_ids", "chosen_ids")}
    pair["rejected_ids"] = row["rejected_pool"][0]
    if "ref_rejected_pool" in row:
        pair["ref_chosen_logps"] = row["ref_chosen_logp"]
        pair["ref_rejected_logps"] = row["ref_rejected_pool"][0]
    return pair


def _shared_tokens(row: dict[str, Any], rejected: int) -> int:
    """Tokens with the prompt once; the last one of a reply predicts nothing."""
    replies = [row["chosen_ids"], *row["rejected_pool"][:rejected]]
    return len(row["prompt_ids"]) + sum(len(reply) - 1 for reply in replies)


def _tokenised_trainer() -> type:
    """trl's trainer on rows of token ids; nothing is changed but that they stay as they are."""
    from trl import DPOTrainer

    class TokenisedDPOTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *args: Any) -> Any:
            return dataset

    return TokenisedDPOTrainer


@contextlib.contextmanager
def _trls_own_head() -> Iterator[None]:
    """trl's choice of positions; our trainers, once made, have it score the replies alone on a CPU."""
    import trl.trainer.utils
    from trl.kernels.chunked_logprob import _use_triton

    replaced, trl.trainer.utils._use_triton = trl.trainer.utils._use_triton, _use_triton
    try:
        yield
    finally:
        trl.trainer.utils._use_triton = replaced


def _random_adapters(model: Any) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, B no longer zero: policy and reference differ."""
    import torch

    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for name, parameter in found.items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return found


def _share(model: Any, adapters: dict[str, torch.nn.Parameter]) -> None:
    """Put these parameters in the place of the model's own, so that there is one set of them."""
    for name, parameter in adapters.items():
        module, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module), leaf, parameter)


def _tokenizer() -> Any:
    """What trl asks a tokenizer for: a padding token, which is 0."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1}, unk_token="<pad>"))
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
