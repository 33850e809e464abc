"""What is refused before anything is lost, and what must never be written down."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from fault_table import Survived
from small_runs import Runs, check_equal, steps_done

from empo.records import read_json


def _without(package: str) -> Callable[[], None]:
    """A machine on which a package is not installed."""

    def install() -> None:
        import importlib.util

        real = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *more: (
            None if name == package else real(name, *more)
        )

    return install


def _refused(runs: Runs, run: Path, *wrong: object) -> forked.Ended:
    """SFT with settings that are refused, after which the run without them ends as any other."""
    refused = forked.run("recipes/sft.py", runs.arguments("sft", run, *wrong))
    assert refused.code == 2, refused.said
    again = forked.run("recipes/sft.py", runs.arguments("sft", run))
    assert again.code == 0, again.said
    check_equal(run, runs.sft)
    return refused


@pytest.mark.fault(91, "the loss is no finite number (learning rate 1e30)")
def test_a_training_that_diverges(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    wild = ["--learning_rate", "1e30", "--max_grad_norm", "0", "--lr_scheduler_type", "constant"]
    run = tmp_path / "run"
    ended = forked.run("recipes/sft.py", runs.arguments("sft", run, *wild))
    assert ended.code == 2, ended.said
    assert read_json(run / "non_finite.json")["step"] == steps_done(run) + 1
    assert not (run / "adapter_model.safetensors").exists()
    assert read_json(run / "run.json")["status"] != "complete"
    survived(
        ended,
        "loss or gradient is not finite (null in …non_finite.json, which names the rows of the "
        "step). Look at the rows, and try in another output_dir a lower learning_rate, …",
        "nothing before the step",
    )


@pytest.mark.fault(92, "the tracker of `report_to` is not installed")
def test_a_missing_tracker(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    argv = runs.arguments("sft", tmp_path / "run", "--report_to", "trackio")
    refused = forked.run("recipes/sft.py", argv, _without("trackio"))
    assert refused.code == 2, refused.said
    assert not (tmp_path / "run").exists()
    survived(refused, "report_to: trackio is not installed (`pip install trackio`).", "nothing")


@pytest.mark.fault(93, "no network, and a model of the hub")
def test_no_network(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    refused = _refused(runs, tmp_path / "run", "--model", "owner/name")
    survived(
        refused,
        "owner/name: the model is not in the cache of the hub, and the hub cannot be asked (…). Where "
        "there is a network, run `hf download owner/name`; …",
        "nothing",
    )


YAML = [
    pytest.param(
        "lora_r: !!python/object/apply:os.mkdir [{marker}]\n",
        "recipe.yaml, line 1: the tag '!!python/object/apply:os.mkdir' is not read: …"
        "Remove the tag.",
        marks=pytest.mark.fault(94, "a YAML recipe builds an object (`!!python/...`)"),
    ),
    pytest.param(
        "lora_r: 8\nlearning_rate: 1e-3\nlora_r: 4\n",
        "recipe.yaml, line 3: the key 'lora_r' stands there twice.",
        marks=pytest.mark.fault(95, "a key stands twice in a YAML recipe"),
    ),
    pytest.param(
        "learning_rat: 1e-3\nlora_r: wide\n",
        "2 problems in the settings: - …recipe.yaml: learning_rat: no such setting…learning_rate…"
        "recipe.yaml: lora_r: …",
        marks=pytest.mark.fault(96, "unknown keys and wrong types in a YAML recipe"),
    ),
]


@pytest.mark.parametrize(("text", "said"), YAML)
def test_recipes_that_are_refused(
    runs: Runs, tmp_path: Path, survived: Survived, text: str, said: str
) -> None:
    recipe, marker = tmp_path / "recipe.yaml", tmp_path / "marker"
    recipe.write_text(text.format(marker=marker))
    argv = [word for word in runs.arguments("sft", tmp_path / "run") if word != "--lora_r"]
    argv[1] = str(recipe)
    argv.remove("8")
    refused = forked.run("recipes/sft.py", argv)
    assert refused.code == 2, refused.said
    assert not marker.exists() and not (tmp_path / "run").exists()
    survived(refused, said, "nothing")


@pytest.mark.fault(97, "a system's name is a path (`../../x`)")
def test_names_lead_nowhere(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    output = inside / "replies.jsonl"
    made = forked.run("recipes/generate.py", runs.generation(output, "--system", "../../x"))
    assert made.code == 0, made.said
    made = forked.run("eval/responses.py", runs.evaluation(inside / "out", "--responses", output))
    assert made.code == 0, made.said
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
    survived(made, "…a/b/out/results.json", "nothing")


SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
}


@pytest.mark.fault(98, "HF_TOKEN and WANDB_API_KEY are in the environment")
def test_tokens_are_written_nowhere(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    run, output = tmp_path / "run", tmp_path / "replies.jsonl"
    said = [
        forked.run(script, argv, None, SECRETS)
        for script, argv in (
            ("recipes/sft.py", runs.arguments("sft", run)),
            ("recipes/generate.py", runs.generation(output, "--model", run)),
            ("eval/responses.py", runs.evaluation(tmp_path / "out", "--responses", output)),
            ("recipes/sft.py", runs.arguments("sft", tmp_path / "no", "--model", "owner/name")),
        )
    ]
    assert [ended.code for ended in said] == [0, 0, 0, 2]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 40
    for secret in SECRETS.values():
        assert not [path for path in files if secret.encode() in path.read_bytes()]
        assert not [ended for ended in said if secret in ended.said]
    survived(said[0], "SFT model in …", "nothing")


@pytest.mark.fault(99, "a token is given as an option (`--hub_token`)")
def test_a_token_as_an_option_is_refused(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    argv = runs.arguments("sft", tmp_path / "run", "--hub_token", SECRETS["HF_TOKEN"])
    refused = forked.run("recipes/sft.py", argv)
    assert refused.code == 2, refused.said
    assert SECRETS["HF_TOKEN"] not in refused.said
    assert not (tmp_path / "run").exists()
    survived(
        refused,
        "hub_token: it would be written down; set HF_TOKEN in the environment.",
        "nothing",
    )


@pytest.mark.fault(100, "a template marks no listener turn, so that no token carries a loss")
def test_no_supervised_token(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    template = tmp_path / "own.jinja"
    template.write_text(
        "{% for message in messages %}{{ message['content'] + eos_token }}{% endfor %}"
    )
    refused = _refused(runs, tmp_path / "run", "--chat_template", template)
    survived(refused, "{% generation %} ... {% endgeneration %}. …", "nothing")


@pytest.mark.fault(101, "every dialogue is longer than max_length")
def test_no_row_is_left(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    refused = _refused(runs, tmp_path / "run", "--max_length", "8")
    survived(
        refused,
        "no row is left: everything is longer than max_length. Raise max_length.",
        "nothing",
    )


@pytest.mark.fault(102, "DPO is given a run of SFT that has not ended")
def test_an_unfinished_run_is_no_model(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    argv = runs.arguments("dpo", tmp_path / "run", "--model", runs.stopped)
    refused = forked.run("recipes/dpo.py", argv)
    assert refused.code == 2, refused.said
    survived(
        refused, "this run has not ended. Run its command again to continue it (sft).", "nothing"
    )


@pytest.mark.fault(103, "a line of a responses file is cut off")
def test_cut_responses_are_named(runs: Runs, tmp_path: Path, survived: Survived) -> None:
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(runs.replies.read_bytes()[:-40])
    refused = forked.run("eval/responses.py", runs.evaluation(tmp_path / "out", "--responses", cut))
    assert refused.code == 2, refused.said
    survived(refused, "cut.jsonl, line 8: not JSON (…)", "nothing")
