import pytest

from empo.records import Response


@pytest.fixture
def responses():
    """Build responses from texts, with `ids` (default id000, id001, ...)."""

    def build(*texts, ids=None):
        return [
            Response(
                id=ids[i] if ids else f"id{i:03}",
                emotion="sad",
                context=[{"role": "user", "content": "?"}],
                reference="",
                response=text,
                system="s",
            )
            for i, text in enumerate(texts)
        ]

    return build
