"""The published names and layers, on a tiny RoBERTa: the published weights are not needed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedModel, RobertaConfig, RobertaModel

from empo.raters.encoder_rater import EncoderRater
from empo.raters.encoders import load_encoder
from empo.raters.folder import RaterConfig
from empo.raters.loading import load_rater
from empo.raters.published import INPUTS, convert
from empo.rating import RatingInput
from empo.records import UserError

PAIRS = (
    ("I lost my job today.", "That sounds hard. I am so SORRY."),
    ("I lost my job today. " * 10 + "Then my dog was sick.", "How did it start? " * 20),
    ("My dog was sick", "How did it start?"),
    ("Nobody came to my birthday party.", "Yes."),
)


@pytest.fixture(scope="module")
def roberta(encoders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny RoBERTa with room for 64 tokens."""
    folder = tmp_path_factory.mktemp("roomy") / "tiny-roberta"
    config = RobertaConfig.from_pretrained(encoders["roberta"], max_position_embeddings=66)
    torch.manual_seed(0)
    RobertaModel(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoders["roberta"]).save_pretrained(folder)
    return folder


def published(roberta: Path, seed: int, inner: str) -> dict[str, torch.Tensor]:
    """A state dictionary with the names of the published files and random numbers.

    `inner` is what stands between `seeker_encoder.` and the names of RoBERTa.
    """
    generator = torch.Generator().manual_seed(seed)
    encoder = load_encoder(str(roberta))[0].state_dict()

    def noise(*shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    state = {}
    for side in ("seeker_encoder", "responder_encoder"):
        for name, tensor in encoder.items():
            state[f"{side}.{inner}{name}"] = tensor + 0.2 * noise(*tensor.shape)
        state[f"{side}.{inner}embeddings.position_ids"] = torch.arange(42)[None]
        state[f"{side}.{inner}pooler.dense.weight"] = noise(32, 32)
    state["seeker_encoder.lm_head.bias"] = noise(400)
    for name in ("attn.q_linear", "attn.k_linear", "attn.v_linear", "attn.out"):
        state |= {f"{name}.weight": noise(32, 32), f"{name}.bias": noise(32)}
    state |= {"norm.alpha": torch.ones(32), "norm.bias": torch.zeros(32)}
    shapes = {"empathy_classifier.dense": 32, "empathy_classifier.out_proj": 3}
    for name, n in (shapes | {"rationale_classifier": 2}).items():
        state |= {f"{name}.weight": noise(n, 32), f"{name}.bias": noise(n)}
    return state


def forward(
    state: dict[str, torch.Tensor], inner: str, encoder: PreTrainedModel, sides: list[list[int]]
) -> tuple[np.ndarray, np.ndarray]:
    """Level and rationale logits of one pair as Sharma et al. (2020) compute them, evaluation mode.

    Both texts are filled up to 64 tokens; the encoders leave the filling out, the attention over the
    seeker's post does not.
    """
    states = []
    for side, tokens in zip(("seeker_encoder", "responder_encoder"), sides, strict=True):
        ids = torch.tensor([tokens + [1] * (64 - len(tokens))])
        weights = {name: state[f"{side}.{inner}{name}"] for name in encoder.state_dict()}
        encoder.load_state_dict(weights)
        with torch.no_grad():
            found = encoder(input_ids=ids, attention_mask=(ids != 1).long())
        states.append(found.last_hidden_state[0].clone())
    seeker, response = states

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    similar = linear("attn.q_linear", response) @ linear("attn.k_linear", seeker).T
    attended = (similar / 32**0.5).softmax(dim=-1) @ linear("attn.v_linear", seeker)
    response = response + linear("attn.out", attended)
    hidden = linear("empathy_classifier.dense", response[0]).relu()
    levels = linear("empathy_classifier.out_proj", hidden)
    return levels.numpy(), linear("rationale_classifier", response).numpy()


@pytest.mark.parametrize("inner", ["roberta.", ""])
def test_converted_classifiers_compute_what_the_published_ones_do(
    roberta: Path, tmp_path: Path, inner: str
) -> None:
    states = {
        name: published(roberta, seed, inner)
        for seed, name in enumerate(("emotional_reactions", "explorations"))
    }
    for name, state in states.items():
        torch.save(state, tmp_path / f"{name}.pth")
    files = {name: tmp_path / f"{name}.pth" for name in states}
    folder = convert(files, tmp_path / "epitome", str(roberta))
    assert not [file for file in folder.rglob("*") if file.suffix in (".bin", ".pth", ".pt")]
    encoder, tokenizer = load_encoder(str(roberta))
    for name, state in states.items():
        rater = EncoderRater.load(folder / name, "cpu")
        for context, response in PAIRS:
            sides = []
            for text in (context, response):  # the end is lost, and a blank stands before
                tokens = tokenizer(f" {text.lower()}", add_special_tokens=False)["input_ids"]
                sides.append([0, *tokens[:62], 2])
            levels, marks = forward(state, inner, encoder, sides)
            row = rater.inputs.rows([RatingInput(context, response)])
            with torch.no_grad():
                batch = rater.inputs.batch(row)
                labels = torch.zeros(*batch["input_ids"].shape, 1, dtype=torch.long)
                output = rater.model(**batch, rationale_labels=labels)
            np.testing.assert_allclose(output.logits[0].numpy(), levels, atol=1e-4)
            kept = torch.tensor(marks[: len(sides[1])])
            expected = nn.functional.cross_entropy(kept, labels[0, :, 0])
            assert float(output.rationale_loss) == pytest.approx(float(expected), abs=1e-4)
            assert np.ptp(levels) > 0.05


def test_the_scores_do_not_depend_on_the_batch(roberta: Path, tmp_path: Path) -> None:
    torch.save(published(roberta, 0, ""), tmp_path / "er.pth")
    folder = convert({"explorations": tmp_path / "er.pth"}, tmp_path / "out", str(roberta))
    rater = load_rater(folder, "cpu")
    pairs = [RatingInput(*pair) for pair in PAIRS]
    together = rater.score(pairs).probabilities[0]
    alone = [rater.score([pair]).probabilities[0][0] for pair in pairs]
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_folder_is_one_rater_of_all_mechanisms(roberta: Path, tmp_path: Path) -> None:
    files = {}
    for seed, name in enumerate(("emotional_reactions", "explorations")):
        files[name] = tmp_path / f"{name}.pth"
        torch.save(published(roberta, seed, "roberta."), files[name])
    rater = load_rater(convert(files, tmp_path / "epitome", str(roberta)), "cpu")
    ratings = rater.score([RatingInput(*pair) for pair in PAIRS])
    assert [d.name for d in ratings.dimensions] == ["emotional_reactions", "explorations"]
    assert ratings.scores.shape == (len(PAIRS), 2) and set(ratings.scores.ravel()) <= {0, 1, 2}
    assert "nothing shows that it beats" in " ".join(ratings.warnings)
    settings = RaterConfig.read(tmp_path / "epitome" / "explorations").settings
    assert settings["converted_from"] == "explorations.pth"
    assert settings["encoder"] == "tiny-roberta"  # no path


def test_texts_are_read_as_published() -> None:
    """64 tokens a text with the two special ones, all lower case, one turn, the end cut."""
    assert (INPUTS.max_length + 2, INPUTS.response_max_length + 2) == (64, 64)
    assert INPUTS.lowercase and INPUTS.turns == 1 and INPUTS.context_side == "right"


def refused(files: dict[str, Path], output: Path, roberta: Path) -> str:
    with pytest.raises(UserError) as error:
        convert(files, output, str(roberta))
    return str(error.value)


def test_missing_surplus_and_misshapen_weights_are_named(roberta: Path, tmp_path: Path) -> None:
    file = tmp_path / "er.pth"
    whole = published(roberta, 0, "roberta.")

    def said(changes: dict[str, Any]) -> str:
        state = whole | changes
        torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, file)
        return refused({"emotional_reactions": file}, tmp_path / "out", roberta)

    said_missing = said({"empathy_classifier.out_proj.bias": None, "attn.k_linear.weight": None})
    assert (
        "attention.in_proj_weight is missing; heads.0.4.bias is missing (2 in all)" in said_missing
    )
    assert str(file) in said_missing
    assert "decoder.weight is not expected" in said({"decoder.weight": torch.zeros(1)})
    misshapen = said({"rationale_classifier.bias": torch.zeros(3)})
    assert "rationale_head.bias has the shape (3,) instead of (2,)" in misshapen
    assert not (tmp_path / "out").exists()


def test_nothing_is_written_before_all_files_are_found_good(roberta: Path, tmp_path: Path) -> None:
    torch.save(published(roberta, 0, "roberta."), tmp_path / "er.pth")
    files = {"emotional_reactions": tmp_path / "er.pth", "explorations": tmp_path / "ex.pth"}
    assert "ex.pth: no such file" in refused(files, tmp_path / "out", roberta)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_in_it_is_refused(roberta: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    said = refused({"explorations": tmp_path / "ex.pth"}, tmp_path, roberta)
    assert said == f"{tmp_path}: the folder is not empty; choose another one."


class Touch:
    """Unpickling it makes a folder: what any pickle could do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.folder,)


def test_a_pickled_object_is_refused_and_not_run(roberta: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    files = {"zipped": tmp_path / "zipped.pth", "plain": tmp_path / "plain.pth"}
    torch.save({"attn.out.weight": Touch(trace)}, files["zipped"])
    files["plain"].write_bytes(pickle.dumps(Touch(trace), protocol=2))
    for name, file in files.items():
        said = refused({name: file}, tmp_path / "out", roberta)
        assert "this is no plain table of weights, so it is not opened" in said
    assert not trace.exists()
    torch.load(files["zipped"], weights_only=False)
    assert trace.exists()  # so the test would have seen it


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"attn.out.weight": 1.0}, torch.zeros(2)])
def test_a_file_without_a_state_dictionary(content: Any, roberta: Path, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "er.pth")
    said = refused({"emotional_reactions": tmp_path / "er.pth"}, tmp_path / "out", roberta)
    assert "a state dictionary (name to tensor) is expected" in said


def test_a_damaged_file(roberta: Path, tmp_path: Path) -> None:
    for content in (b"", b"not a file of torch", b"PK\x03\x04 cut off"):
        (tmp_path / "er.pth").write_bytes(content)
        said = refused({"emotional_reactions": tmp_path / "er.pth"}, tmp_path / "out", roberta)
        assert "this is no plain table of weights" in said
