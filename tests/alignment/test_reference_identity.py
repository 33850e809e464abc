"""What a run may take from another run's reference, and which batches cannot be asked for.

Runs of the recipe share a `reference_cache`. A run from the same start finds every value in it; one
whose reference differs in anything computes all of them, and leaves those of the others alone.
"""

from __future__ import annotations

import gc
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from safetensors.torch import load_file, save_file
from tiny_runs import Shelf, cut_corpus
from trl import DPOConfig

from empo.alignment.dpo import check_batches, reference_identity
from empo.alignment.settings import DpoSettings
from empo.models import load_tokenizer, resolve
from empo.prompts import ZEPHYR_TEMPLATE, ChatFormat
from empo.records import UserError, read_json, write_json

Align = Callable[..., dict[str, Any]]
Change = Callable[[Path], Sequence[str]]
"""Makes another model of a folder, or says what else is asked of the recipe."""


class Start(NamedTuple):
    """A model, the facts of the reference from when it was aligned, and the `sft_adapter` of that."""

    model: Path
    facts: dict[str, Any]
    sft_adapter: str


@pytest.fixture(autouse=True, scope="module")
def _imports_are_no_garbage() -> Iterator[None]:
    """`train` collects garbage several times; walking all that was imported takes half a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="module")
def align(shelf: Shelf, tmp_path_factory: pytest.TempPathFactory) -> Align:
    """One step of recipes/dpo.py, its cache beside the model; what run.json says of the reference."""
    corpus = cut_corpus(tmp_path_factory.mktemp("cut") / "corpus", {"train": 2, "valid": 1})

    def run(model: Path, sft_adapter: str, *more: str) -> dict[str, Any]:
        output = tmp_path_factory.mktemp("run") / "dpo"
        given = ["--model", model, "--sft_adapter", sft_adapter, "--dialogues", corpus]
        given += ["--reference_cache", model.parent / "cache", "--max_steps", "1"]
        given += ["--save_strategy", "no", "--eval_strategy", "no", "--eval_on_start", "false"]
        shelf.run("dpo", output, *given, *more)
        facts = read_json(output / "run.json")["reference_logps"]
        train, valid = facts["train"], facts["valid"]
        assert train["identity_sha256"] == valid["identity_sha256"]
        assert (train["completions"], valid["completions"]) == (16, 8)
        assert (train["computed"], valid["computed"]) in ((16, 8), (0, 0))
        assert train["reused"] == 16 - train["computed"]
        return train

    return run


@pytest.fixture(scope="module")
def starts(
    shelf: Shelf, align: Align, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Start]:
    """The merged SFT model and the SFT adapter, without the run that knows their prompts."""
    found = {}
    ignored = shutil.ignore_patterns("merged", "checkpoint-*", "run.json")
    for name, source in (("merge", shelf.sft / "merged"), ("keep", shelf.sft)):
        model = tmp_path_factory.mktemp(name) / "model"
        shutil.copytree(source, model, ignore=ignored)
        found[name] = Start(model, align(model, name), name)
        assert found[name].facts["computed"] == 16 and len(stored(model)) == 24
    return found


@pytest.fixture
def start(request: pytest.FixtureRequest, starts: dict[str, Start], tmp_path: Path) -> Start:
    """A copy of one, with a copy of its cache beside it."""
    shutil.copytree(starts[request.param].model.parent, tmp_path, dirs_exist_ok=True)
    return starts[request.param]._replace(model=tmp_path / "model")


def stored(model: Path) -> dict[bytes, float]:
    with sqlite3.connect(model.parent / "cache" / "reference.sqlite") as database:
        found = dict(database.execute("SELECT key, logp FROM logps"))
    database.close()
    return found


# --- another reference ---


def edited(file: str, **changed: Any) -> Change:
    """Change keys of a JSON file of the model, or of the part of it in which they stand."""

    def change(model: Path) -> Sequence[str]:
        said = read_json(model / file)
        for key, value in changed.items():
            parts = (part for part in said.values() if isinstance(part, dict) and key in part)
            part = next(parts, said)
            assert part.get(key) != value
            part[key] = value
        write_json(model / file, said)
        return ()

    return change


def other_weight(model: Path) -> Sequence[str]:
    """One number of one tensor; name, size and time of the file stay."""
    file = model / "model.safetensors"
    before, weights = file.stat(), load_file(file)
    weights["model.norm.weight"][0] += 0.01
    save_file(weights, file, metadata={"format": "pt"})
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    return ()


def other_template(model: Path) -> Sequence[str]:
    """Renders the same text."""
    (model / "own.jinja").write_text("{# by another hand #}" + ZEPHYR_TEMPLATE)
    return ("--chat_template", str(model / "own.jinja"))


@pytest.mark.parametrize(
    ("start", "change"),
    [
        ("merge", other_weight),
        ("merge", edited("config.json", rope_theta=500.0)),
        ("merge", edited("config.json", rms_norm_eps=1e-2)),
        ("merge", other_template),
        ("merge", lambda _: ("--system_message", "You are a friend.")),
        ("merge", lambda _: ("--dtype", "bfloat16")),
        ("keep", edited("adapter_config.json", lora_alpha=1)),
    ],
    indirect=["start"],
    ids=["weight", "rope", "norm", "template", "system message", "dtype", "alpha"],
)
def test_another_reference_is_computed_and_the_old_entries_stay(
    align: Align, start: Start, change: Change
) -> None:
    before = stored(start.model)
    if change is other_weight:
        assert align(start.model, start.sft_adapter)["computed"] == 0  # the path is known now
    facts = align(start.model, start.sft_adapter, *change(start.model))
    assert facts["computed"] == 16
    assert facts["identity_sha256"] != start.facts["identity_sha256"]
    after = stored(start.model)
    assert before.items() < after.items() and len(after) == 2 * len(before)
    if change is not other_template:
        new = [value for key, value in after.items() if key not in before]
        assert sorted(new) != pytest.approx(sorted(before.values()), abs=1e-6)


# --- the same reference ---


def moved(model: Path) -> Path:
    return model.rename(model.with_name("elsewhere"))


def copied_and_linked(model: Path) -> Path:
    copy = shutil.copytree(model, model.with_name("copy"))
    model.with_name("link").symlink_to(copy)
    return model.with_name("link")


def saved_by_another_version(model: Path) -> Path:
    if (model / "adapter_config.json").is_file():
        edited("adapter_config.json", peft_version="0.20.0", revision="main")(model)
    else:
        edited("config.json", transformers_version="4.40.0", _name_or_path="you/sft")(model)
    return model


def on_a_moved_base(model: Path) -> Path:
    base = read_json(model / "adapter_config.json")["base_model_name_or_path"]
    elsewhere = str(shutil.copytree(base, model.with_name("base")))
    edited("adapter_config.json", base_model_name_or_path=elsewhere)(model)
    return model


@pytest.mark.parametrize(
    ("start", "same"),
    [
        ("merge", moved),
        ("merge", copied_and_linked),
        ("merge", saved_by_another_version),
        ("keep", saved_by_another_version),
        ("keep", on_a_moved_base),
    ],
    indirect=["start"],
)
def test_the_same_reference_is_found_wherever_it_lies(
    align: Align, start: Start, same: Callable[[Path], Path]
) -> None:
    before, model = stored(start.model), same(start.model)
    facts = align(model, start.sft_adapter, "--beta", "0.2", "--learning_rate", "1e-3")
    assert facts["identity_sha256"] == start.facts["identity_sha256"]
    assert facts["computed"] == 0
    assert facts["checked"] >= 4 and facts["largest_difference_per_token"] <= 1e-4
    assert stored(model) == before


@pytest.mark.parametrize("start", ["keep"], indirect=True)
def test_an_identity_says_what_makes_the_numbers_and_not_where_it_lies(start: Start) -> None:
    source = resolve(str(start.model))
    chat = ChatFormat(load_tokenizer(source), system_message="Be kind.")
    identity = reference_identity(DpoSettings(dialogues="-", model="-"), source, chat)
    base, adapter = identity.pop("weights")
    asked = {"dtype": "float32", "load_in_4bit": False}
    assert identity == asked | {"template_sha256": chat.sha256}
    facts = source.facts()
    assert base["sha256"] == facts["base"]["sha256"]
    assert adapter["sha256"] == facts["adapters"][0]["sha256"]
    assert base["config.json"]["rope_parameters"]["rope_theta"] == 10_000
    assert adapter["adapter_config.json"]["lora_alpha"] == 16
    for place in (start.model, source.base):
        assert str(place) not in str(base) + str(adapter)


# --- batches that cannot be asked for ---


def arguments(folder: Path, **given: Any) -> DPOConfig:
    return DPOConfig(str(folder), use_cpu=True, bf16=False, report_to="none", **given)


SAMPLING = {"train_sampling_strategy": "group_by_length"}
DROP = {"dataloader_drop_last": True}
SPLIT = {"accelerator_config": {"split_batches": True}}
DISPATCH = {"accelerator_config": {"dispatch_batches": True}}
BOTH = {"accelerator_config": {"split_batches": True, "dispatch_batches": True}}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (SAMPLING, "train_sampling_strategy: group_by_length"),
        (DROP, "dataloader_drop_last: true"),
        (SPLIT, "accelerator_config: split_batches: true"),
        (DISPATCH, "accelerator_config: dispatch_batches: true"),
        (
            SAMPLING | DROP | BOTH,
            "train_sampling_strategy: group_by_length, dataloader_drop_last: true, "
            "accelerator_config: split_batches: true, accelerator_config: dispatch_batches: true",
        ),
    ],
)
def test_batches_by_tokens_are_made_by_nothing_else(
    tmp_path: Path, given: dict[str, Any], told: str
) -> None:
    args = arguments(tmp_path, **given)
    check_batches(DpoSettings(dialogues="-", model="-"), args)
    settings = DpoSettings(dialogues="-", model="-", tokens_per_batch=500)
    check_batches(settings, arguments(tmp_path))
    with pytest.raises(UserError) as error:
        check_batches(settings, args)
    assert str(error.value) == (
        f"tokens_per_batch makes the batches, rows of like length together; leave out {told}"
    )


@pytest.mark.parametrize("start", ["merge"], indirect=True)
@pytest.mark.parametrize(
    ("given", "told"),
    [
        (
            ("--shared_prefix", "false"),
            "tokens_per_batch: it counts a prompt once, and prompts are not shared here "
            "(shared_prefix: false). Leave it out; group_by_length saves padding.",
        ),
        (
            ("--dataloader_drop_last", "true"),
            "tokens_per_batch makes the batches, rows of like length together; leave out "
            "dataloader_drop_last: true",
        ),
    ],
)
def test_the_recipe_refuses_them_before_it_loads_a_model(
    align: Align, start: Start, given: tuple[str, str], told: str
) -> None:
    (start.model / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError) as error:
        align(start.model, "merge", "--tokens_per_batch", "500", *given)
    assert str(error.value) == told
