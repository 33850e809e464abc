"""Rejected replies that a folder of `empo pairs` says, in the place of a draw."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from empo.dialogues import Exchange
from empo.pair_files import read_pair_files
from empo.records import Pair, UserError, shown

REMEDY = "Give the corpus, split and limit that the pairs were drawn from, or draw them again."


class FiledDraws:
    """What `empo.preferences.Draws` answers, read from the files of a folder.

    `exchanges` are those that have a pair in some epoch, in corpus order; in an epoch in which one
    has none it repeats another of its epochs. `facts` count both, for run.json. An epoch of the files
    is an epoch of the training. Of sampled pairs both replies are the files' own: the reply of an
    exchange is then the sampled one that was chosen.
    """

    def __init__(self, folder: str | Path, exchanges: Sequence[Exchange], rejected: int) -> None:
        """Read and check the pairs; `rejected` per exchange and epoch are expected.

        Raises UserError where the folder is not whole, or its pairs are of other exchanges.
        """
        self.folder = folder
        manifest, epochs = read_pair_files(folder)
        self._sampled = manifest.get("sampled") is not None
        of_id = {exchange.id: exchange for exchange in exchanges}
        self.epochs = len(epochs)
        self._rejected: list[dict[str, list[Exchange]]] = []
        self._opposites: dict[str, str] = {}
        self._chosen: dict[str, str] = {}
        self._pools: Counter[str] = Counter()
        for number, pairs in enumerate(epochs):
            found: dict[str, list[Exchange]] = {}
            for pair in pairs:
                found.setdefault(pair.id, []).append(self._reply(pair, of_id))
                self._opposites[pair.id] = pair.opposite
            for name, replies in found.items():
                if len({reply.reply for reply in replies}) != rejected:
                    raise UserError(
                        f"{folder}, epoch {number}: {name!r} has {len(replies)} rejected replies, and "
                        f"rejected_per_prompt is {rejected}. Set it to the --rejected of the pairs."
                    )
            self._rejected.append(found)
        self.rejected = rejected
        self.exchanges = [
            replace(exchange, reply=self._chosen.get(exchange.id, exchange.reply))
            for exchange in exchanges
            if exchange.id in self._opposites
        ]
        self._own = {
            exchange.id: [e for e, found in enumerate(self._rejected) if exchange.id in found]
            for exchange in self.exchanges
        }
        replies = {(r.emotion, r.id) for e in self._rejected for some in e.values() for r in some}
        self._pools.update(emotion for emotion, _ in replies)
        self.facts: dict[str, Any] = {
            "folder": str(folder),
            "files": manifest["files"],
            "seed": manifest.get("seed"),
            "mining": manifest.get("mining"),
            "sampled": manifest.get("sampled"),
            "exchanges_without_pairs": len(exchanges) - len(self.exchanges),
            "repeated_by_epoch": [len(self.exchanges) - len(found) for found in self._rejected],
        }
        self.selected_by: list[dict[str, Any]] = list(manifest.get("selected_by") or ())

    def opposite(self, exchange: Exchange) -> str:
        """The opposite of the exchange's emotion, as its pairs say."""
        return self._opposites[exchange.id]

    def pool_sizes(self) -> dict[str, int]:
        """Number of different replies in the files per opposite emotion."""
        return dict(sorted(self._pools.items()))

    def draw(self, number: int, exchange_id: str) -> Exchange:
        """The reply that is rejected at draw `number`; with K per epoch, eK to eK + K - 1 are epoch e's.

        Raises UserError where the files have fewer epochs.
        """
        epoch, k = divmod(number, self.rejected)
        if epoch >= self.epochs:
            raise UserError(
                f"{self.folder}: it has pairs of {self.epochs} epochs, and the training has more. "
                "Draw more with `empo pairs --epochs`, or set num_train_epochs (or max_steps) lower."
            )
        own = self._own[exchange_id]
        return self._rejected[epoch if epoch in own else own[epoch % len(own)]][exchange_id][k]

    def _reply(self, pair: Pair, of_id: dict[str, Exchange]) -> Exchange:
        """The exchange whose reply is rejected; UserError where the pair is not of these exchanges."""
        for name in (pair.id, *(() if self._sampled else (pair.rejected_id,))):
            if name not in of_id:
                raise UserError(
                    f"{self.folder}: the pairs name the dialogue {shown(name)}, which the training "
                    f"corpus does not have. {REMEDY}"
                )
        exchange = of_id[pair.id]
        chosen, loser = ([m.content for m in reply] for reply in (pair.chosen, pair.rejected))
        if self._sampled:
            rejected = replace(exchange, id=pair.rejected_id, reply="\n".join(loser))
            expected = self._chosen.setdefault(pair.id, "\n".join(chosen))
        else:
            rejected, expected = of_id[pair.rejected_id], exchange.reply
        prompt = [message.model_dump() for message in pair.prompt if message.role != "system"]
        same = {
            "prompt": prompt == exchange.messages(),
            "chosen": chosen == [expected],
            "rejected": loser == [rejected.reply],
        }
        if wrong := [field for field, equal in same.items() if not equal]:
            raise UserError(
                f"{self.folder}: the pair of {shown(pair.id)} has another text in {wrong[0]!r} than "
                f"the training corpus. {REMEDY}"
            )
        return rejected
