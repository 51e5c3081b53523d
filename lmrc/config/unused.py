"""Check for options that are given but have no effect. They are errors. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lmrc.common.errors import ConfigError
from lmrc.config.schema import (
    ClassifyConfig,
    DecodeOptions,
    DemoConfig,
    ExtractConfig,
    Options,
    PipelineConfig,
    RcConfig,
    RcpConfig,
    Training,
)

# Options of the stages that the demo sets itself. A name that ends in "." is a whole section.
SET_BY_DEMO = (
    *(f"{stage}.{section}." for stage in ("rcp", "rc", "propose", "classify") for section in ("run", "cluster")),
    *("rcp.data.", "rc.data.", "propose.corpus", "propose.rcp"),
    *("classify.corpus", "classify.candidates", "classify.rc"),
)
# Options of the prompt that only kind likelihood reads.
LIKELIHOOD_OPTIONS = ("relations_per_pair", "min_relation_probability")
# The pipeline reads configs/rcp and configs/rc, which contain `data`, so that section is allowed.
SET_BY_PIPELINE = tuple(name for name in SET_BY_DEMO if name.startswith(("propose.", "classify.")))


def without_effect(config: Options) -> dict[str, str]:
    """Return the options that this config does not read, each with the reason.

    A name that ends in a dot, such as "server.", means all options of that section.
    """
    if isinstance(config, ClassifyConfig):
        return _unread_by_classify(config)
    if isinstance(config, ExtractConfig):
        return _unread_by_extract(config)
    if isinstance(config, RcConfig):
        return _unread_by_rc(config) | _unread_by_training(config.train)
    if isinstance(config, RcpConfig):
        return _unread_by_rcp(config) | _unread_by_training(config.train)
    if isinstance(config, (DemoConfig, PipelineConfig)):
        command = "demo" if isinstance(config, DemoConfig) else "pipeline"
        names = SET_BY_DEMO if command == "demo" else SET_BY_PIPELINE
        unread = {
            name: f"the {command} sets it" for name in names if not (command == "pipeline" and ".cluster." in name)
        }
        stages = {"rcp": config.rcp, "rc": config.rc, "classify": config.classify}
        if isinstance(config, PipelineConfig) and config.crossfit.folds and config.classify.system != "rc":
            # The path does not matter here, only that there is a fusion.
            stages["classify"] = config.classify.model_copy(update={"fusion": Path("fusion.json")})
        for stage, options in stages.items():
            unread |= {f"{stage}.{name}": why for name, why in without_effect(options).items()}
        if not config.rcp.train.relation_weight:
            unread["propose.relation_threshold"] = (
                "it is read only for a model with a relation head, and rcp.train.relation_weight is 0"
            )
        if isinstance(config, PipelineConfig):
            unread |= _unread_by_crossfit(config) | _unread_by_group(config)
        prompt = config.classify.prompt
        for name in prompt.model_fields_set - {"truncate"}:
            if getattr(prompt, name) != getattr(config.rc.prompt, name):
                unread[f"classify.prompt.{name}"] = "inference uses the prompt of the training; set it in rc.prompt"
        return unread
    return {}


def _unread_by_crossfit(config: PipelineConfig) -> dict[str, str]:
    if not config.crossfit.folds:
        return {"crossfit.held_out": "it is read only with crossfit.folds of at least 2"}
    return {"classify.fusion": f"with crossfit.folds {config.crossfit.folds} the pipeline fits a fusion"}


def _unread_by_group(config: PipelineConfig) -> dict[str, str]:
    if config.group.is_given:
        return {"run.seed": "group.seeds gives the seeds"} if config.group.seeds else {}
    return dict.fromkeys(("group.at_once", "group.against"), "it is read only with --seeds or --sweep")


def _unread_by_training(options: Training) -> dict[str, str]:
    return {"train.patience": _read_only_with("best", "train.keep", options.keep)} if options.keep == "last" else {}


def _unread_by_extract(config: ExtractConfig) -> dict[str, str]:
    unread = {}
    if config.mentions not in ("spacy", "gliner"):
        unread["mentions_model"] = "it is read only with --mentions spacy or gliner"
    if (config.format or (config.out or Path()).suffix.removeprefix(".")) in ("", "json", "jsonl"):
        unread["merge_entities"] = "it is read only with csv, turtle, graphml and neo4j"
    if config.out is None:
        unread["format"] = "nothing is written without --out"
    if config.fusion is not None:
        return unread | {
            "mode": "with a fusion, the LM scores relations",
            "relation_threshold": "the fusion holds the threshold; give --precision to choose another",
        }
    unread |= dict.fromkeys(("precision", "ask"), "it is read only with a fusion")
    if config.mode != "score":
        unread["relation_threshold"] = _read_only_with("score", "mode", config.mode)
    return unread


def _unread_by_classify(config: ClassifyConfig) -> dict[str, str]:
    decode, unread = config.decode, _unread_by_system(config)
    if not config.asks_lm:
        return unread
    if decode.mode != "score":
        unread["decode.threshold"] = _read_only_with("score", "decode.mode", decode.mode)
    if decode.mode != "free":
        unread["decode.min_fuzzy_score"] = _read_only_with("free", "decode.mode", decode.mode)
    else:
        unread["decode.schema"] = "mode free answers with any relation; lmrc score --schema applies it to the triples"
    unread["prompt.schema"] = "it is read in training; give --decode.schema"
    if decode.backend != "openai":
        unread["server."] = _read_only_with("openai", "decode.backend", decode.backend)
    if decode.backend != "hf":
        unread["decode.batch_size"] = _read_only_with("hf", "decode.backend", decode.backend)
    if config.few_shot.examples == 0:
        needed = "it is read only if few_shot.examples is at least 1"
        unread |= dict.fromkeys(("few_shot.pairs", "few_shot.corpus", "few_shot.seed"), needed)
    if config.rc is not None:
        unread["base"] = f"the adapter {config.rc} names its base; give --rc none for an LM without an adapter"
    return unread


def _unread_by_rc(config: RcConfig) -> dict[str, str]:
    kind = config.prompt.kind
    if kind == "likelihood":
        return {
            "prompt.schema": "prompt.kind likelihood asks about relations of candidates; give RCP train.schema_minimum"
        }
    names = (f"prompt.{name}" for name in LIKELIHOOD_OPTIONS)
    unread = dict.fromkeys(names, _read_only_with("likelihood", "prompt.kind", kind))
    if kind == "rcp-llm":
        unread["prompt.schema"] = "answers of prompt.kind rcp-llm name no relations"
    return unread


def _unread_by_rcp(config: RcpConfig) -> dict[str, str]:
    # 0 is without effect anyway, and resets the option of a config file.
    if config.train.schema_minimum and not config.train.relation_weight:
        return {"train.schema_minimum": "it is read only with train.relation_weight above 0"}
    return {}


def _unread_by_system(config: ClassifyConfig) -> dict[str, str]:
    """Return the options without effect because of the system."""
    unread: dict[str, str] = {}
    if config.system != "fused":
        unread |= dict.fromkeys(("ask", "answers"), _read_only_with("fused", "system", config.system))
    if config.system == "rc":
        needed = _read_only_with("encoder or fused", "system", config.system)
        unread |= dict.fromkeys(("fusion", "precision"), needed)
        return unread
    if config.fusion is None:
        unread["precision"] = "it is read only with a fusion, which holds the thresholds"
    if config.asks_lm:
        unread["decode.threshold"] = "the fusion holds the threshold; give --precision to choose another"
        return unread
    why = "system encoder asks no LM" if config.answers is None else f"the answers of {config.answers} are fused"
    unread |= dict.fromkeys(("rc", "base", "prompt.", "few_shot.", "server."), why)
    names = (f"decode.{name}" for name in DecodeOptions.model_fields if config.fusion or name != "threshold")
    return unread | dict.fromkeys(names, why)


def _read_only_with(needed: str, option: str, chosen: str) -> str:
    return f"it is read only with {option} {needed}, and {option} is {chosen}"


def is_among(name: str, options: dict[str, str]) -> bool:
    """Return True if the option `name` is in `options`, or in one of their sections."""
    return any(name == option or (option.endswith(".") and name.startswith(option)) for option in options)


def unused_options(config: Options) -> list[str]:
    """Return a sentence for every option that was given (`model_fields_set`) but has no effect."""
    sentences = []
    for unread, why in without_effect(config).items():
        names = [name for name in _given(config) if is_among(name, {unread: why})]
        sentences += [f"--{name.replace('_', '-')} has no effect: {why}" for name in names]
    return sorted(sentences)


def refuse_unused(config: Options) -> None:
    """Raise ConfigError if an option was given that has no effect."""
    if sentences := unused_options(config):
        raise ConfigError(f"{'; '.join(sentences)}. Leave out what has no effect")


def _given(options: Options, prefix: str = "") -> Iterator[str]:
    for name in options.model_fields_set:
        value = getattr(options, name)
        if isinstance(value, Options):
            yield from _given(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
