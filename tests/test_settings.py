"""One settings mechanism: every problem is told at once, and every YAML of the repository loads."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pytest
import torch

from empo.alignment.settings import DEFAULTS, BaseSettings, DpoSettings, SftSettings
from empo.records import UserError
from empo.settings import load_yaml, option, parse, resolve

ROOT = Path(__file__).resolve().parents[1]


@dataclass(kw_only=True)
class Oven:
    """Settings to test with."""

    dish: str = option(help="what is baked")
    heat: float = option(180.0, help="degrees")
    minutes: int = option(45, help="time")
    fan: bool = option(False, help="with the fan on")
    trays: list[int] = option(default_factory=lambda: [2], help="trays that are used")
    program: Literal["bake", "grill"] = option("bake", help="program")
    note: str | None = option(None, help="text on the display")
    spices: dict[str, str] = option(default_factory=dict, help="grams by name")

    def problems(self) -> list[str]:
        """What cannot work."""
        return ["fan: there is none in grill."] if self.fan and self.program == "grill" else []


def oven(*words: str, **extra: Any) -> Oven:
    return resolve(list(words), Oven, prog="oven", description="Bakes.", **extra)[0][0]


def refusal(*words: str, **extra: Any) -> str:
    with pytest.raises(UserError) as error:
        oven(*words, **extra)
    return str(error.value)


@pytest.fixture
def written(tmp_path: Path):
    """Write a YAML file and return `--config` and its path."""

    def write(text: str) -> tuple[str, str]:
        path = tmp_path / "oven.yaml"
        path.write_text(text, encoding="utf-8")
        return "--config", str(path)

    return write


# --- precedence and forms of a value ---


def test_command_line_beats_yaml_beats_defaults_beats_the_class(written) -> None:
    config = written("dish: pie\nheat: 200\nminutes: 30\n")
    found = oven(*config, "--minutes", "20", defaults={"heat": 90.0, "fan": True})
    assert (found.dish, found.heat, found.minutes, found.fan) == ("pie", 200.0, 20, True)
    assert found.trays == [2]


def test_given_values_are_returned_without_the_class_defaults(written) -> None:
    _, given = resolve(
        [*written("dish: pie\n"), "--heat", "90"], Oven, prog="oven", description="",
        defaults={"minutes": 5},
    )  # fmt: skip
    assert given == {"dish": "pie", "heat": 90.0, "minutes": 5}


@dataclass
class Lamp:
    """A setting whose name has several words."""

    light_colour_name: str = option("white", help="colour")


@pytest.mark.parametrize(
    "words",
    [
        ["--light-colour-name", "red"],
        ["--light_colour_name", "red"],
        ["--light-colour-name=red"],
    ],
)
def test_dashes_and_underscores_mean_the_same(words: list[str]) -> None:
    (lamp,) = parse(words, Lamp, prog="lamp", description="")
    assert lamp.light_colour_name == "red"


@pytest.mark.parametrize(
    "words, value",
    [([], False), (["--fan"], True), (["--fan", "true"], True), (["--fan", "false"], False)],
)
def test_a_flag_stands_alone_or_with_a_value(words: list[str], value: bool) -> None:
    assert oven("--dish", "pie", *words).fan is value


def test_a_list_takes_several_words_or_a_yaml_list(written) -> None:
    assert oven("--dish", "pie", "--trays", "1", "3").trays == [1, 3]
    assert oven(*written("dish: pie\ntrays: [4, 5]\n")).trays == [4, 5]
    assert "trays: 4 does not fit" in refusal(*written("dish: pie\ntrays: 4\n"))


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "0.00001", "+1e-5"])
def test_scientific_numbers_are_numbers(written, text: str) -> None:
    assert oven(*written(f"dish: pie\nheat: {text}\n")).heat == 1e-5
    assert oven("--dish", "pie", "--heat", text).heat == 1e-5


def test_a_whole_number_serves_as_a_float_but_not_the_other_way_round(written) -> None:
    assert oven(*written("dish: pie\nheat: 3\n")).heat == 3
    assert "oven.yaml: minutes: 3.5 does not fit" in refusal(*written("dish: pie\nminutes: 3.5\n"))


@pytest.mark.parametrize(
    "word, value",
    [("null", None), ("soon", "soon"), ("no", "no"), ("1.0", "1.0"), ("a: b", "a: b")],
)
def test_optional_text_on_the_command_line(word: str, value: str | None) -> None:
    assert oven("--dish", "pie", "--note", word).note == value


@pytest.mark.parametrize("word", ["hot # mind it", '"hot"', "hot\n\nvery", "2024-13-45", "&a hot"])
def test_optional_text_on_the_command_line_is_taken_as_it_is(word: str) -> None:
    assert oven("--dish", "pie", "--note", word).note == word


# --- problems ---


def test_all_problems_are_told_at_once(written) -> None:
    config = written("haet: 200\nminutes: soon\nprogram: fry\nfan: 1\n")
    text = refusal(*config, "--trays", "one", "--zzz", "5")
    lines = text.splitlines()
    assert lines[0] == "oven: 7 problems in the settings:"
    assert [line.split(" does not fit")[0] for line in lines[1:]] == [
        "  - --zzz: no such option.",
        f"  - {config[1]}: haet: no such setting; did you mean heat?",
        f"  - {config[1]}: minutes: 'soon'",
        f"  - {config[1]}: program: 'fry'",
        f"  - {config[1]}: fan: 1",
        "  - --trays: 'one'",
        "  - --dish: missing (what is baked)",
    ]


@pytest.mark.parametrize(
    "words, told",
    [
        (["--minuts", "5"], "--minuts: no such option; did you mean --minutes?"),
        (["pie"], "pie: unexpected on the command line."),
        (["--minutes", "5.5"], "--minutes: 5.5 does not fit: input should be a valid integer"),
        (["--fan", "perhaps"], "--fan: 'perhaps' does not fit: input should be a valid boolean"),
        (["--program", "fry"], "--program: 'fry' does not fit: input should be 'bake' or 'grill'"),
    ],
)
def test_mistakes_on_the_command_line(words: list[str], told: str) -> None:
    assert told in refusal("--dish", "pie", *words)


def test_a_quoted_number_is_refused_with_what_to_do(written) -> None:
    text = refusal(*written('dish: pie\nheat: "1e-5"\n'))
    assert "heat: '1e-5' is text where a number is expected; write it without quotes." in text


@pytest.mark.parametrize(
    "yaml, told",
    [
        ("dish: pie\nheat: 1\nheat: 2\n", "oven.yaml, line 3: the key 'heat' stands there twice."),
        (
            "dish: pie\nspices:\n  salt: a\n  salt: b\n",
            "oven.yaml, line 4: the key 'salt' stands there twice.",
        ),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_line(written, yaml: str, told: str) -> None:
    assert told in refusal(*written(yaml))


def test_a_combination_that_cannot_work_is_refused(written) -> None:
    text = refusal(*written("dish: pie\nprogram: grill\n"), "--fan")
    assert text == "oven: 1 problem in the settings:\n  - fan: there is none in grill."


def test_an_impossible_combination_is_told_together_with_an_unknown_key(written) -> None:
    text = refusal(*written("dish: pie\nprogram: grill\nhaet: 3\n"), "--fan")
    assert "haet: no such setting" in text and "fan: there is none in grill." in text


@pytest.mark.parametrize(
    "yaml, told",
    [
        ("", "oven.yaml: the file is empty."),
        ("- dish\n", "oven.yaml: a YAML mapping of settings is expected."),
        ("dish: [pie\n", "oven.yaml: not valid YAML: "),
        (
            "dish: !!python/name:os.system\n",
            "oven.yaml, line 1: the tag '!!python/name:os.system' is",
        ),
    ],
)
def test_a_file_that_is_no_settings_file(written, yaml: str, told: str) -> None:
    assert told in refusal(*written(yaml))


@pytest.mark.parametrize("yaml", ["? [dish]\n: pie\n", "minutes: !!int soon\n"])
def test_yaml_that_cannot_be_built_is_a_users_error(written, yaml: str) -> None:
    assert "oven.yaml" in refusal(*written(yaml))


def test_a_missing_file_is_told() -> None:
    assert "nowhere.yaml: no such file. Check the path." in refusal("--config", "nowhere.yaml")


def test_help_teaches_every_documented_setting(capsys) -> None:
    with pytest.raises(SystemExit) as end:
        oven("--help")
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "Bakes." in text and "degrees (default: 180.0)" in text and "--trays" in text


# --- settings of the recipes ---

GIVEN = {
    SftSettings: ["--dialogues", "d", "--model", "m"],
    DpoSettings: ["--dialogues", "d", "--model", "m"],
    BaseSettings: ["--dialogues", "d"],
}


@pytest.mark.parametrize(
    "cls, words, told",
    [
        (SftSettings, ["--limit", "0"], ["limit: 0 leaves no dialogue"]),
        (SftSettings, ["--lora-r", "0"], ["lora_r: 0 is no rank"]),
        (SftSettings, ["--lora-dropout", "1"], ["lora_dropout: 1.0 is not in [0, 1)"]),
        (SftSettings, ["--lora-targets", "q_proj", "lm_head"], ["lora_targets: lm_head stays"]),
        (
            SftSettings,
            ["--full-training", "--load-in-4bit"],
            ["load_in_4bit: 4-bit weights cannot be trained", "merge_adapter: a 4-bit base is"],
        ),
        (DpoSettings, ["--load-in-4bit"], ["sft_adapter: a 4-bit base is never merged into"]),
        (DpoSettings, ["--full-training", "--sft-adapter", "keep"], ["sft_adapter: keep needs"]),
        (DpoSettings, ["--lora-dropout", "0.1"], ["lora_dropout: DPO runs without dropout"]),
        (BaseSettings, ["--hidden-size", "65"], ["hidden_size: 65 is no multiple of heads 4"]),
        (BaseSettings, ["--vocab-size", "256"], ["vocab_size: 256 leaves no room"]),
    ],
)
def test_recipes_refuse_what_cannot_work(cls: type, words: list[str], told: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse([*GIVEN[cls], *words], cls, prog="recipe", description="")
    problems = str(error.value).splitlines()[1:]
    assert len(problems) == len(told)
    for problem, expected in zip(problems, told, strict=True):
        assert problem.startswith(f"  - {expected}")


@pytest.mark.parametrize("words", [["--learning_rte", "1"], ["--per-device-batch-size", "1"]])
def test_names_of_trls_fields_are_suggested_too(words: list[str]) -> None:
    from trl import DPOConfig

    with pytest.raises(
        UserError, match=r"did you mean --(learning_rate|per_device_\w+_batch_size)"
    ):
        parse([*GIVEN[DpoSettings], *words], DpoSettings, DPOConfig, prog="dpo", description="")


def test_a_field_of_trl_that_cannot_work_is_a_users_error() -> None:
    from trl import SFTConfig

    words = [*GIVEN[SftSettings], "--eval-strategy", "sometimes", "--use-cpu"]
    with pytest.raises(UserError, match=r"SFTConfig: .*sometimes"):
        parse(words, SftSettings, SFTConfig, prog="sft", description="")


# --- every YAML of the repository ---

RECIPES = sorted(
    p.relative_to(ROOT).as_posix()
    for p in (ROOT / "recipes").rglob("*.yaml")
    if p.stem
    not in (
        "sweep",
        "ablation",
        "rounds",
    )  # no recipe, but runs of them: tests/recipes/test_sweep.py
)
CONFIGS = sorted(
    p.relative_to(ROOT).as_posix() for p in (ROOT / "accelerate_configs").glob("*.yaml")
)


def head_command(path: Path) -> list[str]:
    """The words after the recipe's name in the command that the head comment of a YAML gives."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = []
    for line in lines:
        if not line.startswith("#"):
            break
        head.append(line.lstrip("# "))
    text = "\n".join(head).replace("\\\n", " ")
    command = re.search(r"^(?:accelerate launch|python)\b.*?(recipes/\w+\.py.*)$", text, re.M)
    assert command, f"{path}: the head comment gives no command that runs it"
    return shlex.split(command.group(1), comments=True)


def load_script(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"recipe_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def settings_of(script: Path) -> list[type]:
    """The classes that a recipe gives to `parse_recipe`."""
    module, tree = load_script(script), ast.parse(script.read_text(encoding="utf-8"))
    homes = {
        alias.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    call = next(
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "parse_recipe"
    )
    names = [argument.id for argument in call.args[2:4]]  # after argv and the recipe's name
    return [
        getattr(module, name, None) or getattr(importlib.import_module(homes[name]), name)
        for name in names
    ]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads_by_the_command_in_its_head(name: str) -> None:
    script, *words = head_command(ROOT / name)
    assert words[words.index("--config") + 1] == name
    words[words.index("--config") + 1] = str(ROOT / name)
    classes = settings_of(ROOT / script)
    if any(hasattr(cls, "use_cpu") for cls in classes) and not torch.cuda.is_available():
        words += ["--use_cpu", "true"]  # transformers refuses bf16 where there is no GPU
    built, given = resolve(words, *classes, prog=name, description="", defaults=DEFAULTS)
    assert [type(instance) for instance in built] == classes
    assert load_yaml(ROOT / name).keys() <= given.keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_launch_configuration_loads(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    wanted = load_yaml(ROOT / name)
    config = load_config_from_file(str(ROOT / name))
    assert config.num_processes == wanted["num_processes"]
    assert str(config.distributed_type).rpartition(".")[2] == wanted["distributed_type"]
