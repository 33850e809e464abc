"""`empo rate`: from file to file, a cache in between, every mistake named by line and field."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from empo.rate import rate_command, read_pairs
from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, resolve_encoder
from empo.raters.inputs import InputSettings
from empo.rating import Dimension, RatingInput
from empo.records import UserError, read_json, read_jsonl

sys.path.insert(0, str(Path(__file__).parent / "raters"))
sys.path.insert(0, str(Path(__file__).parent / "recipes"))
from tiny_encoders import write_encoders
from tiny_runs import command

LINES = [
    {"id": "a", "context": "I lost my job.", "response": "That sounds hard."},
    {
        "context": [
            {"role": "system", "content": "Be kind."},
            {"role": "user", "content": "My dog was sick."},
        ],
        "response": "How did it start?",
        "emotion": "sad",
    },
    {"id": "blank", "context": "Nobody came.", "response": "  "},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained rater of two dimensions."""
    encoder, tokenizer = load_encoder(
        str(write_encoders(tmp_path_factory.mktemp("encoders"))["bert"])
    )
    dimensions = [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in ("warm", "open")]
    model = PairClassifier.from_encoder(encoder, PairClassifierConfig(classes=[3, 3]))
    config = rater_config("untrained", dimensions, InputSettings(max_length=8))
    path = tmp_path_factory.mktemp("rater") / "untrained"
    EncoderRater(model, tokenizer, config, weights="").save(path)
    return path


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def rate(folder: Path, lines: Path, output: Path, *more: str) -> list[dict]:
    words = ["--rater", str(folder), "--input", str(lines), "--output", str(output)]
    assert rate_command([*words, "--cache", str(output.parent / "cache.sqlite"), *more]) == 0
    return [row for _, row in read_jsonl(output)]


def test_a_line_of_scores_per_input_in_order(folder: Path, lines: Path, tmp_path: Path) -> None:
    rows = rate(folder, lines, tmp_path / "ratings.jsonl")
    assert [row["id"] for row in rows] == ["a", "2", "blank"]
    direct = EncoderRater.load(folder).score(
        [RatingInput("I lost my job.", "That sounds hard."), RatingInput("", "")]
    )
    assert rows[0]["scores"] == dict(zip(("warm", "open"), direct.scores[0], strict=True))
    assert np.allclose(rows[0]["probabilities"]["warm"], direct.probabilities[0][0], atol=1e-6)
    assert rows[2]["scores"] == {"warm": None, "open": None} and rows[2]["n_valid"] == 0
    assert {row["signature"] for row in rows} == {direct.signature}


def test_the_manifest_counts_and_repeats_the_warnings(
    folder: Path, lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rate(folder, lines, tmp_path / "ratings.jsonl")
    manifest = read_json(tmp_path / "ratings.jsonl.manifest.json")
    assert manifest["counts"] == {
        "inputs": 3,
        "from_cache": 0,
        "unscored": 1,
        "context_truncated": 0,
        "response_truncated": 0,
    }
    assert "nothing shows that it beats a constant" in manifest["warnings"][0]
    assert "warning: Rater untrained" in capsys.readouterr().err


def test_a_second_call_answers_from_the_cache_without_loading_the_weights(
    folder: Path, lines: Path, tmp_path: Path
) -> None:
    first = rate(folder, lines, tmp_path / "one.jsonl")
    program = (
        "import sys; sys.argv[1:] = ARGV\n"
        "from empo.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "print('LOADED', *sorted({'torch', 'transformers'} & sys.modules.keys()))"
    )
    words = ["rate", "--rater", str(folder), "--input", str(lines)]
    words += ["--output", str(tmp_path / "two.jsonl"), "--cache", str(tmp_path / "cache.sqlite")]
    done = command([sys.executable, "-c", program.replace("ARGV", repr(words))])
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "LOADED"
    assert [row for _, row in read_jsonl(tmp_path / "two.jsonl")] == first
    assert read_json(tmp_path / "two.jsonl.manifest.json")["counts"]["from_cache"] == 3


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ({"context": "x"}, r"line 1, field 'response': missing"),
        ({"response": "x"}, r"line 1, field 'context': missing\. For a response to nothing write"),
        ({"context": None, "response": "x"}, r"'context': a text or a list of messages"),
        ({"context": 3, "response": "x"}, r"field 'context': a text or a list of messages"),
        ({"context": [{"role": "bot", "content": "x"}], "response": "x"}, "needs role"),
        ({"context": [{"role": "user"}], "response": "x"}, "and content"),
        ({"context": "x", "response": "x", "following": "y"}, "field 'following'"),
        ({"context": "x", "response": "x", "background": 1}, "field 'background': a text"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: dict, text: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(UserError, match=text):
        read_pairs(path)


def test_an_empty_context_is_one(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"context": "", "response": "x"}\n')
    assert read_pairs(path) == (["1"], [RatingInput("", "x")])


def test_the_input_is_never_written_over(
    folder: Path, lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = lines.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(lines)
    monkeypatch.chdir(tmp_path)
    for output in (lines, Path("pairs.jsonl"), tmp_path / "link.jsonl"):
        with pytest.raises(UserError, match="would be written over the input; choose another one"):
            rate(folder, lines, output)
    manifest = tmp_path / "ratings.jsonl.manifest.json"
    manifest.write_bytes(before)
    with pytest.raises(UserError, match="would be written over the input"):
        rate(folder, manifest, tmp_path / "ratings.jsonl")
    assert lines.read_bytes() == manifest.read_bytes() == before


def test_a_second_call_on_many_lines_answers_from_the_cache_only(tmp_path: Path) -> None:
    encoder, tokenizer = load_encoder(resolve_encoder("minilm")[0])
    model = PairClassifier.from_encoder(encoder, PairClassifierConfig(classes=[3]))
    dimensions = [Dimension("warm", 0, 2, "ordinal", (0.0, 1.0, 2.0))]
    config = rater_config("packaged", dimensions, InputSettings())
    EncoderRater(model, tokenizer, config, weights="").save(tmp_path / "packaged")
    lines = tmp_path / "many.jsonl"
    rows = [{"context": f"I lost job {i}.", "response": "How did it go?"} for i in range(300)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = rate(tmp_path / "packaged", lines, tmp_path / "one.jsonl")
    second = rate(tmp_path / "packaged", lines, tmp_path / "two.jsonl")
    assert first == second and len(first) == 300
    hits = [
        read_json(tmp_path / f"{name}.jsonl.manifest.json")["counts"] for name in ("one", "two")
    ]
    assert [counts["from_cache"] for counts in hits] == [0, 300]


def test_an_output_that_is_a_folder_is_refused_before_anything_is_scored(
    folder: Path, lines: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="is a folder; give the name of a jsonl file"):
        rate(folder, lines, tmp_path)


def test_a_folder_that_is_no_rater(lines: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="this is no rater folder"):
        rate(tmp_path, lines, tmp_path / "ratings.jsonl")
