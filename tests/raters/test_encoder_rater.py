from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_encoders import SENTENCES, shaken

from empo.dialogues import Turn
from empo.raters.classifier import PairClassifier, PairClassifierConfig
from empo.raters.encoder_rater import EncoderRater, rater_config
from empo.raters.encoders import load_encoder, resolve_encoder
from empo.raters.folder import RATER_CONFIG, attest
from empo.raters.inputs import InputSettings
from empo.raters.loading import load_rater
from empo.rating import Dimension, RatingInput, checked
from empo.records import UserError

ARCHITECTURES = ("bi_encoder", "seeker_attention", "cross_encoder", "window")
DIMENSIONS = (
    Dimension("empathy", 1, 3, "ordinal", (1.0, 2.0, 3.0)),
    Dimension("question", 0, 1, "binary", (0.0, 1.0)),
)
WORDS = " ".join(SENTENCES).split()
Build = Callable[..., EncoderRater]


@pytest.fixture(scope="module")
def build(encoders: dict[str, Path]) -> Build:
    def of(
        architecture: str = "cross_encoder", encoder: str = "bert", **inputs: Any
    ) -> EncoderRater:
        weights, tokenizer = load_encoder(str(encoders[encoder]))
        config = PairClassifierConfig(architecture=architecture, classes=[3, 2], pooling="both")
        model = shaken(PairClassifier.from_encoder(weights, config))
        described = rater_config("mine", DIMENSIONS, InputSettings(**inputs))
        return EncoderRater(model, tokenizer, described, weights="", device="cpu")

    return of


def texts(n: int, seed: int = 0) -> list[RatingInput]:
    """Pairs of shuffled lengths, some texts more than once."""
    chance = random.Random(seed)

    def text(longest: int) -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(1, longest)))

    contexts = [text(20) for _ in range(max(1, n // 2))]
    return [
        RatingInput(chance.choice(contexts), text(8), (Turn("user", text(5)),)) for _ in range(n)
    ]


@pytest.mark.parametrize("encoder", ["bert", "roberta", "t5"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_size_changes_nothing(build: Build, architecture: str, encoder: str) -> None:
    rater = build(architecture, encoder, following=int(architecture == "window"))
    pairs = texts(24)
    alone = [rater.score([pair], batch_size=1) for pair in pairs]
    for together in (rater.score(pairs, batch_size=1), rater.score(pairs, batch_size=64)):
        for d in range(2):
            one_by_one = np.concatenate([ratings.probabilities[d] for ratings in alone])
            np.testing.assert_allclose(together.probabilities[d], one_by_one, atol=1e-4)
        np.testing.assert_array_equal(
            together.scores, np.concatenate([ratings.scores for ratings in alone])
        )
        assert together.truncated.tolist() == [bool(ratings.truncated[0]) for ratings in alone]
    spread = np.concatenate([ratings.probabilities[0] for ratings in alone]).std(axis=0)
    assert spread.max() > 0.02  # or the order would not matter


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scores_are_the_likeliest_levels(build: Build, architecture: str) -> None:
    ratings = checked(build(architecture).score(texts(20)), 20)
    for d, dimension in enumerate(DIMENSIONS):
        np.testing.assert_allclose(ratings.probabilities[d].sum(axis=1), 1)
        likeliest = np.array(dimension.levels)[ratings.probabilities[d].argmax(axis=1)]
        np.testing.assert_array_equal(ratings.scores[:, d], likeliest)
    assert ratings.n_valid.tolist() == [1] * 20


def test_probabilities_are_the_softmax_of_the_logits(build: Build) -> None:
    rater = build()
    pair = RatingInput("I lost my job", "That sounds hard")
    encoded = rater.tokenizer(pair.prompt, pair.response, return_tensors="pt")
    target = encoded["token_type_ids"].clone()
    target[0, -1] = 0  # the response without the [SEP] behind it
    with torch.no_grad():
        logits = rater.model(**encoded, target_mask=target).logits
    found = rater.score([pair]).probabilities
    for d, part in enumerate(rater.model.split(logits)):
        np.testing.assert_allclose(found[d], part.softmax(-1).numpy(), atol=1e-6)


def test_a_bi_encoder_scores_as_its_whole_forward_does(build: Build) -> None:
    rater = build("bi_encoder")
    pairs = texts(12)
    batch = rater.inputs.batch(rater.inputs.rows(pairs))
    with torch.no_grad():
        logits = rater.model(**batch).logits
    found = rater.score(pairs, batch_size=5).probabilities
    for d, part in enumerate(rater.model.split(logits)):
        np.testing.assert_allclose(found[d], part.softmax(-1).numpy(), atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_cannot_be_scored_is_nan_and_the_others_stay_in_place(
    build: Build, architecture: str
) -> None:
    rater = build(architecture)
    good = texts(3)
    pairs = [
        good[0],
        RatingInput("I lost my job", " "),
        good[1],
        RatingInput("I lost my job", "no " * 60),
        good[2],
    ]
    ratings, alone = rater.score(pairs), rater.score(good)
    assert np.isnan(ratings.scores).all(axis=1).tolist() == [False, True, False, True, False]
    np.testing.assert_array_equal(ratings.scores[[0, 2, 4]], alone.scores)
    assert np.isnan(ratings.probabilities[1][[1, 3]]).all()
    assert ratings.n_valid.tolist() == [1, 0, 1, 0, 1]
    assert not ratings.truncated[[1, 3]].any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_to_score(build: Build, architecture: str) -> None:
    rater = build(architecture)
    empty = rater.score([])
    assert len(empty) == 0 and empty.scores.shape == (0, 2)
    assert [p.shape for p in empty.probabilities] == [(0, 3), (0, 2)]
    blank = rater.score([RatingInput("a", ""), RatingInput("", "\n")])
    assert np.isnan(blank.scores).all() and blank.scores.shape == (2, 2)


def test_what_was_cut_is_flagged(build: Build) -> None:
    pairs = [
        RatingInput("one", "a b c d"),
        RatingInput("one two three four", "a b"),
        RatingInput("one two three four", "a b c d"),
        RatingInput("one two three four", ""),
    ]
    ratings = build(max_length=3, response_max_length=2).score(pairs)
    assert ratings.truncated.tolist() == [False, True, True, False]
    assert ratings.response_truncated.tolist() == [True, False, True, False]
    ratings = build(max_length=3).score(pairs)
    assert ratings.response_truncated.tolist() == [False] * 4


@pytest.mark.parametrize("encoder", ["bert", "roberta", "t5"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_loaded_rater_scores_as_the_saved_one(
    build: Build, tmp_path: Path, architecture: str, encoder: str
) -> None:
    rater = build(architecture, encoder, turns=2, max_length=30, lowercase=True)
    rater.save(tmp_path)
    again = load_rater(tmp_path, "cpu")
    assert isinstance(again, EncoderRater) and again.dimensions == DIMENSIONS
    assert again.inputs.settings == rater.inputs.settings
    assert again.inputs.positions == rater.inputs.positions
    pairs = texts(6)
    before, after = rater.score(pairs), again.score(pairs)
    for d in range(2):
        np.testing.assert_allclose(after.probabilities[d], before.probabilities[d], atol=1e-6)
    np.testing.assert_array_equal(after.scores, before.scores)
    assert not [f.name for f in tmp_path.rglob("*") if f.suffix in (".bin", ".pt", ".pth", ".pkl")]


def test_the_packaged_encoder_as_a_rater(tmp_path: Path) -> None:
    encoder, tokenizer = load_encoder(resolve_encoder("minilm")[0])
    model = PairClassifier.from_encoder(encoder, PairClassifierConfig(classes=[3, 2])).eval()
    shaken(model.heads)
    config = rater_config("mine", DIMENSIONS, InputSettings())
    rater = EncoderRater(model, tokenizer, config, weights="", device="cpu")
    rater.save(tmp_path)
    pairs = texts(4)
    before = rater.score(pairs, batch_size=4)
    after = EncoderRater.load(tmp_path, "cpu").score(pairs, batch_size=1)
    np.testing.assert_allclose(after.probabilities[0], before.probabilities[0], atol=1e-4)


def good(low: float = 0.1) -> dict[str, Any]:
    """Evidence that the rater is better than both baselines in both dimensions, for low > 0."""
    better = {"difference": 0.2, "interval": [low, 0.3]}
    one = {"metric": "macro_f1", "constant": better, "length": better}
    shown = {d.name: one for d in DIMENSIONS}
    return {"n": 40, "groups": 10, "drawn": "groups", "notes": [], "dimensions": shown}


def test_every_rating_carries_the_warnings_of_its_rater(build: Build, tmp_path: Path) -> None:
    rater = build()
    pairs = texts(2)
    assert "nothing shows that it beats" in rater.score(pairs).warnings[0]
    rater.save(tmp_path, good())
    assert load_rater(tmp_path, "cpu").score(pairs).warnings == ()
    rater.save(tmp_path, good(-0.1))
    (warning,) = load_rater(tmp_path, "cpu").score(pairs).warnings
    assert "empathy (against constant), empathy (against length), question" in warning
    rater.save(tmp_path)
    attest(tmp_path, good())
    assert load_rater(tmp_path, "cpu").score(pairs).warnings == ()
    shaken(rater.model, seed=1).save_pretrained(tmp_path)
    (warning,) = load_rater(tmp_path, "cpu").score(pairs).warnings
    assert "its evidence belongs to other weights" in warning


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_changed_architecture_or_tokenizer_is_another_rater_without_evidence(
    build: Build, tmp_path: Path
) -> None:
    build("cross_encoder").save(tmp_path, good())
    before = load_rater(tmp_path, "cpu")
    assert before.warnings == ()
    words = json.loads((tmp_path / "tokenizer.json").read_text())
    vocabulary = words["model"]["vocab"]
    vocabulary["lost"], vocabulary["job"] = vocabulary["job"], vocabulary["lost"]
    edit(tmp_path / "tokenizer.json", model=words["model"])
    swapped = load_rater(tmp_path, "cpu")
    edit(tmp_path / "config.json", architecture="window")
    window = load_rater(tmp_path, "cpu")
    assert len({rater.signature for rater in (before, swapped, window)}) == 3
    for rater in (swapped, window):
        assert "its evidence belongs to other weights" in rater.warnings[0]


def test_edited_settings_lose_the_evidence(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path, good())
    facts = json.loads((tmp_path / RATER_CONFIG).read_text())
    facts["settings"]["inputs"]["lowercase"] = True
    edit(tmp_path / RATER_CONFIG, settings=facts["settings"])
    (warning,) = load_rater(tmp_path, "cpu").warnings
    assert "its evidence belongs to other weights, tokenizer or settings" in warning


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_rater_without_its_tokenizer(build: Build, tmp_path: Path, name: str) -> None:
    build().save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"the tokenizer lacks {name}"):
        load_rater(tmp_path, "cpu")


def test_code_that_comes_with_a_tokenizer_is_not_run(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    ran = tmp_path / "ran"
    code = f"open({str(ran)!r}, 'w')\nfrom transformers import BertTokenizer as Own\n"
    (tmp_path / "own.py").write_text(code)
    custom = {"AutoTokenizer": ["own.Own", "own.Own"]}
    edit(tmp_path / "tokenizer_config.json", auto_map=custom, tokenizer_class="Own")
    with pytest.raises(UserError, match=r"tokenizer_config\.json, field 'auto_map': .*never run"):
        load_rater(tmp_path, "cpu")
    assert not ran.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "settings, inputs: an object is expected, not None"),
        ({"inputs": 3}, "settings, inputs: an object is expected, not 3"),
        ({"inputs": {"max_len": 3}}, "settings, inputs: max_len is unknown; known are max_length"),
        ({"inputs": {"max_length": "x"}}, "settings, inputs, max_length: .* integer"),
    ],
)
def test_settings_that_say_nothing_of_the_inputs(
    build: Build, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    build().save(tmp_path)
    edit(tmp_path / RATER_CONFIG, settings=settings)
    with pytest.raises(UserError, match=rf"rater_config\.json, {said}"):
        load_rater(tmp_path, "cpu")


def test_damaged_files(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["encoder"]["model_type"]
    weights = (tmp_path / "model.safetensors").read_bytes()
    for name, content, said in (
        (
            "model.safetensors",
            weights[: len(weights) // 2],
            r"model\.safetensors: this is no whole",
        ),
        ("config.json", json.dumps(config).encode(), "names no encoder with a model_type"),
        ("config.json", b"[]", r"config\.json: a JSON object is expected, not list"),
        ("tokenizer.json", b"{}", "the tokenizer cannot be loaded"),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            load_rater(tmp_path, "cpu")
        (tmp_path / name).write_bytes(whole)
    load_rater(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("device", "said"),
    [("nosuch", "torch knows no such device"), ("cuda:99", "there is no such device here")],
)
def test_a_device_that_is_not_there(build: Build, tmp_path: Path, device: str, said: str) -> None:
    build().save(tmp_path)
    with pytest.raises(UserError, match=f"device '{device}': {said}"):
        load_rater(tmp_path, device)


def test_saved_weights_can_be_read_by_the_group(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_an_interrupted_save_leaves_no_rater(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()  # as a full disk would: the weights are not written
    with pytest.raises(Exception, match="directory"):
        build().save(tmp_path)
    with pytest.raises(UserError, match="this is no rater folder"):
        load_rater(tmp_path)


def test_the_signature_changes_with_the_weights_and_with_how_inputs_are_read(
    build: Build, tmp_path: Path
) -> None:
    signatures = set()
    for i, inputs in enumerate(({}, {}, {"max_length": 100}, {"lowercase": True})):
        rater = build(**inputs)
        if i == 1:
            shaken(rater.model, seed=1)
        rater.save(tmp_path / str(i))
        signatures.add(load_rater(tmp_path / str(i), "cpu").score(texts(1)).signature)
    assert len(signatures) == 4


@pytest.mark.parametrize(
    "dimensions",
    [DIMENSIONS[:1], DIMENSIONS[::-1], (DIMENSIONS[0], Dimension("x", 0, 1, "interval"))],
)
def test_dimensions_that_do_not_fit_the_heads(
    build: Build, tmp_path: Path, dimensions: tuple[Dimension, ...]
) -> None:
    rater = build()
    rater.save(tmp_path)
    dataclasses.replace(rater.config, dimensions=dimensions).write(tmp_path)
    with pytest.raises(UserError, match=r"the heads have \[3, 2\] levels, but the dimensions in"):
        EncoderRater.load(tmp_path)


def test_a_rater_folder_with_pickled_weights(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model\.bin: these weights are pickled"):
        load_rater(tmp_path)


def test_a_rater_of_a_kind_that_is_not_known(build: Build, tmp_path: Path) -> None:
    build().save(tmp_path)
    facts = json.loads((tmp_path / RATER_CONFIG).read_text())
    (tmp_path / RATER_CONFIG).write_text(json.dumps({**facts, "kind": "oracle"}))
    with pytest.raises(UserError, match="'oracle' is no kind of rater that this version knows"):
        load_rater(tmp_path)
