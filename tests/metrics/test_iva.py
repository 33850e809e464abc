import pytest

from empo.metrics.iva import INTENSITY_FILE, VAD_FILE, iva, load_lexicons
from empo.records import Response, UserError

VAD = "happy\t0.9\t0.6\t0.5\nsad\t0.1\t0.3\t0.2\nice cream\t1\t1\t1\n"
INTENSITY = "happy\tjoy\t0.8\nhappy\ttrust\t0.5\nsad\tsadness\t0.7\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / VAD_FILE).write_text(VAD, encoding="utf-8")
    (tmp_path / INTENSITY_FILE).write_text(INTENSITY, encoding="utf-8")
    return tmp_path


def responses(*pairs):
    return [
        Response(
            id=f"id{i}",
            emotion="sad",
            context=[
                {"role": "user", "content": "happy happy"},
                {"role": "assistant", "content": "happy"},
                {"role": "user", "content": prompt},
            ],
            reference="",
            response=response,
            system="s",
        )
        for i, (prompt, response) in enumerate(pairs)
    ]


def test_values_computed_by_hand(folder):
    rows = responses(("I am SAD", "Be happy, not sad!"), ("sad", "ok"), ("ice cream", "sad"))
    result = iva(rows, load_lexicons(folder))
    # largest value of the last speaker turn minus that of the reply; unknown = 0
    intensity = [0.7 - 0.7, 0.7, -0.7]
    valence = [0.1 - 0.9, 0.1, -0.1]
    values = result.values
    assert result.per_response["iva.intensity"] == pytest.approx([abs(d) for d in intensity])
    assert values["intensity"]["mean_absolute"] == pytest.approx(1.4 / 3)
    assert values["intensity"]["mean_signed"] == pytest.approx(0)
    assert values["valence"]["mean_absolute"] == pytest.approx(1.0 / 3)
    assert values["valence"]["mean_signed"] == pytest.approx(sum(valence) / 3)
    assert values["arousal"]["mean_absolute"] == pytest.approx((0.3 + 0.3 + 0.3) / 3)
    assert values["dominance"]["mean_signed"] == pytest.approx((0.2 - 0.5 + 0.2 - 0.2) / 3)
    assert values["intensity"]["share_without_words"] == pytest.approx(1 / 3)
    assert values["intensity"]["share_prompts_without_words"] == pytest.approx(1 / 3)
    assert sum(values["valence"]["histogram"]) == 3


def test_intensity_word_with_several_emotions(folder):
    assert load_lexicons(folder).values["intensity"]["happy"] == 0.5
    assert load_lexicons(folder, several="maximum").values["intensity"]["happy"] == 0.8


def test_header_and_windows_line_ends(folder):
    text = ("Word\tValence\tArousal\tDominance\n" + VAD).replace("\n", "\r\n")
    (folder / VAD_FILE).write_text(text, encoding="utf-8", newline="")
    assert load_lexicons(folder).values["dominance"]["sad"] == 0.2


def test_signature_tells_lexicons_and_rule_apart(folder):
    signature = load_lexicons(folder).signature
    assert load_lexicons(folder, several="maximum").signature != signature
    (folder / VAD_FILE).write_text(VAD + "x\t0\t0\t0\n", encoding="utf-8")
    assert load_lexicons(folder).signature != signature


def test_missing_file_says_where_to_get_it(folder):
    (folder / VAD_FILE).unlink()
    with pytest.raises(UserError) as error:
        load_lexicons(folder)
    assert f"{folder}: {VAD_FILE} not found" in str(error.value)
    assert "https://saifmohammad.com/WebPages/nrc-vad.html" in str(error.value)


@pytest.mark.parametrize("bad", ["word\t0.5\t0.5", "word\t0.5\tx\t0.5", "word\t0.5\t1.5\t0.5"])
def test_malformed_line_is_named(folder, bad):
    (folder / VAD_FILE).write_text(f"{VAD}{bad}\n", encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_lexicons(folder)
    assert f"{VAD_FILE}, line 4: {bad!r} does not have the columns word, valence" in str(
        error.value
    )


@pytest.mark.parametrize("first", ["sad\tnan\t.3\t.2", "sad\thigh\t.3\t.2", "sad\t1.5\tx\ty"])
def test_a_first_line_with_a_number_is_no_header(folder, first):
    (folder / VAD_FILE).write_text(f"{first}\n{VAD}", encoding="utf-8")
    with pytest.raises(UserError, match="NRC-VAD-Lexicon.txt, line 1: 'sad"):
        load_lexicons(folder)
