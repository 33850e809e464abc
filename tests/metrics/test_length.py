import pytest

from empo.metrics.length import length


def test_values_computed_by_hand(responses):
    result = length(responses("Oh no!", "Yes", ""))
    assert result.per_response["length.characters"].tolist() == [6, 3, 0]
    assert result.per_response["length.tokens"].tolist() == [3, 1, 0]
    assert result.values["mean_characters"] == 3
    assert result.values["sd_characters"] == 3
    assert result.values["mean_tokens"] == pytest.approx(4 / 3)
    assert result.values["blank"] == 1
    low, high = result.values["interval_characters"]
    assert 0 <= low < 3 < high <= 6


def test_one_response_has_no_spread(responses):
    values = length(responses("Yes")).values
    assert values["sd_tokens"] is None
    assert values["interval_characters"] is None
    assert values["reasons"]["sd_tokens"] == "needs two responses that have this value"
    assert "mean_tokens" not in values["reasons"]
