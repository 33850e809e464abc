import copy
import json
import subprocess
import sys

import pytest
import yaml

from empo.rater_cards import rater_card


def score(value, **further):
    return {"value": value, "sd_seeds": 0.011, "interval": [value - 0.1, value + 0.1]} | further


def above(value, **further):
    found = score(value, **further)
    return {"difference": found.pop("value")} | found


NONE = {"value": None, "sd_seeds": None, "interval": None}


def predictor(*values):
    keys = ("macro_f1", "accuracy", "weighted_f1", "precision", "recall", "f1")
    found = dict(zip(keys, map(score, values), strict=True))
    level = {key: found.pop(key) for key in ("precision", "recall", "f1")}
    return found | {"classes": {"0": {"support": 30, **level}, "1": {"support": [9, 10], **level}}}


FACTS = {
    "name": "warm",
    "kind": "pair_classifier",
    "dimensions": [
        {"name": "warmth", "low": 0.0, "high": 1.0, "kind": "binary", "levels": [0.0, 1.0]},
        {"name": "event", "low": -2.0, "high": 4.0, "kind": "interval", "levels": None},
    ],
    "data": {
        "source": "/somewhere/private/judged.jsonl",
        "schema": "examples",
        "examples": 1040,
        "groups": 520,
        "rejected": {"no label": 2, "empty response": 1},
        "labels": {"warmth": {"0": 700, "1": 340}, "event": {f"{i}": 1 for i in range(40)}},
    },
    "licence": "research only",
    "split": {
        "group": "inputs of one seeker stay together",
        "folds": 5,
        "split_seed": 3,
        "inner_validation_by": "group",
        "sizes": [{"train": 800, "validation": 40, "test": 200}],
    },
    "settings": {"encoder": "minilm", "max_length": 64, "data": "judged.jsonl"},
    "seeds": [1, 2, 3],
    "evaluation": {
        "n": 40,
        "groups": 20,
        "method": "Bootstrap.",
        "notes": ["Few groups."],
        "truncated": 10,
        "response_truncated": None,
        "dimensions": {
            "warmth": {
                "task": "classes",
                "n": 40,
                "predictors": {
                    "rater": predictor(0.71, 0.72, 0.73, 0.74, 0.75, 0.76),
                    "constant": predictor(0.41, 0.42, 0.43, 0, 0, 0),
                },
                "differences": {"constant": {"macro_f1": above(0.3)}, "length": None},
                "calibration": {"ece": score(0.055)},
                "length_correlation": {
                    "rater": {"spearman": score(0.31)},
                    "gold": {"spearman": score(-0.21)},
                },
            },
            "event": {
                "task": "interval",
                "n": 38,
                "predictors": {
                    "rater": {k: score(0.9) for k in ("mse", "mae", "pearson", "spearman")},
                    "constant": {
                        "mse": score(0.8),
                        "mae": score(0.7),
                        "pearson": NONE,
                        "spearman": NONE,
                    },
                },
                "differences": {
                    "constant": {"mse": above(-0.1)},
                    "length": {"mse": above(0.25, sd_seeds=None)},
                },
                "calibration": None,
                "length_correlation": {
                    "rater": {"spearman": score(0.1, sd_seeds=None)},
                    "gold": {"spearman": score(0.2)},
                },
            },
        },
        "mean": {
            "classes": {
                "dimensions": ["warmth", "tact"],
                "differences": {"constant": {"macro_f1": above(0.4)}},
            },
            "interval": {
                "dimensions": ["event"],
                "differences": {"constant": {"mse": above(0.77)}},
            },
        },
    },
    "signature": "warm@abc (max_length 64)",
    "golden": [
        {
            "context": "I lost | my\nkeys.",
            "response": "Oh no!",
            "scores": {"warmth": 1.0, "event": None},
        }
    ],
    "warnings": ["It does not beat length in event."],
    "versions": {"empo": "0.1.0"},
    "agreement": None,
}


def test_header_is_that_of_the_hub():
    _, header, _ = rater_card(FACTS).split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "empo",
        "license": "other",
        "pipeline_tag": "text-classification",
        "tags": ["empo", "empathy", "rater", "pair_classifier"],
    }


@pytest.mark.parametrize(
    "said",
    [
        "**Not for clinical use, and not for the assessment of individual people.**",
        "> **Warning.** It does not beat length in event.",
        "| warmth | binary | 0 to 1 | 0, 1 |",
        "| event | interval | -2 to 4 | any value |",
        "1,040 examples in 520 groups, 3 left out",
        "licence of the data: research only",
        "# warm\n\nScores what annotators saw in texts like those below.\n\n**Not for clinical use",
        "- judged.jsonl [examples]",
        "inputs of one seeker stay together; folds 5, seed 3 (train 800, validation 40, test 200); "
        "the epoch was chosen on an inner validation part, drawn by group\n",
        "| warmth | rater against constant | macro F1 | 40 | 0.300 ± 0.011 [0.200, 0.400] |",
        "| event | rater against constant | MSE | 38 | -0.100 ± 0.011 [-0.200, 0.000] |",
        "| event | rater against length | MSE | 38 | 0.250 [0.150, 0.350] |",
        "| mean over warmth, tact | rater against constant | macro F1 | 40 | 0.400 ± 0.011 [",
        "labels of warmth: 0: 700, 1: 340",
        "n = 40 inputs in 20 groups, seeds 1, 2, 3:",
        "Bootstrap.",
        "Few groups.",
        "| dimension | value | n | rater | constant |",
        "| warmth | macro F1 | 40 | 0.710 ± 0.011 [0.610, 0.810] | 0.410 ± 0.011 [0.310, 0.510] |",
        "| event | Pearson | 38 | 0.900 ± 0.011 [0.800, 1.000] | — |",
        "| warmth | 0 | 30 | 0.740 ± 0.011 [0.640, 0.840] | 0.750 ± 0.011 [0.650, 0.850] |",
        "| warmth | 1 | 9 to 10 |",
        "| warmth | 0.055 ± 0.011 [-0.045, 0.155] | 0.310 ± 0.011 [0.210, 0.410] | -0.210 ± 0.011",
        "| event | none: no probabilities | 0.100 [0.000, 0.200] |",
        "truncated contexts: 10 of 40 (25.0%)",
        "truncated responses: not recorded",
        "Not given. Without it nobody knows how good a rater can be.",
        "| I lost \\| my keys. | Oh no! | 1.0000 | — |",
        "`warm@abc (max_length 64)`",
        "- empo 0.1.0",
    ],
)
def test_the_card_says(said):
    assert said in rater_card(FACTS)


def test_the_mean_over_one_dimension_says_nothing_new():
    assert "mean over event" not in rater_card(FACTS)


def test_no_folder_of_the_machine_is_named():
    settings = {"data": "/somewhere/private/judged.jsonl", "test": ["/somewhere/b/t.jsonl"]}
    settings |= {"encoder": "/somewhere/encoders/tiny"}
    encoder = {"name": "tiny", "identity": "0123abc"}
    text = rater_card(FACTS | {"settings": settings, "encoder": encoder})
    assert "/somewhere" not in text
    shown = json.loads(text.split("```json\n")[1].split("```")[0])
    assert shown == {"data": "judged.jsonl", "test": ["t.jsonl"], "encoder": "tiny"}
    assert "Encoder: tiny (0123abc)." in text


def test_every_corpus_has_its_line_and_labels():
    other = {
        **FACTS["data"],
        "source": "/x/more.jsonl",
        "groups": 7,
        "labels": {"warmth": {"1": 3}},
    }
    text = rater_card(FACTS | {"corpora": [FACTS["data"], other]})
    assert "- judged.jsonl [examples]: 1,040 examples in 520 groups" in text
    assert "- more.jsonl [examples]: 1,040 examples in 7 groups" in text
    assert "- labels of warmth in more.jsonl: 1: 3" in text


def test_one_seed_has_no_deviation_over_seeds():
    text = rater_card(FACTS | {"seeds": [4]})
    assert "groups, seed 4: value, and in brackets its interval. Bootstrap." in text
    assert "over seeds" not in text


def test_a_note_on_the_labels_stands_in_place_of_annotators():
    text = rater_card(FACTS | {"note": "The labels are those of another rater."})
    assert "# warm\n\nThe labels are those of another rater.\n\n**Not for clinical use" in text
    assert "annotators saw" not in text


def test_the_scale_of_the_labels_stands_beside_that_of_the_scores():
    labels = [{"name": "event", "low": 1.0, "high": 4.0, "kind": "interval", "levels": None}]
    text = rater_card(FACTS | {"label_dimensions": labels})
    assert "| dimension | kind | range | levels | range of the labels |" in text
    assert "| event | interval | -2 to 4 | any value | 1 to 4 |" in text


def test_probabilities_stand_beside_the_levels():
    (sample,) = FACTS["golden"]
    sample = sample | {"probabilities": {"warmth": [0.25, 0.75], "event": None}}
    text = rater_card(FACTS | {"golden": [sample]})
    assert "| Oh no! | 1.0000 (0: 0.2500, 1: 0.7500) | — |" in text


def test_without_baselines_the_card_says_that_nothing_is_shown():
    facts = copy.deepcopy(FACTS)
    for entry in (
        *facts["evaluation"]["dimensions"].values(),
        *facts["evaluation"]["mean"].values(),
    ):
        entry["differences"] = {"constant": None}
    assert "No baseline could be fitted" in rater_card(facts)


def test_long_label_tables_are_left_out():
    assert "labels of event" not in rater_card(FACTS)


def test_settings_are_there_as_json():
    text = rater_card(FACTS).split("```json\n")[1].split("```")[0]
    assert json.loads(text) == FACTS["settings"]


def test_agreement_where_it_is_known():
    facts = copy.deepcopy(FACTS) | {"agreement": {"warmth": "alpha .61 [.55, .67], n = 300"}}
    assert "- warmth: alpha .61 [.55, .67], n = 300" in rater_card(facts)
    assert "Not given." not in rater_card(facts)


def test_a_rater_without_levels_has_no_table_of_classes():
    facts = copy.deepcopy(FACTS)
    del facts["evaluation"]["dimensions"]["warmth"]
    text = rater_card(facts)
    assert "precision" not in text
    assert "| event | MSE | 38 |" in text


def test_cards_need_neither_numpy_nor_scikit_learn():
    code = (
        "import sys, empo.cards, empo.rater_cards; "
        "print(*sorted({'numpy', 'sklearn', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
