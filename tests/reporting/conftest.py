import pytest

from empo.metrics.evaluation import evaluate
from empo.metrics.iva import DIMENSIONS, Lexicons
from empo.metrics.nidf import NidfTable
from empo.rating import MECHANISMS, Dimension, Ratings
from empo.records import Response

TEXTS = {
    "one": ["i am sad", "glad | to `hear` it", "i am so sad for you , friend"],
    "two": ["# sad", "<b>glad</b> [x](http://x.org)", "am i\n\nsad"],
}


class WordRater:
    """A rule as a rater: levels follow how many words the text has."""

    dimensions = tuple(Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in MECHANISMS)

    def score(self, pairs, *, batch_size=32):
        counts = [len(pair.response.split()) for pair in pairs]
        scores = [[float(n > 2), float(min(n // 2, 2)), 2.0 * (n > 6)] for n in counts]
        return Ratings.of(self.dimensions, scores, "words", warnings=["Words | are *no* empathy."])


@pytest.fixture(scope="session")
def results():
    """Results of two systems and the references, all metrics that need no rater."""
    return measured()


@pytest.fixture(scope="session")
def rated():
    """The same with the levels of a rater."""
    return measured(WordRater())


def measured(rater=None):
    systems = {
        name: [
            Response(
                id=f"hit:{i}_conv:{i}",
                emotion="sad",
                context=[{"role": "user", "content": "i am glad"}],
                reference=f"i am sad {'too ' * i}",
                response=text,
                system=name,
            )
            for i, text in enumerate(texts)
        ]
        for name, texts in TEXTS.items()
    }
    table = NidfTable(
        schema="empo.nidf/1",
        tokens="",
        turns="",
        dialogues=1,
        documents=9,
        corpus_sha256="0" * 64,
        counts={"i": 8, "am": 4, "sad": 2, "glad": 1},
    )
    lexicons = Lexicons({name: {"sad": 0.25, "glad": 0.75} for name in DIMENSIONS}, "by hand")
    return evaluate(systems, nidf_table=table, lexicons=lexicons, rater=rater)
