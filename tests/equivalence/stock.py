"""Run recipes/dpo.py with trl's own step: separate sequences, the reference in every step.

python tests/equivalence/stock.py --config ... (one epoch; what recipes/dpo.py takes)
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from empo.alignment.launching import quiet_dependencies

if __name__ == "__main__":
    quiet_dependencies()
    from datasets import Dataset
    from trl import DPOTrainer
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from empo.alignment import dpo_trainer
    from empo.alignment.run_trainer import RunTrainer

    class StockTrainer(RunTrainer, DPOTrainer):
        """trl's trainer on the first draw of every row, its loss, collator and reference untouched."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            for ours in ("reference_folder", "reference_identity", "tokens_per_batch"):
                kwargs.pop(ours)
            several = kwargs["data_collator"].rejected_per_prompt
            self.several = several
            self.reference_facts: dict[str, Any] = {}
            kwargs["args"].precompute_ref_log_probs = False
            kwargs["data_collator"] = DataCollatorForPreference(
                kwargs["data_collator"].pad_token_id
            )
            super().__init__(*args, **kwargs)

        def _prepare_dataset(self, dataset: Dataset, *args: Any) -> Dataset:
            return Dataset.from_list(
                [
                    {
                        "prompt_ids": row["prompt_ids"],
                        "chosen_ids": row["chosen_ids"],
                        "rejected_ids": rejected,
                    }
                    for row in dataset
                    for rejected in row["rejected_pool"][: self.several]
                ]
            )

    dpo_trainer.RedrawnDPOTrainer = StockTrainer
    recipe = Path(__file__).parents[2] / "recipes" / "dpo.py"
    sys.argv[0] = str(recipe)
    runpy.run_path(str(recipe), run_name="__main__")
