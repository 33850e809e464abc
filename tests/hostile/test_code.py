"""Folders that bring code: nothing of it runs unless the user asks for it by name."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers
from datasets import load_dataset

from empo.harness.protocol import Protocol
from empo.harness.tasks import load_tasks
from empo.models import load_config, load_model, load_tokenizer, resolve
from empo.raters.encoders import load_cross_encoder, load_embedder, load_encoder, resolve_encoder
from empo.raters.loading import load_rater
from empo.raters.similarity import EmbeddingRater
from empo.records import UserError, read_json, write_json


def edit(path: Path, **changed: Any) -> None:
    write_json(path, read_json(path) | changed)


def bring_code(folder: Path) -> Path:
    """Put a module into a folder that leaves a file where it is imported; returns that file."""
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w').close()\n"
        "from transformers import MistralConfig, MistralForCausalLM\n"
        "class OwnConfig(MistralConfig):\n    model_type = 'own'\n"
        "class Own(MistralForCausalLM):\n    config_class = OwnConfig\n"
    )
    return ran


OWN = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}


@pytest.mark.parametrize("kind", ["own", "mistral"], ids=["unknown to", "known to"])
def test_a_base_with_code_is_refused_also_where_transformers_knows_it(
    folder: Path, kind: str
) -> None:
    base = folder / "base"
    ran = bring_code(base)
    edit(base / "config.json", model_type=kind, auto_map=OWN)
    for load in (load_config, load_tokenizer, load_model):
        with pytest.raises(UserError) as error:
            load(resolve(str(base)))
        assert str(error.value) == (
            f"{base / 'config.json'}, field 'auto_map': {base} comes with code of its own "
            "(own.OwnConfig, own.Own), which would run on this machine. It is not run. Read the "
            "code, and if you trust it, set `trust_remote_code: true`: only the command itself can, "
            "and only for the model that it names. Where transformers has a class of its own for "
            "such a model, take the field out of a local copy."
        )
    assert not ran.exists()


def test_code_that_was_asked_for_runs_and_is_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = str(tmp_path / "modules")
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", cache)
    monkeypatch.setattr(sys, "path", [*sys.path])
    base = folder / "base"
    ran = bring_code(base)
    edit(base / "config.json", model_type="own", auto_map=OWN)
    source = resolve(str(base), trust_remote_code=True)
    assert type(load_model(source)).__name__ == "Own" and ran.exists()
    assert load_config(source).model_type == "own"
    assert source.facts()["base"]["trust_remote_code"] is True
    assert "trust_remote_code" not in resolve(str(base)).facts()["base"]


def test_trust_does_not_come_from_files_nor_go_to_bases_that_files_name(folder: Path) -> None:
    base, adapter = folder / "base", folder / "adapter"
    ran = bring_code(base)
    edit(base / "config.json", model_type="own", auto_map=OWN, trust_remote_code=True)
    asked = {"status": "complete", "command": "base", "settings": {"trust_remote_code": True}}
    write_json(base / "run.json", asked)
    write_json(adapter / "run.json", asked)
    named_by_a_file = resolve(str(adapter), trust_remote_code=True)
    assert not named_by_a_file.trust_remote_code
    for source in (resolve(str(base)), named_by_a_file):
        with pytest.raises(UserError, match="field 'auto_map'"):
            load_model(source)
    assert not ran.exists()
    named = resolve(str(base), adapter=str(adapter), trust_remote_code=True)
    assert named.trust_remote_code


@pytest.mark.parametrize(
    ("holder", "file", "changed", "said"),
    [
        (
            "base",
            "tokenizer_config.json",
            {"auto_map": {"AutoTokenizer": ["own.T", None]}},
            "own.T",
        ),
        ("base", "config.json", {"text_config": {"auto_map": OWN}}, "own.Own"),
        ("base", "config.json", {"attn_implementation": "owner/kernel"}, "owner/kernel"),
        ("adapter", "tokenizer_config.json", {"auto_map": {"AutoTokenizer": "own.T"}}, "own.T"),
    ],
)
def test_every_place_that_names_code(
    folder: Path, holder: str, file: str, changed: dict[str, Any], said: str
) -> None:
    path = folder / holder / file
    write_json(path, (read_json(path) if path.is_file() else {}) | changed)
    ran = bring_code(folder / holder)
    with pytest.raises(UserError, match=rf"{file}, field '.*{said}"):
        load_tokenizer(resolve(str(folder / "adapter")))
    assert not ran.exists()


def test_trust_in_a_base_is_none_in_the_tokenizer_of_its_adapter(folder: Path) -> None:
    write_json(folder / "adapter" / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": "a.T"}})
    base, adapter = str(folder / "base"), str(folder / "adapter")
    with pytest.raises(UserError, match=r"adapter/tokenizer_config\.json, field 'auto_map'"):
        load_tokenizer(resolve(base, adapter, trust_remote_code=True))


def test_an_adapter_whose_configuration_has_peft_import_a_module(folder: Path) -> None:
    edit(folder / "adapter" / "adapter_config.json", megatron_config={"x": 1}, megatron_core="own")
    with pytest.raises(UserError, match=r"adapter_config\.json, field 'megatron_config'"):
        resolve(str(folder / "adapter"))


@pytest.fixture(scope="module")
def rater(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained rater on the packaged encoder, a folder of sentence-transformers."""
    folder = tmp_path_factory.mktemp("raters") / "whole"
    EmbeddingRater.zero_shot().save(folder)
    return folder


def modules(folder: Path, **changed: str) -> None:
    """Change the last module that modules.json names."""
    found = json.loads((folder / "modules.json").read_text())
    found[-1] |= changed
    (folder / "modules.json").write_text(json.dumps(found))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"type": "own.Own"}, "entry 2, field 'type': own.Own is none of the plain modules"),
        (
            {"type": "sentence_transformers.util.misc.import_from_string"},
            "field 'type': sentence_transformers.util.misc.import_from_string is none",
        ),
        ({"type": "sentence_transformers_evil.Dense"}, "field 'type': sentence_transformers_evil"),
        ({"path": "../elsewhere"}, "field 'path': '../elsewhere' is no folder right below"),
        ({"path": "/elsewhere"}, "field 'path': '/elsewhere' is no folder right below"),
    ],
)
def test_modules_of_a_sentence_model(
    rater: Path, tmp_path: Path, changed: dict[str, str], said: str
) -> None:
    folder = Path(shutil.copytree(rater, tmp_path / "rater"))
    ran = bring_code(folder)
    modules(folder, **changed)
    for load in (load_embedder, load_cross_encoder, load_rater):
        with pytest.raises(UserError) as error:
            load(str(folder))
        assert str(error.value).startswith(f"{folder / 'modules.json'}, ")
        assert said in str(error.value)
    assert not ran.exists()


def test_raters_and_encoders_have_no_setting_that_lets_code_run(
    rater: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(rater, tmp_path / "rater"))
    edit(folder / "config.json", auto_map={"AutoModel": "own.Own"})
    ran = bring_code(folder)
    for load in (load_encoder, load_embedder, load_rater):
        with pytest.raises(UserError, match="rater is never run; choose another one"):
            load(resolve_encoder(str(folder))[0])
    assert not ran.exists()


def test_only_tasks_of_folders_that_were_named_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "own_task.py").write_text(
        f"open({str(ran)!r}, 'w').close()\ndef docs(**_):\n    return {{'test': []}}\n"
    )
    (tmp_path / "own_task.yaml").write_text(
        "task: own_task\ncustom_dataset: !function own_task.docs\noutput_type: multiple_choice\n"
        "test_split: test\ndoc_to_text: x\ndoc_to_target: 0\ndoc_to_choice: ['a', 'b']\n"
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "named").mkdir()
    import lm_eval.tasks

    monkeypatch.setattr(  # the 14,000 files of lm-eval take half a minute, and are not in question
        lm_eval.tasks.TaskManager, "all_tasks", property(lambda self: [])
    )
    real = lm_eval.tasks.TaskManager.__init__
    monkeypatch.setattr(
        lm_eval.tasks.TaskManager,
        "__init__",
        lambda self, include_path=None, include_defaults=True: real(
            self, include_path=include_path, include_defaults=False
        ),
    )
    with pytest.raises(UserError, match="own_task: no such task"):
        load_tasks(Protocol(tasks="own_task"), [tmp_path / "named"])
    assert not ran.exists()
    load_tasks(Protocol(tasks="own_task", include_path=str(tmp_path)))
    assert ran.exists()  # a folder that the user names may bring code


def test_data_sets_have_no_loading_scripts_any_more(tmp_path: Path) -> None:
    data, ran = tmp_path / "data", tmp_path / "ran"
    data.mkdir()
    (data / "data.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    with pytest.raises(RuntimeError, match="scripts are no longer supported"):
        load_dataset(str(data))
    assert not ran.exists()
