import json
import sys
from collections import Counter

import numpy as np
import pytest

from empo.metrics.emotion_shares import EMOTIONS, POLARITIES, emotion_shares
from empo.metrics.tokens import word_tokens
from empo.records import Response, UserError

nrclex = pytest.importorskip("nrclex", reason="NRCLex (extra empo[eval]) is not installed")

# in EmoLex: afraid = fear, negative; lost = sadness, negative; abacus = trust;
# friend = joy, trust, positive; grateful = positive; table is not in it


def exchanges(*pairs):
    return [
        Response(
            id=f"id{i}",
            emotion="sad",
            context=[
                {"role": "user", "content": "abacus abacus abacus"},
                {"role": "assistant", "content": "abacus"},
                {"role": "user", "content": prompt},
            ],
            reference="",
            response=response,
            system="s",
        )
        for i, (prompt, response) in enumerate(pairs)
    ]


def test_values_computed_by_hand():
    result = emotion_shares(
        exchanges(
            ("I am AFRAID, lost", "Afraid of a friend?"),  # 1/2 fear 1/2 sad; 1/3 fear, joy, trust
            ("lost", "lost lost"),
            ("friend", "afraid"),
            ("afraid", "grateful"),  # a polarity, but no emotion
            ("table", "friend"),
        )
    )
    values = result.values
    overlaps = result.per_response["emotion_shares.overlap"]
    assert overlaps[:3] == pytest.approx([1 / 3, 1, 0], abs=1e-15)
    assert np.isnan(overlaps[3:]).all()
    assert values["n"] == 3
    assert values["mean"] == pytest.approx(4 / 9)
    # responses: fear joy trust, sadness sadness, fear, joy trust
    shares = {"fear": 2 / 8, "joy": 2 / 8, "trust": 2 / 8, "sadness": 2 / 8}
    assert values["response"] == pytest.approx(dict.fromkeys(EMOTIONS, 0) | shares)
    # prompts: fear sadness, sadness, joy trust, fear; the turns before the last do not count
    shares = {"fear": 2 / 6, "sadness": 2 / 6, "joy": 1 / 6, "trust": 1 / 6}
    assert values["prompt"] == pytest.approx(dict.fromkeys(EMOTIONS, 0) | shares)
    assert values["response_polarity"] == pytest.approx({"positive": 3 / 7, "negative": 4 / 7})
    assert values["prompt_polarity"] == pytest.approx({"positive": 1 / 5, "negative": 4 / 5})
    assert values["associations"] == {
        "response": 8,
        "prompt": 6,
        "response_polarity": 7,
        "prompt_polarity": 5,
    }
    assert values["share_without_words"] == 1 / 5
    assert values["share_prompts_without_words"] == 1 / 5


TEXTS = (
    "That is a wonderful surprise, I am so happy for you!",
    "Oh no. Losing a friend is awful, and being lonely is worse.",
    "You must be proud of the holiday you earned; good, good!",
)


def test_shares_are_those_of_the_package():
    tokens = [token.lower() for text in TEXTS for token in word_tokens(text)]
    lexicon = nrclex.NRCLex(None)
    lexicon.load_token_list(tokens)
    raw = Counter(lexicon.raw_emotion_scores)
    values = emotion_shares(exchanges(*(("lost", text) for text in TEXTS))).values
    for key, names in (("response", EMOTIONS), ("response_polarity", POLARITIES)):
        total = sum(raw[name] for name in names)
        assert total > 5
        assert values[key] == pytest.approx({name: raw[name] / total for name in names})
        assert sum(values[key].values()) == pytest.approx(1)


def test_a_response_that_repeats_its_prompt_has_overlap_1():
    result = emotion_shares(exchanges(*((text, text) for text in TEXTS)))
    assert result.per_response["emotion_shares.overlap"].tolist() == [1, 1, 1]
    assert result.values["response"] == result.values["prompt"]


def test_order_does_not_matter():
    rows = exchanges(*zip(TEXTS, reversed(TEXTS), strict=True), ("lost", "lost"))
    there, back = emotion_shares(rows), emotion_shares(rows[::-1])
    key = "emotion_shares.overlap"
    assert there.per_response[key].tolist() == back.per_response[key][::-1].tolist()
    assert there.values["response"] == back.values["response"]


def test_texts_without_emotion_words_have_reasons_instead_of_numbers():
    values = emotion_shares(exchanges(("table", ""), ("grateful", "\n"))).values
    assert values["mean"] is values["response"] is values["prompt"] is None
    assert values["response_polarity"] is None
    assert values["prompt_polarity"] == {"positive": 1, "negative": 0}
    assert values["share_without_words"] == values["share_prompts_without_words"] == 1
    assert values["reasons"]["mean"] == "no response has this value"
    assert values["reasons"]["response"].startswith("no word is associated with anger or ")
    assert values["reasons"]["response_polarity"] == (
        "no word is associated with positive or negative"
    )
    assert "prompt_polarity" not in values["reasons"]


@pytest.mark.parametrize("text", ["", "\n", "\U0001f600", "friend", "lost friend " * 5_000])
def test_one_response_of_any_kind(text):
    values = emotion_shares(exchanges(("lost", text))).values
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert values["share_without_words"] == (0 if "friend" in text else 1)


def test_a_lexicon_of_the_same_name_in_the_current_folder_is_not_taken(tmp_path, monkeypatch):
    (tmp_path / "nrc_en.json").write_text('{"table": ["joy"]}', encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    assert emotion_shares(exchanges(("table", "table"))).values["response"] is None


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "nrclex", None)
    with pytest.raises(UserError) as error:
        emotion_shares(exchanges(("lost", "lost")))
    assert "the package NRCLex" in str(error.value)
    assert "pip install empo[eval]" in str(error.value)
