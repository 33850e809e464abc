"""How the systems of a report were trained: names of their cells, settings, pairs, sweeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from empo.pair_rules import named
from empo.reporting.run_folders import RunFolder, training

NOT_TOLD = "training not told"
"""In the name of a system whose settings are not known, beside systems of its name with known ones."""

_BOOKKEEPING = tuple(
    "logging_ save_ eval_ hub_ push_to_ report_to run_name use_cpu threads processes disable_tqdm "
    "dataloader_ per_device_eval_".split()
)
_SEEDS = ("seed", "data_seed")
_PLACES = ("model", "dialogues", "valid", "mapping", "chat_template", "output", "output_dir")
_PAIRS = "pairs"
"""The rule of the pairs, among the settings that move a training; as a setting itself it is a place."""


def system_names(runs: Sequence[RunFolder]) -> dict[tuple[int, str], str]:
    """(run's number, name of a system there) -> its name in the report.

    The same, but where a name stands for trainings with different settings (cells of a sweep): then
    those settings are part of the name, so that no mean mixes them, and the runs that do not tell
    their settings are a system of their own.
    """
    of_name: dict[str, dict[int, dict[str, Any] | None]] = {}
    for i, run in enumerate(runs):
        for name, trained in training(run).items():
            of_name.setdefault(name, {})[i] = trained and moving_settings(trained)
    names = {}
    for name, settings in of_name.items():
        told = [s for s in settings.values() if s is not None]
        keys = differing(told)
        for i, values in settings.items():
            cell = NOT_TOLD if values is None else _cell(values, keys)
            names[i, name] = f"{name} ({cell})" if keys else name
    return names


def _cell(settings: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key} {_plain(settings.get(key))}" for key in keys)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the settings that are not the same in all of them.

    Absent counts as a value, but for the rule of the pairs, which files of scores do not have.
    """
    keys = dict.fromkeys(key for of in settings for key in of)
    if any(_PAIRS not in of for of in settings):
        keys.pop(_PAIRS, None)
    return [key for key in keys if len({repr(of.get(key)) for of in settings}) > 1]


def _plain(value: Any) -> str:
    return "default" if value is None else f"{value:g}" if type(value) is float else str(value)


def moving_settings(trained: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training that make it another one: no seed, no place, no logging.

    With the rule of its pairs in words, where that is told.
    """
    found = {key: value for key, value in shown_settings(trained).items() if key not in _PLACES}
    return found | ({_PAIRS: named(rule)} if (rule := trained.get("pairs")) else {})


def shown_settings(trained: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training without seeds and without those of logging, saving, evaluating."""
    return {
        key: value
        for key, value in (trained.get("settings") or {}).items()
        if key not in (*_SEEDS, _PAIRS) and not key.startswith(_BOOKKEEPING)
    }


def differing_settings(trained: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[Any]]]:
    """Training settings that differ between systems: setting -> system -> its values over runs."""
    shown = {name: [shown_settings(of) for of in runs.values()] for name, runs in trained.items()}
    sets = {
        key: {name: sorted({repr(of.get(key)) for of in runs}) for name, runs in shown.items()}
        for key in dict.fromkeys(key for runs in shown.values() for of in runs for key in of)
    }
    return {
        key: {
            name: list({repr(of.get(key)): of.get(key) for of in runs}.values())
            for name, runs in shown.items()
        }
        for key, of_system in sets.items()
        if len({tuple(values) for values in of_system.values()}) > 1
    }


def pair_rules(trained: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """System -> `rule` (in words, each once over its runs), and by run what it trained on.

    `rejected`, `exchanges`, `without_pairs` and `too_long` map the label of a run that knows it to a
    number. Systems that trained on no pairs are left out.
    """
    found = {}
    for name, of_runs in trained.items():
        rules = {label: of["pairs"] for label, of in of_runs.items() if of.get("pairs")}
        if rules:
            found[name] = {
                "rule": list(dict.fromkeys(map(named, rules.values()))),
                **{
                    key: {label: of[key] for label, of in rules.items() if of[key] is not None}
                    for key in ("rejected", "exchanges", "without_pairs", "too_long")
                },
            }
    return found


def sweeps(trained: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Settings along which systems trained by one command differ in that one number only.

    Each has `setting` and `lines`: command -> [[value of the setting, system], ...] by value.
    """
    commands: dict[str, dict[str, dict[str, Any]]] = {}
    for name, runs in trained.items():
        settings = [moving_settings(of) for of in runs.values()]
        if not differing(settings):
            command = str(next(iter(runs.values())).get("command"))
            commands.setdefault(command, {})[name] = settings[0]
    sweeps: dict[str, dict[str, Any]] = {}
    for command, of_system in commands.items():
        keys = differing(list(of_system.values()))
        points = [[of.get(keys[0]), name] for name, of in of_system.items()] if keys else []
        if len(keys) == 1 and all(type(value) in (int, float) for value, _ in points):
            sweeps.setdefault(keys[0], {})[command] = sorted(points)
    return [{"setting": key, "lines": lines} for key, lines in sweeps.items()]
