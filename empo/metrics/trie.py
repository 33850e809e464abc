"""Diversity of a set of responses: fold what repeats, then count the trie of what is left.

The n-gram with the largest weight (n times its number of occurrences) is replaced by one new
symbol wherever it occurs, until no n-gram repeats (section 4.4 of the EmPO paper). What is left of
a response is its template. Few templates, much folding: the system says the same in few ways.
"""

from __future__ import annotations

import heapq
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from operator import itemgetter

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.long_repeats import Repeats
from empo.records import Response

KEPT = 2_000_000
"""Occurrences of repeated n-grams that are kept at once: about 200 MB."""


def trie(responses: Sequence[Response]) -> MetricResult:
    """Response-trie diversity; no value per response, for it is a property of the whole set.

    templates: number of distinct folded responses; template_share: the same per response (0..1).
    span_nodes: number of fold symbols, each an n-gram that had repeated.
    total_nodes: nodes of the trie of folded responses, with the root.
    children_from_root: number of distinct first symbols of folded responses.
    compression_ratio: total_nodes over the nodes of the unfolded trie (1 = nothing repeats).
    unique_start_words: number of distinct first words before folding, case kept.
    """
    ordered = sorted(responses, key=lambda response: response.id)  # file order must not matter
    texts = [word.word_tokens(response.response) for response in ordered]
    templates, expansions = fold(texts)
    nodes, unfolded = trie_nodes(templates), trie_nodes(texts)
    distinct = len(set(map(tuple, templates)))
    values = {
        "templates": distinct,
        "template_share": distinct / len(texts),
        "span_nodes": len(expansions),
        "total_nodes": nodes,
        "children_from_root": len({template[0] for template in templates if template}),
        "compression_ratio": nodes / unfolded,
        "unique_start_words": len({text[0] for text in texts if text}),
    }
    signature = (
        f"greedy token-aligned fold, ties by n, then first in order of ids; {word.SIGNATURE}"
    )
    return MetricResult("trie", len(texts), values, of_the_set=tuple(values), signature=signature)


def trie_nodes(sequences: Iterable[Sequence]) -> int:
    """Number of nodes of the trie of the sequences, with the root."""
    child: dict[tuple[int, object], int] = {}
    for sequence in sequences:
        node = 0
        for symbol in sequence:
            node = child.setdefault((node, symbol), len(child) + 1)
    return len(child) + 1


def fold(sequences: Sequence[Sequence[str]]) -> tuple[list[list[int]], dict[int, list[int]]]:
    """Replace repeated n-grams by symbols, the heaviest first, until none repeats.

    An n-gram repeats when it has two occurrences, overlapping ones counted; its weight is n times
    their number. Ties go to the smaller n, then to the one seen first (sequence, then position).
    A fold replaces from left to right without overlap.

    Returns the folded sequences as numbers, and symbol -> the n-gram it stands for; the other
    numbers are words.
    """
    numbers: dict[str, int] = {}
    numbered = [[numbers.setdefault(item, len(numbers)) for item in row] for row in sequences]
    expansions = _fold_long(numbered, symbols=len(numbers))
    ngrams = _Ngrams(numbered, symbols=len(numbers) + len(expansions))
    while (heaviest := ngrams.heaviest()) is not None:
        symbol, ngram = ngrams.replace(heaviest)
        expansions[symbol] = ngram
    return ngrams.sequences, expansions


def _fold_long(sequences: list[list[int]], symbols: int) -> dict[int, list[int]]:
    """Fold in place, the heaviest first, until few enough n-grams repeat for all to be kept.

    Returns symbol -> n-gram; symbols are numbered from `symbols` on.
    """
    expansions: dict[int, list[int]] = {}
    while sum(len(sequence) ** 2 for sequence in sequences) / 2 > KEPT:  # what can be there at most
        repeats = Repeats(sequences)
        if repeats.occurrences <= KEPT or (found := repeats.heaviest()) is None:
            break
        start, n = found
        ngram = repeats.joined[start : start + n].tolist()
        symbol = symbols + len(expansions)
        expansions[symbol] = ngram
        for sequence in sequences:
            i = 0
            while (i := _index(sequence, ngram[0], i)) is not None:
                if sequence[i : i + n] == ngram:
                    sequence[i : i + n] = [symbol]
                i += 1
    return expansions


def _index(sequence: list[int], item: int, start: int) -> int | None:
    try:
        return sequence.index(item, start)
    except ValueError:
        return None


class _Ngrams:
    """All n-grams that repeat, kept up to date while one after the other is folded.

    An n-gram is a node, a number reached from its first symbol through `child`; a symbol is the
    node of its own 1-gram. `where` holds a node's occurrences as places (sequence, offset), where
    the offset counts tokens of the *unfolded* sequence: it orders places as current positions do,
    and no fold changes it. After a fold, an n-gram without the new symbol can only have lost
    occurrences, so its key in the heap only rises, and an outdated key is put right when it comes
    to the top.
    """

    def __init__(self, sequences: list[list[int]], symbols: int) -> None:
        self.sequences = sequences
        self.places = [[(row, i) for i in range(len(s))] for row, s in enumerate(sequences)]
        self.child: dict[tuple[int, int], int] = {}
        self.length = [1] * symbols
        self.where: list[set[tuple[int, int]]] = [set() for _ in range(symbols)]
        self.heap: list[tuple[int, int, tuple[int, int], int]] = []
        self._grow(
            [
                (row, start, start + 1, symbol)
                for row, sequence in enumerate(sequences)
                for start, symbol in enumerate(sequence)
            ]
        )

    def heaviest(self) -> int | None:
        """The node to fold next, None when nothing repeats."""
        while self.heap:
            key = self.heap[0]
            node = key[-1]
            if len(self.where[node]) < 2:
                heapq.heappop(self.heap)
            elif key != (current := self._key(node)):
                heapq.heapreplace(self.heap, current)
            else:
                return node
        return None

    def replace(self, node: int) -> tuple[int, list[int]]:
        """Fold the n-gram of a node; return its new symbol and the symbols it stands for."""
        symbol, size = self._new_node(1), self.length[node]
        ngram: list[int] = []
        windows: list[tuple[int, int, int, int]] = []
        for row, occurrences in groupby(sorted(self.where[node]), key=itemgetter(0)):
            sequence, places = self.sequences[row], self.places[row]
            position = {place: index for index, place in enumerate(places)}
            spans: list[int] = []
            for start in map(position.__getitem__, occurrences):
                if not spans or start >= spans[-1] + size:
                    spans.append(start)
            ngram = ngram or sequence[spans[0] : spans[0] + size]
            self._forget(row, spans, size)
            for start in reversed(spans):
                sequence[start : start + size] = [symbol]
                del places[start + 1 : start + size]
            windows += self._windows_up_to(
                row, [start - k * (size - 1) for k, start in enumerate(spans)]
            )
        self._grow(windows)
        return symbol, ngram

    def _key(self, node: int) -> tuple[int, int, tuple[int, int], int]:
        size, where = self.length[node], self.where[node]
        return -size * len(where), size, min(where), node

    def _new_node(self, length: int) -> int:
        self.length.append(length)
        self.where.append(set())
        return len(self.length) - 1

    def _repeats(self, node: int) -> bool:
        return self.length[node] == 1 or len(self.where[node]) > 1

    def _forget(self, row: int, spans: list[int], size: int) -> None:
        """Take out the occurrences in a sequence that touch a span which is about to be replaced.

        Occurrences of an n-gram begin where some of its prefix's do, so a walk may stop at the
        first node that does not repeat.
        """
        sequence, places = self.sequences[row], self.places[row]
        after = 0  # number of the first span that does not end before the window's start
        for start in range(len(sequence)):
            while after < len(spans) and spans[after] + size <= start:
                after += 1
            if after == len(spans):
                return
            node: int | None = sequence[start]
            for end in range(start + 1, len(sequence)):
                node = self.child.get((node, sequence[end]))
                if node is None or not self._repeats(node):
                    break
                if end >= spans[after]:
                    self.where[node].discard(places[start])

    def _windows_up_to(self, row: int, found: list[int]) -> Iterable[tuple[int, int, int, int]]:
        """Windows (row, start, end, node) that repeat and end just before a new symbol, or are it.

        Every repeating n-gram with the new symbol grows out of one of them to the right.
        """
        sequence = self.sequences[row]
        before = -1
        for new in found:
            yield row, new, new + 1, sequence[new]
            for start in range(new - 1, before, -1):
                node: int | None = sequence[start]
                for end in range(start + 1, new):
                    node = self.child.get((node, sequence[end]))
                    if node is None or not self._repeats(node):
                        node = None
                        break
                if node is None:
                    break  # a longer window holds this one, so it cannot repeat either
                yield row, start, new, node
            before = new

    def _grow(self, windows: list[tuple[int, int, int, int]]) -> None:
        """Enter all n-grams that repeat and grow out of the windows, one symbol per round.

        All occurrences of an n-gram come up in the same round: its first new symbol fixes it.
        """
        while windows:
            longer: dict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
            for row, start, end, node in windows:
                if end < len(self.sequences[row]):
                    longer[node, self.sequences[row][end]].append((row, start, end + 1))
            windows = []
            for edge, found in longer.items():
                if len(found) > 1:
                    node = self.child[edge] = self._new_node(self.length[edge[0]] + 1)
                    self.where[node].update(self.places[row][start] for row, start, _ in found)
                    heapq.heappush(self.heap, self._key(node))
                    windows += [(*window, node) for window in found]
