"""Measure the responses of one or more systems and the human references beside them.

    python eval/responses.py --output results --responses sft.jsonl dpo.jsonl \\
        --nidf-table nidf.json --lexicons lexicons --rater raters/er raters/ip raters/ex
    python eval/responses.py --output results --responses *.jsonl --suite quick
    python eval/responses.py --output human --dialogues empathetic_dialogues   # references alone

Metrics, all that can run unless --metrics names some: diff_epitome (levels of empathy against the
reference; needs raters of the three EPITOME mechanisms), bertscore (closeness to the reference;
needs --bertscore-model), trie, distinct_n and self_bleu (diversity), nidf (specificity; needs a
table), iva (emotional intensity, valence, arousal, dominance; needs the NRC lexicons),
emotion_shares (EmoLex), repetition, length. Systems are compared in pairs on the exchanges that all
answered.

Writes results.json (last), per_response.jsonl, report.md and figures; scores of raters and of
bertscore are kept, and a second run makes only those that are missing. Results of other responses are
replaced with --overwrite only. Exit code 0: done; 2: an error in
what was given; 3: something asked for by name could not run (it stands in `not_run`).
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from empo.measure import (
    ResponsesSettings,
    load_columns,
    load_sources,
    load_systems,
    refuse_other_results,
)
from empo.process import run
from empo.records import Response
from empo.redaction import redacted
from empo.runs import LOCK, alone
from empo.suites import parse_with_suite


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and measure while no other process does."""
    argv = sys.argv[1:] if argv is None else argv
    settings = parse_with_suite(
        argv, ResponsesSettings, "responses", prog="eval/responses.py", description=__doc__ or ""
    )
    systems, facts, noted = load_systems(settings)
    output = Path(settings.output)
    with alone(output / LOCK, output):
        if not settings.overwrite:
            refuse_other_results(output, facts)
        return measure(settings, argv, systems, facts, noted)


def measure(
    settings: ResponsesSettings,
    argv: Sequence[str],
    systems: dict[str, list[Response]],
    facts: list[dict[str, Any]],
    noted: dict[str, dict[str, Any]],
) -> int:
    """Measure, save, say where it is; the exit code."""
    from empo.metrics.evaluation import METRICS, evaluate
    from empo.metrics.ratings import ratings
    from empo.reporting.report import write_report
    from empo.reporting.results import write_results
    from empo.reporting.summary import summary

    output = Path(settings.output)
    sources, unavailable = load_sources(settings, output)
    for name, reason in unavailable.items():
        print(f"{name} will not run: {reason}", file=sys.stderr)

    columns = load_columns(settings, output)
    results = evaluate(
        systems,
        seed=settings.seed,
        **sources,
        extra={"ratings": partial(ratings, raters=columns, seed=settings.seed)}
        if columns
        else None,
        metrics=settings.asked if settings.metrics else METRICS,
        unavailable=unavailable,
        resamples=settings.resamples,
        minimum_shared=settings.minimum_shared,
    )
    command = redacted(shlex.join(["python", "eval/responses.py", *argv]))
    published = settings.subset == "published"
    results |= {"command": command, "inputs": facts, "published": published}
    for name, known in noted.items():
        results["systems"][name] |= known | ({"reasons": {}} if "trained" in known else {})
    rewards = {name: known["reward"] for name, known in noted.items() if "reward" in known}
    measuring = [
        *(settings.rater or () if "diff_epitome" in results["signatures"] else ()),
        *(settings.ratings or ()),
    ]
    if measuring:
        from empo.raters.identity import identities, marks, measured_by_reward

        results["warnings"] += measured_by_reward(rewards, identities(measuring))
        results["rating_weights"] = {
            Path(folder).resolve().name: sorted(set().union(*map(marks, identities([folder]))))
            for folder in settings.ratings or ()
        }

    (output / "results.json").unlink(missing_ok=True)  # it says that all beside it is of one run
    report = write_report(results, output, published=published)
    write_results(output / "results.json", results)
    print(summary(results))
    print(f"\n{report}\n{output / 'results.json'}")
    failed = [entry for entry in results["not_run"] if entry["metric"] in settings.asked]
    for entry in failed:
        print(f"asked for, but not run: {entry['metric']}: {entry['reason']}", file=sys.stderr)
    return 3 if failed else 0


if __name__ == "__main__":
    run(main)
