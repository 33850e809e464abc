import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.metrics.diff_epitome import BATCHES, RatedOnce, diff_epitome
from empo.rating import MECHANISMS, Dimension, Ratings
from empo.records import Response, UserError

THREE = tuple(Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS)


class DigitRater:
    """A user's own rater: a text of three digits has those levels, another text has none.

    The order is that of MECHANISMS: emotional reactions, interpretations, explorations.
    """

    def __init__(self, dimensions=THREE):
        self.dimensions = dimensions
        self.calls = []

    def score(self, pairs, *, batch_size=32):
        self.calls.append(list(pairs))
        scores = [
            list(map(float, p.response)) if p.response.isdigit() else [math.nan] * 3 for p in pairs
        ]
        return Ratings.of(self.dimensions, scores, "digits")


def responses_of(*pairs, context=({"role": "user", "content": "?"},)):
    return [
        Response(
            id=f"id{i}",
            emotion="sad",
            context=list(context),
            reference=reference,
            response=response,
            system="s",
        )
        for i, (response, reference) in enumerate(pairs)
    ]


FOUR = responses_of(("201", "100"), ("000", "012"), ("222", "200"), ("010", "010"))


def test_values_computed_by_hand():
    result = diff_epitome(FOUR, DigitRater())
    values = result.values
    # squared level differences: 1 0 1 | 0 1 4 | 0 4 4 | 0 0 0
    assert result.per_response["diff_epitome"] == pytest.approx([2 / 3, 5 / 3, 8 / 3, 0])
    assert result.per_response["diff_epitome.interpretations"].tolist() == [0, 1, 4, 0]
    assert result.per_response["epitome_levels"].tolist() == [3, 0, 6, 1]
    assert values["emotional_reactions"] == 1 / 4
    assert values["interpretations"] == 5 / 4
    assert values["explorations"] == 9 / 4
    assert values["mean"] == pytest.approx(15 / 12)
    assert values["n"] == result.n == 4
    assert values["levels_sum"]["mean"] == 10 / 4
    assert values["reference_levels_sum"]["mean"] == 7 / 4

    explorations = values["mechanisms"]["explorations"]
    assert explorations["mean"] == values["explorations"]
    assert explorations["sd"] == pytest.approx(np.std([1, 4, 4, 0], ddof=1))
    assert explorations["signed"]["mean"] == (1 - 2 + 2 + 0) / 4
    assert explorations["levels"] == [2, 1, 1]
    assert explorations["reference_levels"] == [3, 0, 1]
    # references 0, 2, 0, 0 (rows) meet responses 1, 0, 2, 0 (columns)
    assert explorations["confusion"] == [[1, 1, 1], [0, 0, 0], [1, 0, 0]]


def test_controls_computed_by_hand():
    controls = diff_epitome(FOUR, DigitRater()).values["controls"]
    # reference levels: ER 1 0 2 0, IP 0 1 0 1, EX 0 2 0 0
    assert controls["always_level_0"]["emotional_reactions"] == 5 / 4
    assert controls["always_level_0"]["interpretations"] == 2 / 4
    assert controls["always_level_0"]["explorations"] == 4 / 4
    assert controls["always_level_0"]["mean"] == pytest.approx(11 / 12)
    # twice the variances 11/16, 1/4, 3/4
    drawn = controls["drawn_from_reference"]
    assert drawn["emotional_reactions"] == pytest.approx(11 / 8)
    assert drawn["interpretations"] == pytest.approx(1 / 2)
    assert drawn["explorations"] == pytest.approx(3 / 2)
    assert drawn["mean"] == pytest.approx((11 / 8 + 1 / 2 + 3 / 2) / 3)
    assert drawn["n"] == 4
    assert drawn["sd"] is None
    assert drawn["reasons"]["sd"] == "an expectation: no draw is made that could spread"


LEVELS = st.text("012", min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(st.lists(LEVELS, min_size=1, max_size=8))
def test_controls_are_what_such_systems_score(references):
    rater = DigitRater()
    silent = diff_epitome(responses_of(*(("000", r) for r in references)), rater).values
    control = silent["controls"]["always_level_0"]
    for name in ("mean", *MECHANISMS):
        assert silent[name] == pytest.approx(control[name])
    # every reference's levels as a response to every exchange: the draws, all equally often
    every = [(drawn, reference) for drawn in references for reference in references]
    values = diff_epitome(responses_of(*every), rater).values
    for name in ("mean", *MECHANISMS):
        assert values[name] == pytest.approx(silent["controls"]["drawn_from_reference"][name])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(LEVELS, LEVELS), min_size=1, max_size=8))
def test_response_and_reference_exchanged(pairs):
    rater = DigitRater()
    values = diff_epitome(responses_of(*pairs), rater).values
    back = diff_epitome(responses_of(*((b, a) for a, b in pairs)), rater).values
    assert back["mean"] == values["mean"]
    for name in MECHANISMS:
        here, there = values["mechanisms"][name], back["mechanisms"][name]
        assert there["signed"]["mean"] == -here["signed"]["mean"]
        assert np.array_equal(there["confusion"], np.transpose(here["confusion"]))
        assert there["levels"] == here["reference_levels"]


def test_only_the_last_speaker_turn_is_context():
    rater = DigitRater()
    context = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "reply"},
        {"role": "user", "content": "last"},
    ]
    diff_epitome(responses_of(("012", "210"), context=context), rater)
    (pairs,) = rater.calls
    assert [(pair.context, pair.response) for pair in pairs] == [("last", "012"), ("last", "210")]


def test_what_was_not_scored_is_left_out_and_counted():
    pairs = [("201", "100"), ("no", "100"), ("000", "no"), ("no", "no")]
    result = diff_epitome(responses_of(*pairs), DigitRater())
    values = result.values
    alone = diff_epitome(responses_of(pairs[0]), DigitRater()).values
    assert values["mean"] == alone["mean"]
    assert values["controls"]["always_level_0"] == alone["controls"]["always_level_0"]
    assert (
        values["mechanisms"]["explorations"]["confusion"]
        == (alone["mechanisms"]["explorations"]["confusion"])
    )
    assert (result.n, values["n"], values["unscored"]) == (4, 1, 3)
    assert (values["unscored_responses"], values["unscored_references"]) == (2, 2)
    assert np.isnan(result.per_response["diff_epitome"]).tolist() == [False, True, True, True]
    # a response's own levels need no reference
    assert np.isnan(result.per_response["epitome_levels"]).tolist() == [False, True, False, True]
    assert values["levels_sum"]["n"] == 2


@pytest.mark.parametrize("blank", ["", " \n"])
def test_a_blank_response_is_level_0_and_counted(blank):
    """The rater has no score for it; left out, the worst answers would better a system's mean."""
    spoken = diff_epitome(responses_of(("100", "100"), ("000", "222")), DigitRater()).values
    result = diff_epitome(responses_of(("100", "100"), (blank, "222")), DigitRater())
    assert result.values["mean"] == spoken["mean"] == 2
    assert (result.values["n"], result.values["unscored"], result.values["blank"]) == (2, 0, 1)
    assert spoken["blank"] == 0
    assert result.per_response["epitome_levels"].tolist() == [1, 0]


def test_differences_to_the_controls_by_hand():
    values = diff_epitome(FOUR, DigitRater()).values
    # per response 2/3 5/3 8/3 0, against always level 0: 1/3 5/3 4/3 1/3
    found = values["against_level_0"]
    assert found["difference"] == pytest.approx((1 / 3 + 0 + 4 / 3 - 1 / 3) / 4)
    assert -1 / 3 <= found["interval"][0] < found["difference"] < found["interval"][1] <= 4 / 3
    drawn = values["controls"]["drawn_from_reference"]["mean"]
    assert values["against_drawn"]["difference"] == pytest.approx(values["mean"] - drawn)
    silent = diff_epitome(responses_of(("000", "100"), ("000", "222")), DigitRater()).values
    assert silent["against_level_0"] == {"difference": 0, "interval": [0, 0]}
    alone = diff_epitome(FOUR[:1], DigitRater()).values["against_level_0"]
    assert alone["interval"] is None
    assert alone["reasons"] == {"interval": "needs two responses that have this value"}


class PartlyRater(DigitRater):
    """Cannot tell the interpretations of any text, cuts everything, and warns."""

    def score(self, pairs, *, batch_size=32):
        scores = np.array([list(map(float, pair.response)) for pair in pairs])
        scores[:, 1] = np.nan
        return Ratings.of(
            self.dimensions,
            scores,
            "partly",
            warnings=["Do not trust me."],
            truncated=[pair.response == "000" for pair in pairs],
            response_truncated=[pair.response == "200" for pair in pairs],
            parse_failed=[pair.response == "222" for pair in pairs],
        )


def test_without_any_score_there_are_reasons():
    values = diff_epitome(FOUR, PartlyRater()).values
    assert values["unscored"] == 4
    for described in (values, *values["controls"].values()):
        assert described["mean"] is None
        for name in ("mean", *MECHANISMS):
            assert described["reasons"][name] == "no response has this value"
    assert values["mechanisms"]["explorations"]["confusion"] == [[0, 0, 0]] * 3


def test_what_the_rater_says_about_itself_is_kept():
    result = diff_epitome(FOUR, PartlyRater())
    assert result.values["warnings"] == ["Do not trust me."]
    assert result.signature.endswith("last speaker turn; partly")
    assert result.values["truncated"] == {"context": 0.25, "response": 0, "reference": 0.25}
    assert result.values["parse_failed"] == 1


def test_missing_mechanisms_are_named():
    lacking = (*THREE[:1], Dimension("event", 1, 4, "interval"))
    with pytest.raises(UserError) as error:
        diff_epitome(FOUR, DigitRater(lacking))
    assert str(error.value) == (
        "DIFF-EPITOME needs a rater of emotional_reactions, interpretations, explorations. "
        "Missing: interpretations, explorations; the rater has: emotional_reactions, event. "
        "Several raters can share the work: give all their folders to --rater."
    )


@pytest.mark.parametrize(
    "other, seen",
    [
        (Dimension("explorations", 0, 2, "interval"), "'interval' with the levels none"),
        (Dimension("explorations", 0, 1, "binary", (0.0, 1.0)), "'binary' with the levels 0, 1"),
        (Dimension("explorations", 1, 3, "ordinal", (1, 2, 3)), "'ordinal' with the levels 1, 2"),
    ],
)
def test_levels_other_than_0_1_2_are_refused(other, seen):
    with pytest.raises(UserError) as error:
        diff_epitome(FOUR, DigitRater((*THREE[:2], other)))
    assert f"'explorations' of the rater is of kind {seen}" in str(error.value)
    assert "Give a rater whose explorations is ordinal with the levels 0, 1, 2." in str(error.value)


class HalfRater(DigitRater):
    """Returns the mean of two raters' levels, which is no level."""

    def score(self, pairs, *, batch_size=32):
        ratings = super().score(pairs)
        return Ratings.of(self.dimensions, ratings.scores / 2, "half")


def test_a_score_between_levels_is_named():
    rows = responses_of(("000", "022"), ("022", "210"))
    with pytest.raises(UserError) as error:
        diff_epitome(rows, HalfRater())
    assert str(error.value) == (
        "id1, field 'reference': the rater's score 0.5 in 'interpretations' is none of the levels "
        "0, 1, 2 that DIFF-EPITOME counts. (half)"
    )
    with pytest.raises(UserError, match="id0, field 'response': the rater's score 1.5"):
        diff_epitome(responses_of(("300", "000")), HalfRater())


def test_a_score_out_of_range_is_refused():
    with pytest.raises(UserError, match="score 3 in 'explorations' lies outside its range 0 to 2"):
        diff_epitome(responses_of(("003", "000")), DigitRater())


def test_each_text_is_scored_once():
    rater = DigitRater()
    once = RatedOnce(rater)
    here = diff_epitome(FOUR, once)
    there = diff_epitome(responses_of(*(("111", r.reference) for r in FOUR)), once)
    human = diff_epitome(responses_of(*((r.reference, r.reference) for r in FOUR)), once)
    asked = [pair.response for call in rater.calls for pair in call]
    assert asked == ["201", "000", "222", "010", "100", "012", "200", "111"]

    plain = diff_epitome(FOUR, DigitRater())
    assert here.values == plain.values
    assert here.signature == plain.signature
    assert there.values["controls"] == plain.values["controls"]
    assert human.values["mean"] == 0


def test_any_batch_size_gives_the_same():
    texts = [f"{i % 3}{i // 3 % 3}{i // 9 % 3}" for i in range(27)]
    rows = responses_of(*zip(texts, texts[::-1], strict=True))
    rater = DigitRater()
    assert (
        diff_epitome(rows, RatedOnce(rater), batch_size=1).values
        == diff_epitome(rows, DigitRater(), batch_size=64).values
    )
    assert [len(call) for call in rater.calls] == [BATCHES, 27 - BATCHES]


def test_flags_stay_with_their_texts():
    once, pairs = RatedOnce(PartlyRater()), []
    for rows in (FOUR, FOUR[2:], FOUR[:2][::-1]):
        pairs.append([diff_epitome(rows, rater).values for rater in (once, PartlyRater())])
    assert all(cached == plain for cached, plain in pairs)
    assert pairs[1][0]["truncated"] == {"context": 0, "response": 0, "reference": 0.5}


class ChangingRater(DigitRater):
    def score(self, pairs, *, batch_size=32):
        ratings = super().score(pairs)
        return Ratings.of(self.dimensions, ratings.scores, f"version {len(self.calls)}")


def test_a_rater_that_changes_is_refused():
    once = RatedOnce(ChangingRater())
    diff_epitome(FOUR, once)
    with pytest.raises(UserError) as error:
        diff_epitome(responses_of(("111", "111")), once)
    assert "signature changed from 'version 1' to 'version 2' while it was rating" in str(
        error.value
    )


class OtherDimensions(DigitRater):
    def score(self, pairs, *, batch_size=32):
        return Ratings.of(THREE[::-1], [[0, 0, 0]] * len(pairs), "reversed")


def test_other_dimensions_than_announced_are_refused():
    with pytest.raises(UserError) as error:
        diff_epitome(FOUR, RatedOnce(OtherDimensions()))
    assert (
        "has the dimensions emotional_reactions, interpretations, explorations, but returned "
        "explorations, interpretations, emotional_reactions"
    ) in str(error.value)


def test_same_seed_same_values():
    first, second = (diff_epitome(FOUR, DigitRater(), seed=3).values for _ in range(2))
    assert first == second
    low, high = first["interval"]
    assert 0 <= low < first["mean"] < high <= 8 / 3
