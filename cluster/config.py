"""Strict YAML into frozen pydantic models.

``load_config("configs/train/pidog.yaml", TrainConfig, ["ppo.learning_rate=1e-3"])``

A file may carry named sets of overrides, chosen with ``--set preset=debug``:

```yaml
presets:
  debug: {total_env_steps: 2000, task_config.max_episode_steps: 50}
```

An unknown key, a wrong type, an out-of-range value and a missing file are each a ``ConfigError`` of one line that names the
file, the key, what is allowed and the nearest known key.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tempfile
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from cluster.errors import ConfigError

__all__ = [
    "Config",
    "ModelT",
    "explain",
    "load_config",
    "parse_config",
    "read_yaml",
    "save_config",
    "write_bytes_atomic",
    "write_text_atomic",
]


class Config(BaseModel):
    """Base of every configuration model: frozen, unknown keys are errors, defaults are checked too."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)


ModelT = TypeVar("ModelT", bound=Config)


class _Loader(yaml.SafeLoader):
    """YAML 1.1's safe loader, but ``1e-3`` is a number and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a plain value", key_node.start_mark)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


# YAML 1.1 reads 1e-3 as text because it wants a dot; learning rates are written that way everywhere.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9][0-9_]*)(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a YAML mapping. Raises ``ConfigError`` for a missing file, bad syntax, or anything but a mapping."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such configuration file{_near_file(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder; give a YAML file in it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: holds a {type(data).__name__}; a mapping of keys to values is wanted")
    return data


def load_config(path: str | os.PathLike[str], model: type[ModelT], overrides: Sequence[str] = ()) -> ModelT:
    """Read ``path``, apply ``--set`` overrides (``a.b=c``) and validate into ``model``."""
    return parse_config(read_yaml(path), model, overrides, source=str(path))


def parse_config(data: Mapping[str, Any], model: type[ModelT], overrides: Sequence[str] = (), source: str = "configuration") -> ModelT:
    """Validate a mapping into ``model`` after applying overrides; ``source`` names its origin in error messages."""
    merged = _copy(data)
    chosen = [override for override in overrides if override.split("=", 1)[0].strip() == "preset"]
    _apply_preset(merged, chosen[-1].partition("=")[2].strip() if chosen else merged.pop("preset", None), source)
    for override in overrides:
        if override not in chosen:
            _apply_override(merged, override)
    try:
        return model.model_validate(merged)
    except ValidationError as error:
        raise ConfigError(explain(error, model, source)) from None


def save_config(config: BaseModel, path: str | os.PathLike[str]) -> None:
    """Write the resolved configuration as YAML, atomically."""
    write_text_atomic(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` so that a reader sees the whole old file or the whole new one, also after a crash."""
    write_bytes_atomic(path, text.encode())


def write_bytes_atomic(path: str | os.PathLike[str], data: bytes, mode: int = 0o644) -> None:
    """Write ``data`` so that a reader sees the whole old file or the whole new one, also after a crash; never wider than ``mode``."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, mode)  # mkstemp's 0600 would hide a shared run from everybody else
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _apply_preset(data: dict[str, Any], name: str | None, source: str) -> None:
    """Take ``presets`` out of the mapping and apply the chosen one to the rest."""
    presets = data.pop("presets", None) or {}
    data.pop("preset", None)
    if not isinstance(presets, dict) or not all(isinstance(values, dict) for values in presets.values()):
        raise ConfigError(f"{source}: presets: must map a name to a mapping of dotted keys to values")
    if name is None:
        return
    if name not in presets:
        known = ", ".join(presets) or "none"
        near = difflib.get_close_matches(str(name), list(presets), n=1)
        raise ConfigError(
            f"{source}: there is no preset {name!r}" + (f"; did you mean {near[0]!r}?" if near else "") + f" (known here: {known})"
        )
    for key, value in presets[name].items():
        _assign(data, key, value, f"preset {name}: {key}")


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override}: write it as key=value or section.key=value")
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {_one_line(error)}") from None
    _assign(data, key.strip(), value, f"--set {override}")


def _assign(data: dict[str, Any], key: str, value: Any, origin: str) -> None:
    """Set a dotted key, making the mappings on its way; ``origin`` names it in error messages."""
    path = key.split(".")
    if not all(path):
        raise ConfigError(f"{origin}: {key!r} is not a key; write section.key")
    node: Any = data
    for depth, part in enumerate(path[:-1]):
        if isinstance(node, list):
            node = node[_index(origin, part, node)]
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"{origin}: {'.'.join(path[: depth + 1])} is a plain value and has no keys")
    if isinstance(node, list):
        node[_index(origin, path[-1], node)] = value
    else:
        node[path[-1]] = value


def _index(origin: str, part: str, node: list[Any]) -> int:
    if not part.isdigit() or int(part) >= len(node):
        raise ConfigError(f"{origin}: {part!r} is not an index below {len(node)}")
    return int(part)


def explain(error: ValidationError, model: type[BaseModel], source: str) -> str:
    """One line for the first error, ``SOURCE: KEY: what is wrong``, with a count of the others."""
    errors = error.errors(include_url=False)
    # A misspelt key usually causes a missing one too: name the misspelling first.
    errors.sort(key=lambda item: item["type"] != "extra_forbidden")
    first = errors[0]
    location = [part for part in first["loc"] if not str(part).startswith(("function-", "tagged-union"))]
    key = ".".join(str(part) for part in location) or "(top level)"
    if first["type"] == "extra_forbidden":
        known = _known_keys(model, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        message = f"unknown key{hint}" + (f" (known here: {', '.join(known)})" if known else "")
    elif first["type"] == "missing":
        message = "is required and not given"
    else:
        message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        message = f"{message[:1].lower()}{message[1:]} (given: {_short(first.get('input'))})"
        if first["type"] in ("literal_error", "enum"):
            near = difflib.get_close_matches(str(first.get("input")), re.findall(r"'([^']+)'", message), n=1)
            message += f"; did you mean {near[0]!r}?" if near else ""
    rest = f" [and {len(errors) - 1} more]" if len(errors) > 1 else ""
    return f"{source}: {key}: {_one_line(message)}{rest}"


def _known_keys(model: type[BaseModel], location: Iterable[Any]) -> list[str]:
    """Field names allowed at ``location`` inside ``model``, walking nested models, lists, dicts and unions."""
    candidates: list[Any] = [model]
    for part in location:
        following: list[Any] = []
        for candidate in candidates:
            following += _step(candidate, part)
        candidates = following
    names: dict[str, None] = {}
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            names.update(dict.fromkeys(candidate.model_fields))
    return list(names)


def _step(candidate: Any, part: Any) -> list[Any]:
    if isinstance(candidate, type) and issubclass(candidate, BaseModel):
        if part in candidate.model_fields:
            return _unwrap(candidate.model_fields[part].annotation)
        return [candidate]  # a union's discriminator tag stands in the location without being a key
    origin, arguments = typing.get_origin(candidate), typing.get_args(candidate)
    if origin in (dict, Mapping) and len(arguments) == 2:
        return _unwrap(arguments[1])
    if origin in (list, tuple, Sequence) and arguments:
        return _unwrap(arguments[0])
    return []


def _unwrap(annotation: Any) -> list[Any]:
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _unwrap(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return [leaf for argument in typing.get_args(annotation) for leaf in _unwrap(argument)]
    return [annotation]


def _near_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f" (there is no folder {path.parent})"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml")]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / near[0]}?" if near else ""


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _copy_value(value) for key, value in data.items()}


def _copy_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return _copy(value)
    return [_copy_value(item) for item in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    try:
        text = json.dumps(value)
    except TypeError:
        text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _one_line(value: Any) -> str:
    return " ".join(str(value).split())
