import pytest

from empo.metrics.repetition import repeats_itself, repetition


@pytest.mark.parametrize(
    "text, repeats",
    [
        ("", False),
        ("so so so so", False),  # one 4-gram
        ("so so so so so", True),
        ("i am so sorry , i am so glad", False),
        ("i am so sorry . I am here . i am so sorry", True),
        ("that is sad . That is sad .", False),  # case counts
    ],
)
def test_four_tokens_in_a_row_that_occur_twice(text, repeats):
    assert repeats_itself(text) == repeats


def test_share_with_its_interval(responses):
    result = repetition(responses("a a a a a", "a b", "c", "d e f g d e f g"))
    assert result.values["mean"] == 0.5
    assert result.per_response["repetition"].tolist() == [1, 0, 0, 1]
    low, high = result.values["interval"]
    assert low < 0.5 < high


def test_unfinished_only_where_every_response_says_it(responses):
    rows = responses("a", "b", "c", "d")
    assert repetition(rows).values["unfinished"] is None
    assert "key `finished`" in repetition(rows).values["reasons"]["unfinished"]
    said = [r.model_copy(update={"finished": i > 0}) for i, r in enumerate(rows)]
    said = [type(r).model_validate(r.model_dump()) for r in said]
    assert repetition(said).values["unfinished"] == 0.25
    assert repetition([*said[:3], rows[3]]).values["unfinished"] is None
