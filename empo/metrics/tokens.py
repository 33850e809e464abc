"""Word tokens, the unit of the trie, of specificity (NIDF) and of word choice (IVA).

nltk's Treebank-style word tokenizer on sentences that are split at white space after `.`, `!` or
`?`: no model has to be downloaded, so tokens are the same on every machine. Case and punctuation
are kept.
"""

from __future__ import annotations

import re
import sys
from functools import lru_cache

from nltk.tokenize.destructive import NLTKWordTokenizer

SIGNATURE = "NLTKWordTokenizer on sentences split at white space after .!?, case kept"

_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_TOKENIZER = NLTKWordTokenizer()


def sentences(text: str) -> list[str]:
    """The sentences of a text, split at white space after `.`, `!` or `?`; [""] for a blank one."""
    return _SENTENCE_END.split(text.strip())


@lru_cache(maxsize=200_000)  # every metric asks for the same few thousand texts
def word_tokens(text: str) -> tuple[str, ...]:
    """The word tokens of a text, () for a blank one."""
    return tuple(  # interned: kept tokens take 8 bytes instead of 60
        sys.intern(token) for sentence in sentences(text) for token in _TOKENIZER.tokenize(sentence)
    )
