from dataclasses import dataclass
from pathlib import Path

import pytest

from empo.measure import ResponsesSettings
from empo.metrics.evaluation import METRICS
from empo.records import UserError
from empo.settings import option
from empo.suites import FOLDER, load_suite, parse_with_suite, suite_path


@dataclass
class Settings:
    """Two settings and the suite."""

    metrics: str | None = option(None, help="names")
    seed: int = option(0, help="seed")
    suite: str | None = option(None, help="suite")


def parse(*argv):
    return parse_with_suite(list(argv), Settings, "responses", prog="x", description="")


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text("responses:\n  metrics: trie\n  seed: 7\n", encoding="utf-8")
    return path


def test_what_is_given_wins_over_the_suite(suite, tmp_path):
    assert parse("--suite", str(suite)) == Settings("trie", 7, str(suite))
    assert parse("--suite", str(suite), "--seed", "1").seed == 1
    config = tmp_path / "config.yaml"
    config.write_text(f"suite: {suite}\nmetrics: nidf\n", encoding="utf-8")
    assert parse("--config", str(config)) == Settings("nidf", 7, str(suite))
    assert parse() == Settings()


def test_mistakes_name_the_suite(suite, tmp_path):
    suite.write_text("responses:\n  metric: trie\n", encoding="utf-8")
    with pytest.raises(
        UserError, match=r"own\.yaml: metric: no such setting; did you mean metrics"
    ):
        parse("--suite", str(suite))
    suite.write_text("answers:\n  metrics: trie\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"own\.yaml: no such section: 'answers'; known: responses"):
        parse("--suite", str(suite))
    suite.write_text("responses: trie\n", encoding="utf-8")
    with pytest.raises(UserError, match="section 'responses': settings are expected"):
        parse("--suite", str(suite))
    with pytest.raises(
        UserError, match="no suite 'papers'; there are paper, quick, or give a .yaml"
    ):
        parse("--suite", "papers")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_our_suites_fit_the_commands(path: Path):
    assert suite_path(path.stem) == path
    argv = ["--suite", path.stem, "--output", "x", "--responses", "y"]
    settings = parse_with_suite(argv, ResponsesSettings, "responses", prog="x", description="")
    assert set(settings.asked) <= set(METRICS)
    assert load_suite(path)["harness"]["tasks"]


@pytest.mark.parametrize(
    "given, asked",
    [
        ([], ["trie", "bertscore"]),
        (["--rater", "r"], ["trie", "bertscore", "diff_epitome"]),
        (["--metrics", "length"], ["length"]),
        (["--metrics", "length,bertscore"], ["length", "bertscore"]),
        (["--bertscore-model", "other"], ["trie", "bertscore"]),
        (["--nidf-table", "t", "--lexicons", "l"], ["trie", "bertscore", "nidf", "iva"]),
        (["--metrics", "length", "--nidf-table", "t"], ["length"]),
    ],
)
def test_a_model_that_is_given_adds_its_metric_to_those_of_the_suite(tmp_path, given, asked):
    path = tmp_path / "own.yaml"
    path.write_text(
        "responses:\n  metrics: trie,bertscore\n  bertscore_model: minilm\n", encoding="utf-8"
    )
    argv = ["--suite", str(path), "--output", "x", "--responses", "y", *given]
    settings = parse_with_suite(argv, ResponsesSettings, "responses", prog="x", description="")
    assert settings.asked == asked
