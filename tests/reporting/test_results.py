import copy

import pytest

from empo.records import UserError, write_json
from empo.reporting.results import read_results, write_results


def test_what_is_written_is_read(results, tmp_path):
    write_results(tmp_path / "results.json", results | {"further": 1})
    assert read_results(tmp_path / "results.json")["further"] == 1


def test_every_comparison_has_the_keys_of_the_schema(results):
    keys = {"a", "b", "metric", "difference", "interval", "p", "p_holm", "test", "n"}
    assert results["comparisons"]
    assert all(keys <= set(row) for row in results["comparisons"])


def test_what_does_not_fit_is_not_written(results, tmp_path):
    with pytest.raises(ValueError, match="comparisons"):
        write_results(tmp_path / "results.json", results | {"comparisons": [{"a": "x"}]})
    assert not (tmp_path / "results.json").exists()


def test_warnings_are_a_list_of_sentences(rated, tmp_path):
    write_results(tmp_path / "results.json", rated)
    assert read_results(tmp_path / "results.json")["warnings"] == ["Words | are *no* empathy."]
    with pytest.raises(ValueError, match="warnings"):
        write_results(tmp_path / "results.json", rated | {"warnings": "one"})


def test_errors_name_file_and_field(results, tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"one": 1})
    with pytest.raises(UserError, match=r"results\.json: this is no file of the schema 'empo.res"):
        read_results(path)
    write_json(path, results | {"schema": "empo.results/2"})
    with pytest.raises(UserError, match="'empo.results/2', but this version reads .* Measure the"):
        read_results(path)
    write_json(path, results | {"seed": "one"})
    with pytest.raises(
        UserError, match=r"results\.json, field 'seed': Input should be a valid int"
    ):
        read_results(path)


@pytest.mark.parametrize(
    "trained, field", [({"pairs": 3}, "pairs"), ({"settings": "x"}, "settings")]
)
def test_what_a_training_tells_has_its_type(results, tmp_path, trained, field):
    changed = copy.deepcopy(results)
    changed["systems"]["one"]["trained"] = trained
    write_json(tmp_path / "results.json", changed)
    with pytest.raises(UserError, match=rf"field 'systems\.one\.trained\.{field}'"):
        read_results(tmp_path / "results.json")
