"""Read YAML files and the command line into the trees of `lmrc.config.schema`. The command line wins over the file.

Names are spelled with dashes or with underscores, in both. An unknown name is refused with the nearest known one.
"""

from __future__ import annotations

import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError
from pydantic.fields import FieldInfo

from lmrc.common.errors import ConfigError, nearest
from lmrc.config import schema as trees
from lmrc.config.schema import ClusterOptions, Options
from lmrc.config.unused import refuse_unused

Tree = TypeVar("Tree", bound=Options)

# Whose options a config file may hold, to name the right command if a file is given to another one.
READERS: dict[str, type[Options]] = {
    "launch/rcp.py": trees.RcpConfig,
    "launch/rc.py": trees.RcConfig,
    "launch/propose.py": trees.ProposeConfig,
    "launch/classify.py": trees.ClassifyConfig,
    "launch/pipeline.py": trees.PipelineConfig,
    "lmrc demo": trees.DemoConfig,
}


def split_flags(arguments: Sequence[str], flags: Collection[str]) -> tuple[set[str], list[str]]:
    """Return the flags among the arguments, as `flags` spells them (such as --dry-run), and the other arguments."""
    spelled = [(word.replace("_", "-"), word) for word in arguments]
    return {dashed for dashed, _ in spelled if dashed in flags}, [
        word for dashed, word in spelled if dashed not in flags
    ]


def options_of(tree: type[Options], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every option of a tree by its dotted name, such as ("train.epochs", field)."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from options_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def read_yaml(path: Path, fields: Mapping[str, FieldInfo], prefix: str = "") -> dict[str, Any]:
    """Return the options of a YAML file by dotted name, below `prefix`.

    `fields` are the known options. They tell which mapping is a value (such as `sbatch`) and which options may be
    `none`.

    Raises:
        ConfigError: the file is missing, is no mapping of options, or gives an option in both spellings.
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
    found: dict[str, Any] = {}
    for name, value in _flatten(content, prefix, fields):
        if name in found:
            raise ConfigError(f"{path} gives {name} twice, with dashes and with underscores: keep one of them")
        found[name] = value
    return found


def _flatten(content: Mapping[Any, Any], prefix: str, fields: Mapping[str, FieldInfo]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, dict) and name not in fields:
            yield from _flatten(value, f"{name}.", fields)
        elif isinstance(value, str) and name in fields and _is_nothing(value, fields[name]):
            yield name, None
        else:
            yield name, value


def _is_nothing(text: str, field: FieldInfo) -> bool:
    """Return whether a text means no value: `none` or `null`, for an option that may have none."""
    return text.lower() in ("none", "null") and type(None) in typing.get_args(field.annotation)


def _preset(folder: Path, part: str, name: str) -> Path:
    """The file of a part of the tree: `folder`/`name`.yaml, or any other given with its ending."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(f"{part} is {name!r}, but there is no {path}: {nearest(name, names)}")
    return path


def build(tree: type[Tree], values: Mapping[str, Any], source: str = "") -> Tree:
    """Return the checked tree with `values` (by dotted name) over its defaults.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or out of range. All in one sentence.
    """
    known = {name for name, _ in options_of(tree)}
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            remedy = _readers(tree, values) if source else ""
            raise ConfigError(f"{source}unknown option {name}: {remedy or nearest(name, known)}")
        *path, last = name.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    try:
        return tree.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(source + "; ".join(_sentence(problem) for problem in error.errors())) from None


def _readers(tree: type[Options], names: Collection[str]) -> str:
    """Return a sentence that names the other commands which know all of these options; empty if there are none."""
    found = []
    for reader, other in READERS.items():
        options = [name for name, _ in options_of(other)]
        # `cluster: NAME` and `rcp: NAME` name a whole section.
        if other is not tree and all(any(f"{each}.".startswith(f"{name}.") for each in options) for name in names):
            found.append(reader)
    return f"the file looks like a config of {' or '.join(found)}" if found else ""


def _sentence(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"{name} is {problem['input']!r}: {problem['msg'].lower()}"


def _from_text(text: str, field: FieldInfo) -> Any:
    """Return a value of the command line: commas separate the parts of a list, spaces those of a mapping."""
    if _is_nothing(text, field):
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
    flags: Collection[str] = (),
) -> tuple[Tree, Path | None]:
    """Return a tree from `--config FILE` and `--any.option value` (or `=value`) over it, and the config file.

    Args:
        tree: the options that may be given.
        arguments: the words of the command line, without flags.
        aliases: short names, such as {"nodes": "cluster.nodes"}.
        presets: the parts of the tree that a site's file may stand for, and the folder of those files. With
            {"cluster": folder}, `cluster: NAME` in YAML or `--cluster NAME` reads folder/NAME.yaml (`cluster:
            some/NAME.yaml` reads that file). Whatever else is said of that part wins over the file.
        flags: the flags that the command takes, such as --dry-run, to suggest them for an unknown option.

    Raises:
        ConfigError: a word is no option, a value is wrong, or an option is given that has no effect.
    """
    fields, presets = dict(options_of(tree)), presets or {}
    short = {alias.replace("-", "_"): name for alias, name in aliases.items()}
    config: Path | None = None
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} is no option: give options as --name value, such as --train.epochs 3")
        typed, equals, text = word[2:].partition("=")
        name = typed.replace("-", "_")
        name = short.get(name, name)
        if name not in ("config", *fields, *presets):
            names = [each.replace("_", "-") for each in (*fields, *aliases, *presets, "config")]
            near = nearest(typed.replace("_", "-"), [*names, *(flag.removeprefix("--") for flag in flags)])
            raise ConfigError(f"unknown option --{typed}: {near.replace('did you mean ', 'did you mean --')}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"--{typed} needs a value: --{typed} VALUE")
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
        checked = build(tree, values, source=f"{config}: ")  # so that a mistake in the file names the file
        values = {name: value for name, value in values.items() if not _repeats_default(name, checked, tree, below)}
    result = build(tree, {**below, **values, **given})
    refuse_unused(result)
    return result, config


def _repeats_default(name: str, checked: Options, tree: type[Options], below: Collection[str]) -> bool:
    """Return whether the file gives `name` its default, so that it does not count as given.

    A run's own config.yaml spells out every option, and can be given again. An option of a cluster always counts: the
    pipeline lays one section over another. So does one that a preset gives.
    """
    if name in below:
        return False
    value: Any = checked
    default: Any = tree()
    for part in name.split("."):
        value, default = getattr(value, part), getattr(default, part)
        if isinstance(value, ClusterOptions):
            return False
    return bool(value == default)


def table(tree: type[Options], markdown: bool = False) -> str:
    """Return all options with default and meaning, for --help and docs/options.md."""
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
