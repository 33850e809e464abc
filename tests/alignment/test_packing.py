"""Packing: whole dialogues side by side, same loss and gradients, nobody reads the neighbour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_runs import Shelf
from transformers import AutoModelForCausalLM, OPTConfig, PreTrainedModel
from trl import SFTConfig

from empo.alignment.sft import (
    IGNORED,
    MaskedTurnTrainer,
    change_with_neighbour,
    check_packing,
    describe_packing,
    pack_rows,
    sft_rows,
)
from empo.corpora import load_corpus
from empo.models import ModelSource, load_model, load_tokenizer
from empo.prompts import ChatFormat
from empo.records import UserError, read_json

LENGTH = 240
Segment = tuple[tuple[int, ...], tuple[int, ...]]


def rows_of(lengths: Sequence[int]) -> Dataset:
    """Dialogues of these lengths; no two tokens are the same, and every third has a label."""
    ids, first = [], 1
    for length in lengths:
        ids.append(list(range(first, first + length)))
        first += length
    labels = [[i if i % 3 == 0 else IGNORED for i in row] for row in ids]
    return Dataset.from_list(
        [
            {"id": f"d-{n}", "row": n, "input_ids": i, "labels": x}
            for n, (i, x) in enumerate(zip(ids, labels, strict=True))
        ]
    )


def segments(packed: Dataset) -> list[list[Segment]]:
    """The dialogues of every packed row, cut where `seq_lengths` says."""
    found: list[list[Segment]] = []
    for row in packed:
        at, inside = 0, []
        for length in row["seq_lengths"]:
            part = slice(at, at + length)
            inside.append((tuple(row["input_ids"][part]), tuple(row["labels"][part])))
            at += length
        assert at == len(row["input_ids"]) == len(row["labels"])
        found.append(inside)
    return found


def arguments(folder: Path, **changed: Any) -> SFTConfig:
    plain: dict[str, Any] = {
        "max_length": LENGTH,
        "per_device_train_batch_size": 64,
        "per_device_eval_batch_size": 64,
        "learning_rate": 1e-2,
        "max_steps": 1,
        "logging_steps": 1,
        "gradient_checkpointing": False,
        "remove_unused_columns": False,
        "disable_tqdm": True,
        "save_strategy": "no",
        "dataset_kwargs": {"skip_prepare_dataset": True},
    }
    fixed = {"use_cpu": True, "bf16": False, "report_to": "none"}
    return SFTConfig(output_dir=str(folder), **fixed, **{**plain, **changed})


def dialogue_rows(shelf: Shelf, number: int = 16) -> Dataset:
    """The first training dialogues of the shelf, masked: 16 fit into 10 packed rows."""
    tokenizer = load_tokenizer(ModelSource(str(shelf.base)))
    dialogues = load_corpus(shelf.corpus, "train").dialogues[:number]
    return sft_rows(dialogues, ChatFormat(tokenizer, None, "Be kind."), LENGTH)[0]


def make_trainer(
    shelf: Shelf, folder: Path, rows: Dataset, attention: str = "sdpa", **changed: Any
) -> MaskedTurnTrainer:
    """On a copy of the base; the rows are packed where `packing` says so."""
    args = arguments(folder, **changed)
    packed = pack_rows(rows, LENGTH)[0] if args.packing else rows
    return MaskedTurnTrainer(
        model=load_model(ModelSource(str(shelf.base)), attention=attention),
        args=args,
        train_dataset=packed,
        eval_dataset=rows if args.eval_packing is False else packed,
        processing_class=load_tokenizer(ModelSource(str(shelf.base))),
    )


# --- what is in a packed row ---


def test_the_best_fitting_row_is_filled_first() -> None:
    """Longest first: 6 and 5 begin rows; 4 fits 6 best, then 3 and 2 fill the row of 5."""
    packed, facts = pack_rows(rows_of([2, 6, 3, 5, 4]), 10)
    assert packed["seq_lengths"] == [[6, 4], [5, 3, 2]]
    assert packed["id"] == [["d-1", "d-4"], ["d-3", "d-2", "d-0"]] and packed["row"] == [0, 1]
    assert packed[0]["input_ids"] == [*range(3, 9), *range(17, 21)]
    assert facts == {"rows": 2, "mean_dialogues": 2.5, "fill": 1.0}


def test_the_facts_count_rows_dialogues_and_empty_places() -> None:
    packed, facts = pack_rows(rows_of([7, 6, 3]), 10)
    assert packed["seq_lengths"] == [[7, 3], [6]]
    assert facts == {"rows": 2, "mean_dialogues": 1.5, "fill": 0.8}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_nothing_is_lost_cut_or_made_up(lengths: list[int]) -> None:
    rows = rows_of(lengths)
    packed, facts = pack_rows(rows, 12)
    assert Counter(part for row in segments(packed) for part in row) == Counter(
        (tuple(row["input_ids"]), tuple(row["labels"])) for row in rows
    )
    assert all(0 < len(row["input_ids"]) <= 12 for row in packed)
    assert facts["rows"] == len(packed)


def test_many_rows_are_packed_without_loss_and_always_alike(shelf: Shelf) -> None:
    """More rows than trl packs at a time."""
    rows = list(dialogue_rows(shelf))
    many = Dataset.from_list([rows[i % len(rows)] for i in range(1007)])
    once, twice = pack_rows(many, LENGTH)[0], pack_rows(many, LENGTH)[0]
    assert once.to_dict() == twice.to_dict()
    kept = Counter(part for row in segments(once) for part in row)
    assert kept == Counter((tuple(row["input_ids"]), tuple(row["labels"])) for row in many)
    assert len(once) < len(many)


def test_a_row_that_would_be_cut_is_an_error() -> None:
    with pytest.raises(RuntimeError) as error:
        pack_rows(rows_of([4, 11, 5]), 10)
    assert str(error.value) == "packing changed 3 dialogues of 20 tokens into 3 of 19."


def test_positions_restart_with_every_dialogue(shelf: Shelf, tmp_path: Path) -> None:
    trainer = make_trainer(shelf, tmp_path, dialogue_rows(shelf), packing=True)
    batch = next(iter(trainer.get_train_dataloader()))
    assert "attention_mask" not in batch and batch["input_ids"].shape[0] == 1
    begins = [0, *batch["cu_seq_lens_q"].tolist()[1:-1]]
    assert (batch["position_ids"][0] == 0).nonzero().flatten().tolist() == begins
    lengths = batch["cu_seq_lens_q"].diff().tolist()
    assert batch["position_ids"][0].tolist() == [i for n in lengths for i in range(n)]
    assert sorted(lengths) == sorted(map(len, dialogue_rows(shelf)["input_ids"]))


# --- the same training ---


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_rows_give_the_loss_and_gradients_of_unpacked(
    shelf: Shelf, tmp_path: Path, attention: str
) -> None:
    rows = dialogue_rows(shelf)
    sums, gradients = [], []
    for packing in (False, True):
        trainer = make_trainer(shelf, tmp_path, rows, attention, packing=packing)
        assert len(trainer.train_dataset) == (10 if packing else 16)
        model = trainer.model.eval()
        batch = next(iter(trainer.get_train_dataloader()))
        loss = trainer.compute_loss(model, batch, num_items_in_batch=1)
        loss.backward()
        sums.append(loss.item())
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    assert sums[0] > 100
    assert sums[1] == pytest.approx(sums[0], rel=1e-5)
    assert gradients[0].keys() == gradients[1].keys() and len(gradients[0]) == 11
    for name, expected in gradients[0].items():
        scale = expected.abs().max()
        assert scale > 0, name
        assert (gradients[1][name] - expected).abs().max() <= 1e-5 * scale, name


@pytest.mark.parametrize("accumulation", [1, 5])
def test_a_step_on_the_same_dialogues_is_the_same_step(
    shelf: Shelf, tmp_path: Path, accumulation: int
) -> None:
    """Mean loss per token, gradient and weights, also where the packed step is made in parts."""
    rows = dialogue_rows(shelf)
    trainers = [
        make_trainer(shelf, tmp_path, rows),
        make_trainer(
            shelf,
            tmp_path,
            rows,
            packing=True,
            per_device_train_batch_size=10 // accumulation,
            gradient_accumulation_steps=accumulation,
        ),
    ]
    for trainer in trainers:
        trainer.train()
        assert trainer.state.global_step == 1 and trainer.state.epoch == 1
    padded, packed = (trainer.state.log_history[0] for trainer in trainers)
    for key in ("loss", "grad_norm", "num_tokens"):
        assert packed[key] == pytest.approx(padded[key], rel=1e-5), key
    start = load_model(ModelSource(str(shelf.base))).state_dict()
    expected, found = (trainer.model.state_dict() for trainer in trainers)
    for name, value in expected.items():
        assert not torch.equal(value, start[name]), name
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("eval_packing", [None, False])
def test_the_validation_loss_of_a_batch_is_that_of_unpacked_rows(
    shelf: Shelf, tmp_path: Path, eval_packing: bool | None
) -> None:
    rows = dialogue_rows(shelf)
    expected = make_trainer(shelf, tmp_path, rows).evaluate()["eval_loss"]
    trainer = make_trainer(shelf, tmp_path, rows, packing=True, eval_packing=eval_packing)
    assert len(trainer.eval_dataset) == (16 if eval_packing is False else 10)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


# --- nobody reads the neighbour ---


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_another_neighbour_changes_nothing(shelf: Shelf, tmp_path: Path, attention: str) -> None:
    """Log-probabilities of every token of the second dialogue in the row, to the last bit."""
    rows = sorted(dialogue_rows(shelf), key=lambda row: len(row["input_ids"]))
    last, first = rows[0], rows[-1]
    reversed_ids = [first["input_ids"][0], *first["input_ids"][:0:-1]]
    assert reversed_ids != first["input_ids"]
    trainer = make_trainer(shelf, tmp_path, dialogue_rows(shelf), attention, packing=True)
    found = []
    for neighbour in (first, {**first, "input_ids": reversed_ids}):
        packed = pack_rows(Dataset.from_list([neighbour, last]), 2 * LENGTH)[0]
        assert packed["seq_lengths"] == [[len(first["input_ids"]), len(last["input_ids"])]]
        batch = trainer.data_collator(list(packed))
        batch["labels"] = batch["input_ids"]
        with torch.no_grad():
            outputs = trainer.model.eval()(**batch, fused_lm_head=True)
        found.append(outputs.log_probs[0])
    boundary = len(first["input_ids"])  # position i scores token i + 1
    assert not torch.equal(found[0][: boundary - 1], found[1][: boundary - 1])
    assert torch.equal(found[0][boundary:], found[1][boundary:])
    assert len(found[0][boundary:]) == len(last["input_ids"]) - 1


def opt(attention: str = "sdpa") -> PreTrainedModel:
    """A small OPT, which makes its mask without the positions; weights as large as learnt ones."""
    config = OPTConfig(
        vocab_size=400,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=32,
        max_position_embeddings=512,
        init_std=0.2,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_a_neighbour_changes_is_measured(shelf: Shelf, tmp_path: Path, attention: str) -> None:
    trainer = make_trainer(shelf, tmp_path, dialogue_rows(shelf), attention, packing=True)
    cpu = torch.device("cpu")
    assert change_with_neighbour(trainer.model.eval(), trainer.data_collator, cpu) == 0.0
    leaking = opt(attention).eval()
    assert change_with_neighbour(leaking, trainer.data_collator, cpu) > 0.3


@pytest.mark.parametrize("packing", [True, False])
def test_a_model_that_mixes_dialogues_is_refused_before_the_first_step(
    shelf: Shelf, tmp_path: Path, packing: bool
) -> None:
    rows = dialogue_rows(shelf)
    trainer = MaskedTurnTrainer(
        model=opt(),
        args=arguments(tmp_path, packing=packing),
        train_dataset=pack_rows(rows, LENGTH)[0] if packing else rows,
        processing_class=load_tokenizer(ModelSource(str(shelf.base))),
    )
    if not packing:
        trainer.train()
        assert trainer.state.global_step == 1
        return
    before = {name: p.clone() for name, p in trainer.model.named_parameters()}
    with pytest.raises(UserError) as error:
        trainer.train()
    text = str(error.value)
    assert text.startswith("packing: in a packed row a dialogue sees its neighbour: its logits ")
    assert "The architecture opt does not keep them apart on attention sdpa." in text
    assert "Set packing to false and train_sampling_strategy to group_by_length" in text
    assert trainer.state.global_step == 0
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())


# --- what is refused and what is said ---


@pytest.mark.parametrize("attention", [None, "sdpa", "eager", "flex_attention"])
@pytest.mark.parametrize("given", [{}, {"packing": True}, {"packing": True, "eval_packing": False}])
def test_packing_passes(tmp_path: Path, given: dict[str, Any], attention: str | None) -> None:
    check_packing(arguments(tmp_path, **given), attention)


@pytest.mark.parametrize("attention", ["flash_attention_2", "kernels-community/vllm-flash-attn3"])
def test_kernels_of_flash_attention_pass(tmp_path: Path, attention: str) -> None:
    check_packing(arguments(tmp_path, packing=True), attention)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            {"packing": True, "packing_strategy": "wrapped"},
            "packing_strategy: wrapped cuts dialogues; only bfd keeps them whole.",
        ),
        (
            {"packing": True, "packing_strategy": "bfd_split"},
            "packing_strategy: bfd_split cuts dialogues; only bfd keeps them whole.",
        ),
        (
            {"packing": True, "max_length": None},
            "max_length: packing fills rows up to it; give a number of tokens.",
        ),
        (
            {"packing": True, "train_sampling_strategy": "group_by_length"},
            "train_sampling_strategy: group_by_length and packing both save padding, and packed "
            "rows have none; set it to random, or packing to false.",
        ),
        (
            {"eval_packing": True},
            "eval_packing: without packing trl would let the dialogues of a row see each other; "
            "leave it out, or set packing to true.",
        ),
        (
            {"padding_free": True},
            "padding_free: trl takes it without packing only where max_length is null; set packing "
            "to true, which has no padding either.",
        ),
    ],
)
def test_what_contradicts_packing_is_refused(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    with pytest.raises(UserError) as error:
        check_packing(arguments(tmp_path, **given), "sdpa")
    assert str(error.value) == f"these options cannot be used:\n  - {told}"


def test_attention_that_is_not_told_the_boundaries_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        check_packing(arguments(tmp_path, packing=True), "paged|eager")
    assert str(error.value) == (
        "these options cannot be used:\n  - attention: paged|eager is not told where a dialogue "
        "ends in a packed row; set it to flash_attention_2 or sdpa, or packing to false."
    )
    check_packing(arguments(tmp_path), "paged|eager")


def test_all_that_contradicts_packing_is_told_at_once(tmp_path: Path) -> None:
    given = {"packing_strategy": "wrapped", "max_length": None}
    args = arguments(tmp_path, packing=True, train_sampling_strategy="batch_rebalance", **given)
    with pytest.raises(UserError) as error:
        check_packing(args, "paged|eager")
    assert str(error.value).count("\n  - ") == 4


def test_the_screen_says_what_a_step_holds_and_what_a_cpu_should_do(tmp_path: Path) -> None:
    args = arguments(
        tmp_path, packing=True, per_device_train_batch_size=8, gradient_accumulation_steps=2
    )
    lengths = {"rows": 64, "packed": {"rows": 32, "mean_dialogues": 2.0, "fill": 0.925}}
    first, second = describe_packing(args, lengths, "sdpa").split("\n")
    assert first == (
        "packing: 64 dialogues in 32 rows of at most 240 tokens, 2.00 to a row, 92% filled. Batch "
        "sizes count packed rows: a step of 16 rows holds about 32 dialogues."
    )
    assert second == (
        "packing: attention sdpa keeps dialogues apart by a mask over all pairs of the up to 1,920 "
        "tokens of a batch. On a CPU padding is faster: set train_sampling_strategy to "
        "group_by_length instead."
    )
    assert describe_packing(args, lengths, "flash_attention_2") == first


# --- the recipe ---


def test_the_recipe_packs_and_says_so(
    shelf: Shelf, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = shelf.run(
        *("sft", tmp_path / "sft", "--packing", "true", "--num_train_epochs", "2"),
        *("--per_device_train_batch_size", "4", "--train_sampling_strategy", "random"),
    )
    facts = read_json(run / "run.json")
    train, valid = facts["lengths"]["train"], facts["lengths"]["valid"]
    assert (train["rows"], train["filtered"], valid["rows"]) == (64, 0, 16)
    assert train["packed"].keys() == valid["packed"].keys() == {"rows", "mean_dialogues", "fill"}
    rows = train["packed"]["rows"]
    assert rows < 64 and train["packed"]["mean_dialogues"] == round(64 / rows, 2)
    assert facts["steps"] == 2 * -(-rows // 4)
    assert facts["trainer"]["packing"] is True
    assert facts["evaluations"][-1]["eval_loss"] < facts["evaluations"][0]["eval_loss"]
    assert (run / "merged" / "model.safetensors").is_file()
    told = capsys.readouterr().out
    assert f"packing: 64 dialogues in {rows} rows of at most 160 tokens" in told
    assert "On a CPU padding is faster" in told
