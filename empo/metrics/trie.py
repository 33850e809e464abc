"""Diversity of a set of responses: fold what repeats, then count the trie of what is left.

The n-gram with the largest weight (n times its number of occurrences) is replaced by one new
symbol wherever it occurs, until no n-gram repeats (section 4.4 of the EmPO paper). What is left of
a response is its template. Few templates, much folding: the system says the same in few ways.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby

from empo.metrics import MetricResult
from empo.metrics import tokens as word
from empo.metrics.long_repeats import Repeats
from empo.records import Response

KEPT = 5_000_000
"""Occurrences of repeated n-grams that may be kept at once: half a gigabyte where all are."""
KEPT_PER_TOKEN = 32
"""The same for each token of a large set, in which most replies repeat to their end. There are more
only where single replies repeat for hundreds of tokens."""


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
    expansions, repeats = _fold_long(numbered, symbols=len(numbers))
    ngrams = _Ngrams(numbered, len(numbers) + len(expansions), repeats.reach.tolist())
    while (heaviest := ngrams.heaviest()) is not None:
        symbol, ngram = ngrams.replace(heaviest)
        expansions[symbol] = ngram
    return ngrams.sequences, expansions


def _fold_long(sequences: list[list[int]], symbols: int) -> tuple[dict[int, list[int]], Repeats]:
    """Fold in place, the heaviest first, until few enough n-grams repeat for all to be kept.

    Returns symbol -> n-gram (symbols are numbered from `symbols` on) and the repeats that are left.
    """
    expansions: dict[int, list[int]] = {}
    while True:
        repeats = Repeats(sequences)
        kept = max(KEPT, KEPT_PER_TOKEN * len(repeats.joined))
        if repeats.occurrences <= kept or (found := repeats.heaviest()) is None:
            return expansions, repeats
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


def _index(sequence: list[int], item: int, start: int) -> int | None:
    try:
        return sequence.index(item, start)
    except ValueError:
        return None


class _Ngrams:
    """The n-grams that repeat and can still become the heaviest, kept while one after the other is
    folded.

    An n-gram is a node, a number reached from its first symbol through `child`; a symbol is the
    node of its own 1-gram. `where` holds a node's occurrences as places: positions in the unfolded
    sequences, counted through all of them with one more after each, which order occurrences as
    current positions do, and which no fold changes. After a fold, an n-gram without the new symbol
    can only have lost occurrences.

    A node is opened, which makes nodes of all repeating n-grams one symbol longer, only when a
    bound on what they can weigh comes to the top of the heap: `reach` has the length of the longest
    repeat that begins at each place of the unfolded sequences, and no fold makes a longer one. So
    heap keys only rise with time, and an outdated one is put right when it comes to the top.
    """

    def __init__(self, sequences: list[list[int]], symbols: int, reach: list[int]) -> None:
        self.sequences = sequences
        self.reach = reach
        self.places: list[list[int]] = []
        self.row_of: list[int] = []
        for row, sequence in enumerate(sequences):
            start = len(self.row_of)
            self.places.append(list(range(start, start + len(sequence))))
            self.row_of += [row] * (len(sequence) + 1)
        self.child: dict[tuple[int, int], int] = {}
        self.length = [1] * symbols
        self.tokens = [1] * symbols
        self.where: list[set[int]] = [set() for _ in range(symbols)]
        self.opened = [False] * symbols
        self.heap: list[tuple[int, int, int, int]] = []
        for sequence, places in zip(sequences, self.places, strict=True):
            for symbol, place in zip(sequence, places, strict=True):
                self.where[symbol].add(place)
        for symbol in range(symbols):
            self._push_bound(symbol)

    def heaviest(self) -> int | None:
        """The node to fold next, None when nothing repeats."""
        while self.heap:
            key = self.heap[0]
            node = key[-1]
            if key[1] == 0:
                heapq.heappop(self.heap)
                if (bound := self._bound(node)) < -key[0]:
                    if bound:
                        heapq.heappush(self.heap, (-bound, 0, 0, node))
                else:
                    self._open(node)
            elif len(self.where[node]) < 2:
                heapq.heappop(self.heap)
            elif key != (current := self._key(node)):
                heapq.heapreplace(self.heap, current)
            else:
                return node
        return None

    def replace(self, node: int) -> tuple[int, list[int]]:
        """Fold the n-gram of a node; return its new symbol and the symbols it stands for."""
        size = self.length[node]
        symbol = self._new_node(1, self.tokens[node])
        ngram: list[int] = []
        grown: dict[int, list[int]] = defaultdict(list)
        for row, occurrences in groupby(sorted(self.where[node]), key=self.row_of.__getitem__):
            sequence, places = self.sequences[row], self.places[row]
            spans: list[int] = []
            for place in occurrences:
                start = bisect_left(places, place)
                if not spans or start >= spans[-1] + size:
                    spans.append(start)
            ngram = ngram or sequence[spans[0] : spans[0] + size]
            self._forget(row, spans, size)
            for start in reversed(spans):
                sequence[start : start + size] = [symbol]
                del places[start + 1 : start + size]
            found = [start - k * (size - 1) for k, start in enumerate(spans)]
            self.where[symbol].update(places[start] for start in found)
            for start, before in self._windows_up_to(row, found):
                grown[before].append(places[start])
        for before, starts in grown.items():
            self._enter(before, symbol, starts)
        self._push_bound(symbol)
        return symbol, ngram

    def _key(self, node: int) -> tuple[int, int, int, int]:
        size, where = self.length[node], self.where[node]
        return -size * len(where), size, min(where), node

    def _bound(self, node: int) -> int:
        """No longer n-gram that begins with the node's weighs more; 0 where none can repeat.

        The k places with the longest reach bound what occurs k times: every further symbol is a
        token or more of it.
        """
        reach, more = self.reach, self.tokens[node]
        room = sorted(
            (reach[place] - more for place in self.where[node] if reach[place] > more), reverse=True
        )
        size = self.length[node]
        return max((k * (size + left) for k, left in enumerate(room, 1) if k > 1), default=0)

    def _push_bound(self, node: int) -> None:
        if bound := self._bound(node):
            heapq.heappush(self.heap, (-bound, 0, 0, node))

    def _new_node(self, length: int, tokens: int) -> int:
        self.length.append(length)
        self.tokens.append(tokens)
        self.where.append(set())
        self.opened.append(False)
        return len(self.length) - 1

    def _enter(self, node: int, symbol: int, places: list[int]) -> None:
        """Make the node of an n-gram, which is another and a symbol, where it repeats."""
        if len(places) < 2:
            return
        tokens = self.tokens[node] + self.tokens[symbol]
        longer = self.child[node, symbol] = self._new_node(self.length[node] + 1, tokens)
        self.where[longer].update(places)
        heapq.heappush(self.heap, self._key(longer))
        self._push_bound(longer)

    def _open(self, node: int) -> None:
        """Make nodes of all repeating n-grams that are this one and a symbol more."""
        self.opened[node] = True
        size = self.length[node]
        after: dict[int, list[int]] = defaultdict(list)
        for place in sorted(self.where[node]):
            row = self.row_of[place]
            sequence, places = self.sequences[row], self.places[row]
            start = bisect_left(places, place)
            if size == 1 and (places[start : start + 1] != [place] or sequence[start] != node):
                continue  # a symbol that a fold has swallowed
            if start + size < len(sequence):
                after[sequence[start + size]].append(place)
        for symbol, found in after.items():
            self._enter(node, symbol, found)

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
                if node is None or len(self.where[node]) < 2:
                    break
                if end >= spans[after]:
                    self.where[node].discard(places[start])

    def _windows_up_to(self, row: int, found: list[int]) -> Iterable[tuple[int, int]]:
        """Start and opened node of the windows that repeat and end just before a new symbol.

        Every other repeating n-gram with the new symbol begins with a node that is not open yet.
        """
        sequence = self.sequences[row]
        before = -1
        for new in found:
            for start in range(new - 1, before, -1):
                node = sequence[start]
                end = start + 1
                while self.opened[node] and end < new:
                    longer = self.child.get((node, sequence[end]))
                    if longer is None or len(self.where[longer]) < 2:
                        break
                    node, end = longer, end + 1
                if self.opened[node]:
                    if end < new:
                        break  # a longer window holds this one, so it cannot repeat either
                    yield start, node
            before = new
