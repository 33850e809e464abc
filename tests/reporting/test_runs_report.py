import copy
import json
import re

import pytest
from markdown_it import MarkdownIt

from empo.metrics.evaluation import evaluate
from empo.metrics.iva import DIMENSIONS, Lexicons
from empo.metrics.nidf import NidfTable
from empo.rating import MECHANISMS, Dimension, Ratings
from empo.records import Response
from empo.reporting.over_runs import combine
from empo.reporting.runs_report import render_runs

HOSTILE = "a|b `c` <b>d</b> $e$\n# f"
WORDS = "i am so sad and glad for you my dear friend , oh no what a day".split()


class WordRater:
    """A rule as a rater: levels follow how many words the text has."""

    dimensions = tuple(Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS)

    def score(self, pairs, *, batch_size=32):
        counts = [len(pair.response.split()) for pair in pairs]
        scores = [[float(n > 2), float(min(n // 2, 2)), 2.0 * (n > 6)] for n in counts]
        return Ratings.of(self.dimensions, scores, "words", warnings=["Words | are *no* empathy."])


def text(seed, i):
    """Some words, others for another seed."""
    length = 1 + (7 * seed + 3 * i) % 9
    return " ".join(WORDS[(5 * seed + i * (j + 2)) % len(WORDS)] for j in range(length))


def run(folder, systems, trained=None, n=8):
    """A run: system -> seed of its replies."""
    responses = {
        name: [
            Response(
                id=f"hit:{i}_conv:{i}",
                emotion="sad",
                context=[{"role": "user", "content": "i am so glad"}],
                reference=text(99, i),
                response=text(seed, i)
                if i
                else f"| `{name}` <i>x</i> [l](http://e.org)\n\n# {seed}",
                system=name,
            )
            for i in range(n)
        ]
        for name, seed in systems.items()
    }
    table = NidfTable(
        schema="empo.nidf/1",
        tokens="",
        turns="",
        dialogues=1,
        documents=9,
        corpus_sha256="0" * 64,
        counts={"i": 8, "am": 4, "sad": 2, "glad": 1},
    )
    lexicons = Lexicons({name: {"sad": 0.25, "glad": 0.75} for name in DIMENSIONS}, "by hand")
    results = evaluate(
        responses, nidf_table=table, lexicons=lexicons, rater=WordRater(), resamples=199
    )
    for name, of in (trained or {}).items():
        results["systems"][name]["trained"] = of
    rows = results.pop("per_response")
    per_response = {}
    for row in rows:
        per_response.setdefault(row["system"], {})[row["id"]] = row["values"]
    results["command"] = f"python eval/responses.py --output {folder}"
    return {"folder": folder, "results": results, "per_response": per_response, "harness": {}}


def harness(system, value, trained=None):
    score = {"metric": "acc", "value": value, "stderr": 0.0123, "n": 321, "shots": 5}
    return {
        "created": "2026-01-01T00:00:00+00:00",
        "versions": {"lm_eval": "0.4"},
        "seed": 1,
        "command": "python eval/harness.py --model | `x`",
        "system": system,
        "model": {"name": "base"},
        "trained": trained,
        "settings": {},
        "tasks": {"mmlu": score | {"version": "1", "dataset": "mm|lu", "truncated": 0}},
        "groups": {},
        "comparisons": [],
        "not_run": [{"task": "gpqa", "reason": "needs | a login"}],
    }


def seeded(seed, **settings):
    return {"command": "dpo", "seed": seed, "settings": {"seed": seed, "beta": 0.25, **settings}}


@pytest.fixture(scope="module")
def runs():
    found = []
    for seed in (1, 2, 3):
        sft = {"command": "sft", "seed": 42, "settings": {"beta": None, "epochs": 1}}
        one = run(
            f"runs/{seed}",
            {"sft": 50, "dpo": seed, HOSTILE: seed + 10},
            {"sft": sft, "dpo": seeded(seed), HOSTILE: seeded(seed, ipo="|")},
        )
        one["harness"] = {
            f"runs/{seed}/harness.json": harness("dpo", 0.5 + seed / 64, seeded(seed)),
            f"runs/{seed}/harness/sft/harness.json": harness("sft", 0.4321),
        }
        found.append(one)
    return found


@pytest.fixture(scope="module")
def report(runs):
    return json.loads(json.dumps(combine(runs), allow_nan=False))


@pytest.fixture(scope="module")
def rendered(report):
    return render_runs(report, {"A | figure": "report-stability.svg"})


def html_of(rendered):
    return MarkdownIt("commonmark").enable("table").render(rendered)


def tables(rendered):
    """(heading above, rows of cells) of every table, as a renderer sees them."""
    found, heading = [], ""
    tokens = MarkdownIt("commonmark").enable("table").parse(rendered)
    for i, token in enumerate(tokens):
        if token.type == "heading_open":
            heading = tokens[i + 1].content
        elif token.type == "table_open":
            found.append((heading, []))
        elif token.type == "tr_open":
            found[-1][1].append([])
        elif token.type in ("td_open", "th_open"):
            found[-1][1][-1].append(tokens[i + 1].content)
    return found


def section(rendered, heading):
    return rendered.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_sections_stand_in_their_order(rendered):
    assert re.findall(r"^## (.*)$", rendered, re.M) == [
        "Runs",
        "Empathy levels and BERTScore",
        "Language understanding",
        "Diversity",
        "Specificity and word choice",
        "Length and form",
        "Comparisons over runs",
        "What moves with length",
        "Training settings",
        "Figures",
        "Not run",
        "Side by side",
        "How it was measured",
    ]
    assert "### Emotion words" in rendered
    assert rendered.startswith("# Report over 3 runs\n\n**Words \\| are \\*no\\* empathy.**\n")


def test_every_table_has_rows_of_one_width_and_fits(rendered):
    found = tables(rendered)
    assert len(found) > 15
    for heading, rows in found:
        assert len({len(row) for row in rows}) == 1, heading
        narrow = rows[0][1] == "reference"  # the confusions: counts
        assert len(rows[0]) <= (11 if narrow else 9), heading


FORMATS = [(factor, digits) for factor in (1, 100) for digits in range(5)]
WORDED = ("Runs", "How it was measured")  # dates, versions, signatures: no values


def numbers_in(value):
    if isinstance(value, dict):
        for of in value.values():
            yield from numbers_in(of)
    elif isinstance(value, list):
        for of in value:
            yield from numbers_in(of)
    elif type(value) in (int, float):
        yield value


def test_every_number_of_a_table_is_in_the_json(report, rendered):
    known = {f"{f * x:z.{d}f}" for x in numbers_in(report) for f, d in FORMATS}
    for system in report["systems"].values():
        for of in system["counts"]["diff_epitome"]["mechanisms"].values():
            known |= {f"{100 * count / sum(of['levels']):.1f}" for count in of["levels"]}
    checked = 0
    for heading, rows in tables(rendered):
        if heading in WORDED or re.match(r"hit:|\d+ by", heading):
            continue
        for row in rows[1:]:
            for cell in row[1:]:
                for shown in re.findall(r"(?<![\w.])−?\d+(?:\.\d+)?", cell):
                    assert shown.replace("−", "-") in known, (heading, cell)
                    checked += 1
    assert checked > 500


def test_a_changed_value_changes_its_cell(report):
    changed = copy.deepcopy(report)
    values = changed["systems"]["dpo"]["values"]
    shown = {
        "diff_epitome.mean": (1.23456, "1.235 ± 0.007"),
        "diff_epitome.explorations": (1.34567, "1.346 ± 0.007"),
        "trie.templates": (71.25, "71.2 ± 0.0"),
        "trie.template_share": (0.81234, "81.2 ± 0.7"),
        "trie.compression_ratio": (0.81237, "0.8124 ± 0.0070"),
        "distinct_n.distinct_2": (0.71234, "0.712 ± 0.007"),
        "self_bleu.mean": (0.61234, "0.612 ± 0.007"),
        "nidf.mean": (0.61237, "0.6124 ± 0.0070"),
        "iva.valence.mean_absolute": (0.51237, "0.5124 ± 0.0070"),
        "iva.valence.mean_signed": (-0.51237, "−0.5124 ± 0.0070"),
        "emotion_shares.response.joy": (0.41234, "0.412 ± 0.007"),
        "emotion_shares.mean": (0.31234, "0.312 ± 0.007"),
        "length.mean_characters": (41.234, "41.2 ± 0.0"),
    }
    before = render_runs(report)
    for key, (mean, cell) in shown.items():
        values[key] |= {"mean": mean, "sd": 0.007, "of": 3}
        assert f"| {cell} |" not in before
    changed["systems"]["dpo"]["values"]["nidf.length_correlation"]["mean"] = 0.9876
    row = next(
        r for r in changed["comparisons"] if (r["a"], r["b"], r["metric"]) == ("sft", "dpo", "nidf")
    )
    row |= {"difference": 7.1234, "interval": [6.5, 8.5], "p": 0.0123, "p_holm": 0.0004}
    row |= {"t": 4.567, "df": 3.21, "welch": {"p": 0.00012}, "d": {"pooled": 1.239}}
    row["own"] = {"below": 2, "of": 7}
    row["length_controlled"] |= {"intercept": 2.5, "interval": [1.5, 3.5]}
    row["length_controlled"] |= {"share_longer": 0.9, "share_shorter": 0.1}
    after = render_runs(changed)
    for _, cell in shown.values():
        assert f"| {cell} |" in after
    assert "| 0.988 |" in section(after, "What moves with length")
    cells = (
        "| sft − dpo | 7.1234 \\[6.5000, 8.5000\\] | 4.57 (3.2) | 0.0123 | 0.0004 \\*\\*\\* | 0.0001 | "
        "1.24 | 2.5000 \\[1.5000, 3.5000\\] | 2 of 7 |\n"
    )
    assert cells in after.split("\n### NIDF\n")[1].split("\n###")[0]
    for share in ("share_longer", "share_shorter"):
        row["length_controlled"] |= {"share_longer": 0.0, "share_shorter": 0.0, share: 0.96}
        assert "| 2.5000 \\[1.5000, 3.5000\\] † |" in render_runs(changed)


def test_controls_stand_below_the_systems_and_human_does_not(report, rendered):
    empathy = section(rendered, "Empathy levels and BERTScore")
    rows = tables(empathy)[0][1]
    assert [row[0].split("<")[0] for row in rows][1:3] == ["sft", "dpo"]
    assert [row[0] for row in rows][-2:] == [
        "control: always level 0",
        "control: levels drawn from the reference distribution",
    ]
    controls = report["systems"]["human"]["values"]
    mean = controls["diff_epitome.controls.always_level_0.mean"]["mean"]
    assert rows[-2][1] == f"{mean:.3f}"
    assert "human" not in [row[0] for row in rows]


@pytest.mark.parametrize("difference, named", [(0.0, True), (0.1, True), (-0.1, False)])
def test_systems_not_below_a_control_are_named(report, difference, named):
    changed = copy.deepcopy(report)
    for name, system in changed["systems"].items():
        for key in ("against_level_0", "against_drawn"):
            mean = difference if name == "dpo" else -1.0
            system["values"][f"diff_epitome.{key}.difference"] = {"mean": mean, "of": 1}
    text = render_runs(changed)
    assert ("Mean not below the control “always level 0”: dpo.\n" in text) is named
    assert ("Mean not below the control “levels drawn”: dpo.\n" in text) is named


def test_names_and_replies_are_shown_as_they_are(rendered):
    html = html_of(rendered)
    assert "<b>" not in html
    assert "<i>" not in html
    assert "<a " not in html
    shown = "a|b `c` &lt;b&gt;d&lt;/b&gt; $e$ # f"
    assert f"<td>{shown}</td>" in html
    assert f"sft − {shown}</td>" in html
    assert "<td>needs | a login</td>" in html
    assert "eval/harness.py --model | `x`\n" in html
    assert html.count("<h1>") == 1


def test_commands_of_all_runs_stand_in_one_block(rendered):
    block = section(rendered, "How it was measured").split("```")[1]
    for seed in (1, 2, 3):
        assert f"# seed {seed}: runs/{seed}\n" in block
        assert f"python eval/responses.py --output runs/{seed}\n" in block


def test_what_is_tested_is_counted_and_what_is_not_is_said(report, rendered, runs):
    tested = sum(row["p"] is not None for row in report["comparisons"])
    assert tested > 0
    assert f"corrected over all {tested} tests of this section" in rendered
    again = copy.deepcopy(runs[:1])[0] | {"folder": "runs/again"}
    same = combine([runs[0], again])  # every system is the same in both
    assert all(row["p"] is not None for row in same["comparisons"] if row["n"] > 1)
    assert all(row["welch"] is None for row in same["comparisons"])
    other = copy.deepcopy(runs[:2])
    for i, one in enumerate(other):  # each system in one of them only
        renamed = {"human": "human", **{n: f"{n} {i}" for n in ("sft", "dpo", HOSTILE)}}
        for of in (one["results"]["systems"], one["per_response"]):
            for name in list(of):
                of[renamed[name]] = of.pop(name)
        one["results"] |= {"comparisons": [], "samples": []}
        one["harness"] = {}
    text = render_runs(combine(other))
    assert "one system of every pair has a single run, and is not in all runs." in text
    assert "corrected over all 0 tests" in text


def test_comparisons_are_grouped_by_value(report, rendered):
    part = section(rendered, "Comparisons over runs")
    values = list(dict.fromkeys(row["metric"] for row in report["comparisons"]))
    assert len(re.findall(r"^### ", part, re.M)) == len(values)
    assert sum(len(rows) - 1 for _, rows in tables(part)) == len(report["comparisons"])
    assert tables(part)[0][1][0] == [
        "pair",
        "difference",
        "t (df)",
        "p",
        "p (Holm)",
        "Welch p (these exchanges)",
        "d",
        "at equal length",
        "own",
    ]


def test_levels_signed_differences_and_confusions_of_all_runs_together(report, rendered):
    found = tables(section(rendered, "Empathy levels and BERTScore"))
    signed, levels, confusion = (rows for _, rows in found[1:4])
    assert signed[0] == ["system", "ER", "EX", "IP", "runs"]
    of = report["systems"]["dpo"]["values"]["diff_epitome.mechanisms.explorations.signed.mean"]
    cell = f"{of['mean']:.3f} ± {of['sd']:.3f}".replace("-", "−")
    assert signed[2][0] == "dpo" and signed[2][2] == cell
    mechanisms = report["systems"]["dpo"]["counts"]["diff_epitome"]["mechanisms"]
    counts = mechanisms["emotional_reactions"]["levels"]
    assert sum(counts) == 3 * 8  # three runs of eight exchanges
    shares = " / ".join(f"{100 * count / 24:.1f}" for count in counts)
    assert next(row for row in levels if row[0] == "dpo")[1] == shares
    human = report["systems"]["human"]["counts"]["diff_epitome"]["mechanisms"]
    assert sum(human["emotional_reactions"]["levels"]) == 8  # once
    rows = [row[2:5] for row in confusion if row[0] == "dpo"]
    assert rows == [[str(n) for n in row] for row in mechanisms["emotional_reactions"]["confusion"]]


def test_one_run_leaves_its_comparisons_to_its_own_report(runs):
    alone = render_runs(combine(runs[:1]))
    assert alone.startswith("# Report over 1 run\n")
    assert "## Comparisons over runs" not in alone
    assert "\n- One run: its comparisons stand in its results.json.\n" in alone


def test_seeds_of_systems_that_were_trained_with_others_are_named(report, rendered):
    assert f"| runs/1 | 42 (sft), 1 (dpo, {'a|b'}".replace("a|b", "a\\|b") in rendered
    changed = copy.deepcopy(report)
    changed["runs"][0]["training_seeds"] = {"sft": 7, "dpo": 7}
    changed["runs"][1]["training_seeds"] = {}
    text = render_runs(changed)
    assert "| seed 1 | runs/1 | 7 |" in text
    assert "| seed 2 | runs/2 | — |" in text


def test_settings_that_differ_have_a_table(rendered):
    rows = tables(section(rendered, "Training settings"))[0][1]
    assert rows[0][:3] == ["setting", "sft", "dpo"]
    assert ["beta", "not given", "0.25", "0.25"] in rows
    assert ["epochs", "1", "not given", "not given"] in rows
    assert ["ipo", "not given", "not given", "|"] in rows


def test_every_arm_has_a_row_of_its_pairs(runs):
    one = copy.deepcopy(runs)
    plain = {"source": "opposite", "candidates": 1, "choose": "random", "rejected": 1}
    plain |= {"on_topic": None, "margin": None, "at_equal_length": False, "raters": []}
    plain |= {"dimensions": [], "exchanges": 1600, "without_pairs": 0, "too_long": 1}
    sampled = {"source": "sampled", "candidates": 8, "choose": "worst", "raters": ["le|vels"]}
    for i, each in enumerate(one):
        systems = each["results"]["systems"]
        systems["dpo"]["trained"]["pairs"] = plain
        fewer = {"exchanges": 400 + i // 2, "without_pairs": 1200}
        systems[HOSTILE]["trained"]["pairs"] = plain | sampled | fewer
    combined = combine(one)
    (found,) = tables(section(render_runs(combined), "Pairs of training"))
    assert found[1] == [
        ["system", "pairs", "rejected", "exchanges", "without a pair", "too long"],
        ["dpo", "random", "1", "1,600", "0", "1"],
        [
            found[1][2][0],
            "on-policy, best against worst of 8, by le|vels",
            "1",
            "400, 401",
            "1,200",
            "1",
        ],
    ]


def test_many_systems_stand_in_several_tables(report):
    changed = copy.deepcopy(report)
    for i in range(8):
        changed["systems"][f"more {i}"] = copy.deepcopy(changed["systems"]["dpo"])
    found = tables(section(render_runs(changed), "What moves with length"))
    assert [len(rows[0]) for _, rows in found] == [8, 6]


def test_published_rows_stand_beside_ours(report, rendered):
    assert "published" not in rendered
    text = render_runs(report | {"published": True})
    for row in (
        "| dpo, published | .701 | .588 | .720 | .796 | .868 | — |",
        "| human, published | 2526 | 99.4 | 2746 | 22279 | 881 | .6564 | 370 | — |",
        "| dpo, published | .29 | .06 | .27 | .13 | .16 | — | — |",
        "| human, published | 65 | — | — | — | — | — | — | — |",
        "| sft | .585 | .270 |",
    ):
        assert f"{row}\n" in text
    for heading, rows in tables(text):
        assert len({len(row) for row in rows}) == 1, heading


def test_differing_versions_are_bold(report):
    changed = copy.deepcopy(report)
    changed["versions"]["torch"] = {"seed 1": "2.1", "seed 2": "2.2"}
    text = render_runs(changed)
    assert "- **Runs differ in the version of torch: 2.1 in seed 1, 2.2 in seed 2**\n" in text
    assert "| torch | 2.1, 2.2 |\n" in text


def test_emotion_words_stand_in_the_section_on_words_even_alone(report):
    changed = copy.deepcopy(report)
    for system in changed["systems"].values():
        for key in [key for key in system["values"] if key.startswith(("nidf", "iva"))]:
            del system["values"][key]
    words = section(render_runs(changed), "Specificity and word choice")
    assert words.startswith("\n### Emotion words\n")


def test_older_results_leave_out_what_they_lack(runs):
    older = copy.deepcopy(runs)
    for one in older:
        one["per_response"] = None
        for system in one["results"]["systems"].values():
            del system["digest"], system["trained"]
            for metric in ("distinct_n", "self_bleu", "emotion_shares"):
                del system["metrics"][metric]
        one["harness"] = {}
        for row in one["results"]["comparisons"]:
            del row["d"]
    text = render_runs(combine(older))
    assert "## Comparisons over runs" not in text
    assert "## Training settings" not in text
    assert "self-BLEU" not in text
    for told in ("No digest of the replies", "No training settings", "No per\\_response.jsonl"):
        assert f"\n- {told}" in text


def test_a_report_of_harness_scores_alone(runs):
    alone = [{**one, "results": None, "per_response": None} for one in runs]
    text = render_runs(combine(alone))
    assert "| dpo | 0.531 ± 0.016 | SD over 3 runs |\n" in text
    assert "## Side by side" not in text
    assert "## Diversity" not in text


def test_without_a_rater_bertscore_stands_alone(report):
    changed = copy.deepcopy(report)
    for system in changed["systems"].values():
        for key in [key for key in system["values"] if key.startswith("diff_epitome.")]:
            del system["values"][key]
        system["values"]["bertscore.f1"] = {"mean": 0.5, "sd": 0.1, "of": 2, "runs": {}}
    text = render_runs(changed).split("## Closeness to the reference (BERTScore)")[1]
    assert "| dpo | 0.500 ± 0.100 | — | — |" in text.split("\n## ")[0]
    assert "control: always level 0" not in text
