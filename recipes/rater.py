"""Train an empathy rater, and show on held-out groups what it is worth.

python recipes/rater.py --config recipes/raters/epitome_cross_cpu.yaml --data EPITOME_FOLDER
python recipes/rater.py --help

Every seed trains on every fold; the epoch is chosen on an inner validation part, never on the
held-out one. The folder gets the model that validated best, README.md (its card), rater.md,
results.json and predictions per seed. The same command goes on after a stop; `--fresh` trains anew in a
folder beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo.alignment.launching import parse_recipe, quiet_dependencies
from empo.process import run
from empo.raters.prompt_settings import PROMPT
from empo.raters.scoring_settings import SCORING_LM
from empo.raters.settings import RaterSettings, unfit
from empo.records import UserError, write_json, write_text
from empo.runs import LOCK, alone, free_folder

if TYPE_CHECKING:
    from empo.corpora.labelled import LabelledCorpus


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, load, train, measure, save, say where it is."""
    quiet_dependencies()
    from transformers import TrainingArguments

    settings, args, given, _ = parse_recipe(
        argv, "rater", RaterSettings, TrainingArguments, __doc__ or ""
    )
    if "output_dir" not in given:
        raise UserError("--output-dir: missing (folder of the rater)")
    if args.label_smoothing_factor:
        raise UserError("label_smoothing_factor: the losses here are our own; use label_smoothing.")

    import torch

    from empo.raters.training import trainer_arguments

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    asked = Path(args.output_dir)
    output = free_folder(asked) if settings.fresh else asked
    if not (output / "results.json").is_file():  # written at the end: then nothing is asked
        for architecture in settings.grid_architectures or [settings.architecture]:
            if architecture == SCORING_LM:
                settings.check_templates()
            elif architecture == PROMPT:
                settings.check_prompts()
    corpus, test = corpora(settings)
    print(corpus.summary())
    arguments = trainer_arguments(given, args)
    with alone(output / LOCK, output):
        if settings.fresh:
            print(f"a new run in {output}; give this folder, without --fresh, to continue it")
        if settings.grid_losses is not None:
            return _grid(settings, given, arguments, corpus, test, output)
        results = _train(settings, given, arguments, corpus, test, output)
        print(f"\n{results['table']}")
        for warning in results["warnings"] or ["It beats both baselines in every dimension."]:
            print(warning)
        print(f"\nrater in {output}: {output / 'README.md'}, {output / 'results.json'}")
        return 0


def corpora(settings: RaterSettings) -> tuple[LabelledCorpus, LabelledCorpus | None]:
    """The corpus to learn from, with as many turns as the rater reads, and the one held out."""
    from empo.corpora.examples import load_labelled, options_of
    from empo.corpora.stories import check_apart

    options = {"text": settings.text} if settings.text != "story" else {}
    options |= {"definitions": settings.definitions} if settings.definitions else {}
    window = {"before": settings.turns, "after": settings.following}
    taken = options_of(settings.data, settings.schema)
    options |= {name: turns for name, turns in window.items() if name in taken}
    options |= {"articles": settings.articles} if settings.articles else {}
    options |= {"incomplete": settings.incomplete} if settings.incomplete != "drop" else {}
    corpus = load_labelled(settings.data, settings.schema, **options)
    if settings.test is None:
        return corpus, None
    test = load_labelled(settings.test, settings.schema, **options)
    if corpus.symmetric:
        check_apart(corpus, test)
    return corpus, test


def _train(
    settings: RaterSettings,
    given: dict[str, Any],
    arguments: dict[str, Any],
    corpus: Any,
    test: Any,
    output: Path,
) -> dict[str, Any]:
    """One rater: all seeds and folds, the evaluation, the card."""
    from empo.rater_cards import rater_card
    from empo.raters.cross_validation import cross_validate
    from empo.reporting.raters import plain_classes, plain_summary, write_rater_report

    results = cross_validate(settings, given, arguments, corpus, test, output)
    write_text(output / "README.md", rater_card(results | {"corpora": results["data"]}))
    write_rater_report(results, output)
    return results | {"table": f"{plain_summary(results)}\n\n{plain_classes(results)}"}


def _grid(
    settings: RaterSettings,
    given: dict[str, Any],
    arguments: dict[str, Any],
    corpus: Any,
    test: Any,
    output: Path,
) -> int:
    """Every architecture with every loss, each a rater of its own, and one table."""
    from empo.raters.losses import UnsuitedLabels
    from empo.reporting.raters import grid_table

    entries: list[dict[str, Any]] = []
    not_run: list[dict[str, str]] = []
    for architecture in settings.grid_architectures or ():
        for loss in settings.grid_losses or ():
            if (reason := unfit(architecture, loss)) is not None:
                not_run.append({"architecture": architecture, "loss": loss, "reason": reason})
                continue
            print(f"\n== {architecture}, {loss}", flush=True)
            chosen = {"architecture": architecture, "loss": loss}
            folder = output / f"{architecture}-{loss}"
            single = {"grid_architectures": None, "grid_losses": None}
            try:
                with alone(folder / LOCK, folder):
                    results = _train(
                        dataclasses.replace(settings, **chosen, **single),
                        {key: value for key, value in given.items() if key not in single} | chosen,
                        arguments,
                        corpus,
                        test,
                        folder,
                    )
            except UnsuitedLabels as error:  # the other losses still run
                not_run.append({**chosen, "reason": str(error)})
                print(f"not run: {error}")
                continue
            entries.append({**chosen, "evaluation": results["evaluation"]})
            write_json(output / "grid.json", {"entries": entries, "not_run": not_run})
    if not entries:
        raise UserError("no combination of the grid could run; the reasons stand above.")
    write_json(output / "grid.json", {"entries": entries, "not_run": not_run})
    text = grid_table(entries, not_run, corpus.schema)
    write_text(output / "grid.md", text)
    print(f"\n{text}\n{output / 'grid.md'}")
    return 0


if __name__ == "__main__":
    run(main)
