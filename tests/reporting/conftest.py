import pytest

from empo.metrics.evaluation import evaluate
from empo.metrics.iva import DIMENSIONS, Lexicons
from empo.metrics.nidf import NidfTable
from empo.records import Response

TEXTS = {
    "one": ["i am sad", "glad | to `hear` it", "i am so sad for you , friend"],
    "two": ["# sad", "<b>glad</b> [x](http://x.org)", "am i\n\nsad"],
}


@pytest.fixture(scope="session")
def results():
    """Results of two systems and the references, all metrics that can run."""
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
    return evaluate(systems, nidf_table=table, lexicons=lexicons)
