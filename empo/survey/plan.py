"""The folder of a survey: plan.json, the texts, the links and the answers.

plan.json says everything that was decided before anyone answered: items with their texts, batches,
seed, and how even the design is. It holds no secret, so it can be published with the results; before
the last answer it would tell raters which system they rate.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from empo.records import (
    Message,
    Response,
    UserError,
    file_facts,
    read_text,
    read_typed,
    sha256,
    shown,
    write_json,
    write_text,
)
from empo.runs import now, versions
from empo.survey.design import Batch, make_batches
from empo.survey.sampling import draw_items
from empo.survey.store import Store

PLAN_SCHEMA = "empo.survey-plan/1"
PLAN = "plan.json"
TEXTS = "texts.yaml"
LINKS = "links.csv"
ANSWERS = "answers.sqlite"

REBUILD = "Restore the file, or build the survey again in a new folder."


class PlannedItem(TypedDict):
    """An exchange that is rated; `context` ends on the speaker's turn."""

    id: str
    emotion: str
    context: list[dict[str, str]]
    responses: dict[str, str]


class PlannedBatch(TypedDict):
    """One batch: (number of the item, system) per place; `order` are the systems of its blocks."""

    number: int
    group: int
    round: int
    kind: Literal["mixed", "single"]
    order: list[str]
    places: list[tuple[int, str]]


class Plan(TypedDict):
    """The whole file. `balance` counts what `balance_of` finds in the batches."""

    schema: Literal["empo.survey-plan/1"]
    created: str
    versions: dict[str, str]
    command: str
    seed: int
    design: dict[str, Any]
    inputs: list[dict[str, Any]]
    texts_sha256: str
    contact: str
    url: str
    systems: list[str]
    items: list[PlannedItem]
    batches: list[PlannedBatch]
    balance: dict[str, Any]


_PLAN = TypeAdapter(Plan)


def make_plan(
    systems: Mapping[str, Sequence[Response]],
    *,
    items: int,
    per_emotion: int | None,
    size: int,
    block: int,
    ratings: int,
    single: int,
    seed: int,
) -> dict[str, Any]:
    """Draw the items and lay out the batches: the keys of a plan that follow from the responses.

    UserError where there are too few exchanges.
    """
    names = list(systems)
    first = systems[names[0]]
    if size > len(first):
        raise UserError(
            f"--batch: {size} items are more than the {len(first):,} exchanges of the responses. "
            "Give responses to more exchanges, or lower --batch."
        )
    drawn = draw_items([response.emotion for response in first], items, per_emotion, seed)
    design = make_batches(
        items, len(names), size=size, block=block, ratings=ratings, single=single, seed=seed
    )
    batches = [_planned(number, batch, names) for number, batch in enumerate(design, start=1)]
    return {
        "systems": names,
        "items": [
            {
                "id": first[number].id,
                "emotion": first[number].emotion,
                "context": [_message(message) for message in first[number].context],
                "responses": {name: systems[name][number].response for name in names},
            }
            for number in drawn
        ],
        "batches": batches,
        "balance": balance_of(batches),
    }


def _message(message: Message) -> dict[str, str]:
    return {"role": message.role, "content": message.content}


def _planned(number: int, batch: Batch, names: Sequence[str]) -> PlannedBatch:
    return {
        "number": number,
        "group": batch.group,
        "round": batch.round,
        "kind": "single" if batch.single else "mixed",
        "order": [names[system] for system in batch.order],
        "places": [(item, names[system]) for item, system in batch.places],
    }


def balance_of(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How even a design is, counted in its batches.

    `ratings` are the fewest and most ratings of an item under a system, `item_twice` the batches in
    which an item stands twice; `places` counts per system how often it stands in each place,
    `orders` how often each order of systems in mixed batches occurs.
    """
    of_item = Counter((item, system) for batch in batches for item, system in batch["places"])
    places: dict[str, list[int]] = {}
    for batch in batches:
        for place, (_, system) in enumerate(batch["places"]):
            places.setdefault(system, [0] * len(batch["places"]))[place] += 1
    orders = Counter(", ".join(b["order"]) for b in batches if b["kind"] == "mixed")
    twice = sum(
        len({item for item, _ in batch["places"]}) < len(batch["places"]) for batch in batches
    )
    return {
        "batches": len(batches),
        "ratings": [min(of_item.values()), max(of_item.values())],
        "item_twice": twice,
        "places": dict(sorted(places.items())),
        "orders": dict(sorted(orders.items())),
    }


def write_survey_folder(
    folder: str | Path,
    plan: Mapping[str, Any],
    texts: Path,
    files: Sequence[str],
    facts: Mapping[str, Any],
) -> Path:
    """Write the folder of a survey, whole or not at all, and return the file of links.

    `facts` are command, seed, design, contact and url. UserError where something is in the folder.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "a survey" if (folder / PLAN).is_file() else "something"
        raise UserError(
            f"--output: {folder} holds {what} already, and answers are never overwritten. Choose "
            "another folder."
        )
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)  # a kill may have left it
    beside.mkdir(parents=True, mode=0o700)
    shutil.copyfile(texts, beside / TEXTS)
    store = Store.create(beside / ANSWERS)
    numbers = [batch["number"] for batch in plan["batches"]]
    append_links(beside / LINKS, facts["url"], numbers, store.add_links(numbers))
    whole = {
        "schema": PLAN_SCHEMA,
        "created": now(),
        "versions": versions(),
        **facts,
        "inputs": [file_facts(file) for file in files],
        "texts_sha256": sha256(beside / TEXTS),
        **plan,
    }
    _PLAN.validate_python(whole)
    write_json(beside / PLAN, whole)
    store.bind(sha256(beside / PLAN))
    store.close()
    if folder.is_dir():
        folder.rmdir()
    beside.rename(folder)
    return folder / LINKS


def append_links(path: Path, url: str, batches: Sequence[int], tokens: Sequence[str]) -> None:
    """Add links to the csv file of links, which only its owner may read."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if not path.is_file():
        writer.writerow(["batch", "link"])
    for batch, token in zip(batches, tokens, strict=True):
        writer.writerow([batch, f"{url.rstrip('/')}/s/{token}"])
    before = read_text(path) if path.is_file() else ""
    write_text(path, before + text.getvalue())
    os.chmod(path, 0o600)


def read_plan(folder: str | Path) -> dict[str, Any]:
    """Read plan.json of a survey's folder; UserError where there is none or it is no plan."""
    path = Path(folder) / PLAN
    if not path.is_file():
        raise UserError(f"{folder}: there is no {PLAN}. Make the folder with `empo survey build`.")
    plan = read_typed(path, PLAN_SCHEMA, _PLAN, REBUILD)
    known = set(plan["systems"])
    for i, item in enumerate(plan["items"]):
        if item["responses"].keys() != known or not item["context"]:
            raise UserError(
                f"{path}, field 'items.{i}': it has no context, or not one response of every system. "
                f"{REBUILD}"
            )
    for i, batch in enumerate(plan["batches"]):
        for item, system in batch["places"]:
            if not 0 <= item < len(plan["items"]) or system not in known:
                raise UserError(
                    f"{path}, field 'batches.{i}.places': there is no item {item} of system "
                    f"{shown(system)}. {REBUILD}"
                )
    counted = balance_of(plan["batches"])
    if counted != plan["balance"]:
        raise UserError(f"{path}, field 'balance': it is not that of the batches. {REBUILD}")
    texts = Path(folder) / TEXTS
    if not texts.is_file() or sha256(texts) != plan["texts_sha256"]:
        raise UserError(
            f"{texts}: it is missing or was changed since the survey was built, so people would not "
            f"all answer the same questions. {REBUILD}"
        )
    return plan


def open_answers(folder: str | Path, plan: Mapping[str, Any]) -> Store:
    """The answers of a survey; UserError where they are none of this plan's."""
    store = Store(Path(folder) / ANSWERS)
    path = Path(folder) / PLAN
    if not store.is_of(sha256(path)):
        raise UserError(
            f"{path}: it was changed since the survey was built, or is of another survey than "
            f"{ANSWERS}, so nobody could tell what was rated. {REBUILD}"
        )
    sizes = {batch["number"]: len(batch["places"]) for batch in plan["batches"]}
    for participant, batch, _, count, _ in store.progress():
        if count > sizes.get(batch, -1):
            raise store.damaged(f"participant {shown(participant)} with batch {shown(batch)}")
    return store
