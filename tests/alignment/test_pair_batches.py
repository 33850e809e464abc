"""Batches of pairs: K rejected replies of the epoch side by side, and a step on them that is trl's.

The step is compared with trl's own trainer and collator, which compute every pair in two rows:
loss, everything in the log, and the gradient of everything that is trained, in float32.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.utils import send_to_device
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch.utils.data import DataLoader
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from empo.alignment.dpo_trainer import RedrawnDPOTrainer
from empo.alignment.layouts import pack_pairs
from empo.alignment.pair_batches import EpochCollator, SetEpoch
from empo.alignment.run_trainer import ROWS
from empo.alignment.shared_prefix import NAME
from empo.records import UserError

VOCABULARY = 200
SHAPES = [(1, 5, (1, 2, 3)), (30, 1, (9, 1, 4)), (7, 12, (3, 25, 1)), (4, 3, (3, 3, 8))]
"""Tokens of prompt, chosen and three rejected replies of every row."""

RELATIVE = 1e-5
"""Largest norm of a difference of gradients, as a share of the gradient's norm."""

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> Iterator[None]:
    """`train` collects garbage several times; walking all that was imported takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def rows(several: int = 3, number: int = len(SHAPES), epochs: int = 1) -> list[dict[str, Any]]:
    """Rows of `dpo_rows`; no two replies are the same tokens, and no two prompts."""
    rng = random.Random(1)

    def tokens(length: int) -> list[int]:
        return [rng.randrange(3, VOCABULARY) for _ in range(length)]

    return [
        {
            "id": f"row-{place}",
            "row": place,
            "prompt_ids": tokens(prompt),
            "chosen_ids": tokens(chosen),
            "rejected_pool": [tokens(n) for _ in range(epochs) for n in rejected[:several]],
        }
        for place, (prompt, chosen, rejected) in enumerate(SHAPES[:number])
    ]


def pairs(given: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every pair as a row of its own, as trl wants it."""
    return [
        {"prompt_ids": row["prompt_ids"], "chosen_ids": row["chosen_ids"], "rejected_ids": rejected}
        for row in given
        for rejected in row["rejected_pool"]
    ]


# --- what is in a batch ---


@pytest.mark.parametrize(
    "workers",
    [
        {"num_workers": 0},
        {"num_workers": 2, "multiprocessing_context": "fork", "persistent_workers": True},
    ],
    ids=["plain", "workers"],
)
def test_the_replies_of_an_epoch_stand_side_by_side_and_are_laid_out(
    workers: dict[str, Any],
) -> None:
    given = rows(2, epochs=3)
    collator = EpochCollator(0, rejected_per_prompt=2, shared=True)
    loader = DataLoader(given, batch_size=2, collate_fn=collator, **workers)
    for epoch in range(3):
        SetEpoch(collator).on_epoch_begin(None, TrainerState(epoch=epoch), TrainerControl())
        for batch, part in zip(loader, (given[:2], given[2:]), strict=True):
            now = [r | {"rejected_pool": r["rejected_pool"][2 * epoch :][:2]} for r in part]
            expected = DataCollatorForPreference(0)(pairs(now))
            assert batch.keys() == expected.keys() | {NAME, ROWS}
            assert all(torch.equal(batch[key], value) for key, value in expected.items())
            assert batch[ROWS].tolist() == [row["row"] for row in part]
            layout = pack_pairs(expected, [row["id"] for row in part], [2, 2])
            for key, value in layout.items():
                assert torch.equal(torch.as_tensor(batch[NAME][key]), torch.as_tensor(value))


def test_reference_values_follow_the_draw() -> None:
    row = rows(2, 1, epochs=2)[0]
    row |= {"ref_chosen_logp": -7.0, "ref_rejected_pool": [-1.0, -2.0, -3.0, -4.0]}
    collator = EpochCollator(0, rejected_per_prompt=2)
    collator.set_epoch(1)
    batch = collator([row])
    assert batch["ref_chosen_logps"].tolist() == [-7.0, -7.0]
    assert batch["ref_rejected_logps"].tolist() == [-3.0, -4.0]
    assert NAME not in batch


def test_a_pool_that_is_used_up_begins_again() -> None:
    row = rows(3, 1)[0]
    collator = EpochCollator(0, rejected_per_prompt=2)
    for epoch, drawn in enumerate([(0, 1), (2, 0), (1, 2)]):
        collator.set_epoch(epoch)
        expected = [{**row, "rejected_pool": [row["rejected_pool"][draw] for draw in drawn]}]
        batch = DataCollatorForPreference(0)(pairs(expected))
        assert torch.equal(collator([row])["input_ids"], batch["input_ids"])


def test_a_loader_can_move_all_of_it() -> None:
    batch = send_to_device(EpochCollator(0, rejected_per_prompt=3, shared=True)(rows()), "meta")
    tensors = [*batch.values(), *batch[NAME].values()]
    assert all(t.device.type == "meta" for t in tensors if isinstance(t, torch.Tensor))


def test_a_reply_cut_to_nothing_is_refused_by_name() -> None:
    with pytest.raises(UserError) as error:
        EpochCollator(0, max_length=30, shared=True)(rows(1))
    assert str(error.value) == (
        "row row-1: its prompt or one of its replies has no token left. Raise max_length, or leave "
        "the row out."
    )


def test_prompts_that_are_cut_differently_are_refused_by_name() -> None:
    with pytest.raises(UserError) as error:
        EpochCollator(0, max_length=32, truncation_mode="keep_end", shared=True)(rows(1))
    assert str(error.value) == (
        "row row-1: the prompts of its chosen and rejected reply are different tokens, so they "
        "cannot be shared. Tokenise prompt and reply apart, or set shared_prefix: false."
    )


# --- a step on it ---


def tiny(**changed: Any) -> LlamaForCausalLM:
    """The same random model for the same arguments; norms are not 1."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.15,
        pad_token_id=0,
        **changed,
    )
    model = LlamaForCausalLM(config)
    move(model, 0.05)
    return model


def move(model: torch.nn.Module, size: float) -> None:
    """Away from where it is, so that what is trained is not its reference any more."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += size * torch.randn(parameter.shape, generator=generator)


class Stock(DPOTrainer):
    """trl's trainer on rows that are token ids already."""

    def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
        return dataset


class Gradients(TrainerCallback):
    """Keeps what the optimizer is about to use."""

    def on_pre_optimizer_step(self, *args: Any, model: torch.nn.Module, **kwargs: Any) -> None:
        trained = ((n, p.grad) for n, p in model.named_parameters() if p.grad is not None)
        self.kept = {name: gradient.clone() for name, gradient in trained}


def trainer(
    folder: Path,
    shared: bool,
    given: Sequence[dict[str, Any]],
    way: str = "fresh adapter",
    multiple_of: int | None = None,
    tied: bool = False,
    **arguments: Any,
) -> DPOTrainer:
    """trl's trainer or ours on the same pairs, all of them in one batch."""
    data = Dataset.from_list(list(given) if shared else pairs(given))
    usual = {
        "output_dir": str(folder / ("shared" if shared else "stock")),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "per_device_train_batch_size": len(data),
        "per_device_eval_batch_size": len(data),
        "max_steps": 1,
        "learning_rate": 1e-9,
        "max_grad_norm": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "beta": 0.3,
    }
    args = DPOConfig(**(usual | arguments))
    policy = tiny(tie_word_embeddings=tied)
    if way == "adapter":
        policy = get_peft_model(policy, LORA)
        move(policy, 0.1)
    beside = way == "all weights" and not args.precompute_ref_log_probs
    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 2}, unk_token="<pad>"))
    made = (RedrawnDPOTrainer if shared else Stock)(
        model=policy,
        ref_model=tiny(tie_word_embeddings=tied) if beside else None,
        args=args,
        train_dataset=data,
        eval_dataset=data,
        processing_class=PreTrainedTokenizerFast(
            tokenizer_object=words, pad_token="<pad>", eos_token="</s>"
        ),
        peft_config=LORA if way == "fresh adapter" else None,
        data_collator=EpochCollator(
            0,
            pad_to_multiple_of=multiple_of,
            rejected_per_prompt=len(given[0]["rejected_pool"]),
            shared=True,
        )
        if shared
        else DataCollatorForPreference(0, pad_to_multiple_of=multiple_of),
        callbacks=[Gradients()],
    )
    move(made.model, 0.01)
    return made


class Step(NamedTuple):
    """Gradients of all that is trained, the log of the step, and an evaluation before it."""

    gradients: dict[str, torch.Tensor]
    log: dict[str, float]
    evaluation: dict[str, float]


def step(made: DPOTrainer, evaluate: bool = False) -> Step:
    evaluation = made.evaluate() if evaluate else {}
    made.train()
    kept = next(c.kept for c in made.callback_handler.callbacks if isinstance(c, Gradients))
    return Step(kept, next(e for e in made.state.log_history if "loss" in e), evaluation)


def assert_same(ours: Step, stock: Step) -> None:
    assert ours.gradients.keys() == stock.gradients.keys() != set()
    for name, expected in stock.gradients.items():
        assert expected.norm() > 0, name
        assert (ours.gradients[name] - expected).norm() <= RELATIVE * expected.norm(), name
    for found, expected in ((ours.log, stock.log), (ours.evaluation, stock.evaluation)):
        said = {k for k in expected if not k.endswith(("runtime", "_time", "_per_second"))}
        assert {k: found[k] for k in said} == pytest.approx(
            {k: expected[k] for k in said}, rel=1e-5, abs=5e-6
        )


CASES: dict[str, dict[str, Any]] = {
    "sigmoid": {},
    "hinge": {"loss_type": "hinge"},
    "ipo": {"loss_type": "ipo"},
    "robust": {"loss_type": "robust", "label_smoothing": 0.2},
    "sppo": {"loss_type": "sppo_hard"},
    "apo": {"loss_type": "apo_zero"},
    "normed": {"loss_type": "sigmoid_norm"},
    "with sft": {"loss_type": ["sigmoid", "sft"], "loss_weights": [0.7, 0.3]},
    "weighted": {"use_weighting": True},
    "forward kl": {"f_divergence_type": "forward_kl"},
    "js": {"f_divergence_type": "js_divergence"},
    "length": {"ld_alpha": 0.4},
    "one rejected": {"given": rows(1)},
    "one row": {"given": rows(1, 1)},
    "filled up": {"multiple_of": 16},
    "adapter kept": {"way": "adapter"},
    "all weights": {"way": "all weights"},
    "all weights, tied": {"way": "all weights", "tied": True},
    "reference ahead": {"precompute_ref_log_probs": True},
    "all weights, reference ahead": {"way": "all weights", "precompute_ref_log_probs": True},
}
CASES |= {
    f"{way}, checkpointing{', reentrant' * reentrant}": {
        "way": way,
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant},
    }
    for way in ("fresh adapter", "all weights")
    for reentrant in (True, False)
}


@pytest.mark.parametrize("case", CASES)
def test_loss_log_and_every_gradient_are_those_of_trl(tmp_path: Path, case: str) -> None:
    given = {"given": rows()} | CASES[case]
    stock, ours = (step(trainer(tmp_path, shared, **given)) for shared in (False, True))
    assert_same(ours, stock)


@pytest.mark.parametrize("way", ["fresh adapter", "all weights"])
def test_an_evaluation_says_what_trl_says(tmp_path: Path, way: str) -> None:
    stock, ours = (
        step(trainer(tmp_path, shared, rows(), way), evaluate=True) for shared in (False, True)
    )
    assert "eval_rewards/margins" in stock.evaluation
    assert_same(ours, stock)


def test_pairs_weigh_the_same_in_batches_of_different_size(tmp_path: Path) -> None:
    whole = step(trainer(tmp_path, False, rows()))
    cut = {"per_device_train_batch_size": 3, "gradient_accumulation_steps": 2}
    ours = step(trainer(tmp_path, True, rows(), **cut))
    assert_same(ours._replace(log={}), whole._replace(log={}))
    assert ours.log["loss"] == pytest.approx(whole.log["loss"], rel=1e-5)


# --- the first batch, both ways ---

OFF = (
    r"^shared_prefix: on the first batch the log-probabilities of tokens are [0-9.]+ nats off those "
    r"of separate sequences \(at most 0\.001 is rounding\)\. Something between ignores the mask or "
    r"the positions: set shared_prefix: false\.$"
)


def test_attention_that_ignores_the_layout_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, True, rows())

    def causal(*args: Any, shared_prefix: Any = None, **kwargs: Any) -> Any:
        query, key, value, mask = args[1:]
        mask = mask if shared_prefix is None else None
        return sdpa_attention_forward(args[0], query, key, value, mask, **kwargs)

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS, NAME, causal)
    with pytest.raises(UserError, match=OFF):
        made.train()


def test_positions_that_do_not_start_again_are_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(tmp_path, True, rows())

    class Running(EpochCollator):
        def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
            batch = super().torch_call(examples)
            batch[NAME]["positions"] = torch.arange(len(batch[NAME]["segments"]))[None]
            return batch

    made.data_collator = Running(0, rejected_per_prompt=3, shared=True)
    with pytest.raises(UserError, match=OFF):
        made.train()
