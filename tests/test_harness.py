"""lm-eval on tiny models: the protocol, the tasks, items, and one model in two forms."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets.exceptions import DatasetNotFoundError
from peft import get_peft_model

from empo import models, small_models
from empo.emotions import LABELS
from empo.harness.comparing import comparable, compare, matched
from empo.harness.items import items_file, plain, rows
from empo.harness.language_model import language_model
from empo.harness.measuring import measure
from empo.harness.protocol import Protocol, same_evaluation
from empo.harness.task_files import digests, local_files
from empo.harness.tasks import load_tasks, shots_of, why_not_loaded
from empo.models import ModelSource, load_model, lora_config, merge
from empo.records import UserError, sha256, write_json, write_jsonl

EVAL = Path(__file__).parents[1] / "eval"
TASKS = EVAL / "tasks"
TEXTS = ["Situation: I lost my cat.\nQuestion: How does the speaker feel?\nAnswer: sad"] * 5


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter on it that changes what it says."""
    folder = tmp_path_factory.mktemp("shelf")
    torch.manual_seed(1)
    tokenizer = small_models.train_tokenizer(TEXTS, 300)
    small_models.small_base(tokenizer, 16, 1, 2, 1024).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base = load_model(ModelSource(str(folder / "base")))
    model = get_peft_model(base, lora_config(4, 8, 0.0, ["q_proj", "v_proj", "up_proj"]))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder / "adapter")
    return folder


def source(shelf: Path) -> ModelSource:
    return ModelSource(str(shelf / "base"), (str(shelf / "adapter"),))


# --- how a model is asked ---


def test_names_stand_for_benchmarks_with_the_leaderboards_examples() -> None:
    asked = Protocol(tasks="open_llm_v1, leaderboard,mmlu").benchmarks()
    assert list(asked.items()) == [
        ("arc_challenge", 25),
        ("hellaswag", 10),
        ("mmlu", 5),
        ("truthfulqa_mc2", 0),
        ("winogrande", 5),
        ("gsm8k", 5),
        ("leaderboard_bbh", None),
        ("leaderboard_math_hard", None),
        ("leaderboard_gpqa", None),
        ("leaderboard_musr", None),
        ("leaderboard_mmlu_pro", None),
        ("leaderboard_ifeval", None),
    ]
    assert Protocol(tasks="mmlu,x", num_fewshot=2).benchmarks() == {"mmlu": 2, "x": 2}


def test_every_difference_to_what_a_folder_holds_is_named() -> None:
    there = {"system": "sft", "model": {"base": {"sha256": "ab"}, "adapters": []}, "more": 1}
    same_evaluation("out", there, {key: there[key] for key in ("system", "model")})
    asked = {"system": "dpo", "model": {"base": {"sha256": "cd"}, "adapters": []}}
    with pytest.raises(UserError) as error:
        same_evaluation("out", there, asked)
    assert str(error.value) == (
        "out: the folder holds another evaluation. It differs in:\n"
        "  - model.base.sha256: 'ab' there, 'cd' now\n"
        "  - system: 'sft' there, 'dpo' now\n"
        "Choose another --output, or delete the folder."
    )


def test_the_same_weights_at_another_place_are_the_same_evaluation() -> None:
    there = {
        "model": {
            "base": {"name": "../x/sft", "sha256": "ab"},
            "adapters": [{"name": "a", "revision": "main", "commit": "c"}],
        },
        "settings": {"seed": 42, "include_path": "tasks"},
    }
    moved = {
        "model": {
            "base": {"name": "/elsewhere/x/sft", "sha256": "ab"},
            "adapters": [{"name": "b", "revision": "v1", "commit": "c"}],
        },
        "settings": {"seed": 42, "include_path": "/elsewhere/tasks"},
    }
    same_evaluation("out", there, moved)
    moved["model"]["adapters"] = [{"name": "b", "revision": "v1", "commit": "d"}]
    with pytest.raises(UserError, match="model.adapters: .*'commit': 'c'.* there, .*'d'.* now"):
        same_evaluation("out", there, moved)


def test_weights_without_a_digest_are_told_apart_by_name() -> None:
    one, other = (
        {"model": {"base": {"name": name, "revision": "main", "commit": None}, "adapters": []}}
        for name in ("owner/one", "owner/other")
    )
    same_evaluation("out", one, one)
    with pytest.raises(UserError, match="model.base.name: 'owner/one' there, 'owner/other' now"):
        same_evaluation("out", one, other)


def test_files_of_a_task_count_once_it_was_measured() -> None:
    there = {"task_files": {"t": {"t.jsonl": "ab"}}}
    asked = {"task_files": {"t": {"t.jsonl": "cd"}}}
    same_evaluation("out", there, asked, ["u"])
    with pytest.raises(UserError, match="task_files.t.t.jsonl: 'ab' there, 'cd' now"):
        same_evaluation("out", there, asked, ["t"])


# --- the files of tasks ---


def test_a_task_has_its_yaml_includes_functions_and_data(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    write_jsonl(tmp_path / "elsewhere" / "test.jsonl", [{"q": 1}])
    for name in ("a.jsonl", "b.jsonl", "unused.jsonl"):
        write_jsonl(tmp_path / "tasks" / name, [{"q": name}])
    tasks = tmp_path / "tasks"
    (tasks / "functions.py").write_text("def half(doc, results): ...\n")
    (tasks / "common.yaml").write_text(
        "output_type: multiple_choice\nprocess_results: !function functions.half\n"
    )
    kwargs = json.dumps({"data_files": {"test": str(tasks / "a.jsonl"), "train": ["no.jsonl"]}})
    (tasks / "one.yaml").write_text(
        f"task: one\ninclude: common.yaml\ntag: tagged\ndataset_path: json\ndataset_kwargs: {kwargs}\n"
    )
    (tasks / "two.yaml").write_text(f"task: two\ndataset_path: {tmp_path / 'elsewhere'}\n")
    (tasks / "both.yaml").write_text("group: both\ntask: [one, {group: x, task: [two]}, far]\n")
    found = {
        name: [path.name for path in paths]
        for name, paths in local_files(["both", "unknown"], [tasks]).items()
    }
    one = ["a.jsonl", "common.yaml", "functions.py", "one.yaml"]
    assert found == {
        "both": ["both.yaml"],
        "one": sorted([*one, "both.yaml"]),
        "two": ["test.jsonl", "both.yaml", "two.yaml"],
        "far": ["both.yaml"],  # lm-eval's own
    }
    assert [path.name for path in local_files(["tagged"], [tasks])["one"]] == one
    assert digests(["one"], [tasks])["one"]["a.jsonl"] == sha256(tasks / "a.jsonl")


def test_a_later_folder_wins_and_files_of_one_name_all_count(tmp_path: Path) -> None:
    for folder in ("first", "second"):
        data = write_json(tmp_path / folder / "data" / "x.json", [folder]) or tmp_path / folder
        (tmp_path / folder / "t.yaml").write_text(
            f"task: t\ndataset_path: json\ndataset_kwargs: {{data_files: '{data}/data/*.json'}}\n"
        )
    folders = [tmp_path / "first", tmp_path / "second"]
    assert {path.parent.name for path in local_files(["t"], folders)["t"]} == {"second", "data"}
    (tmp_path / "second" / "t.yaml").write_text(
        f"task: t\ndataset_path: json\ndataset_kwargs: {{data_files: '{tmp_path}/*/data/x.json'}}\n"
    )
    both = [sha256(tmp_path / folder / "data" / "x.json") for folder in ("first", "second")]
    assert digests(["t"], folders)["t"]["x.json"] == "+".join(both)


def test_the_data_of_our_own_task_are_among_its_files() -> None:
    assert set(digests(["empo_emotions"], [TASKS])["empo_emotions"]) == {
        "empo_emotions.yaml",
        "empo_emotions.py",
        "empo_emotions.jsonl",
        "empo_emotions_examples.jsonl",
    }


# --- the task of this repository ---


def read(name: str) -> list[dict]:
    return [json.loads(line) for line in (TASKS / name).read_text("utf-8").splitlines()]


def test_no_label_and_no_place_gives_the_right_emotion_away() -> None:
    items = read("empo_emotions.jsonl")
    right = Counter(item["options"][item["answer"]] for item in items)
    offered = Counter(option for item in items for option in item["options"])
    assert right == dict.fromkeys(LABELS, 2)
    assert offered == dict.fromkeys(LABELS, 8)
    assert Counter(item["answer"] for item in items) == dict.fromkeys(range(4), 16)
    assert all(len(set(item["options"])) == 4 for item in items)


def test_situations_differ_and_never_name_the_emotion() -> None:
    items = read("empo_emotions.jsonl") + read("empo_emotions_examples.jsonl")
    assert len(items) == len({item["situation"] for item in items}) == 72
    assert len({item["id"] for item in items}) == 72
    for item in items:
        label = item["options"][item["answer"]]
        assert label in LABELS and label[:5] not in item["situation"].lower()


def test_the_task_is_found_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = load_tasks(Protocol(tasks="empo_emotions", num_fewshot=2), [TASKS])
    (task,) = loaded.tasks.values()
    first = read("empo_emotions.jsonl")[0]
    assert (loaded.not_run, shots_of(task)) == ([], 2)
    assert task.doc_to_text(task.eval_docs[0]) == (
        f"Situation: {first['situation']}\nQuestion: How does the speaker feel?\nAnswer:"
    )
    prompt = task.fewshot_context(task.eval_docs[0], num_fewshot=2)
    assert prompt.count("Situation: ") == 3 and prompt.endswith("\nAnswer:")
    examples = {example["situation"] for example in read("empo_emotions_examples.jsonl")}
    assert sum(example in prompt for example in examples) == 2


def test_unknown_names_are_refused_with_what_they_may_mean() -> None:
    with pytest.raises(UserError) as error:
        load_tasks(Protocol(tasks="empo_emotion,leaderbord,qqqqqqqqqq"), [TASKS])
    lines = str(error.value).splitlines()
    assert lines[0].startswith("--tasks: empo_emotion: no such task; did you mean empo_emotions")
    assert lines[1].startswith("--tasks: leaderbord: no such task; did you mean leaderboard")
    assert lines[2] == "--tasks: qqqqqqqqqq: no such task."


@pytest.mark.parametrize(
    "name, error, reason",
    [
        (
            "leaderboard_gpqa",
            DatasetNotFoundError(
                "Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub.\nVisit it."
            ),
            "the data set is gated: Dataset 'Idavidrein/gpqa' is a gated dataset on the Hub. Visit it. "
            "Accept its terms on its page on the hub, log in with `hf auth login`, and run the "
            "command again.",
        ),
        (
            "mmlu",
            ValueError("Couldn't find cache for cais/mmlu for config 'law'"),
            "the data set cannot be loaded: Couldn't find cache for cais/mmlu for config 'law'. Run "
            "the command once online (without HF_HUB_OFFLINE) to fill the cache; where the data set "
            "is gated, also log in (`hf auth login`) and accept its terms on its page on the hub.",
        ),
        (
            "leaderboard_ifeval",
            ModuleNotFoundError("No module named 'langdetect'"),
            "a package is missing (pip install 'lm-eval[ifeval]'): No module named 'langdetect'.",
        ),
        (
            "mine",
            ModuleNotFoundError("No module named 'x'"),
            "a package is missing: No module named 'x'.",
        ),
        ("mine", KeyError("task"), "the task cannot be loaded: KeyError: 'task'."),
        (
            "mine",
            FileNotFoundError("Unable to find 'a.jsonl'"),
            "the task cannot be loaded: FileNotFoundError: Unable to find 'a.jsonl'.",
        ),
    ],
)
def test_what_is_missing_is_told_with_its_remedy(name: str, error: Exception, reason: str) -> None:
    assert why_not_loaded(name, error) == reason


# --- one model in two forms ---


def asked_for(lm, limit: int = 12) -> list[dict]:
    import lm_eval

    loaded = load_tasks(Protocol(tasks="empo_emotions", num_fewshot=3), [TASKS])
    found = lm_eval.evaluate(lm=lm, task_dict={"tasks": loaded.tasks}, limit=limit)
    return rows(found["samples"]["empo_emotions"])


def test_loaded_by_us_and_by_path_a_model_says_exactly_the_same(shelf: Path) -> None:
    by_us = asked_for(language_model(source(shelf)))
    by_path = asked_for(language_model(source(shelf), by_path=True))
    assert by_us == by_path
    base = asked_for(language_model(ModelSource(str(shelf / "base"))))
    assert base != by_us  # the adapter matters
    assert [row["doc_hash"] for row in base] == [row["doc_hash"] for row in by_us]


def test_a_chain_of_adapters_is_evaluated_and_cannot_be_given_by_path(shelf: Path) -> None:
    adapter = str(shelf / "adapter")
    chain = ModelSource(str(shelf / "base"), (adapter, adapter))
    assert asked_for(language_model(chain), 2) != asked_for(language_model(source(shelf)), 2)
    with pytest.raises(UserError, match="one adapter on a base, not a chain of 2. Merge it first"):
        language_model(chain, by_path=True)


def test_spare_embeddings_under_an_adapter_are_refused_by_path(shelf: Path, tmp_path: Path) -> None:
    wide = load_model(ModelSource(str(shelf / "base")))
    rows_there = wide.config.vocab_size
    wide.resize_token_embeddings(rows_there + 16)
    wide.save_pretrained(tmp_path / "wide")
    models.load_tokenizer(ModelSource(str(shelf / "base"))).save_pretrained(tmp_path / "wide")
    spare = ModelSource(str(tmp_path / "wide"), (str(shelf / "adapter"),))
    with pytest.raises(UserError, match=f"{rows_there + 16} embeddings for {rows_there} tokens"):
        language_model(spare, by_path=True)
    language_model(spare)


def test_merged_weights_score_as_base_and_adapter_do(shelf: Path, tmp_path: Path) -> None:
    merge(source(shelf), tmp_path / "merged")
    one = asked_for(language_model(source(shelf)))
    other = asked_for(language_model(ModelSource(str(tmp_path / "merged"))))
    for a, b in zip(one, other, strict=True):
        assert a["log_likelihoods"] == pytest.approx(b["log_likelihoods"], abs=1e-3)


def test_processes_that_lm_eval_would_not_use_are_refused(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    protocol = Protocol(tasks="empo_emotions")
    monkeypatch.delenv("WORLD_SIZE")
    assert protocol.facts()["processes"] == 2
    with pytest.raises(UserError, match="2 processes were started, but lm-eval would run every"):
        measure(load_tasks(protocol, [TASKS]), source(shelf), protocol, tmp_path, {})


# --- items ---


def sample(number: int, **changed) -> dict:
    given = {"doc_id": number, "doc_hash": f"h{number}", "target": 1, "filter": "none"}
    given |= {"metrics": ["acc"], "acc": 1.0, "filtered_resps": [(-1.5, True), (-np.inf, False)]}
    return given | changed


def test_an_item_is_one_row_in_the_order_of_the_data() -> None:
    assert rows([sample(1), sample(0, acc=np.bool_(False))]) == [
        {
            "doc_id": number,
            "doc_hash": f"h{number}",
            "target": 1,
            "metrics": {"acc": value},
            "log_likelihoods": [-1.5, None],
        }
        for number, value in ((0, False), (1, 1.0))
    ]


def test_answers_that_are_filtered_keep_the_name_of_the_filter() -> None:
    given = {"metrics": ["exact_match"], "target": "x" * 2_000}
    strict = sample(0, **given, filter="strict", exact_match=0.0, filtered_resps=["[invalid]"])
    loose = sample(0, **given, filter="loose", exact_match=1.0, filtered_resps=["18"])
    (row,) = rows([strict, loose])
    assert row["metrics"] == {"exact_match,strict": 0.0, "exact_match,loose": 1.0}
    assert (row["answer,strict"], row["answer,loose"]) == ("[invalid]", "18")
    assert row["target"] == "x" * 1_000


def test_values_become_plain_json() -> None:
    assert plain([np.float64("nan"), np.int64(2), (True, "a"), None]) == [
        None,
        2,
        [True, "a"],
        "None",
    ]


# --- comparing ---


def evaluation(folder: Path, system: str, task: str, values: list, **changed) -> dict:
    """A folder with the items of one task, and what its harness.json would say."""
    items = [
        {"doc_id": i, "doc_hash": changed.get("hashes", "h") + str(i), "metrics": {"acc": value}}
        for i, value in enumerate(values)
    ]
    write_jsonl(items_file(folder, task), items)
    figures = {"metric": "acc", "shots": changed.get("shots", 0), "version": "1.0"}
    return {
        "system": system,
        "versions": {"lm_eval": "0.4.9"},
        "settings": {"apply_chat_template": False, "seed": 42, "max_length": None},
        "tasks": {task: figures},
        "groups": {},
    }


def counted(a: np.ndarray, b: np.ndarray) -> dict:
    only = {"only_a": int((a & ~b).sum()), "only_b": int((~a & b).sum())}
    return {**only, "difference": float(a.mean() - b.mean()), "n": len(a), "p": 0.5, "test": "t"}


def test_items_are_matched_by_number_and_digest(tmp_path: Path) -> None:
    evaluation(tmp_path / "a", "a", "t", [1, 0, 1, True])
    evaluation(tmp_path / "b", "b", "t", [0, 0, 1])
    found = matched(tmp_path / "a", tmp_path / "b", "t", "acc")
    assert (found.a.tolist(), found.b.tolist()) == ([1, 0, 1], [0, 0, 1])
    assert (found.of_a, found.of_b) == (4, 3)
    evaluation(tmp_path / "c", "c", "t", [0, 0, 1], hashes="other")
    with pytest.raises(
        UserError, match=r"c/items/t.jsonl: no item stands in .*a/items/t.jsonl too"
    ):
        matched(tmp_path / "a", tmp_path / "c", "t", "acc")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"doc_id": "1", "doc_hash": "h", "metrics": {}}, "line 1, field 'doc_id': '1' is none."),
        ({"doc_id": 1, "metrics": {}}, "line 1, field 'doc_hash': None is none."),
        ({"doc_id": 1, "doc_hash": "h", "metrics": []}, "line 1, field 'metrics': [] is none."),
        ({"doc_id": 1, "doc_hash": "h", "metrics": {}}, "line 2: the item 1 was there already."),
    ],
)
def test_a_line_that_is_no_item_is_refused(tmp_path: Path, line: dict, told: str) -> None:
    write_jsonl(items_file(tmp_path, "t"), [line, line])
    with pytest.raises(UserError) as error:
        matched(tmp_path, tmp_path, "t", "acc")
    assert str(error.value).startswith(f"{items_file(tmp_path, 't')}, {told}")


def test_groups_pool_the_items_of_their_tasks(tmp_path: Path) -> None:
    both = {}
    for name, first, second in (("a", [1, 0, 1], [1, 1]), ("b", [0, 0, 1], [0, 1])):
        results = evaluation(tmp_path / name, name, "t", first)
        results["tasks"] |= evaluation(tmp_path / name, name, "u", second)["tasks"]
        results["groups"] = {"g": {"metric": "acc", "tasks": ["t", "u"]}}
        both[name] = results
    found = compare(both["a"], tmp_path / "a", both["b"], str(tmp_path / "b"), counted)
    assert [(row["task"], row["n"], row["only_a"], row["only_b"]) for row in found] == [
        ("t", 3, 1, 0),
        ("u", 2, 1, 0),
        ("g", 5, 2, 0),
    ]
    assert found[2]["difference"] == pytest.approx(4 / 5 - 2 / 5)
    assert all(row["reasons"] == {} for row in found)


def test_items_that_only_one_system_has_are_told(tmp_path: Path) -> None:
    both = {}
    for name, first, second in (("a", [1, 0, 1], [1, 0.5]), ("b", [0, 0], [0])):
        results = evaluation(tmp_path / name, name, "t", first)
        results["tasks"] |= evaluation(tmp_path / name, name, "u", second)["tasks"]
        results["groups"] = {"g": {"metric": "acc", "tasks": ["t", "u"]}}
        both[name] = results
    found = compare(both["a"], tmp_path / "a", both["b"], str(tmp_path / "b"), counted)
    assert [row["reasons"] for row in found] == [
        {"n": "2 items are in both: of 3 of a and of 2 of b."},
        {"n": "1 items are in both: of 2 of a and of 1 of b."},
        {"n": "3 items are in both: of 5 of a and of 3 of b."},
    ]


def test_what_cannot_be_tested_says_why(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "a", "t", [0.25, 1])
    b = evaluation(tmp_path / "b", "b", "t", [0, 0.5])
    (row,) = compare(a, tmp_path / "a", b, str(tmp_path / "b"), counted)
    assert (row["difference"], row["n"], row["p"], row["test"]) == (0.375, 2, None, "none")
    assert row["reasons"]["p"] == "an item is not simply right or wrong in this metric."
    a["groups"] = {"g": {"metric": "acc", "tasks": ["t", "elsewhere"]}}
    b["tasks"] = {}
    row, group = compare(a, tmp_path / "a", b, str(tmp_path / "b"), counted)
    assert (row["difference"], row["n"]) == (None, 0)
    assert row["reasons"]["difference"] == row["reasons"]["p"] == "b has no t."
    assert group["reasons"]["p"] == "not in both systems: t, elsewhere."


def test_systems_asked_in_other_ways_are_not_compared(tmp_path: Path) -> None:
    a = evaluation(tmp_path / "a", "a", "t", [1, 0])
    b = evaluation(tmp_path / "b", "b", "t", [0, 0], shots=5)
    with pytest.raises(UserError, match=r"--compare .*b: t has 5 examples there and 0 here"):
        compare(a, tmp_path / "a", b, str(tmp_path / "b"), counted)
    comparable(a, b, "B")
    with pytest.raises(UserError, match="--compare B: that system is called 'a' too"):
        comparable(a, {**b, "system": "a"}, "B")
    with pytest.raises(UserError, match="--compare B: seed is 7 there and 42 here"):
        comparable(a, {**b, "settings": {**b["settings"], "seed": 7}}, "B")
    with pytest.raises(UserError, match="--compare B: max_length is 512 there and None here"):
        comparable(a, {**b, "settings": {**b["settings"], "max_length": 512}}, "B")
    with pytest.raises(UserError, match="--compare B: lm_eval is '0.4.8' there and '0.4.9' here"):
        comparable(a, {**b, "versions": {"lm_eval": "0.4.8"}}, "B")
    other = {**b, "tasks": {"t": {**a["tasks"]["t"], "version": "2.0"}}}
    told = (
        r"--compare .*b: the version of t is '2.0' there and '1.0' here. Only systems that were a"
    )
    with pytest.raises(UserError, match=told):
        compare(a, tmp_path / "a", other, str(tmp_path / "b"), counted)
