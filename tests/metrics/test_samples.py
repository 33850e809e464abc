import numpy as np
import pytest

from empo.metrics import MetricResult
from empo.metrics.samples import DISAGREEMENT, RANDOM, RULES, choose, disagreement
from empo.records import Response

NAN = float("nan")


def result(name, **columns):
    arrays = {key.replace("__", "."): np.array(values, float) for key, values in columns.items()}
    return MetricResult(name, 0, {}, arrays)


def responses(n, name):
    context = [{"role": "user", "content": "hello"}]
    return [
        Response(id=f"{i}", emotion="sad", context=context, reference="r", response=f"{name} {i}",
                 system=name)
        for i in range(n)
    ]  # fmt: skip


def test_disagreement_by_hand():
    measured = {
        "one": {"nidf": result("nidf", nidf=[1, 0, NAN]), "length": result("length", l=[9, 1, 5])},
        "two": {"nidf": result("nidf", nidf=[1, 1, 1]), "length": result("length", l=[1, 1, 1])},
    }
    # all five known values: mean .8, sd .4; exchange 1 spreads by .5; length does not count
    assert disagreement(measured, 3) == pytest.approx([0, 0.5 / 0.4, 0])


def test_values_that_do_not_vary_or_stand_alone_have_no_disagreement():
    assert disagreement({"one": {"nidf": result("nidf", nidf=[1, 2])}}, 2).tolist() == [0, 0]
    same = {name: {"nidf": result("nidf", nidf=[1, 1])} for name in ("one", "two")}
    assert disagreement(same, 2).tolist() == [0, 0]
    assert disagreement({"one": {}}, 2).tolist() == [0, 0]


def test_samples_are_those_of_the_rules():
    n = 40
    aligned = {name: responses(n, name) for name in ("one", "two")}
    values = np.zeros(n)
    values[[7, 11, 30, 38]] = [4, 3, 2, 1]
    measured = {
        "one": {"nidf": result("nidf", nidf=values)},
        "two": {"nidf": result("nidf", nidf=np.zeros(n))},
    }
    chosen = choose(aligned, measured, seed=1)
    rules = [sample["rule"] for sample in chosen]
    assert rules == ["random"] * RANDOM + ["largest disagreement"] * DISAGREEMENT
    assert set(rules) == set(RULES)
    drawn = {sample["id"] for sample in chosen[:RANDOM]}
    most = [key for key in ("7", "11", "30", "38") if key not in drawn][:DISAGREEMENT]
    assert [sample["id"] for sample in chosen[RANDOM:]] == most
    assert chosen[-1]["responses"] == {name: f"{name} {most[-1]}" for name in aligned}
    assert choose(aligned, measured, seed=1) == chosen != choose(aligned, measured, seed=2)


def test_one_response_is_shown_once():
    aligned = {name: responses(1, name) for name in ("one", "two")}
    measured = {name: {"nidf": result("nidf", nidf=[i])} for i, name in enumerate(aligned)}
    assert [sample["rule"] for sample in choose(aligned, measured, seed=0)] == ["random"]
