from pathlib import Path

import numpy as np
import pytest

from empo.corpora.labelled import Example
from empo.dialogues import Turn
from empo.raters.baselines import baseline_predictions, characters, length_features
from empo.raters.held_out import Unit
from empo.raters.held_out import predict as predict_held_out
from empo.raters.splits import Split
from empo.rating import Dimension, RatingInput, Ratings
from empo.records import UserError

LEVELS = Dimension("warmth", 0, 2, "ordinal", (0.0, 1.0, 2.0))
SCALE = Dimension("event", 1, 4, "interval")


def inputs(*lengths):
    """Responses of so many words to one context."""
    return [RatingInput("My train was late.", " ".join(["word"] * length)) for length in lengths]


def predict(train, labels, test, dimension=LEVELS, **options):
    table = np.array(labels, dtype=float)[:, None]
    found = baseline_predictions(train, table, test, [dimension], **options)
    return found["constant"][:, 0], found["length"][:, 0]


def test_the_constant_is_the_most_frequent_level_or_the_mean():
    constants, _ = predict(inputs(1, 2, 3, 4), [2, 0, 2, 1], inputs(1, 9))
    assert constants.tolist() == [2, 2]
    assert predict(inputs(1, 2), [1, 0], inputs(1))[0].tolist() == [0]  # of equals the lowest
    constants, _ = predict(inputs(1, 2, 3), [1, 2, 4.5], inputs(1), SCALE)
    assert constants.tolist() == [2.5]


def test_length_is_learnt():
    lengths = np.tile([2, 8, 40], 20)
    labels = np.tile([0, 1, 2], 20)
    _, predicted = predict(inputs(*lengths), labels, inputs(40, 2, 8, 2))
    assert predicted.tolist() == [2, 0, 1, 0]
    _, predicted = predict(inputs(*lengths), labels + 1.5, inputs(2, 8, 40), SCALE)
    assert predicted == pytest.approx([1.5, 2.5, 3.5], abs=0.1)


def test_nothing_but_length_is_seen():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcd efgh"), size=n)) for n in rng.integers(3, 60, 60)]
    labels = rng.integers(0, 3, 60)
    others = [text.translate(str.maketrans("abcd", "wxyz")) for text in texts]
    train, test = (
        [RatingInput(context, text) for text in of]
        for context, of in (("a context", texts), ("another, longer context", others))
    )
    assert np.array_equal(predict(train, labels, train)[1], predict(train, labels, test)[1])
    assert len(set(predict(train, labels, train)[1])) > 1


def test_the_two_texts_of_a_symmetric_input_may_be_swapped():
    rng = np.random.default_rng(1)
    a, b = rng.integers(1, 50, (2, 60))
    pairs = [RatingInput("x " * i, "x " * j) for i, j in zip(a, b, strict=True)]
    swapped = [RatingInput(pair.response, pair.context) for pair in pairs]
    labels = np.clip(1 + (a + b) / 40, 1, 4)
    for dimension, y in ((SCALE, labels), (LEVELS, np.round(labels) - 1)):
        y = np.clip(y, dimension.low, dimension.high)
        one = predict(pairs, y, pairs, dimension, symmetric=True)[1]
        assert np.array_equal(one, predict(pairs, y, swapped, dimension, symmetric=True)[1])
        assert np.ptp(one) > 0
    assert not np.array_equal(length_features(pairs), length_features(swapped))


def test_features_by_hand():
    turns = (Turn("user", "a b"), Turn("assistant", "cd"))
    features = length_features([RatingInput(turns, "one two, three")])
    assert features == pytest.approx(np.log([[15, 4]]))
    both = length_features([RatingInput("ab", "one two, three")], symmetric=True)
    assert both == pytest.approx(np.log([[3, 2, 15, 4]]))


def test_the_length_of_an_input_has_one_definition():
    """Where scores are held out and where they are compared: both texts if they are alike."""
    pair = RatingInput((Turn("user", "a b"), Turn("assistant", "cd")), "one two, three")
    assert (characters(pair), characters(pair, symmetric=True)) == (14, 14 + len("a b\ncd"))

    class Silent:
        dimensions = (SCALE,)

        def score(self, pairs, *, batch_size=32):
            return Ratings.of((SCALE,), np.full((len(pairs), 1), 2.0), "silent@1")

    examples = [
        Example(f"e{i}", f"g{i}", RatingInput("x" * i, "y" * 7), {"event": 1 + i % 3})
        for i in range(12)
    ]
    split = Split(np.arange(8), np.arange(8, 10), np.arange(10, 12), False)
    for symmetric in (False, True):
        rows = predict_held_out(Silent(), Unit(1, 0, Path()), split, examples, [SCALE], symmetric)
        assert [row["characters"] for row in rows] == ([17, 18] if symmetric else [7, 7])


def test_missing_labels_are_left_out_and_a_dimension_without_any_has_no_prediction():
    labels = np.array([[0, np.nan], [np.nan, np.nan], [2, np.nan], [2, np.nan]])
    dims = [LEVELS, Dimension("event", 1, 4, "interval")]
    found = baseline_predictions(inputs(1, 2, 3, 4), labels, inputs(1, 2), dims)
    assert found["constant"][:, 0].tolist() == [2, 2]
    assert np.isfinite(found["length"][:, 0]).all()
    for name in ("constant", "length"):
        assert np.isnan(found[name][:, 1]).all()


@pytest.mark.parametrize("labels", [[0, 1, 1], [2, 2, 2]], ids=["equal lengths", "one level"])
def test_where_nothing_varies_length_is_the_constant(labels):
    lengths = (5, 5, 5) if len(set(labels)) > 1 else (1, 2, 3)
    constants, predicted = predict(inputs(*lengths), labels, inputs(1, 5))
    assert predicted.tolist() == constants.tolist()


def test_the_rare_level_is_not_given_up():
    """Longer responses have level 2 more often, but never mostly: the majority stays level 0."""
    rng = np.random.default_rng(2)
    lengths = rng.integers(1, 60, 600)
    labels = 2 * (rng.random(600) < lengths / 180)
    constants, predicted = predict(inputs(*lengths), labels, inputs(*range(1, 60)))
    assert set(constants) == {0}
    assert set(predicted) == {0, 2}
    assert predicted[-10:].mean() > predicted[:10].mean()


def test_ridge_stays_in_the_range_and_near_the_mean_where_length_says_nothing():
    _, predicted = predict(inputs(1, 2, 30, 40), [1, 1, 4, 4], inputs(1, 4000), SCALE)
    assert (predicted >= 1).all()
    assert (predicted <= 4).all()
    rng = np.random.default_rng(3)
    labels = rng.uniform(1, 4, 60)
    constants, predicted = predict(inputs(*range(1, 61)), labels, inputs(*range(1, 61)), SCALE)
    assert np.abs(predicted - constants).max() < 0.3


def test_the_same_inputs_give_the_same_predictions():
    rng = np.random.default_rng(4)
    given = inputs(*rng.integers(1, 60, 90)), rng.integers(0, 3, 90), inputs(*range(1, 30))
    assert np.array_equal(predict(*given)[1], predict(*given)[1])


def test_labels_must_fit_the_inputs():
    with pytest.raises(
        UserError, match=r"labels of shape \(2, 1\) for 3 training inputs and 1 dim"
    ):
        predict(inputs(1, 2, 3), [0, 1], inputs(1))


def test_nothing_to_predict():
    assert [len(values) for values in predict(inputs(1, 2), [0, 1], [])] == [0, 0]
