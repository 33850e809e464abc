"""Tasks run one after another on one model; what is finished is kept, and not run again."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from empo.harness.items import items_file, metric_name, rows
from empo.harness.language_model import language_model
from empo.harness.protocol import OPEN_LLM_V1, Protocol, same_evaluation
from empo.harness.tasks import Loaded, shots_of
from empo.models import ModelSource
from empo.records import UserError, finite, read_object, write_json, write_jsonl
from empo.runs import now, versions
from empo.untrusted import file_name

if TYPE_CHECKING:
    from lm_eval.api.group import Group
    from lm_eval.api.task import Task
    from lm_eval.models.huggingface import HFLM

PARTIAL = ".partial"
"""Folder in an output folder with the figures of every finished task, until all are finished."""

TRAINED = ("command", "seed", "settings")
"""What is told of the run that trained a model."""


def measure(
    loaded: Loaded,
    source: ModelSource,
    protocol: Protocol,
    output: str | Path,
    identity: Mapping[str, Any],
    *,
    batch_size: int = 8,
    device: str | None = None,
) -> dict[str, Any]:
    """Run the tasks that have no figures in `output` yet; returns facts, tasks, groups, not_run.

    A finished task leaves its items and its figures; `identity` (system, model, settings, files of
    the tasks) and the version of lm-eval say of which evaluation they are. Of several processes the first writes, and the others return no
    tasks. Raises UserError where the folder holds parts of another evaluation, and where the model
    cannot be used.
    """
    output = Path(output)
    kept = output / PARTIAL
    started = kept / "identity.json"
    writes = os.environ.get("RANK", "0") == "0"
    files = {leaf: kept / "tasks" / f"{file_name(leaf)}.json" for leaf in loaded.tasks}
    done = {leaf: _finished(file) for leaf, file in files.items() if file.is_file()}
    known = {**identity, "lm_eval": versions().get("lm_eval")}
    if started.is_file():
        same_evaluation(output, read_object(started), known, done)
    missing = [leaf for leaf in loaded.tasks if leaf not in done]
    not_run = list(loaded.not_run)
    if missing:
        if writes:
            write_json(started, known)
        lm = _load(source, protocol, batch_size, device)
    for number, leaf in enumerate(missing, start=1):
        task = loaded.tasks[leaf]
        if reason := _impossible(task, lm):
            not_run.append({"task": leaf, "reason": reason})
            continue
        if writes:
            print(f"{leaf}: {number} of {len(missing)}", file=sys.stderr)
        found, truncated = _run(lm, task, protocol)
        if writes:
            write_jsonl(items_file(output, leaf), rows(found["samples"][leaf]))
            done[leaf] = {
                "task": _task_figures(task, found["results"][leaf], truncated),
                "lm_eval": _sums(found["results"][leaf]),
            }
            write_json(files[leaf], done[leaf])
    return {
        "created": now(),
        "versions": versions(),
        "seed": protocol.seed,
        **identity,
        "trained": {key: source.run[key] for key in TRAINED if key in source.run} or None,
        "tasks": {leaf: done[leaf]["task"] for leaf in loaded.tasks if leaf in done},
        "groups": {
            name: _group_figures(group, {leaf: entry["lm_eval"] for leaf, entry in done.items()})
            for name, group in loaded.groups.items()
            if group.has_aggregation and writes
        },
        "not_run": not_run,
    }


def _finished(file: Path) -> dict[str, Any]:
    """Figures of a finished task; UserError where the file does not hold any."""
    entry = read_object(file)
    for key in ("task", "lm_eval"):
        if not isinstance(entry.get(key), dict):
            raise UserError(
                f"{file}, field {key!r}: the figures of a task are expected. Delete the file, and "
                "the task is run again."
            )
    return entry


def _load(source: ModelSource, protocol: Protocol, batch_size: int, device: str | None) -> HFLM:
    """The model; UserError where processes or chat template are not those that were asked for."""
    lm = language_model(
        source,
        protocol.dtype,
        batch_size=batch_size,
        device=device,
        max_length=protocol.max_length,
        by_path=protocol.processes > 1,
    )
    if lm.world_size != protocol.processes:
        raise UserError(
            f"{protocol.processes} processes were started, but lm-eval would run every item in each "
            "of them: it splits the items over GPUs only, one process per GPU. Start one process, "
            "or as many as there are GPUs."
        )
    if protocol.apply_chat_template and not lm.tokenizer.chat_template:
        raise UserError(
            f"{source.base}: --apply-chat-template: the tokenizer has no chat template. Leave the "
            "option out, or give a model that was trained on chats."
        )
    return lm


def _impossible(task: Task, lm: HFLM) -> str | None:
    """Why a task that is loaded cannot run on this model."""
    if getattr(task, "UNSAFE_CODE", False):
        return "the task runs code that the model writes, which this command does not do."
    if getattr(task, "MULTIMODAL", False):
        return "the task asks about images or sound, and this command is for text."
    options = task.get_config("generation_kwargs") or {}
    wanted = options.get("max_gen_toks", lm.max_gen_toks)
    if task.OUTPUT_TYPE == "generate_until" and wanted >= lm.max_length:
        return f"answers may have {wanted:,} tokens, and the model holds {lm.max_length:,} in all."
    shots = shots_of(task)
    if shots and (there := len(task.fewshot_docs())) < shots:
        return f"{shots} examples are asked for, and the task has {there}."
    return None


def _run(lm: HFLM, task: Task, protocol: Protocol) -> tuple[Mapping[str, Any], int]:
    """lm-eval's results of one task, and the number of items whose prompt was too long."""
    import lm_eval
    import torch
    from transformers import set_seed

    set_seed(protocol.seed)
    try:
        found = lm_eval.evaluate(
            lm=lm,
            task_dict={"tasks": {task.task_name: task}},
            limit=protocol.limit,
            apply_chat_template=protocol.apply_chat_template,
            fewshot_as_multiturn=True,
        )
    except torch.OutOfMemoryError:
        raise UserError(
            f"{task.task_name}: the GPU's memory is full. Run the command again with a smaller "
            "--batch-size; finished tasks are kept."
        ) from None
    return found or {}, sum(lm.gather_object(_truncated(task, lm)) or [0])


def _truncated(task: Task, lm: HFLM) -> int:
    """Items whose prompt lost its beginning, for the model cannot hold it."""
    cut = set()
    for instance in task.instances:
        text, room = instance.args[0], lm.max_length
        if instance.request_type == "generate_until":
            room -= instance.args[1].get("max_gen_toks", lm.max_gen_toks)
        elif instance.request_type == "loglikelihood":
            text, room = text + instance.args[1], room + 1  # the last token is no input
        else:
            continue  # is read window by window
        may_be_longer = len(text.encode()) + 8 > room  # a token has a byte or more
        if may_be_longer and len(lm.tok_encode(text)) > room:
            cut.add(instance.doc_id)
    return len(cut)


def _task_figures(task: Task, results: Mapping[str, Any], truncated: int) -> dict[str, Any]:
    """A task's entry in harness.json from lm-eval's results."""
    metrics = _metrics(results)
    listed = [metric["metric"] for metric in task.get_config("metric_list") or []]
    _, wanted = OPEN_LLM_V1.get(task.task_name, (0, listed[0] if listed else ""))
    main = next((name for name in metrics if name.split(",")[0] == wanted), next(iter(metrics)))
    return {
        "metric": main,
        **metrics[main],
        "n": results["sample_len"],
        "shots": shots_of(task),
        "truncated": truncated,
        "metrics": metrics,
        "version": str(task.VERSION),
        "dataset": _dataset(task),
    }


def _dataset(task: Task) -> str:
    """The data set's name on the hub, or the names of local files."""
    files = (task.get_config("dataset_kwargs") or {}).get("data_files")
    if isinstance(files, Mapping):
        return ", ".join(sorted({Path(str(file)).name for file in files.values()}))
    parts = (task.DATASET_PATH, task.DATASET_NAME)
    return "/".join(part for part in parts if part) or task.task_name


def _group_figures(group: Group, results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A group's entry in harness.json: lm-eval's mean over its tasks, which must all be there."""
    metric = group.aggregate_metric_list[0].metric
    leaves = [task.task_name for task in group.get_all_tasks()]
    absent = [leaf for leaf in leaves if not _has(metric, results.get(leaf, {}))]
    if absent:
        reason = f"{len(absent)} of {len(leaves)} tasks have no {metric}: {', '.join(absent)}"
        return {
            "metric": metric,
            "value": None,
            "stderr": None,
            "n": sum(results[leaf]["sample_len"] for leaf in leaves if leaf not in absent),
            "tasks": leaves,
            "reasons": {"value": reason, "stderr": reason},
        }
    aggregate = group.aggregate(results)
    metrics = _metrics(aggregate)
    main = next(name for name in metrics if name.split(",")[0] == metric)
    return {"metric": main, **metrics[main], "n": aggregate["sample_len"], "tasks": leaves}


def _has(metric: str, results: Mapping[str, Any]) -> bool:
    values = [value for key, value in results.items() if key.startswith(f"{metric},")]
    return bool(values) and None not in values


def _metrics(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every metric with its standard error, from lm-eval's keys `metric,filter`."""
    metrics = {}
    for key, value in results.items():
        metric, comma, answer_filter = key.partition(",")
        if not comma or metric.endswith("_stderr"):
            continue
        entry: dict[str, Any] = {
            "value": _figure(value),
            "stderr": _figure(results.get(f"{metric}_stderr,{answer_filter}")),
        }
        reasons = {}
        if entry["value"] is None:
            reasons["value"] = f"lm-eval computed {value!r}."
        if entry["stderr"] is None:
            reasons["stderr"] = "lm-eval has none: a single item, or no mean over items."
        metrics[metric_name(metric, answer_filter)] = entry | (
            {"reasons": reasons} if reasons else {}
        )
    return metrics


def _sums(results: Mapping[str, Any]) -> dict[str, Any]:
    """What lm-eval needs of a task to compute a group later."""
    return {
        key: value if isinstance(value, str | int) else _figure(value)
        for key, value in results.items()
    }


def _figure(value: Any) -> float | None:
    return None if value is None or isinstance(value, str) else finite(value)
