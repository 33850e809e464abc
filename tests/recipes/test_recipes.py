"""The recipes by their commands: what they write, when they refuse, that they train what they say."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_runs import ROOT, Shelf, command, recipe
from transformers import TrainingArguments

from empo import models
from empo.alignment.settings import DEFAULTS, BaseSettings, DpoSettings, RewardSettings, SftSettings
from empo.models import load_model
from empo.raters.settings import RaterSettings
from empo.records import UserError, read_json, read_jsonl, sha256
from empo.settings import resolve

CONTRACT = {
    *("schema", "status", "command", "settings", "seed", "versions", "data", "lengths", "launch"),
    *("template_sha256", "system_message", "steps", "epochs", "evaluations", "started"),
}


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder with its size and time of change."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


# --- what is written ---


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_run_json_says_what_was_run(shelf: Shelf, name: str) -> None:
    facts = read_json(getattr(shelf, name) / "run.json")
    assert facts.keys() >= CONTRACT
    assert (facts["schema"], facts["status"], facts["command"]) == ("empo.run/1", "complete", name)
    assert facts["seed"] == 42 and facts["system_message"] == "You are a kind listener."
    assert facts["launch"]["actual"] == {"processes": 1, "type": "NO"}
    assert facts["versions"].keys() >= {"python", "torch", "transformers", "trl", "peft"}
    train, valid = facts["data"]
    assert (train["split"], train["dialogues"], valid["dialogues"]) == ("train", 64, 16)
    assert train["files"][0]["sha256"] == sha256(shelf.corpus / "train.csv")
    assert facts["lengths"]["train"]["rows"] == 64 and facts["lengths"]["valid"]["rows"] == 16
    assert facts["settings"]["dialogues"] == str(shelf.corpus)
    assert facts["settings"]["logging_steps"] == 1
    assert "output_dir" not in facts["settings"]


@pytest.mark.parametrize(("name", "base"), [("sft", "base"), ("dpo", "sft/merged")])
def test_run_json_names_the_weights_it_stands_on(shelf: Shelf, name: str, base: str) -> None:
    facts = read_json(getattr(shelf, name) / "run.json")
    weights = shelf.folder / base
    assert facts["base_model"] == {
        "name": str(weights),
        "relative": f"../{base}",
        "sha256": models.weights_identity(str(weights))["sha256"],
    }
    assert facts["adapter"] is True
    if name == "dpo":
        assert facts["reference"] == f"{weights} without the adapter"


def test_run_json_names_a_kept_adapter_with_its_digest(shelf: Shelf, tmp_path: Path) -> None:
    run = shelf.run("dpo", tmp_path / "dpo", "--num_train_epochs", "1", "--sft_adapter", "keep")
    digest = models.weights_identity(str(shelf.sft))["sha256"]
    assert digest in (run / "run.json").read_text()


@pytest.mark.parametrize(("name", "steps"), [("base", 160), ("sft", 16), ("dpo", 16)])
def test_the_log_has_every_step(shelf: Shelf, name: str, steps: int) -> None:
    run: Path = getattr(shelf, name)
    rows = [row for _, row in read_jsonl(run / "log.jsonl")]
    trained = [row for row in rows if "loss" in row]
    assert [row["step"] for row in trained] == list(range(1, steps + 1))
    assert read_json(run / "run.json")["steps"] == steps
    evaluated = [row for row in rows if "eval_loss" in row]
    assert read_json(run / "run.json")["evaluations"] == evaluated
    assert [row["epoch"] for row in evaluated][-1] == rows[-1]["epoch"]
    if name != "base":
        assert evaluated[0]["step"] == 0
    else:
        assert trained[-1]["loss"] < 0.6 * trained[0]["loss"]


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_the_card_is_made_from_the_facts(shelf: Shelf, name: str) -> None:
    run: Path = getattr(shelf, name)
    facts = read_json(run / "run.json")
    _, header, text = (run / "README.md").read_text().split("---\n", 2)
    meta = yaml.safe_load(header)
    assert meta["tags"] == ["empo", name]
    if name != "base":
        assert "base_model" not in meta  # a local folder, which the hub would refuse
        assert facts["base_model"]["name"] in text
        assert facts["base_model"]["sha256"][:12] in text
        assert meta["library_name"] == "peft"
    assert f"# {name}\n" in text
    assert "64 dialogues of 213 rows used, 0 left out" in text
    last = facts["evaluations"][-1]
    assert f"| {last['step']} | {last['eval_loss']:.4f} |" in text
    assert "n = 16 rows, one run, seed 42. Values are means over the evaluation's batches" in text
    assert f"- trl {facts['versions']['trl']}" in text


def test_every_checkpoint_carries_the_card(shelf: Shelf) -> None:
    checkpoints = list(shelf.dpo.glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        assert "Aligned by DPO" in (checkpoint / "README.md").read_text()


def test_the_files_of_a_base_load_anywhere(shelf: Shelf) -> None:
    for file in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert (shelf.base / file).is_file(), file
    assert "generation %}" not in (shelf.base / "chat_template.jinja").read_text()
    config = read_json(shelf.base / "config.json")
    assert (config["model_type"], config["hidden_size"]) == ("mistral", 32)


def test_the_files_of_sft_are_an_adapter_and_a_merged_model(shelf: Shelf) -> None:
    config = read_json(shelf.sft / "adapter_config.json")
    assert (config["r"], config["lora_alpha"]) == (8, 16)
    assert config["base_model_name_or_path"] == str(shelf.base)
    assert not (shelf.sft / "model.safetensors").exists()
    assert (shelf.sft / "merged" / "model.safetensors").is_file()
    assert (shelf.sft / "merged" / "tokenizer.json").is_file()
    config = read_json(shelf.dpo / "adapter_config.json")
    assert config["base_model_name_or_path"] == str(shelf.sft / "merged")
    assert not (shelf.dpo / "merged").exists()


@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_every_trainable_tensor_moved_and_the_base_did_not(
    shelf: Shelf, name: str, tmp_path: Path
) -> None:
    """Against the adapter before the first step, which a learning rate of 0 saves."""
    run: Path = getattr(shelf, name)
    more = ["--learning_rate", "0", "--max_steps", "1", "--merge_adapter", "false"]
    start = shelf.run(name, tmp_path / "start", *(more if name == "sft" else more[:-2]))
    before, after = (load_file(f / "adapter_model.safetensors") for f in (start, run))
    assert before.keys() == after.keys() and len(after) == 14
    for tensor, value in after.items():
        assert (value - before[tensor]).abs().max() > 1e-6, tensor
    facts = read_json(run / "run.json")["base_model"]
    assert models.weights_identity(facts["name"])["sha256"] == facts["sha256"]


def test_full_training_moves_everything_and_saves_a_model(shelf: Shelf, tmp_path: Path) -> None:
    more = ["--full_training", "true", "--num_train_epochs", "1"]
    run = shelf.run("sft", tmp_path / "sft", *more)
    before, after = (load_file(folder / "model.safetensors") for folder in (shelf.base, run))
    assert before.keys() == after.keys()
    assert all((after[name] != before[name]).any() for name in before)
    assert not (run / "adapter_config.json").exists() and not (run / "merged").exists()
    assert read_json(run / "run.json")["adapter"] is False
    assert models.resolve(str(run)).adapters == ()


def test_a_kept_adapter_is_trained_further_and_loads(shelf: Shelf, tmp_path: Path) -> None:
    run = shelf.run("dpo", tmp_path / "dpo", "--num_train_epochs", "1", "--sft_adapter", "keep")
    before, after = (load_file(f / "adapter_model.safetensors") for f in (shelf.sft, run))
    assert before.keys() == after.keys()
    assert all((after[name] != before[name]).any() for name in before)
    source = models.resolve(str(run))
    assert (Path(source.base).resolve(), source.adapters) == (shelf.base.resolve(), (str(run),))
    loaded = {n: p for n, p in load_model(source).named_parameters() if "lora_" in n}
    assert len(loaded) == 14
    first = next(row for _, row in read_jsonl(run / "log.jsonl"))
    assert first["eval_rewards/margins"] == 0


# --- when it does nothing or refuses ---


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_a_run_that_is_complete_is_left_alone(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    run: Path = getattr(shelf, name)
    before = state(run)
    more = [] if name == "base" else ["--num_train_epochs", "2"]
    shelf.run(name, run, *more)
    assert f"{run}: this run is complete." in capsys.readouterr().out
    assert state(run) == before


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_another_setting_in_the_same_folder_is_refused(shelf: Shelf, name: str) -> None:
    run: Path = getattr(shelf, name)
    before = state(run)
    more = [] if name == "base" else ["--num_train_epochs", "2"]
    with pytest.raises(UserError) as error:
        shelf.run(name, run, *more, "--learning_rate", "0.25", "--weight_decay", "0.5")
    message = str(error.value)
    assert f"{run}: this folder already holds another run ({name}, complete)" in message
    assert "  - learning_rate: 0.01 there, 0.25 now\n" in message
    assert "  - weight_decay: None there, 0.5 now\n" in message
    assert message.endswith("It stays as it is. `--fresh` begins a new one in a folder beside it.")
    assert state(run) == before


def test_where_it_runs_is_no_other_setting(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ["--num_train_epochs", "2", "--threads", "2", "--processes", "1"]
    shelf.run("dpo", shelf.dpo, *more)
    assert "this run is complete." in capsys.readouterr().out


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_a_single_file_needs_a_validation_corpus(shelf: Shelf, tmp_path: Path, name: str) -> None:
    file = shelf.corpus / "train.csv"
    with pytest.raises(UserError) as error:
        shelf.run(name, tmp_path / "run", "--dialogues", str(file))
    assert str(error.value) == (
        f"valid: {file} is a single file; name the validation corpus in `valid`, or give a folder "
        "with train and valid files."
    )
    assert not (tmp_path / "run").exists()


def test_a_single_file_with_a_validation_corpus_trains(shelf: Shelf, tmp_path: Path) -> None:
    more = ["--dialogues", shelf.corpus / "train.csv", "--valid", shelf.corpus / "valid.csv"]
    run = shelf.run("sft", tmp_path / "run", *more, "--max_steps", "1", "--merge_adapter", "false")
    assert [corpus["dialogues"] for corpus in read_json(run / "run.json")["data"]] == [64, 16]


def test_sft_on_an_adapter_asks_for_a_merged_model(shelf: Shelf, tmp_path: Path) -> None:
    more = ["--num_train_epochs", "1", "--merge_adapter", "false"]
    adapter = shelf.run("sft", tmp_path / "adapter", *more)
    with pytest.raises(UserError) as error:
        shelf.run("sft", tmp_path / "run", *more, "--model", str(adapter))
    assert str(error.value) == f"{adapter} is an adapter: merge it first with `empo merge`."


def test_a_user_error_is_one_message_and_exit_code_2(tmp_path: Path) -> None:
    words = ["--config", ROOT / "recipes/tiny/dpo.yaml", "--betta", "0.1", "--num_train_epoch", "2"]
    done = command(
        [sys.executable, ROOT / "recipes/dpo.py", *words, "--output_dir", tmp_path / "run"]
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "error: recipes/dpo.py: 2 problems in the settings:",
        "  - --betta: no such option; did you mean --beta?",
        "  - --num_train_epoch: no such option; did you mean --num_train_epochs?",
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["base", "sft", "dpo"])
def test_settings_that_cannot_work_are_all_told_before_anything_loads(
    shelf: Shelf, tmp_path: Path, name: str
) -> None:
    wrong: dict[str, tuple[list[str], list[str]]] = {
        "base": (
            ["--hidden_size", "30", "--vocab_size", "100", "--limit", "0"],
            ["limit: 0", "hidden_size: 30 is no multiple of heads 4", "vocab_size: 100"],
        ),
        "sft": (
            ["--lora_r", "0", "--lora_targets", "q_proj", "lm_head", "--load_in_4bit"],
            ["lora_r: 0", "lora_targets: lm_head", "merge_adapter: a 4-bit base"],
        ),
        "dpo": (
            ["--lora_dropout", "0.1", "--full_training", "--sft_adapter", "keep"],
            ["sft_adapter: keep needs adapters", "lora_dropout: DPO runs without dropout"],
        ),
    }
    words, told = wrong[name]
    with pytest.raises(UserError) as error:
        recipe(name)(["--dialogues", "nowhere", "--output_dir", str(tmp_path / "run"), *words]
                     + ([] if name == "base" else ["--model", "nowhere"]))  # fmt: skip
    message = str(error.value)
    assert f"{len(told)} problems in the settings:" in message
    for line in told:
        assert f"  - {line}" in message


# --- the files that are shipped ---


SHIPPED = sorted((ROOT / "recipes").glob("*/*.yaml"))
RATERS = [path for path in SHIPPED if "rater" in path.parent.name or path.stem.startswith("rater")]


@pytest.mark.parametrize("path", RATERS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_shipped_rater_has_settings_that_exist_and_work(path: Path) -> None:
    words = ["--config", str(path), "--output_dir", "-", "--data", "-", "--use_cpu", "true"]
    (settings, args), given = resolve(
        words, RaterSettings, TrainingArguments, prog=path.name, description="", defaults=DEFAULTS
    )
    head = "\n".join(path.read_text().splitlines()[:5])
    assert f"recipes/rater.py --config recipes/{path.parent.name}/{path.name}" in head
    assert settings.licence != "not stated" and settings.max_length == given["max_length"]
    if path.stem.endswith("_cpu"):
        own = {"scoring_lm": "scratch", "seq2seq": "scratch", "prompt": "runs/tiny/base-1024"}
        encoder = own.get(settings.architecture, "minilm")
        assert given["use_cpu"] is True and settings.encoder == encoder and settings.folds == 1
        assert args.num_train_epochs <= 6
    elif path.parent.name == "raters":
        trained = settings.architecture != "prompt"
        assert settings.encoder != "minilm" and (given.get("bf16") is True) == trained
    if path.stem == "epitome_cross_cpu":
        assert (settings.max_length, settings.response_max_length) == (64, 64)
        assert settings.seeds == [1, 2, 3]
    if path.stem in ("epitome_cross", "esconv_window"):
        assert settings.folds == 5 and settings.max_length == {"epitome_cross": 256}.get(
            path.stem, 512
        )


OF_SEVERAL_COMMANDS = ("sweep", "ablation", "rounds")
"""Recipes that have tests of their own."""


@pytest.mark.parametrize(
    "path",
    [path for path in SHIPPED if path not in RATERS and path.stem not in OF_SEVERAL_COMMANDS],
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_every_shipped_recipe_has_settings_that_exist_and_work(path: Path) -> None:
    from trl import DPOConfig, GRPOConfig, SFTConfig

    kinds: dict[str, tuple[Callable[..., Any], type]] = {
        "base": (BaseSettings, SFTConfig),
        "sft": (SftSettings, SFTConfig),
        "dpo": (DpoSettings, DPOConfig),
        "reward": (RewardSettings, GRPOConfig),
    }
    kind = path.stem.split("-")[0]
    words = ["--config", str(path), "--output_dir", "-", "--use_cpu", "true"]
    (settings, args), given = resolve(
        words, *kinds[kind], prog=path.name, description="", defaults=DEFAULTS
    )
    head = path.read_text().splitlines()[:4]
    assert any(f"recipes/{kind}.py --config recipes/{path.parent.name}/{path.name}" in line
               for line in head)  # fmt: skip
    length = "max_completion_length" if kind == "reward" else "max_length"
    assert getattr(args, length) == given[length]
    if path.parent.name == "zephyr-7b":
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps
        assert batch == 64
        assert (args.bf16, args.max_grad_norm) == (True, 0.3)
        if kind == "dpo":
            assert (args.beta, args.loss_type, args.num_train_epochs) == (0.05, ["sigmoid"], 3)
        assert settings.load_in_4bit == path.stem.endswith("qlora")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "accelerate_configs").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_launch_configuration_is_read_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    plain = yaml.safe_load(path.read_text())
    assert config.num_processes == plain["num_processes"]
    assert config.distributed_type.value == plain["distributed_type"]
    expected = {"deepspeed_zero2": 2, "deepspeed_zero3": 3}
    if path.stem in expected:
        assert config.deepspeed_config["zero_stage"] == expected[path.stem]
    if path.stem == "fsdp":
        assert config.fsdp_config["fsdp_version"] == 2
