"""Model folders that come from elsewhere: what is refused before a library opens them.

Code that a configuration names, weights that are pickles, tensors that are not whole, and names
that would lead out of the folder they are written to.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from empo.records import UserError, read_json, shown

CONFIGS = (
    "config.json",
    "tokenizer_config.json",
    "processor_config.json",
    "adapter_config.json",
    "modules.json",
)
"""Files of a model in which classes can be named that are imported when it is loaded."""

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib")
"""Endings of files whose weights are pickles, mostly."""

CONVERT = (
    "Convert them, where you trust them, with the command in docs/security.md (or take a version of "
    "the model with model.safetensors)."
)

_MODULES = {
    "Transformer",
    "Pooling",
    "Normalize",
    "Dense",
    "LayerNorm",
    "Dropout",
    "LogitScore",
    "WeightedLayerPooling",
}
"""Classes of sentence-transformers that are loaded; none of them names further ones."""

_ACTIVATIONS = ("activation_fn", "sbert_ce_default_activation_function")
"""Fields of a cross-encoder with the name of a class that sentence-transformers imports and calls."""
_PLAIN_ACTIVATION = re.compile(r"torch\.nn\.modules\.(activation|linear)\.\w+")

_KERNELS = ("attn_implementation", "_attn_implementation", "experts_implementation")
"""Fields that can name compiled code on the hub."""

_LONGEST = 120
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)


def refuse_code(name: str, configs: Iterable[Path], remedy: str) -> None:
    """Raise UserError where one of a model's configurations names code that would be run.

    `configs` are those of `CONFIGS` that the model `name` has; `remedy` is a sentence. Refused are
    `auto_map` in any of them, kernels from the hub, and modules of sentence-transformers that are
    none of its plain ones. Raises UserError, too, where a file is no JSON.
    """
    for path in configs:
        content = read_json(path)
        if path.name == "modules.json":
            _check_modules(path, content)
            continue
        if not isinstance(content, Mapping):
            raise UserError(f"{path}: a JSON object is expected, not {type(content).__name__}.")
        for field, named in _code(content):
            raise UserError(
                f"{path}, field {field!r}: {name} comes with code of its own ({named}), which would "
                f"run on this machine. It is not run. {remedy}"
            )


def configs_of(folder: str | Path) -> list[Path]:
    """The configurations in a model folder and in those of its modules."""
    return [
        place / name
        for place in model_folders(folder)
        for name in CONFIGS
        if (place / name).is_file()
    ]


def model_folders(folder: str | Path) -> list[Path]:
    """A folder, and the sub-folders of its sentence-transformers modules; UserError as `refuse_code`."""
    folder = Path(folder)
    index = folder / "modules.json"
    if not index.is_file():
        return [folder]
    modules = read_json(index)
    _check_modules(index, modules)
    return [folder, *(folder / module["path"] for module in modules if module["path"])]


def require_safetensors(folder: str | Path, pattern: str = "*.safetensors") -> list[Path]:
    """The weights in a folder, each a whole safetensors file.

    Raises UserError where there are none, or only pickled ones, which are not opened; where a file
    is damaged; and where an index names a file that is missing or lies elsewhere. A change inside a
    tensor is not seen here: that takes a recorded digest.
    """
    folder = Path(folder)
    files = sorted(folder.glob(pattern))
    if not files:
        pickled = sorted(path for path in folder.iterdir() if path.suffix in PICKLES)
        if pickled:
            raise UserError(
                f"{pickled[0]}: these weights are pickled, and a pickle can run any code, so it is "
                f"not opened. {CONVERT}"
            )
        raise UserError(f"{folder}: there are no weights ({pattern}).")
    for file in files:
        shapes(file)
    for index in folder.glob("*.safetensors.index.json"):
        _check_index(index)
    return files


def shapes(file: str | Path) -> dict[str, list[int]]:
    """Name to shape of every tensor of a safetensors file; UserError where it is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "np") as tensors:
            return {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file}: this is no whole safetensors file ({_line(error)}). Copy or download it again."
        ) from None


def file_name(name: str) -> str:
    """A name from elsewhere as the name of one file, without ending: itself where it is plain.

    What could lead out of a folder, or cannot be written, is replaced, and a digest of the name
    keeps two names apart.
    """
    plain = re.sub(r"[^\w.,=+-]", "-", name)
    plain = plain.lstrip(".-")[:_LONGEST] or "unnamed"
    if plain == name and not _RESERVED.match(name):
        return name
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return f"{plain.replace('.', '-')}-{digest}"


def _code(value: Any, above: str = "") -> Iterator[tuple[str, str]]:
    """Field and text of everything in a configuration that names code, also in nested ones."""
    if isinstance(value, list):
        for number, entry in enumerate(value):
            yield from _code(entry, f"{above}{number}.")
    if not isinstance(value, Mapping):
        return
    for key, entry in value.items():
        field = f"{above}{key}"
        if key == "auto_map" and entry:
            named = list(entry.values()) if isinstance(entry, Mapping) else [entry]
            yield field, ", ".join(map(str, named))[:200]
        elif key in _KERNELS:
            for kernel in entry.values() if isinstance(entry, Mapping) else [entry]:
                if isinstance(kernel, str) and "/" in kernel:
                    yield field, kernel[:200]
        elif key in _ACTIVATIONS:
            if entry is not None and not _PLAIN_ACTIVATION.fullmatch(str(entry)):
                yield field, str(entry)[:200]
        else:
            yield from _code(entry, f"{field}.")


def _check_modules(path: Path, modules: Any) -> None:
    """Refuse a modules.json with classes that are not plain ones, or folders outside its own."""
    entries = modules if isinstance(modules, list) else [None]
    for number, module in enumerate(entries):
        if not isinstance(module, Mapping) or not all(
            isinstance(module.get(key), str) for key in ("type", "path")
        ):
            raise UserError(
                f"{path}, entry {number}: a list of objects with the texts type and path is expected."
            )
        package, _, name = module["type"].rpartition(".")
        if package.split(".")[0] != "sentence_transformers" or name not in _MODULES:
            raise UserError(
                f"{path}, entry {number}, field 'type': {module['type']} is none of the plain "
                f"modules of sentence-transformers ({', '.join(sorted(_MODULES))}), so it could run "
                "any code. It is not loaded; choose another encoder."
            )
        if module["path"] and not is_folder_name(module["path"]):
            raise UserError(
                f"{path}, entry {number}, field 'path': {module['path']!r} is no folder right below "
                "this one."
            )


def _check_index(index: Path) -> None:
    content = read_json(index)
    shards = content.get("weight_map") if isinstance(content, Mapping) else None
    if not isinstance(shards, Mapping):
        raise UserError(f"{index}, field 'weight_map': an object is expected.")
    for shard in sorted(set(map(str, shards.values()))):
        if not is_folder_name(shard) or not shard.endswith(".safetensors"):
            raise UserError(
                f"{index}, field 'weight_map': {shown(shard)} is no safetensors file in this folder."
            )
        if not (index.parent / shard).is_file():
            raise UserError(
                f"{index}, field 'weight_map': {shard[:200]} is missing. Copy or download it again."
            )


def is_folder_name(name: Any) -> bool:
    """Whether a value names something right inside a folder, and nothing elsewhere."""
    plain = isinstance(name, str) and "\0" not in name and "\\" not in name
    return plain and name not in ("", ".", "..") and Path(name).name == name


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
