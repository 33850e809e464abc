import copy
import re

import pytest

from empo.reporting.report import render, write_report
from empo.reporting.summary import summary


def test_report_and_figures_lie_side_by_side(results, tmp_path):
    report = write_report(
        results, tmp_path, training={"dpo": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]}
    )
    text = report.read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(linked) == ["comparisons.svg", "iva.svg", "nidf.svg", "training-dpo.svg"]
    assert all((tmp_path / name).is_file() for name in linked)


def section(text):
    """The section on empathy levels."""
    return text.split("## Empathy levels (DIFF-EPITOME)")[1].split("\n## ")[0]


def test_levels_have_their_section_and_figure(rated, results, tmp_path):
    text = section(write_report(rated, tmp_path).read_text(encoding="utf-8"))
    assert "](epitome.svg)" in text
    assert (tmp_path / "epitome.svg").is_file()
    assert "Empathy levels" not in render(results)


def test_values_of_the_levels_come_from_the_results(rated):
    changed = copy.deepcopy(rated)
    metric = changed["systems"]["one"]["metrics"]["diff_epitome"]
    metric |= {"mean": 0.4321, "sd": 0.1234, "interval": [0.3456, 0.5678], "unscored": 4711}
    metric["truncated"]["context"] = 0.125
    metric["levels_sum"] |= {"mean": 2.345, "length_correlation": 0.765}
    explorations = metric["mechanisms"]["explorations"]
    explorations |= {"mean": 1.111, "sd": 2.222, "levels": [1, 2, 5]}
    explorations["confusion"] = [[91, 92, 93], [94, 95, 96], [97, 98, 99]]
    explorations["signed"] |= {"mean": -0.987, "interval": [-1.5, -0.5]}
    shown = (
        "| one | 0.432 ± 0.123 | \\[0.346, 0.568\\] | ",
        "| 1.111 ± 2.222 | 3 (4711 unscored) |\n",
        "| −0.987 \\[−1.500, −0.500\\] |\n",
        "| 12.5 / 25.0 / 62.5 |\n",
        "| 94 | 95 | 96 |\n",
        "| one | 2.345 ± ",
        " | 0.765 | ",
        " | 4711 | 12.5 | 0.0 | 0.0 |\n",
    )
    before, after = section(render(rated)), section(render(changed))
    assert [part in after for part in shown] == [True] * len(shown)
    assert [part in before for part in shown] == [False] * len(shown)


def test_controls_stand_in_the_same_table_as_the_systems(rated):
    rows = section(render(rated)).split("| system | mean |")[1].split("\n\n")[0].split("\n")[2:]
    assert [row.split(" | ")[0] for row in rows] == [
        "| one",
        "| two",
        "| control: always level 0",
        "| control: levels drawn from the reference distribution",
    ]
    # references of 3, 4 and 5 words: ER 1 1 1, IP 1 2 2, EX 0 0 0
    assert rows[2].endswith("| 1.000 | 3.000 | 0.000 | 3 |")
    assert rows[3].startswith("| control: levels drawn from the reference distribution | 0.148 |")
    assert rows[3].endswith("| 0.000 | 0.444 | 0.000 | 3 |")


BELOW, ACROSS, ABOVE = [-0.4, -0.1], [-0.4, 0.1], [0.1, 0.3]


@pytest.mark.parametrize(
    "level_0, drawn, sentences",
    [
        ((BELOW, BELOW), (BELOW, BELOW), ["Every system is below both controls."]),
        (
            (BELOW, ACROSS),
            (BELOW, BELOW),
            ["Not shown to be below the control “always level 0”: two."],
        ),
        (
            (ABOVE, None),
            (ABOVE, BELOW),
            [
                "Not shown to be below the control “always level 0”: one, two.",
                "Not shown to be below the control “levels drawn from the reference distribution”: "
                "one.",
            ],
        ),
    ],
)
def test_systems_not_shown_to_be_below_a_control_are_named(rated, level_0, drawn, sentences):
    changed = copy.deepcopy(rated)
    for i, name in enumerate(("one", "two")):
        metric = changed["systems"][name]["metrics"]["diff_epitome"]
        metric["against_level_0"]["interval"] = level_0[i]
        metric["against_drawn"]["interval"] = drawn[i]
    lines = section(render(changed)).split("\n")
    found = [line for line in lines if line.startswith(("Not shown", "Every system"))]
    assert found == [*sentences]


def test_warnings_stand_at_the_top_and_beside_the_table(rated, results):
    bold = "**Words \\| are \\*no\\* empathy.**\n"
    text = render(rated)
    assert text.startswith(f"# Responses measured\n\n{bold}")
    assert section(text).count(bold) == 1
    assert "**Words" not in render(results)
    assert "\nwarning: Words | are *no* empathy.\n" in summary(rated)
    assert "DIFF-EPITOME of the control “always level 0”: 1.3333\n" in summary(rated)


def test_levels_are_compared_and_move_with_length_under_their_names(rated):
    text = render(rated)
    compared = text.split("## Comparisons")[1].split("\n## ")[0]
    of_value = dict(part.split("\n", 1) for part in compared.split("\n### ")[1:])
    assert "\n| one − two |" in of_value["DIFF-EPITOME ER"]
    assert "\n| one − human |" in of_value["sum of levels"]
    assert "human" not in of_value["DIFF-EPITOME"]
    assert "\n| DIFF-EPITOME EX | " in text.split("## What moves with length")[1]


def test_references_alone_have_controls_and_levels(rated):
    alone = rated | {"systems": {"human": rated["systems"]["human"]}, "comparisons": []}
    text = section(render(alone, published=True))
    assert "| control: always level 0 | 1.333 ± 0.577 |" in text
    assert "| dpo, published | .701 | — | .588 | .796 | .720 | 2540 |" in text
    assert "Signed differences" not in text
    assert "Every system" not in text


def test_values_come_from_the_results(results):
    changed = copy.deepcopy(results)
    metrics = changed["systems"]["one"]["metrics"]
    metrics["trie"] |= {"templates": 4711, "template_share": 0.123}
    metrics["nidf"]["mean"] = 0.98765
    metrics["iva"]["valence"]["mean_absolute"] = 0.54321
    metrics["length"]["mean_characters"] = 77.7
    text = render(changed)
    for shown in ("4711 (12.3 %)", "0.9877 ±", "0.5432", "77.7 ±"):
        assert shown in text
        assert shown not in render(results)


def test_marks_follow_the_corrected_p(results):
    changed = copy.deepcopy(results)
    row = next(row for row in changed["comparisons"] if row["p"] is not None)
    for p, mark in ((0.06, ""), (0.04, " \\*"), (0.004, " \\*\\*"), (0.0004, " \\*\\*\\*")):
        row |= {"p": 0.0001, "p_holm": p, "d": {"paired": 1.234, "pooled": -0.567}}
        assert f"| 0.0001 | {p:.4f}{mark} | 1.23 | −0.57 |" in render(changed)


def test_generated_text_is_escaped(results):
    text = render(results)
    samples = text.split("## Side by side")[1]
    assert "glad \\| to \\`hear\\` it" in samples
    assert "&lt;b&gt;glad&lt;/b&gt; \\[x\\](http&#58;//x.org)" in samples
    assert "| two | am i sad |" in samples
    assert "### At random: 3\n\nDrawn at random with the seed 0.\n" in samples


def test_published_rows_only_on_request(results):
    assert "published" not in render(results)
    text = render(results, published=True)
    assert "| human, published | 2526 (99.4 %) | 2746 / 22279 | 881 | .6564 | 370 |" in text
    assert "| dpo, published | .29 ± .06 | .27 | .13 | .16 | — |" in text
    assert "| human, published | 65 | — | — |" in text
    assert "α 256" in text
    assert render(results, published=True) == text


def test_published_levels_only_on_request(rated):
    assert "published" not in section(render(rated))
    text = section(render(rated, published=True))
    # the columns are mean, interval, ER, IP, EX, n; the paper prints EX before IP
    assert "| baseline, published | 1.055 | — | 1.120 | .603 | 1.441 | 2540 |" in text
    assert "Another rater gives other levels" in text


def test_report_without_lexicons_and_comparisons(results):
    alone = copy.deepcopy(results)
    alone["systems"] = {"human": {"n": 3, "metrics": {}}}
    alone["systems"]["human"]["metrics"]["trie"] = results["systems"]["human"]["metrics"]["trie"]
    alone["comparisons"] = []
    alone["not_run"].append({"metric": "nidf", "reason": "no table | none"})
    text = render(alone)
    assert "## Diversity" in text
    assert "## Comparisons" not in text
    assert "| nidf | no table \\| none |" in text


def test_summary_has_one_row_per_system(results):
    lines = summary(results).split("\n")
    assert [line.split()[0] for line in lines[:4]] == ["system", "one", "two", "human"]
    assert len({len(line) for line in lines[:4]}) == 1
    left_out = {entry["metric"]: entry["reason"] for entry in results["not_run"]}
    assert lines[4:] == [f"left out: {name}: {reason}" for name, reason in left_out.items()]


def test_summary_leaves_out_columns_that_nobody_has(results):
    alone = copy.deepcopy(results)
    for system in alone["systems"].values():
        system["metrics"] = {"length": system["metrics"]["length"]}
    assert summary(alone).split("\n")[0].split() == ["system", "n", "characters"]


def test_at_a_glance_has_the_value_of_every_metric(rated):
    rows = render(rated).split("## At a glance\n\n")[1].split("\n\n")[1].split("\n")
    titles = [cell.strip() for cell in rows[0].split("|")[1:-1]]
    one = dict(zip(titles, (cell.strip() for cell in rows[2].split("|")[1:-1]), strict=True))
    metrics = rated["systems"]["one"]["metrics"]
    assert one["NIDF"] == f"{metrics['nidf']['mean']:.3f}"
    assert one["DIFF-EPITOME ↓"] == f"{metrics['diff_epitome']['mean']:.3f}"
    assert one["self-BLEU"] == f"{metrics['self_bleu']['mean']:.3f}"
    assert "BERTScore F1 ↑" not in titles
    assert rows[-1].startswith("| human | — |")


def test_command_inputs_and_versions_stand_at_the_end(results):
    command = "python eval/responses.py --responses `x`"
    file = {"file": "one.jsonl", "bytes": 1, "sha256": "ab" * 32}
    text = render(results | {"command": command, "inputs": [file, {"files": [file]}]})
    how = text.split("## How it was measured\n")[1]
    assert f"```\n{command}\n```" in how
    assert how.count("| one.jsonl | abababababab |") == 2
    assert "numpy " in how


def test_texts_without_emotion_words_have_no_shares(results):
    changed = copy.deepcopy(results)
    changed["systems"]["one"]["metrics"]["emotion_shares"] |= {
        "response": None, "response_polarity": None, "mean": None, "sd": None,
    }  # fmt: skip
    emotions = render(changed).split("### Emotion words")[1]
    assert f"| one |{' — |' * 8}" in emotions
    assert "| one | — ± — | — |" in emotions


def test_a_report_of_another_name_has_figures_of_its_own(results, tmp_path):
    write_report(results, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.svg")}
    other = copy.deepcopy(results)
    other["systems"]["one"]["metrics"]["nidf"]["histogram"] = [3] + [0] * 39
    text = write_report(other, tmp_path, name="other.md").read_text("utf-8")
    assert "](other-nidf.svg)" in text
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_too_few_permutations_for_any_mark_are_said(results):
    changed = copy.deepcopy(results) | {"resamples": 99}
    assert "permutations and" not in render(results)
    assert "**With 99 permutations and " in render(changed)


def test_an_extrapolation_is_marked(results):
    changed = copy.deepcopy(results)
    row = next(row for row in changed["comparisons"] if row["metric"] == "nidf")
    row["length_controlled"] = {
        "intercept": 0.1, "interval": [0.0, 0.2], "slope": 1.0, "share_longer": 0.99,
    }  # fmt: skip
    assert "| 0.1000 \\[0.0000, 0.2000\\] † |" in render(changed)


def test_long_replies_are_cut_and_unknown_rules_shown(results):
    changed = copy.deepcopy(results)
    changed["samples"][0] |= {"rule": "mine | own"}
    changed["samples"][0]["responses"]["one"] = "x" * 5_000
    samples = render(changed).split("## Side by side")[1]
    assert "### mine \\| own: 1" in samples
    assert f"| one | {'x' * 1_000} … (5,000 characters) |" in samples
