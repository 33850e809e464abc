"""On-policy DPO in rounds: sample n replies, the best against the worst by a rater, train, again.

    python recipes/rounds.py --config recipes/tiny/rounds.yaml --rater runs/demo/raters/levels

Round r samples from the policy of round r - 1 (the first from --model), and its DPO starts there, too.
Writes OUTPUT_DIR/round-R: samples.jsonl with all n replies and their scores, pairs/, model/ with its
merged weights; rounds.json keeps what was done: the same command again does only what is missing, and
goes on inside the step that was stopped. More --rounds go on after the last one.

What the rater likes is what comes out: measure with another rater, and at equal length
(`eval/responses.py --ratings`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from empo.alignment.launching import quiet_dependencies
from empo.process import run
from empo.runs import LOCK, alone
from empo.settings import parse
from empo.sweep.rounds import RoundsSettings, model_of, progress, round_steps
from empo.sweep.steps import Steps


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, and run every step of every round once."""
    (settings,) = parse(argv, RoundsSettings, prog="recipes/rounds.py", description=__doc__ or "")
    quiet_dependencies()
    from empo.sweep.checking import check_rounds

    check_rounds(settings)
    folder = Path(settings.output_dir)
    with alone(folder / LOCK, folder):
        steps = Steps(folder / "rounds.json")
        try:
            for number in range(1, settings.rounds + 1):
                for step in round_steps(settings, number):
                    steps.do(step)
        finally:
            print(f"\n{steps.table()}")
    print(
        f"\n{progress(settings)}\n\npolicy of round {settings.rounds} in {model_of(folder, settings.rounds)}"
    )
    return steps.code


if __name__ == "__main__":
    run(main)
