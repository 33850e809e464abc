"""recipes/rater.py by its command: what it writes, what a restart does, when it refuses."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from killed import asked_to_stop, contents, killed_before
from tiny_runs import ROOT, command, environment, recipe

from empo.raters.folder import RaterConfig, weights_digest
from empo.raters.loading import load_rater
from empo.raters.settings import RaterSettings
from empo.rating import RatingInput
from empo.records import UserError, read_json, read_jsonl
from empo.runs import LOCK, alone

sys.path.insert(0, str(ROOT / "tests" / "raters"))
from tiny_encoders import write_encoders

LEVELS = {"weak": 0, "good": 1, "hard": 2}  # words of one length
FAST = ["--max_length", "12", "--num_train_epochs", "20", "--learning_rate", "3e-3"]
FAST += [
    "--pooling",
    "both",
    "--per_device_train_batch_size",
    "8",
    "--use_cpu",
    "true",
    "--seeds",
    "1",
    "2",
]
FAST += ["--warmup_steps", "0.1", "--dropout", "0", "--max_grad_norm", "1", "--patience", "20"]
FAST += ["--validation_share", "0.2", "--test_share", "0.25", "--threads", "1"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_encoders(tmp_path_factory.mktemp("encoders"))["bert"]


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 judged replies in 60 groups: a word decides the level, whatever the length."""
    path = tmp_path_factory.mktemp("judged") / "judged.jsonl"
    rows = []
    for i in range(120):
        word = list(LEVELS)[i % 3]
        reply = " ".join(["that sounds", word, *["to me"] * (i % 4)])
        rows.append(
            {
                "id": f"r{i}",
                "group": f"g{i // 2}",
                "context": ["I lost my job.", "My dog was sick."][i % 2],
                "response": reply,
                "labels": {"warmth": LEVELS[word], "sorrow": (i // 3) % 2},
            }
        )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def words(judged: Path, encoder: Path, output: Path, *more: str) -> list[str]:
    given = ["--data", str(judged), "--encoder", str(encoder), "--output_dir", str(output)]
    return [*given, *FAST, "--dimensions", "warmth", *more]


def predictions(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("predictions.jsonl"))
    }


@pytest.fixture(scope="module")
def trained(judged: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("run") / "warmth"
    assert recipe("rater")(words(judged, encoder, output)) == 0
    return output


def test_a_rule_is_learnt_and_the_results_show_it(trained: Path) -> None:
    results = read_json(trained / "results.json")
    assert results["schema"] == "empo.rater-results/1" and results["seeds"] == [1, 2]
    warmth = results["evaluation"]["dimensions"]["warmth"]
    rater, constant = (warmth["predictors"][name]["macro_f1"] for name in ("rater", "constant"))
    assert rater["value"] > 0.8 > 0.3 > constant["value"]
    assert len(rater["seeds"]) == 2 and rater["interval"][0] > constant["interval"][1]
    for baseline in ("constant", "length"):
        assert results["evidence"]["dimensions"]["warmth"][baseline]["interval"][0] > 0
    assert results["warnings"] == []


def test_every_held_out_row_is_there_once_per_seed_and_no_group_was_seen(trained: Path) -> None:
    results = read_json(trained / "results.json")
    (sizes,) = results["split"]["sizes"]
    assert sum(sizes.values()) == 120 and 20 <= sizes["test"] <= 40
    for seed in (1, 2):
        folder = trained / "units" / f"seed-{seed}" / "fold-0"
        rows = [row for _, row in read_jsonl(folder / "predictions.jsonl")]
        assert len({row["id"] for row in rows}) == len(rows) == sizes["test"]
        assert all(row["seed"] == seed and row["gold"]["warmth"] in (0, 1, 2) for row in rows)
        assert not list(folder.rglob("checkpoint-*")), "checkpoints are for a restart only"
    assert not list(trained.rglob("*.bin")) and not list(trained.rglob("*.pt"))


def test_the_folder_is_a_rater_with_its_card_and_report(trained: Path) -> None:
    rater = load_rater(trained)
    scores = rater.score([RatingInput("I lost my job.", "that sounds hard to me")]).scores
    assert scores.tolist() == [[2.0]] and rater.warnings == ()
    card, report = ((trained / name).read_text() for name in ("README.md", "rater.md"))
    assert card.startswith("---\n") and "clinical" in card
    assert RaterConfig.read(trained).evidence["weights"][:12] in rater.signature
    for name in ("macro F1", "constant", "length", "warmth"):
        assert name in card and name in report


def test_the_same_command_again_trains_nothing_and_says_so(
    trained: Path, judged: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")}
    written = (trained / "results.json").stat().st_mtime_ns
    left = trained / "units" / "seed-1" / "fold-0" / "checkpoint-3"
    left.mkdir()  # as a kill right behind the end of the unit leaves it
    assert recipe("rater")(words(judged, encoder, trained)) == 0
    assert not left.exists()
    assert "this run is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*.safetensors")} == before
    assert (trained / "results.json").stat().st_mtime_ns == written


def test_the_encoder_is_named_with_what_identifies_it(trained: Path, encoder: Path) -> None:
    named = {"name": encoder.name, "identity": weights_digest(encoder)}
    assert read_json(trained / "results.json")["encoder"] == named


def test_another_encoder_at_the_same_place_is_refused(
    trained: Path, judged: Path, encoder: Path
) -> None:
    config = encoder / "config.json"
    whole = config.read_text()
    config.write_text(whole.replace('"hidden_act": "gelu"', '"hidden_act": "relu"'))
    assert config.read_text() != whole
    try:
        with pytest.raises(UserError, match=r"- encoder: .*'identity': .* there, .* now"):
            recipe("rater")(words(judged, encoder, trained))
    finally:
        config.write_text(whole)


def test_the_card_has_the_range_of_the_rater_and_not_that_of_the_labels(
    judged: Path, encoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "affine"
    more = ["--loss", "mse", "--scale", "affine", "--architecture", "bi_encoder"]
    argv = words(judged, encoder, output, *more, "--num_train_epochs", "1")
    argv[argv.index("--seeds") + 1 : argv.index("--seeds") + 3] = ["1"]
    for name in ("--pooling", "--dropout"):  # only raters of levels have them
        del argv[argv.index(name) : argv.index(name) + 2]
    assert recipe("rater")(argv) == 0
    results = read_json(output / "results.json")
    ranges = [
        (results[key][0]["low"], results[key][0]["high"])
        for key in ("dimensions", "label_dimensions")
    ]
    assert ranges == [(-2, 4), (0, 2)]
    (dimension,) = load_rater(output, "cpu").dimensions
    assert results["dimensions"] == [dimension.facts()]
    assert "| warmth | interval | -2 to 4 |" in (output / "README.md").read_text()


def test_other_settings_are_refused_with_the_difference(
    trained: Path, judged: Path, encoder: Path
) -> None:
    with pytest.raises(UserError, match=r"num_train_epochs: 20\.0 there, 3\.0 now"):
        recipe("rater")(words(judged, encoder, trained, "--num_train_epochs", "3"))


def test_a_run_without_the_last_unit_trains_that_alone_and_ends_equal(
    trained: Path, judged: Path, encoder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "warmth"
    argv = words(judged, encoder, output)
    one = [*argv[: argv.index("--seeds")], *argv[argv.index("--seeds") + 3 :], "--seeds", "1", "2"]
    program = [sys.executable, str(ROOT / "recipes" / "rater.py"), *one]
    process = subprocess.Popen(program, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL)
    first = output / "units" / "seed-1" / "fold-0" / "unit.json"
    second = output / "units" / "seed-2" / "fold-0"
    deadline = time.monotonic() + 120
    while not (first.is_file() and list(second.glob("checkpoint-*/trainer_state.json"))):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "results.json").exists()
    kept = first.stat().st_mtime_ns
    done = command(program)
    assert done.returncode == 0, done.stderr[-2000:]
    assert first.stat().st_mtime_ns == kept
    assert predictions(output) == predictions(trained)
    mine, whole = (read_json(folder / "results.json") for folder in (output, trained))
    assert mine["evaluation"] == whole["evaluation"]
    assert timeless(output) == timeless(trained)
    assert weights_digest(output) == weights_digest(trained)


def timeless(folder: Path) -> dict[str, Any]:
    """results.json without times."""
    results = read_json(folder / "results.json")
    for training in results["trainings"]:
        del training["seconds"]
    return results | {"created": None}


@pytest.mark.slow
def test_a_command_killed_before_a_change_of_a_file_ends_in_the_same_rater(
    judged: Path, encoder: Path, tmp_path: Path
) -> None:
    def train(folder: Path) -> int:
        argv = words(judged, encoder, folder / "warmth", "--num_train_epochs", "2")
        return recipe("rater")(argv)

    train(tmp_path / "whole")
    expected = contents(tmp_path / "whole")
    timed = {name for name in expected if name.endswith(("unit.json", "results.json", "run.json"))}
    for change in (2, 5, 9, 14, 20, 30, 45, 60, 75, 90, 10_000):
        folder = tmp_path / str(change)
        killed = killed_before(change, folder, lambda: train(folder))  # noqa: B023
        assert train(folder) == 0
        assert timeless(folder / "warmth") == timeless(tmp_path / "whole" / "warmth"), change
        found = contents(folder)
        assert found.keys() == expected.keys()
        for name in found.keys() - timed:
            assert found[name] == expected[name], (change, name)
    assert not killed


def test_a_command_that_is_asked_to_stop_says_where_it_saved_and_goes_on_there(
    judged: Path, encoder: Path, trained: Path, tmp_path: Path
) -> None:
    output = tmp_path / "warmth"
    second, said = output / "units" / "seed-2" / "fold-0", tmp_path / "said.txt"
    code = asked_to_stop(
        signal.SIGTERM,
        lambda: bool(list(second.glob("checkpoint-*/manifest.json"))),
        said,
        lambda: recipe("rater")(words(judged, encoder, output)),
    )
    assert code == 143
    newest = max(int(path.name[11:]) for path in second.glob("checkpoint-*"))
    assert said.read_text().endswith(
        f"stopped by SIGTERM. Saved in {second / f'checkpoint-{newest}'}: the same command goes on "
        "with what is missing.\n"
    )
    assert read_json(output / "run.json")["status"] == "stopped"
    assert recipe("rater")(words(judged, encoder, output)) == 0
    assert read_json(output / "run.json")["status"] == "complete"
    assert timeless(output) == timeless(trained)
    assert weights_digest(output) == weights_digest(trained)


def test_a_second_command_on_the_folder_stops_at_once_and_a_fresh_one_takes_another(
    trained: Path, judged: Path, encoder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(judged, encoder, trained)
    with alone(trained / LOCK, trained), pytest.raises(UserError) as error:
        recipe("rater")(argv)
    assert str(error.value).startswith(f"{trained}: another process is at work on it. ")
    other = ["--num_train_epochs", "1", "--fresh"]
    assert recipe("rater")([*argv, *other]) == 0
    fresh = trained.with_name("warmth-2")
    assert f"a new run in {fresh}; give this folder, without --fresh" in capsys.readouterr().out
    assert read_json(fresh / "results.json")["settings"].get("fresh") is None
    assert recipe("rater")([*words(judged, encoder, fresh), *other[:2]]) == 0
    assert "this run is complete" in capsys.readouterr().out
    with pytest.raises(UserError, match="It stays as it is. `--fresh` begins a new"):
        recipe("rater")([*argv, *other[:2]])


def test_folds_hold_every_example_out_once(judged: Path, encoder: Path, tmp_path: Path) -> None:
    argv = words(judged, encoder, tmp_path / "folds", "--folds", "3", "--num_train_epochs", "1")
    argv[argv.index("--seeds") + 1 : argv.index("--seeds") + 3] = ["5"]
    assert recipe("rater")(argv) == 0
    rows = [
        row
        for path in (tmp_path / "folds").rglob("predictions.jsonl")
        for _, row in read_jsonl(path)
    ]
    assert sorted(row["id"] for row in rows) == sorted(f"r{i}" for i in range(120))
    assert {row["fold"] for row in rows} == {0, 1, 2}


def test_one_model_per_dimension_makes_one_rater_of_both(
    judged: Path, encoder: Path, tmp_path: Path
) -> None:
    argv = words(judged, encoder, tmp_path / "two", "--one_model_per_dimension", "true")
    at = argv.index("--dimensions")
    argv[at : at + 2] = ["--dimensions", "warmth", "sorrow", "--num_train_epochs", "2"]
    assert recipe("rater")(argv) == 0
    rater = load_rater(tmp_path / "two")
    assert [d.name for d in rater.dimensions] == ["warmth", "sorrow"]
    assert {p.name for p in (tmp_path / "two").iterdir() if p.is_dir()} == {
        *("warmth", "sorrow", "units")
    }
    named = [warning for warning in rater.warnings if "sorrow" in warning]
    assert named, "two epochs do not learn a label that no word tells"


def test_a_grid_gives_one_table_and_says_what_cannot_run(
    judged: Path, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = words(judged, encoder, tmp_path / "grid", "--num_train_epochs", "1")
    argv[argv.index("--seeds") + 1 : argv.index("--seeds") + 3] = ["1"]
    argv += ["--grid_architectures", "bi_encoder", "cross_encoder", "--scale", "unit"]
    argv += ["--grid_losses", "cross_entropy", "mse", "cosine_embedding", "soft_label_kl"]
    assert recipe("rater")(argv) == 0
    grid = read_json(tmp_path / "grid" / "grid.json")
    ran = {(entry["architecture"], entry["loss"]) for entry in grid["entries"]}
    assert ran == {
        *((a, loss) for a in ("bi_encoder", "cross_encoder") for loss in ("cross_entropy", "mse")),
        ("bi_encoder", "cosine_embedding"),
    }
    reasons = {(e["architecture"], e["loss"]): e["reason"] for e in grid["not_run"]}
    assert "has none" in reasons["cross_encoder", "cosine_embedding"]
    assert "KL divergence equals the cross-entropy" in " ".join(
        reasons["bi_encoder", "soft_label_kl"].split()
    )
    table = (tmp_path / "grid" / "grid.md").read_text()
    assert "constant" in table and table in capsys.readouterr().out


def test_a_group_in_both_corpora_is_refused(judged: Path, encoder: Path, tmp_path: Path) -> None:
    argv = words(judged, encoder, tmp_path / "run", "--test", str(judged))
    with pytest.raises(UserError, match="^48 groups in both train and test: g1, g11, g16. "):
        recipe("rater")(argv)


def test_as_many_turns_are_read_as_the_rater_reads(tmp_path: Path) -> None:
    turns = [{"text": f"{i}", "speaker": "usr"} for i in range(5)]
    for i in range(1, 5):
        turns.insert(2 * i - 1, {"text": "So.", "speaker": "sys", "strategy": "Others"})
    (tmp_path / "own.jsonl").write_text(json.dumps({"dialog": turns}))

    def sizes(**settings: Any) -> list[tuple[int, int]]:
        read = recipe("rater").__globals__["corpora"]
        corpus, test = read(RaterSettings(data=str(tmp_path / "own.jsonl"), **settings))
        assert test is None
        return [(len(e.input.turns), len(e.input.following)) for e in corpus.examples]

    assert sizes(turns=4, following=5) == [(1, 5), (3, 5), (4, 3), (4, 1)]
    assert sizes(turns=0, following=0) == [(0, 0)] * 4


def test_definitions_are_those_of_a_jsonl_and_of_intents(judged: Path, tmp_path: Path) -> None:
    definitions = tmp_path / "own.yaml"
    definitions.write_text("intents: {asks: The agent asks.}\n")
    table = tmp_path / "own.csv"
    table.write_text("dialogue_id,turn,role,text,asks_1,asks_2\nd,1,agent,Well?,1,1\n")
    levels = tmp_path / "levels.yaml"
    levels.write_text(
        "dimensions:\n"
        "  - {name: warmth, low: 0, high: 3, kind: ordinal, levels: [0, 1, 2, 3]}\n"
        "  - {name: sorrow, low: 0, high: 1, kind: binary, levels: [0, 1]}\n"
    )
    read = recipe("rater").__globals__["corpora"]
    found = read(RaterSettings(data=str(table), definitions=str(definitions)))[0]
    assert [dimension.name for dimension in found.dimensions] == ["asks"]
    found = read(RaterSettings(data=str(judged), definitions=str(levels)))[0]
    assert found.dimensions[0].levels == (0.0, 1.0, 2.0, 3.0)


def test_a_story_in_both_corpora_is_refused(tmp_path: Path) -> None:
    aspects = [f"similarity_{a}_human_AGG" for a in ("event", "emotion", "moral", "empathy")]
    for name, pairs in (("one", ["a,b", "c,d"]), ("two", ["d,e"])):
        rows = [",".join(["story_A", "story_B", *aspects]), *(f"{pair},1,2,3,4" for pair in pairs)]
        (tmp_path / f"{name}.csv").write_text("\n".join(rows) + "\n")
    one, two = (str(tmp_path / f"{name}.csv") for name in ("one", "two"))
    with pytest.raises(UserError, match="texts of stories in both: 1, the first 'd'"):
        recipe("rater").__globals__["corpora"](RaterSettings(data=one, test=two))


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (["--loss", "cosine_embedding"], "cross_encoder has none"),
        (["--folds", "0"], "folds: 0 is too few"),
        (["--dimensions", "coldness"], "coldness is unknown; .* has: warmth, sorrow"),
        (["--test_share", "0.9"], r"test_share: 0\.9 is not in"),
        (["--processes", "2"], "a rater trains on one process"),
        (["--grid_losses", "mse"], "belong together"),
        (["--label_smoothing_factor", "0.1"], "label_smoothing_factor: .* use label_smoothing"),
    ],
)
def test_settings_that_cannot_work(
    judged: Path, encoder: Path, tmp_path: Path, more: Sequence[str], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        recipe("rater")(words(judged, encoder, tmp_path / "run", *more))
    assert not (tmp_path / "run").exists()
