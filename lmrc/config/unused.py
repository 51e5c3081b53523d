"""Options that are given but change nothing, so that they are refused instead of ignored. Needs no torch."""

from __future__ import annotations

from collections.abc import Iterator

from lmrc.common.errors import ConfigError
from lmrc.config.schema import ClassifyConfig, DemoConfig, ExtractConfig, Options, PipelineConfig

# Sections and options of the stages that the demo sets by itself. A name that ends in "." stands for a whole section.
SET_BY_DEMO = (
    *(f"{stage}.{section}." for stage in ("rcp", "rc", "propose", "classify") for section in ("run", "cluster")),
    *("rcp.data.", "rc.data.", "propose.corpus", "propose.rcp"),
    *("classify.corpus", "classify.candidates", "classify.rc"),
)
# The pipeline takes the files of configs/rcp and configs/rc as parts: their `data` may stay in them.
SET_BY_PIPELINE = tuple(name for name in SET_BY_DEMO if name.startswith(("propose.", "classify.")))


def without_effect(config: Options) -> dict[str, str]:
    """Return the options that this config does not read, each with the reason; "server." stands for a section."""
    if isinstance(config, ClassifyConfig):
        return _of_classify(config)
    if isinstance(config, ExtractConfig):
        return {} if config.mode == "score" else {"relation_threshold": _only("score", "mode", config.mode)}
    if isinstance(config, (DemoConfig, PipelineConfig)):
        who = "demo" if isinstance(config, DemoConfig) else "pipeline"
        names = SET_BY_DEMO if isinstance(config, DemoConfig) else SET_BY_PIPELINE
        found = {name: f"the {who} sets it" for name in names if not (who == "pipeline" and ".cluster." in name)}
        found |= {f"classify.{name}": why for name, why in without_effect(config.classify).items()}
        prompt = config.classify.prompt
        for name in prompt.model_fields_set - {"truncate"}:
            if getattr(prompt, name) != getattr(config.rc.prompt, name):
                found[f"classify.prompt.{name}"] = "the adapter is asked as it was trained; set it in rc.prompt"
        return found
    return {}


def _of_classify(config: ClassifyConfig) -> dict[str, str]:
    decode, found = config.decode, {}
    if decode.mode != "score":
        found["decode.threshold"] = _only("score", "decode.mode", decode.mode)
    if decode.mode != "free":
        found["decode.min_fuzzy_score"] = _only("free", "decode.mode", decode.mode)
    if decode.backend != "openai":
        found["server."] = _only("openai", "decode.backend", decode.backend)
    if decode.backend != "hf":
        found["decode.batch_size"] = _only("hf", "decode.backend", decode.backend)
    if config.few_shot.examples == 0:
        needed = "it is read only if few_shot.examples is at least 1"
        found |= dict.fromkeys(("few_shot.pairs", "few_shot.corpus", "few_shot.seed"), needed)
    if config.rc is not None:
        found["base"] = f"the adapter {config.rc} names its base; give --rc none for an LM without an adapter"
    return found


def _only(needed: str, option: str, chosen: str) -> str:
    return f"it is read only with {option} {needed}, and {option} is {chosen}"


def is_among(name: str, options: dict[str, str]) -> bool:
    """Return whether the option `name` is one of `options`, or is in one of their sections."""
    return any(name == each or (each.endswith(".") and name.startswith(each)) for each in options)


def unused_options(config: Options) -> list[str]:
    """Return a sentence for each option that was given (`model_fields_set`) and has no effect."""
    found = []
    for unread, why in without_effect(config).items():
        names = [name for name in _given(config) if is_among(name, {unread: why})]
        found += [f"--{name.replace('_', '-')} has no effect: {why}" for name in names]
    return sorted(found)


def refuse_unused(config: Options) -> None:
    """Raise ConfigError if an option was given that has no effect."""
    if found := unused_options(config):
        raise ConfigError(f"{'; '.join(found)}. Leave out what has no effect")


def _given(options: Options, prefix: str = "") -> Iterator[str]:
    for name in options.model_fields_set:
        value = getattr(options, name)
        if isinstance(value, Options):
            yield from _given(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"
