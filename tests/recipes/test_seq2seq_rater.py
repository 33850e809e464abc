"""An instructed encoder-decoder by the commands of every rater: trained, kept, used, doubted aloud."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from tiny_runs import ROOT, recipe

from empo.corpora.epitome import FILES
from empo.rate import rate_command
from empo.raters.folder import RaterConfig
from empo.records import read_json, read_jsonl

COLUMNS = ["sp_id", "rp_id", "seeker_post", "response_post", "level", "rationales"]


@pytest.fixture(scope="module")
def epitome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty posts with a reply each, in the layout of EPITOME."""
    folder = tmp_path_factory.mktemp("epitome")
    for m, name in enumerate(FILES.values()):
        with (folder / name).open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(COLUMNS)
            for i in range(40):
                level = (i + m) % 3
                rows.writerow([f"s{i}", f"r{i}", f"post {i}", f"reply {'abc'[i % 3]}", level, ""])
    return folder


@pytest.mark.parametrize("apart", [False, True])
def test_the_shipped_settings_train_a_rater_that_every_command_takes(
    epitome: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], apart: bool
) -> None:
    folder = tmp_path / "told"
    config = ROOT / "recipes" / "raters" / "epitome_seq2seq_cpu.yaml"
    words = ["--config", str(config), "--data", str(epitome), "--output_dir", str(folder)]
    words += ["--hidden_size", "16", "--heads", "2", "--vocab_size", "400", "--layers", "1"]
    words += ["--num_train_epochs", "1", "--threads", "1", "--warmup_steps", "0"]
    words += ["--one_model_per_dimension", "true"] if apart else []
    assert recipe("rater")(words) == 0
    config = RaterConfig.read(folder)
    assert config.kind == ("joined" if apart else "seq2seq")
    assert set(config.evidence["dimensions"] if config.evidence else ()) == (
        set() if apart else set(FILES)
    )
    results = read_json(folder / "results.json")
    assert any("not shown to beat the baselines" in warning for warning in results["warnings"])
    assert results["settings"]["instruct"] is True and "families" not in results["settings"]
    pairs, scored = tmp_path / "pairs.jsonl", tmp_path / "scored.jsonl"
    pairs.write_text('{"context": "post", "response": "reply a"}\n')
    words = ["--rater", str(folder), "--input", str(pairs), "--output", str(scored)]
    assert rate_command([*words, "--cache", str(tmp_path / "c"), "--device", "cpu"]) == 0
    ((_, row),) = read_jsonl(scored)
    assert set(row["scores"]) == set(FILES)
    assert "Do not read these scores as a measure" in capsys.readouterr().err
