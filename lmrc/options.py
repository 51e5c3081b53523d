"""YAML and the command line into the trees of `lmrc.config`: YAML < command line, unknown keys name the nearest one."""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lmrc.config import Options
from lmrc.errors import ConfigError, nearest

Tree = TypeVar("Tree", bound=Options)


def options_of(tree: type[Options], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every option of a tree by its dotted name, such as ("train.epochs", field)."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from options_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def read_yaml(path: Path, known: Collection[str], prefix: str = "") -> dict[str, Any]:
    """The options of a YAML file by dotted name, below `prefix`; `known` tells where an option's own mapping begins.

    Raises ConfigError where the file is missing or no mapping of options.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the config {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected options such as 'train: {{epochs: 3}}'")
    return dict(_flatten(content, prefix, known))


def _flatten(content: Mapping[Any, Any], prefix: str, known: Collection[str]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in known:
            yield from _flatten(value, f"{name}.", known)
        else:
            yield name, value


def _preset(folder: Path, part: str, name: str) -> Path:
    """The file of a part of the tree: `folder`/`name`.yaml, or any other given with its ending."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(f"{part} is {name!r}, but there is no {path}: {nearest(name, names)}")
    return path


def build(tree: type[Tree], values: Mapping[str, Any], source: str = "") -> Tree:
    """The checked tree with `values` (by dotted name) over its defaults.

    Raises ConfigError for unknown names, wrong types and values out of range, all in one sentence.
    """
    known = {name for name, _ in options_of(tree)}
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ConfigError(f"{source}unknown option {name}: {nearest(name, known)}")
        *path, last = name.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    try:
        return tree.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(source + "; ".join(_sentence(problem) for problem in error.errors())) from None


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"{name} is {problem['input']!r}: {problem['msg'].lower()}"


def _from_text(text: str, field: FieldInfo) -> Any:
    """A value of the command line: `none` for no value, commas between the parts of a list, spaces in a mapping."""
    if text.lower() in ("none", "null"):
        return None
    if typing.get_origin(field.annotation) is dict:
        # --sbatch "reservation=maint exclusive qos=": a flag stands alone, and an empty value is none.
        parts = (part.partition("=") for part in text.split())
        return {key: (value or None) if equals else True for key, equals, value in parts}
    if typing.get_origin(field.annotation) is tuple:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return text


def parse(
    tree: type[Tree],
    arguments: Sequence[str],
    aliases: Mapping[str, str],
    presets: Mapping[str, Path] | None = None,
) -> tuple[Tree, Path | None]:
    """A tree from `--config FILE` and `--any.option value` (or `=value`) over it.

    `aliases` are short names, such as {"nodes": "cluster.nodes"}. `presets` are the parts of the tree that a site's
    file may stand for, and those files' folder: with {"cluster": folder}, `cluster: NAME` in YAML or `--cluster NAME`
    reads NAME.yaml of it (`cluster: some/NAME.yaml` that file), below what else is said of that part. Returns the tree
    and the config file.
    """
    fields, presets = dict(options_of(tree)), presets or {}
    config: Path | None = None
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} is no option: give options as --name value, such as --train.epochs 3")
        name, equals, text = word[2:].partition("=")
        name = aliases.get(name, name)
        if name not in ("config", *fields, *presets):
            choices = [*fields, *aliases, *presets, "config", "dry-run", "follow"]
            raise ConfigError(f"unknown option --{name}: {nearest(name, choices)}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{name} needs a value: --{name} VALUE")
            text = rest.pop(0)
        if name == "config":
            config = Path(text)
        else:
            given[name] = _from_text(text, fields[name]) if name in fields else text
    values = read_yaml(config, fields) if config else {}
    below: dict[str, Any] = {}
    for part, folder in presets.items():
        chosen = given.pop(part, values.get(part))
        values.pop(part, None)
        if chosen is not None:
            path = _preset(folder, part, str(chosen))
            kept = read_yaml(path, fields, f"{part}.")
            build(tree, kept, source=f"{path}: ")
            below |= kept
    if config:
        build(tree, values, source=f"{config}: ")  # so that a mistake in the file names the file
    return build(tree, {**below, **values, **given}), config


def table(tree: type[Options], markdown: bool = False) -> str:
    """All options with default and meaning, for --help and docs/options.md."""
    rows = [(name, _default(field), field.description or "") for name, field in options_of(tree)]
    if markdown:
        lines = [f"| `{name}` | `{default}` | {text} |" for name, default, text in rows]
        return "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])
    width = max(len(name) for name, _, _ in rows)
    return "\n".join(f"  --{name:<{width}}  {text} [{default}]" for name, default, text in rows)


def _default(field: FieldInfo) -> str:
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return str(value)
