import pytest

from empo.reporting.run_trainings import (
    differing,
    differing_settings,
    moving_settings,
    pair_rules,
    sweeps,
    system_names,
)


def trained(command="dpo", seed=1, **settings):
    return {"command": command, "seed": seed, "settings": {"seed": seed, **settings}}


def rule(**changed):
    """As recipes/generate.py notes the pairs of a training."""
    plain = {
        "source": "opposite", "candidates": 1, "choose": "random", "rejected": 1, "on_topic": None,
        "margin": None, "at_equal_length": False, "raters": [], "dimensions": [], "exchanges": 80,
        "without_pairs": 0, "too_long": None,
    }  # fmt: skip
    return plain | changed


def run(**systems):
    """A run as far as training goes: name -> trained."""
    results = {"systems": {name: {"trained": of} for name, of in systems.items()}}
    return {"folder": "", "results": results, "per_response": None, "harness": {}}


def test_seeds_places_and_logging_make_no_other_training():
    settings = {"model": "a", "dialogues": "b", "output_dir": "c", "logging_steps": 1, "beta": 0.1}
    assert moving_settings(trained(data_seed=3, save_strategy="no", **settings)) == {"beta": 0.1}
    assert moving_settings({"command": "dpo", "seed": 1}) == {}


def test_a_system_keeps_its_name_over_seeds():
    runs = [run(sft=None, dpo=trained(seed=seed, beta=0.05)) for seed in (1, 2)]
    assert system_names(runs) == {(i, n): n for i in (0, 1) for n in ("sft", "dpo")}


def test_cells_of_a_sweep_are_systems_of_their_own():
    runs = [run(dpo=trained(beta=beta, lora_r=8), human=None) for beta in (0.05, 0.1, 0.1)]
    assert [system_names(runs)[i, "dpo"] for i in range(3)] == [
        "dpo (beta 0.05)",
        "dpo (beta 0.1)",
        "dpo (beta 0.1)",
    ]
    runs[2]["results"]["systems"]["dpo"]["trained"] = trained(lora_r=8)
    assert system_names(runs)[2, "dpo"] == "dpo (beta default)"


def test_other_pairs_make_another_system_and_other_counts_do_not():
    hardest = {"candidates": 4, "choose": "hardest", "raters": ["levels"], "dimensions": ["warmth"]}
    runs = [
        run(dpo=trained(seed=1, beta=0.1) | {"pairs": rule(**changed)})
        for changed in ({}, {"exchanges": 79}, hardest)
    ]
    assert [system_names(runs)[i, "dpo"] for i in range(3)] == [
        "dpo (pairs random)",
        "dpo (pairs random)",
        "dpo (pairs hardest of 4, by levels (warmth))",
    ]
    assert set(system_names(runs[:2]).values()) == {"dpo"}
    scores = {"system": "dpo", "trained": trained(beta=0.1, pairs="/somewhere/pairs")}
    runs = [runs[2], {**run(), "results": None, "harness": {"f": scores}}]  # tells no rule
    assert set(system_names(runs).values()) == {"dpo"}


def test_pairs_of_every_arm_with_the_numbers_of_its_runs():
    found = pair_rules(
        {
            "sft": {"one": trained("sft")},
            "dpo": {
                "one": trained() | {"pairs": rule(exchanges=80, too_long=2)},
                "two": trained() | {"pairs": rule(exchanges=70, without_pairs=10)},
            },
        }
    )
    assert found == {
        "dpo": {
            "rule": ["random"],
            "rejected": {"one": 1, "two": 1},
            "exchanges": {"one": 80, "two": 70},
            "without_pairs": {"one": 0, "two": 10},
            "too_long": {"one": 2},
        }
    }


def test_a_run_that_does_not_tell_its_training_is_no_run_of_the_cells():
    runs = [run(dpo=trained(beta=0.05)), run(dpo=trained(beta=0.1)), run(dpo=None)]
    assert list(system_names(runs).values()) == [
        "dpo (beta 0.05)",
        "dpo (beta 0.1)",
        "dpo (training not told)",
    ]


def test_names_stay_where_those_that_tell_their_training_agree():
    runs = [run(dpo=trained(seed=seed, beta=0.1)) for seed in (1, 2)]
    assert set(system_names([*runs, run(dpo=None)]).values()) == {"dpo"}


def test_harness_files_tell_the_training_too():
    harness = {"system": "dpo", "trained": trained(beta=0.1)}
    runs = [run(dpo=trained(beta=0.05)), {**run(), "results": None, "harness": {"f": harness}}]
    assert system_names(runs)[1, "dpo"] == "dpo (beta 0.1)"


def test_differing_settings():
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": None}]) == ["b"]
    assert differing([{"a": 1}, {"a": True}]) == ["a"]
    assert differing([{"a": 1}]) == []


def test_settings_that_differ_between_systems_with_the_values_of_all_runs():
    found = differing_settings(
        {
            "sft": {"one": trained("sft", epochs=1, model="base", lr=1e-6)},
            "dpo": {
                "one": trained(seed=1, epochs=3, model="sft-1", lr=1e-6),
                "two": trained(seed=2, epochs=3, model="sft-2", lr=1e-6),
            },
        }
    )
    assert found == {
        "epochs": {"sft": [1], "dpo": [3]},
        "model": {"sft": ["base"], "dpo": ["sft-1", "sft-2"]},
    }


def cells(*values, **more):
    return {f"sft-{v}": {"run": trained("sft", lora_alpha=v, **more)} for v in values}


def test_a_sweep_is_one_number_that_differs():
    assert sweeps(cells(64, 16)) == [
        {"setting": "lora_alpha", "lines": {"sft": [[16, "sft-16"], [64, "sft-64"]]}}
    ]


def test_two_commands_that_sweep_the_same_setting_are_two_lines():
    systems = cells(16, 64)
    systems |= {f"dpo-{v}": {"run": trained("dpo", lora_alpha=v, beta=0.1)} for v in (16, 64)}
    (sweep,) = sweeps(systems)
    assert sweep["lines"] == {
        "sft": [[16, "sft-16"], [64, "sft-64"]],
        "dpo": [[16, "dpo-16"], [64, "dpo-64"]],
    }


@pytest.mark.parametrize(
    "systems",
    [
        {},
        cells(16),
        cells("high", "low"),
        cells(True, False),
        cells(16) | {"b": {"run": trained("sft", lora_alpha=64, lr=1)}},
        cells(16) | {"b": {"run": trained("dpo", lora_alpha=64)}},
    ],
    ids=["nothing", "one", "words", "switches", "two settings", "two commands"],
)
def test_what_is_no_sweep(systems):
    assert sweeps(systems) == []
