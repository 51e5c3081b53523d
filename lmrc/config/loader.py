"""Parser of YAML files and the command line into the trees of `lmrc.config.schema`. The command line wins.

Option names may be spelled with dashes or underscores, in both. For an unknown name the error suggests the closest one.
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
from lmrc.common.project import CONFIGS
from lmrc.config import schema as trees
from lmrc.config.aliases import RENAMED, announce_removed, announce_renamed, current_name, removal_reason
from lmrc.config.schema import ClusterOptions, Options
from lmrc.config.unused import refuse_unused

Tree = TypeVar("Tree", bound=Options)

# Commands and their options, to name the right command if a config file is given to the wrong one.
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
    """Yield every option of a tree with its dotted name, such as ("train.epochs", field)."""
    for name, field in tree.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Options):
            yield from options_of(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def find_config(text: str, stage: str) -> Path:
    """Return the config file that `--config` names.

    Args:
        text: a path, the path of a shipped config below configs/, or only its name, such as redocred-13b.
        stage: folder of configs/ that is searched first, such as rc.

    Raises:
        ConfigError: no shipped config has this name, or several have.
    """
    path = Path(text)
    if path.is_file() or path.is_absolute():
        return path
    # configs/NAME.yaml is also found outside a checkout.
    shipped = CONFIGS / path.relative_to("configs") if path.parts[:1] == ("configs",) else CONFIGS / path
    names = [shipped, shipped.with_name(f"{shipped.name}.yaml")]
    for candidate in [CONFIGS / stage / f"{text}.yaml", *names]:
        if candidate.is_file():
            return candidate
    if path.suffix in (".yaml", ".yml"):
        return path  # read_yaml raises the error
    files = [file for file in sorted(CONFIGS.rglob("*.yaml")) if file.parent.name not in ("cluster", "deepspeed")]
    known = {str(file.relative_to(CONFIGS).with_suffix("")): file for file in files}
    same = [name for name in known if name.rpartition("/")[2] == text]
    if len(same) == 1:
        return known[same[0]]
    if same:
        raise ConfigError(f"--config {text} is ambiguous: give one of {', '.join(same)}, or the path of a file")
    raise ConfigError(f"there is no config {text}, neither a file nor in {CONFIGS}: {nearest(text, known)}")


def read_yaml(path: Path, fields: Mapping[str, FieldInfo], prefix: str = "") -> dict[str, Any]:
    """Return the options of a YAML file by dotted name, each name with `prefix` before it.

    Args:
        path: the file.
        fields: the known options. They decide whether a mapping is a value (such as `sbatch`) or a section, and
            which options may be `none`.
        prefix: dotted name of the section that the file holds, with a dot at its end.

    Raises:
        ConfigError: the file is missing, is no mapping of options, or gives an option twice.
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
    options: dict[str, Any] = {}
    for name, value in _flatten(content, prefix, fields):
        current = name if name in fields else current_name(name)
        if current != name and current in fields:
            announce_renamed(name, current, f"{path}: ")
            name = current
        if name not in fields and (reason := removal_reason(name)):
            announce_removed(name, reason, f"{path}: ")
            continue
        if name in options:
            raise ConfigError(f"{path} gives {name} twice, in two spellings or by its old name too: keep one of them")
        is_none = isinstance(value, str) and name in fields and _means_none(value, fields[name])
        options[name] = None if is_none else value
    return options


def _flatten(content: Mapping[Any, Any], prefix: str, fields: Mapping[str, FieldInfo]) -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        name = f"{prefix}{key}".replace("-", "_")
        if isinstance(value, dict) and name not in fields:
            yield from _flatten(value, f"{name}.", fields)
        else:
            yield name, value


def _means_none(text: str, field: FieldInfo) -> bool:
    """Return True for `none` or `null`, if the option may have no value."""
    return text.lower() in ("none", "null") and type(None) in typing.get_args(field.annotation)


def _preset_file(folder: Path, section: str, name: str) -> Path:
    """Return `folder`/`name`.yaml, or the file itself if `name` ends in .yaml."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob("*.yaml"))
        raise ConfigError(f"{section} is {name!r}, but there is no {path}: {nearest(name, names)}")
    return path


def build(tree: type[Tree], values: Mapping[str, Any], source: str = "") -> Tree:
    """Return the validated tree with `values` (by dotted name) over its defaults.

    Raises:
        ConfigError: a name is unknown, or a value is of the wrong type or out of range. The message lists all of them.
    """
    known = {name for name, _ in options_of(tree)}
    nested: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            remedy = _suggest_command(tree, values) if source else ""
            raise ConfigError(f"{source}unknown option {name}: {remedy or nearest(name, known)}")
        *path, last = name.split(".")
        node = nested
        for part in path:
            node = node.setdefault(part, {})
        node[last] = value
    try:
        return tree.model_validate(nested)
    except ValidationError as error:
        raise ConfigError(source + "; ".join(_format_problem(problem) for problem in error.errors())) from None


def _suggest_command(tree: type[Options], names: Collection[str]) -> str:
    """Return a sentence that names the other commands that have all of these options; empty if there is none."""
    commands = []
    for command, other in READERS.items():
        options = [name for name, _ in options_of(other)]
        # `cluster: NAME` and `rcp: NAME` name a whole section.
        if other is not tree and all(any(f"{known}.".startswith(f"{name}.") for known in options) for name in names):
            commands.append(command)
    return f"the file looks like a config of {' or '.join(commands)}" if commands else ""


def _format_problem(problem: Any) -> str:
    name = ".".join(str(part) for part in problem["loc"])
    return f"{name} is {problem['input']!r}: {problem['msg'].lower()}"


def _from_text(text: str, field: FieldInfo) -> Any:
    """Parse a value of the command line: commas separate the items of a list, spaces those of a mapping."""
    if _means_none(text, field):
        return None
    if typing.get_origin(field.annotation) is dict:
        # --sbatch "reservation=maint exclusive qos=": a flag has no =, and an empty value is none.
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
    """Return the tree and the config file that `--config FILE --any.option value` (or `=value`) give.

    A bool option is true without a value. An option that is a mapping, such as --sbatch, may be repeated.

    Args:
        tree: the options that may be given.
        arguments: the words of the command line, without flags.
        aliases: short names, such as {"nodes": "cluster.nodes"}.
        presets: sections that may be read from a preset, and the folder of the presets. With {"cluster": folder},
            `cluster: NAME` in YAML or `--cluster NAME` reads folder/NAME.yaml (`cluster: some/NAME.yaml` reads that
            file). Other options of the section win over the preset.
        flags: the flags that the command takes, such as --dry-run, to suggest them for an unknown option.

    Raises:
        ConfigError: a word is no option, a value is wrong, or an option is given that has no effect.
    """
    fields, presets = dict(options_of(tree)), presets or {}
    config: Path | None = None
    given: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"{word!r} is no option: give options as --name value, such as --train.epochs 3")
        typed, equals, text = word[2:].partition("=")
        name = _option_name(typed, fields, aliases)
        if reason := removal_reason(name):
            raise ConfigError(f"--{typed} has no effect any more: {reason}; leave it out")
        if name not in ("config", *fields, *presets):
            names = [known.replace("_", "-") for known in (*fields, *aliases, *presets, "config")]
            near = nearest(typed.replace("_", "-"), [*names, *(flag.removeprefix("--") for flag in flags)])
            raise ConfigError(f"unknown option --{typed}: {near.replace('did you mean ', 'did you mean --')}")
        if not equals:
            if rest and not rest[0].startswith("--"):
                text = rest.pop(0)
            elif name in fields and fields[name].annotation is bool:
                text = "true"
            else:
                raise ConfigError(f"--{typed} needs a value: --{typed} VALUE")
        if name == "config":
            stage = next((Path(command).stem for command, reader in READERS.items() if reader is tree), "")
            config = find_config(text, stage)
        else:
            value = _from_text(text, fields[name]) if name in fields else text
            if isinstance(value, dict) and isinstance(before := given.get(name), dict):
                if twice := sorted(value.keys() & before.keys()):
                    raise ConfigError(f"--{typed} gives {', '.join(twice)} twice: give it once")
                value = before | value
            given[name] = value
    values = read_yaml(config, fields) if config else {}
    from_presets: dict[str, Any] = {}
    for section, folder in presets.items():
        chosen = given.pop(section, values.get(section))
        values.pop(section, None)
        if chosen is not None:
            path = _preset_file(folder, section, str(chosen))
            preset = read_yaml(path, fields, f"{section}.")
            build(tree, preset, source=f"{path}: ")
            from_presets |= preset
    if config:
        checked = build(tree, values, source=f"{config}: ")  # so that the error for a wrong value names the file
        values = {
            name: value for name, value in values.items() if not _repeats_default(name, checked, tree, from_presets)
        }
    result = build(tree, {**from_presets, **values, **given})
    refuse_unused(result)
    return result, config


def _option_name(typed: str, fields: Mapping[str, FieldInfo], aliases: Mapping[str, str]) -> str:
    """Return the dotted name of the option --`typed`. An unknown name is not changed."""
    name = typed.replace("-", "_")
    short = {alias.replace("-", "_"): option for alias, option in aliases.items()}
    # --hang-minutes is --collective-timeout-minutes, as cluster.hang_minutes is cluster.collective_timeout_minutes.
    old_short = {old.rpartition(".")[2]: short[new] for old, new in RENAMED.items() if new in short}
    option = old_short.get(name) or short.get(name, name)
    current = option if option in fields else current_name(option)
    if current not in fields:
        return option
    if name in old_short or current != option:
        announce_renamed(f"--{typed}", f"--{current.replace('_', '-')}")
    return current


def _repeats_default(name: str, checked: Options, tree: type[Options], from_presets: Collection[str]) -> bool:
    """Return True if the file gives `name` its default value, so that it does not count as given.

    A run's config.yaml lists every option, and must be accepted as `--config` again. Two kinds of options always
    count: those of a cluster section, because the pipeline lays one such section over another, and those of a preset.
    """
    if name in from_presets:
        return False
    value: Any = checked
    default: Any = tree()
    for part in name.split("."):
        value, default = getattr(value, part), getattr(default, part)
        if isinstance(value, ClusterOptions):
            return False
    return bool(value == default)


def table(tree: type[Options]) -> str:
    """Return all options with default and description in Markdown, for docs/options.md."""
    rows = ((name, format_value(field.default), field.description or "") for name, field in options_of(tree))
    lines = [f"| `{name}` | `{default}` | {text} |" for name, default, text in rows]
    return "\n".join(["| option | default | meaning |", "|---|---|---|", *lines])


def format_value(value: Any) -> str:
    """Return a value of an option as it is typed."""
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    if isinstance(value, dict):
        return " ".join(f"{key}={text}" for key, text in value.items())
    return str(value)
