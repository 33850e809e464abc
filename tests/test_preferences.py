"""The draw of rejected replies: pure, from the opposite emotion, fair within an epoch and over epochs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empo.corpora import load_corpus
from empo.dialogues import Exchange, Turn
from empo.emotions import LABELS, OPPOSITES, Opposite, load_opposites
from empo.preferences import Draws, pair_statistics, pairs
from empo.records import Pair, UserError

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "sample"


def exchange(name: str, emotion: str, reply: str | None = None) -> Exchange:
    return Exchange(name, emotion, (Turn("user", f"I am {name}."),), reply or f"reply of {name}")


def group(emotion: str, size: int) -> list[Exchange]:
    return [exchange(f"{emotion}{i}", emotion) for i in range(size)]


def table(**opposites: str) -> dict[str, Opposite]:
    return {label: Opposite(opposite, "test") for label, opposite in opposites.items()}


def drawn(draws: Draws, exchanges: Iterable[Exchange], epoch: int) -> dict[str, Exchange]:
    return {one.id: draws.draw(epoch, one.id) for one in exchanges}


def assert_fair(
    draws: Draws, exchanges: list[Exchange], opposites: dict[str, Opposite], epoch: int
) -> None:
    """No reply of a pool is unused while another is used twice, over all that share the pool."""
    uses: dict[str, Counter[str]] = {}
    for one in exchanges:
        pool = uses.setdefault(opposites[one.emotion].label, Counter())
        pool[draws.draw(epoch, one.id).id] += 1
    for opposite, counts in uses.items():
        pool = [one.id for one in exchanges if one.emotion == opposite]
        number = [counts[name] for name in pool]
        assert max(number) - min(number) <= 1, (opposite, counts)


# --- the table of opposites ---


def test_the_table_has_32_rows_each_with_a_source() -> None:
    assert len(OPPOSITES) == len(LABELS) == 32
    assert {o.label for o in OPPOSITES.values()} <= OPPOSITES.keys()
    assert all(o.label != label for label, o in OPPOSITES.items())
    sources = Counter(opposite.source for opposite in OPPOSITES.values())
    assert sources == {"wheel": 11, "dyads": 7, "proposed": 14}


def test_four_labels_are_nobodys_opposite() -> None:
    nobodys = OPPOSITES.keys() - {opposite.label for opposite in OPPOSITES.values()}
    assert nobodys == {"sentimental", "grateful", "prepared", "guilty"}


@pytest.mark.parametrize(
    "label, opposite, source",
    [
        ("sad", "joyful", "wheel"),
        ("content", "anxious", "wheel"),
        ("prepared", "anxious", "dyads"),
        ("annoyed", "apprehensive", "proposed"),
    ],
)
def test_rows_of_the_table(label: str, opposite: str, source: str) -> None:
    assert OPPOSITES[label] == Opposite(opposite, source)


@pytest.fixture
def own_table(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "own.csv"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_an_own_table_is_read(own_table) -> None:
    text = "\ufefflabel,opposite,source\r\nup, down ,me\r\n down,up,\r\n"
    assert load_opposites(own_table(text)) == {
        "up": Opposite("down", "me"),
        "down": Opposite("up", "own table"),
    }
    assert load_opposites(own_table("opposite,label\na,b\nb,a\n")) == {
        "a": Opposite("b", "own table"),
        "b": Opposite("a", "own table"),
    }


def test_all_problems_of_an_own_table_are_told_at_once(own_table) -> None:
    with pytest.raises(UserError) as error:
        load_opposites(own_table("label,opposite\na,a\nb,c\nb,d\n,b\nd,\n"))
    assert str(error.value).endswith(
        "own.csv: line 2: 'a' is its own opposite; line 4: the label 'b' stands there twice; "
        "line 5: label or opposite is empty; line 6: label or opposite is empty; "
        "'b': its opposite 'c' has no row of its own."
    )


@pytest.mark.parametrize(
    "text, told",
    [
        ("label,source\na,b\n", "the column opposite is missing; found: label, source."),
        ("a,b\n", "the columns label, opposite are missing; found: a, b."),
        ("label,opposite\n", "the table has no rows."),
        (
            "label,opposite\na,b,me\nb,a\n",
            "line 2: more fields than the 2 of the header; 'b': its "
            "opposite 'a' has no row of its own.",
        ),
        ("label,opposite,label\n", "the column 'label' stands there twice. Rename one."),
        ("", "the file is empty."),
    ],
)
def test_an_own_table_that_cannot_be_read(own_table, text: str, told: str) -> None:
    with pytest.raises(UserError) as error:
        load_opposites(own_table(text))
    assert str(error.value).endswith(f"own.csv: {told}")


def test_an_own_table_with_wrong_quoting_is_told_with_its_line(own_table) -> None:
    with pytest.raises(UserError, match=r"own.csv, line 2: not a well-quoted csv \("):
        load_opposites(own_table('label,opposite\n"a"x,b\n'))


def test_blanks_in_the_header_of_an_own_table_do_not_matter(own_table) -> None:
    assert load_opposites(own_table("label, opposite\na,b\nb,a\n"))["a"].label == "b"


# --- examples ---

SIZES = {"sad": 7, "joyful": 4, "grateful": 3, "disgusted": 5, "trusting": 6}
OWN = table(
    sad="joyful", joyful="sad", grateful="disgusted", disgusted="trusting", trusting="disgusted"
)
UP_DOWN = table(up="down", down="up")
CORPUS = [one for emotion, size in SIZES.items() for one in group(emotion, size)]


def test_the_rejected_reply_answers_the_opposite_emotion_in_another_dialogue() -> None:
    draws = Draws(CORPUS, OWN, 1)
    for epoch in range(8):
        for one in CORPUS:
            reply = draws.draw(epoch, one.id)
            assert reply.emotion == draws.opposite(one) == OWN[one.emotion].label
            assert reply.id != one.id and reply.reply != one.reply


def test_the_draw_is_the_same_for_other_objects_orders_and_epochs_asked() -> None:
    expected = [drawn(Draws(CORPUS, OWN, 1), CORPUS, epoch) for epoch in range(6)]
    backwards = Draws(CORPUS[::-1], dict(reversed(OWN.items())), 1)
    for epoch in (5, 0, 3, 3, 1, 4, 2):
        assert drawn(backwards, CORPUS[::-1], epoch) == expected[epoch]


def test_a_single_draw_needs_no_other_to_be_asked_before() -> None:
    whole = Draws(CORPUS, OWN, 1)
    for one in CORPUS:
        assert Draws(CORPUS, OWN, 1).draw(2, one.id) == whole.draw(2, one.id)


def test_another_seed_draws_other_replies() -> None:
    assert drawn(Draws(CORPUS, OWN, 1), CORPUS, 0) != drawn(Draws(CORPUS, OWN, 2), CORPUS, 0)


def test_exchanges_of_another_emotion_do_not_move_a_draw() -> None:
    fewer = [one for one in CORPUS if one.emotion in ("sad", "joyful")]
    draws, of_fewer = Draws(CORPUS, OWN, 1), Draws(fewer, OWN, 1)
    assert drawn(draws, fewer, 2) == drawn(of_fewer, fewer, 2)


def test_three_epochs_are_three_draws_for_every_exchange() -> None:
    draws = Draws(CORPUS, OWN, 1)
    for one in CORPUS:
        assert len({draws.draw(epoch, one.id).id for epoch in range(3)}) == 3


def test_emotions_that_share_an_opposite_share_its_replies_fairly() -> None:
    draws = Draws(CORPUS, OWN, 1)
    shared = [one for one in CORPUS if OWN[one.emotion].label == "disgusted"]
    assert len(shared) == 9  # grateful and trusting, on 5 replies
    for epoch in range(5):
        uses = Counter(reply.id for reply in drawn(draws, shared, epoch).values())
        assert sorted(uses.values()) == [1, 2, 2, 2, 2]


def test_an_epoch_goes_on_where_the_one_before_it_stopped() -> None:
    corpus = [*group("up", 2), *group("down", 6)]
    draws = Draws(corpus, UP_DOWN, 1)
    seen = [draws.draw(epoch, name).id for epoch in range(3) for name in ("up0", "up1")]
    assert len(set(seen)) == 6


def test_the_order_in_which_exchanges_walk_the_pool_is_seeded_too() -> None:
    corpus = [*group("up", 6), *group("down", 6)]
    walks = set()
    for seed in range(5):
        draws = Draws(corpus, UP_DOWN, seed)
        first, second = (drawn(draws, corpus[:6], epoch) for epoch in range(2))
        # as many exchanges as replies: the second epoch gives each the reply of the one after it
        had = {reply.id: name for name, reply in first.items()}
        walk = ["up0"]
        while len(walk) < 6:
            walk.append(had[second[walk[-1]].id])
        assert len(set(walk)) == 6
        walks.add(tuple(walk))
    assert len(walks) > 1


def test_the_sizes_of_the_pools_are_told() -> None:
    sizes = {"disgusted": 5, "joyful": 4, "sad": 7, "trusting": 6}
    assert Draws(CORPUS, OWN, 1).pool_sizes() == sizes


def test_every_emotion_without_an_opposite_reply_is_told_at_once() -> None:
    corpus = [*group("sad", 2), *group("odd", 1), *group("glad", 3)]
    with pytest.raises(UserError) as error:
        Draws(corpus, table(sad="joyful", glad="sad"), 1)
    assert str(error.value) == (
        "preference pairs cannot be drawn:\n"
        "  - 'odd' (1 exchanges) has no opposite in the table\n"
        "  - 'sad' (2 exchanges): its opposite 'joyful' has no reply in this split\n"
        "Add dialogues of these emotions (or raise `limit` where it is set), or give your own "
        "table of opposites (--opposites)."
    )


# up0 must never get the reply of down0; up1 and up2 may
ONE_EQUAL = [
    exchange("up0", "up", "same"),
    *group("up", 3)[1:],
    exchange("down0", "down", "same"),
    *group("down", 3)[1:],
]


def test_a_reply_equal_to_the_chosen_one_is_swapped_with_another_exchange() -> None:
    for seed in range(20):
        rejected = drawn(Draws(ONE_EQUAL, UP_DOWN, seed), ONE_EQUAL[:3], 0)
        assert rejected["up0"].reply != "same"
        assert {reply.id for reply in rejected.values()} == {"down0", "down1", "down2"}


def test_an_equal_reply_leaves_the_second_epoch_fair_and_fresh_where_that_can_be() -> None:
    # whatever the first epoch was, the second can use all three replies and repeat no pair
    for seed in range(20):
        draws = Draws(ONE_EQUAL, UP_DOWN, seed)
        first, second = (drawn(draws, ONE_EQUAL[:3], epoch) for epoch in range(2))
        assert all(first[name].id != second[name].id for name in first)
        assert {reply.id for reply in second.values()} == {"down0", "down1", "down2"}


def test_replies_that_all_equal_the_own_one_are_told() -> None:
    corpus = [exchange("up0", "up", "same"), exchange("down0", "down", "same")]
    with pytest.raises(
        UserError, match=r"exchange 'up0': every reply of the opposite emotion 'down'"
    ):
        Draws(corpus, UP_DOWN, 1).draw(0, "up0")


# --- properties of any small corpus ---

EMOTIONS = "abcde"


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[Exchange], dict[str, Opposite]]:
    """Exchanges of up to five emotions with 1 to 6 replies each; opposites may be shared."""
    emotions = EMOTIONS[: draw(st.integers(2, 5))]
    opposites = {
        emotion: Opposite(draw(st.sampled_from([e for e in emotions if e != emotion])), "test")
        for emotion in emotions
    }
    corpus = [one for emotion in emotions for one in group(emotion, draw(st.integers(1, 6)))]
    return draw(st.permutations(corpus)), opposites


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_any_draw_is_pure(found, seed: int, random) -> None:
    corpus, opposites = found
    first, second = Draws(corpus, opposites, seed), Draws(sorted(corpus, key=hash), opposites, seed)
    asked = [(epoch, one.id) for epoch in range(4) for one in corpus]
    answers = {question: first.draw(*question) for question in asked}
    random.shuffle(asked)
    assert all(second.draw(*question) == answers[question] for question in asked)


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(0, 2**32))
def test_any_epoch_is_fair_and_opposite(found, seed: int) -> None:
    corpus, opposites = found
    draws = Draws(corpus, opposites, seed)
    for epoch in range(7):
        assert_fair(draws, corpus, opposites, epoch)
        for one in corpus:
            assert draws.draw(epoch, one.id).emotion == opposites[one.emotion].label


@settings(max_examples=60, deadline=None)
@given(corpora(), st.integers(0, 2**32))
def test_any_exchange_meets_its_whole_pool_before_it_meets_a_reply_again(found, seed: int) -> None:
    corpus, opposites = found
    draws = Draws(corpus, opposites, seed)
    for one in corpus:
        size = draws.pool_sizes()[draws.opposite(one)]
        for cycle in (0, 1):
            epochs = range(cycle * size, (cycle + 1) * size)
            assert len({draws.draw(epoch, one.id).id for epoch in epochs}) == size


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from("pqrs"), min_size=1, max_size=6),
    st.lists(st.sampled_from("pqrs"), min_size=1, max_size=6),
    st.integers(0, 2**32),
)
def test_a_rejected_text_never_equals_the_chosen_one(
    up: list[str], down: list[str], seed: int
) -> None:
    corpus = [exchange(f"up{i}", "up", text) for i, text in enumerate(up)]
    corpus += [exchange(f"down{i}", "down", text) for i, text in enumerate(down)]
    possible = {
        "up": all(set(down) - {text} for text in up),
        "down": all(set(up) - {text} for text in down),
    }
    draws = Draws(corpus, UP_DOWN, seed)
    for one in corpus:
        for epoch in range(4):
            if possible[one.emotion]:
                assert draws.draw(epoch, one.id).reply != one.reply
            else:
                with pytest.raises(UserError, match="equals its own"):
                    draws.draw(epoch, one.id)


# --- the sample corpus, pairs and statistics ---


@pytest.fixture(scope="module")
def sample() -> list[Exchange]:
    return load_corpus(SAMPLE, "train").exchanges()


def test_the_sample_is_drawn_fairly_and_anew_in_three_epochs(sample: list[Exchange]) -> None:
    draws = Draws(sample, OPPOSITES, 42)
    for epoch in range(3):
        assert_fair(draws, sample, dict(OPPOSITES), epoch)
    for one in sample:
        replies = [draws.draw(epoch, one.id) for epoch in range(3)]
        assert len({reply.id for reply in replies}) == 3
        assert one.reply not in {reply.reply for reply in replies}


def test_pairs_follow_the_schema_in_the_order_of_the_corpus() -> None:
    draws = Draws(CORPUS, OWN, 1)
    found = [Pair.model_validate(row) for row in pairs(draws, CORPUS, 1)]
    assert [pair.id for pair in found] == [one.id for one in CORPUS]
    for pair, one in zip(found, CORPUS, strict=True):
        rejected = draws.draw(1, one.id)
        assert [m.model_dump() for m in pair.prompt] == one.messages()
        assert [m.content for m in (*pair.chosen, *pair.rejected)] == [one.reply, rejected.reply]
        assert {m.role for m in (*pair.chosen, *pair.rejected)} == {"assistant"}
        assert (pair.emotion, pair.opposite) == (one.emotion, OWN[one.emotion].label)
        assert pair.rejected_id == rejected.id


def test_statistics_of_a_corpus_that_can_be_counted_by_hand() -> None:
    up = [exchange("up0", "up", "12345"), exchange("up1", "up", "1234567")]
    down = [exchange("down0", "down", "123")]
    first, second = pair_statistics(Draws([*up, *down], UP_DOWN, 1), [*up, *down], 2)
    # up0 and up1 both get "123"; down0 gets one of the two, the other one in the second epoch
    assert (first["pairs"], first["distinct_rejected"], first["most_uses_of_a_reply"]) == (3, 2, 2)
    assert first["mean_chosen_characters"] == 5.0
    rejected = sorted([first["mean_rejected_characters"], second["mean_rejected_characters"]])
    assert rejected == [pytest.approx(11 / 3, abs=0.005), pytest.approx(13 / 3, abs=0.005)]
    means = sorted([first["length_difference"]["mean"], second["length_difference"]["mean"]])
    assert means == [pytest.approx(2 / 3, abs=0.005), pytest.approx(4 / 3, abs=0.005)]
    assert first["length_difference"]["median"] == 2
    assert first["length_difference"]["share_chosen_longer"] == pytest.approx(2 / 3, abs=5e-5)
    assert (first["changed"], second["changed"]) == (1.0, pytest.approx(1 / 3, abs=5e-5))
