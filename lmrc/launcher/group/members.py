"""Seeds and sweeps: the members of a group, and the steps of all their pipelines as one chain."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_origin

from lmrc.common.errors import ConfigError, nearest
from lmrc.config.loader import options_of
from lmrc.config.schema import BuildConfig, PipelineConfig, RunOptions, ScoreConfig, SummaryConfig
from lmrc.launcher.chain import Step, steps
from lmrc.launcher.group.record import GROUP, Group, GroupMember
from lmrc.launcher.group.reference import prediction_files
from lmrc.launcher.stages import BUILD, SUMMARY
from lmrc.runs.run_folder import RunFolder

# Sections whose options can be swept: the stages, and the folds of cross-fitting.
SWEPT = ("rcp", "propose", "rc", "classify", "crossfit")
# Sections of a stage that the pipeline sets, or that do not change its result.
NOT_SWEPT = ("run", "data", "cluster")

# Return the config of the pipeline with more words on its command line.
Reader = Callable[[Sequence[str]], PipelineConfig]


@dataclass(frozen=True)
class Member:
    """A member with the config of its pipeline."""

    entry: GroupMember
    config: PipelineConfig


def group_of(config: PipelineConfig, members: Sequence[Member]) -> Group:
    """Return the content of group.json.

    Raises:
        ConfigError: `group.against` names neither a member nor a run.
    """
    entries = tuple(member.entry for member in members)
    against = config.group.against
    if against is not None and against not in _names(entries):
        if not prediction_files(Path(against)):
            known = nearest(against, _names(entries))
            raise ConfigError(
                f"--against {against} is neither a member of this group nor a run with predictions: {known}"
            )
        against = str(Path(against).absolute())
    return Group(entries, against)


def _names(entries: Sequence[GroupMember]) -> set[str]:
    return {entry.name for entry in entries} | {entry.system for entry in entries}


def members_of(config: PipelineConfig, read: Reader) -> list[Member]:
    """Return the members of a group: the grid of all values of the sweep, with all seeds for each of them.

    Args:
        read: returns the config with more words on the command line.

    Raises:
        ConfigError: an option cannot be swept, or its value is wrong.
    """
    options, group = config.group.sweep, RunFolder.of(config.run).path
    fields = dict(options_of(PipelineConfig))
    for name in options:
        _check_option(name, fields)
    members: dict[str, Member] = {}
    for values in itertools.product(*options.values()):
        chosen = dict(zip(options, values, strict=True))
        system = "_".join(_as_name(name, value) for name, value in chosen.items())
        for seed in config.group.seeds or (config.run.seed,):
            parts = [part for part in (system, f"seed{seed}" if config.group.seeds else "") if part]
            member = GroupMember("_".join(parts), system or group.name, seed, chosen)
            if member.name in members:
                raise ConfigError(f"--sweep gives the folder {member.name} twice: give each value once")
            members[member.name] = Member(member, _member_config(member, group, read))
    return list(members.values())


def _member_config(member: GroupMember, group: Path, read: Reader) -> PipelineConfig:
    try:
        config = read([f"--{name}={value}" for name, value in member.options.items()])
    except ConfigError as error:
        raise ConfigError(f"{member.name}: {error}") from None
    run = RunOptions(name=member.name, folder=group, seed=member.seed, verbose=config.run.verbose)
    return config.model_copy(update={"run": run})


def _check_option(name: str, fields: dict[str, Any]) -> None:
    section, _, rest = name.partition(".")
    if name in fields and section in SWEPT and rest.partition(".")[0] not in NOT_SWEPT:
        if get_origin(fields[name].annotation) in (tuple, dict):
            raise ConfigError(f"--sweep {name}: its values hold commas themselves; run the pipeline once for each")
        return
    if name == "run.seed":
        raise ConfigError("--sweep run.seed: give --seeds, whose members are averaged")
    if name in fields:
        raise ConfigError(
            f"--sweep {name}: members differ in options of {', '.join(SWEPT)}, and not in their data or where they run"
        )
    in_stages = [f"{stage}.{name}" for stage in SWEPT if f"{stage}.{name}" in fields]
    if in_stages:
        raise ConfigError(f"--sweep {name}: which stage? Give {' or '.join(in_stages)}")
    raise ConfigError(f"--sweep {name}: unknown option; {nearest(name, fields)}")


def _as_name(option: str, value: str) -> str:
    """Return an option with its value as part of the name of a folder, such as rcp.learning_rate-1e-5."""
    stage, last = option.partition(".")[0], option.rpartition(".")[2]
    text = re.sub(r"[^\w.-]+", "-", value).strip("-")
    return f"{stage}.{last}-{text or 'none'}"


def group_steps(config: PipelineConfig, members: Sequence[Member], group: Group) -> list[Step]:
    """Return the steps of all members, after a common build step and before the summary.

    Raises:
        ConfigError: the options of the stages do not fit together.
    """
    home = RunFolder.of(config.run).path
    # The corpora are the same for all members.
    shared = [step for step in steps(members[0].config.model_copy(update={"run": config.run})) if step.stage is BUILD]
    corpora = {
        part: step.config.corpora / part
        for step in shared
        if isinstance(step.config, BuildConfig)
        for part in step.config.documents
    }
    data = config.data.model_copy(update={**corpora, "fix": False})
    chain = list(shared)
    last: list[str] = []
    for index, member in enumerate(members):
        try:
            own = steps(member.config.model_copy(update={"data": data}))
        except ConfigError as error:
            raise ConfigError(f"{member.entry.name}: {error}") from None
        # With a limit, a member starts when the one so many places before it has ended, well or not.
        limit = config.group.at_once
        earlier = [last[index - limit]] if limit is not None and index >= limit else []
        chain += _steps_of(member.entry.name, own, [step.name for step in shared], earlier)
        last.append(chain[-1].name)
    score = chain[-1].config
    assert isinstance(score, ScoreConfig)
    summary = SummaryConfig(
        run=RunOptions(name=SUMMARY.name, folder=home, seed=config.run.seed, verbose=config.run.verbose),
        group=home / GROUP,
        train=score.train,
        ign_variant=config.ign_variant,
        out=home,
        cluster=score.cluster,
    )
    chain.append(Step(SUMMARY, summary, (), when_ended=tuple(last), group=group))
    return chain


def _steps_of(name: str, own: Sequence[Step], shared: Sequence[str], earlier: Sequence[str]) -> Iterator[Step]:
    """Yield the steps of a member. Those without a step before them wait for the shared and the earlier ones."""
    for step in own:
        if step.after:
            yield replace(step, member=name, after=tuple(f"{name}/{before}" for before in step.after))
        else:
            yield replace(step, member=name, after=tuple(shared), when_ended=tuple(earlier))
