"""`empo preview`: the 7B recipes counted without weights, tokens with the loss mask of a small one."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from empo.preview import preview_command
from empo.records import UserError

sys.path.insert(0, str(Path(__file__).parent / "recipes"))
from tiny_runs import LORA, ROOT, Shelf, shelf

__all__ = ["shelf"]

ZEPHYR = ROOT / "recipes" / "zephyr-7b"
TINY = ROOT / "recipes" / "tiny"
REAL = Path(os.environ["EMPO_DATA"]) / "empathetic_dialogues" if "EMPO_DATA" in os.environ else None
DIALOGUES, ROWS, STEPS = (REAL, 19_531, 306) if REAL else (ROOT / "data" / "sample", 3_200, 50)
"""EmpatheticDialogues where it is at hand, else the sample, with rows and steps of 64 per epoch."""

SHAPES = {
    "q_proj": ((1024, 4096), (4096, 1024)),
    "k_proj": ((1024, 4096), (1024, 1024)),
    "v_proj": ((1024, 4096), (1024, 1024)),
    "o_proj": ((1024, 4096), (4096, 1024)),
    "gate_proj": ((1024, 4096), (14336, 1024)),
    "up_proj": ((1024, 4096), (14336, 1024)),
    "down_proj": ((1024, 14336), (4096, 1024)),
}


def preview(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert preview_command(list(map(str, words))) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(("kind", "epochs"), [("sft", 1), ("dpo", 3)])
def test_the_7b_recipes_have_the_shapes_and_steps_of_the_paper(
    capsys: pytest.CaptureFixture[str], kind: str, epochs: int
) -> None:
    out = preview(capsys, "--config", ZEPHYR / f"{kind}.yaml", "--dialogues", DIALOGUES)
    assert f"{kind} recipe" in out
    assert f"{ROWS:,} dialogues used" in out
    assert f"{ROWS:,} rows / batch 64 (" in out
    assert f") = {STEPS:,} steps per epoch, {STEPS * epochs:,} in all" in out
    assert "7,241,732,096 parameters, mistral architecture, bfloat16" in out
    assert "adapter: rank 1024, alpha 64, 32 x these shapes:" in out
    for target, (a, b) in SHAPES.items():
        assert re.search(rf"{target} +A {re.escape(str(a))}  B {re.escape(str(b))}", out), target
    by_hand = 32 * sum(a[0] * a[1] + b[0] * b[1] for a, b in SHAPES.values())
    assert by_hand == 2_684_354_560
    assert f"trainable: {by_hand:,} (27.0%)" in out
    assert re.search(r"10,240\.0 MiB  adapter, float32", out)
    assert "reference copy" not in out


def test_the_number_of_steps_is_rounded_up_as_the_trainer_does(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "sft.yaml", "--dialogues", shelf.corpus, "--model", shelf.base]
    for limit, batch, accumulated, steps in [(64, 8, 1, 8), (61, 8, 3, 3), (1, 8, 1, 1)]:
        out = preview(
            capsys,
            *words,
            *("--limit", limit, "--per_device_train_batch_size", batch),
            *("--gradient_accumulation_steps", accumulated, "--num_train_epochs", 2),
        )
        assert f"= {steps} steps per epoch, {2 * steps} in all" in out


def test_rows_seen_twice_on_several_processes_are_told(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "sft.yaml", "--dialogues", shelf.corpus, "--model", shelf.base]
    words += ["--per_device_train_batch_size", 8]
    out = preview(capsys, *words, "--limit", 60, "--processes", 4)
    assert "60 rows / batch 32 (8 per process x 4 x 1 accumulated) = 2 steps per epoch" in out
    assert "4 rows are seen twice per epoch so that every process is equally full" in out
    assert "seen twice" not in preview(capsys, *words, "--processes", 4)


def test_the_mask_of_sft_is_shown_token_by_token(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "sft.yaml", "--dialogues", shelf.corpus, "--model", shelf.base]
    out = preview(capsys, *words, "--show", 2, "--max_length", 400)
    rows = out.split("marked with | is what the loss is on\n")[1:]
    assert len(rows) == 2
    first = [re.match(r"    ([| ]) +(\d+)  (.*)", line) for line in rows[0].splitlines()]
    shown = [(m[1] == "|", int(m[2]), m[3]) for m in first if m]
    assert [marked for marked, _, _ in shown] == [False, True, False, True]
    assert shown[0][2].startswith(
        "<s><|system|>\\nYou are a kind listener.</s>\\n<|user|>\\nMy shy"
    )
    assert shown[0][2].endswith("</s>\\n<|assistant|>\\n")
    assert shown[1][2] == "No way, how unexpected! Nobody could see that coming.</s>"
    assert shown[3][2] == "Whoa, what a surprise!</s>"
    assert re.search(r"[\d,]+ tokens carry a loss \(\d\d%\)", out)
    assert "64 rows, mean " in out
    assert "0 would lose their oldest turns, 0 would be left out" in out


def test_a_limit_that_costs_rows_is_shown_and_counted_in_the_steps(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "sft.yaml", "--dialogues", shelf.corpus, "--model", shelf.base]
    out = preview(capsys, *words, "--max_length", 80)
    rows, shortened, left_out = map(
        int,
        re.search(
            r"(\d+) rows, mean .* limit 80: (\d+) would lose their oldest turns, (\d+) would", out
        ).groups(),
    )
    assert 0 < rows < 64 and rows + left_out == 64 and shortened > 0
    assert f"{rows} rows / batch 16" in out


def test_pairs_are_shown_with_the_reply_of_every_epoch(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "dpo.yaml", "--dialogues", shelf.corpus, "--model", shelf.sft]
    out = preview(capsys, *words, *LORA)
    head = "hit:0_conv:0: marked with | is what the loss is on"
    lines = out[out.index(head) :].splitlines()
    labels = [line.strip() for line in lines[2:10:2]]
    assert labels == ["chosen:", *(f"rejected in epoch {epoch}:" for epoch in range(3))]
    replies = [re.sub(r" *\| +\d+  ", "", line) for line in lines[3:11:2]]
    assert replies[0] == "Whoa, what a surprise!</s>"
    assert len(set(replies)) == 4 and all(reply.endswith("</s>") for reply in replies)
    assert re.match(r" +\d+  <s><\|system\|>", lines[1]) and lines[1].endswith("<|assistant|>\\n")
    assert "adapter: rank 8, alpha 16, 1 x these shapes:" in out


def test_a_base_from_scratch_learns_every_token(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "base.yaml", "--dialogues", shelf.corpus, "--vocab_size", 400]
    out = preview(capsys, *words)
    assert "tokens carry a loss (100%)" in out
    shown = out.split("is what the loss is on\n")[1].splitlines()[0]
    assert re.match(r"    \| +\d+  <s><\|system\|>", shown)
    assert "1 layers of width 128" in out and "(100.0%)" in out


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_model_that_is_not_there_yet_costs_the_tokens_only(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ["--config", ZEPHYR / f"{kind}.yaml", "--dialogues", ROOT / "data/sample"]
    out = preview(capsys, *words, "--model", "nobody/has-this-model", "--limit", 8)
    assert (
        "tokens and lengths cannot be shown: nobody/has-this-model: the model is not in the cache of the hub"
    ) in out
    assert "run `hf download nobody/has-this-model`" in out
    assert "2,684,354,560" in out


def test_an_architecture_that_is_not_there_is_told(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "sft.yaml"
    config.write_text(f"dialogues: {shelf.corpus}\nmodel: nobody/has-this-model\n")
    with pytest.raises(UserError, match=r"nobody/has-this-model: the architecture cannot be read"):
        preview(capsys, "--config", config)
    wanted = ["--architecture", ZEPHYR / "config.json"]
    assert "7,241,732,096 parameters" in preview(capsys, "--config", config, *wanted)


def test_the_recipe_is_known_by_name_or_asked_for(
    shelf: Shelf, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "mine.yaml"
    config.write_text(f"dialogues: {shelf.corpus}\nmodel: {shelf.base}\n")
    with pytest.raises(UserError) as error:
        preview_command(["--config", str(config)])
    assert str(error.value) == (
        "empo preview: cannot tell the recipe; give --config recipes/M/{base,sft,dpo}.yaml or "
        "--recipe base|sft|dpo."
    )
    assert "== sft recipe" in preview(capsys, "--config", config, "--recipe", "sft")


def test_a_kept_adapter_is_shown_with_its_own_rank(
    shelf: Shelf, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", TINY / "dpo.yaml", "--dialogues", shelf.corpus, "--model", shelf.sft]
    assert "adapter: rank 8, alpha 16" in preview(capsys, *words, "--sft_adapter", "keep")


def test_batches_cut_by_tokens_are_counted(
    capsys: pytest.CaptureFixture[str], shelf: Shelf
) -> None:
    words = ("--config", TINY / "dpo.yaml", "--dialogues", shelf.corpus, "--model", shelf.sft)
    out = preview(capsys, *words, "--tokens_per_batch", 400, "--num_train_epochs", 2)
    found = re.search(
        r"64 rows in (\d+) batches of \d+ to \d+ rows, on average (\d+)\.\d of 400", out
    )
    assert found is not None, out
    batches, tokens = map(int, found.groups())
    assert f"= {batches} steps per epoch, {2 * batches} in all" in out
    assert 200 < tokens <= 400


def test_packed_rows_are_counted(capsys: pytest.CaptureFixture[str], shelf: Shelf) -> None:
    words = ("--config", TINY / "sft.yaml", "--dialogues", shelf.corpus, "--model", shelf.base)
    words += ("--packing", "true", "--train_sampling_strategy", "random")
    out = preview(capsys, *words, "--per_device_train_batch_size", 1)
    found = re.search(r"packed into (\d+) rows, \d+% filled", out)
    assert found is not None, out
    assert 1 < int(found[1]) < 64
    assert f"{found[1]} rows / batch 1 (" in out


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("dpo", ("--tokens_per_batch", 400, "--dataloader_drop_last", "true"), "tokens_per_batch"),
        ("sft", ("--packing", "true", "--packing_strategy", "wrapped"), "packing_strategy"),
    ],
)
def test_what_a_recipe_refuses_is_refused_here(
    capsys: pytest.CaptureFixture[str], kind: str, words: tuple[object, ...], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        preview(capsys, "--config", TINY / f"{kind}.yaml", "--dialogues", DIALOGUES, *words)
