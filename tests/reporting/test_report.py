import copy
import re

from empo.reporting.report import render, summary, write_report


def test_report_and_figures_lie_side_by_side(results, tmp_path):
    report = write_report(
        results, tmp_path, training={"dpo": [{"step": 1, "loss": 0.7}, {"step": 2, "loss": 0.6}]}
    )
    text = report.read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert sorted(linked) == ["iva.svg", "nidf.svg", "training-dpo.svg"]
    assert all((tmp_path / name).is_file() for name in linked)


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
        row |= {"p": 0.0001, "p_holm": p}
        assert f"| 0.0001 | {p:.4f}{mark} | 3 |" in render(changed)


def test_generated_text_is_escaped(results):
    text = render(results)
    samples = text.split("## Side by side")[1]
    assert "glad \\| to \\`hear\\` it" in samples
    assert "&lt;b&gt;glad&lt;/b&gt; \\[x\\](http&#58;//x.org)" in samples
    assert "| two | am i sad |" in samples
    assert "seed 0, not chosen" in samples


def test_published_rows_only_on_request(results):
    assert "published" not in render(results)
    text = render(results, published=True)
    assert "| human, published | 2526 (99.4 %) | 2746 / 22279 | 881 | .6564 | 370 |" in text
    assert "| dpo, published | .29 ± .06 | .27 | .13 | .16 | — |" in text
    assert "| human, published | 65 | — | — |" in text
    assert "α 256" in text
    assert render(results, published=True) == text


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
    assert [line.split()[0] for line in lines] == ["system", "one", "two", "human"]
    assert len({len(line) for line in lines}) == 1
