import copy
import json
import subprocess
import sys

import pytest
import yaml

from empo.cards import rater_card


def score(value, **further):
    return {"value": value, "sd_seeds": 0.011, "interval": [value - 0.1, value + 0.1]} | further


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
        "source": "judged.jsonl",
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
        "sizes": [{"train": 800, "validation": 40, "test": 200}],
    },
    "settings": {"encoder": "minilm", "max_length": 64},
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
                "calibration": None,
                "length_correlation": {
                    "rater": {"spearman": score(0.1, sd_seeds=None)},
                    "gold": {"spearman": score(0.2)},
                },
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
        "inputs of one seeker stay together; folds 5, seed 3 (train 800, validation 40, test 200)",
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
        "import sys, empo.cards; print(*sorted({'numpy', 'sklearn', 'torch'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
