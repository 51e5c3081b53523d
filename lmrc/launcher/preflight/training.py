"""Pre-flight checks of a training: model, options that depend on the model, GPU memory and disk space."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from lmrc.common.check import Check, missing, ok, warning
from lmrc.common.errors import UserError
from lmrc.config.schema import ClusterOptions, RcConfig, RcpConfig
from lmrc.launcher.allocation import partition_nodes
from lmrc.launcher.gpu_memory import CARDS, FP32, GIB, MemoryEstimate, estimate_memory
from lmrc.launcher.model_shapes import ModelShape, UnknownShape, first_line, load_model_shape
from lmrc.launcher.plan import LaunchPlan
from lmrc.launcher.preflight.data import Inputs, check_disk, check_schema, check_training_data
from lmrc.launcher.preflight.hub import ModelLocation, find_model
from lmrc.launcher.slurm import commands as slurm
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.rcp.metrics import metric_problem
from lmrc.runs.run_folder import RunFolder
from lmrc.training.backends.zero_config import read_zero_config
from lmrc.training.trackers.base import missing_trackers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Usable bytes per GB of a GPU's nominal size: 80 GB are 79.1 GiB, 40 GB are 39.4 GiB.
GB = int(0.985 * 2**30)
REMEDY = (
    "lower --train.micro-batch-size, give --train.gradient-checkpointing true, or raise --train.zero-stage or --gpus"
)
# Smallest plausible vocabulary: without its files transformers builds a tokenizer of a few special tokens.
VOCABULARY = 100
# Memory of GPUs in GB, by a part of their SLURM type names.
GPUS = {
    **{"p100": 16, "v100": 32, "t4": 16, "a10": 24, "a30": 24, "a40": 48, "a100": 80, "l4": 24, "l40": 48},
    **{"h20": 96, "h100": 80, "h200": 141, "gh200": 96, "b200": 180, "2080": 11, "3090": 24, "4090": 24, "6000": 48},
}


def check_rcp(config: RcpConfig, plan: LaunchPlan | None, inputs: Inputs) -> Iterator[Check]:
    """Check a training of the candidate classifier."""
    yield from check_training_data(config, inputs)
    if problem := metric_problem(config.train):
        yield missing(problem)
    yield from _check_backend(config)
    location = find_model(config.model.encoder, "model.encoder", config.cluster)
    yield location.check
    shape = model_shape(location, "encoder")
    if shape is not None:
        yield from _check_length(config, shape)
        yield from check_weights(location, shape, "model.encoder")
    if shape is not None and config.train.gradient_checkpointing and not supports_checkpointing(shape):
        yield missing(
            f"the encoder {config.model.encoder} does not support gradient checkpointing",
            "set train.gradient_checkpointing to false",
        )
    yield from _check_encoding(config, location)
    yield from _check_room(config, plan, location.check.level != "missing")


def check_rc(config: RcConfig, plan: LaunchPlan | None, inputs: Inputs) -> Iterator[Check]:
    """Check a fine-tuning of the LM."""
    yield from check_training_data(config, inputs)
    yield from check_schema(config.prompt.schema, config.data.train, inputs)
    yield from _check_backend(config)
    if config.train.negative_ratio is not None and not PROMPTS[config.prompt.kind].asks_all_pairs:
        yield missing(
            f"train.negative_ratio samples pairs without a relation, but prompt.kind {config.prompt.kind} has none"
        )
    location = find_model(config.model.base, "model.base", config.cluster)
    yield location.check
    shape = model_shape(location, "causal")
    if shape is not None:
        yield from _check_lm(config, shape)
        yield from check_weights(location, shape, "model.base")
    yield from _check_queries(config, location, inputs)
    yield from _check_quantization(config)
    if config.cluster.container is None and not is_importable("flash_attn"):
        from lmrc.kernels.varlen_attention import kernel_name

        yield ok(f"attention: flash-attn is not installed; GPUs use {kernel_name()}")
    yield from _check_room(config, plan, location.check.level != "missing")


def _check_length(config: RcpConfig, shape: ModelShape) -> Iterator[Check]:
    from lmrc.rcp.data.windows import Windows

    try:
        longest = Windows.of(shape.model).fit(config.model.max_length)
    except UserError as error:
        yield missing(str(error))
        return
    lowered = f", lowered from model.max_length {config.model.max_length}" if longest < config.model.max_length else ""
    yield ok(f"documents are read up to {longest} word pieces{lowered}")


def supports_checkpointing(shape: ModelShape) -> bool:
    """Return True if transformers can recompute this model's activations."""
    return bool(getattr(shape.model, "supports_gradient_checkpointing", False))


def is_importable(package: str) -> bool:
    """Return True if the package is installed in this Python, which the job also uses unless it runs in a container."""
    return importlib.util.find_spec(package) is not None


def _check_backend(config: RcpConfig | RcConfig) -> Iterator[Check]:
    options = config.train
    for name in missing_trackers(options.trackers) if config.cluster.container is None else ():
        yield missing(f"train.trackers names {name}, which is not installed", f"pip install {name}, or leave it out")
    if options.backend == "torch":
        return
    if config.cluster.container is None and not is_importable("deepspeed"):
        if options.backend == "deepspeed":
            yield missing("train.backend is deepspeed, which is not installed", "pip install deepspeed")
        else:
            yield warning(
                "DeepSpeed is not installed: training uses plain torch, without ZeRO", "pip install deepspeed"
            )
        return
    try:
        read_zero_config(options.zero_stage)
    except UserError as error:
        yield missing(str(error))


def model_shape(location: ModelLocation, kind: str) -> ModelShape | None:
    """Return the model without its weights; None if its config is unknown, which the memory check reports."""
    try:
        return load_model_shape(str(location.folder or location.name), "encoder" if kind == "encoder" else "causal")
    except UnknownShape:
        return None


def _check_lm(config: RcConfig, shape: ModelShape) -> Iterator[Check]:
    try:
        adapter = shape.lora_shape(config.lora)
        yield ok(f"LoRA: {adapter.parameters:,} parameters on {len(adapter.inputs)} layers")
    except UserError as error:
        yield missing(str(error))
    positions = getattr(shape.config, "max_position_embeddings", None)
    window = getattr(shape.config, "sliding_window", None)
    longest = min((limit for limit in (positions, window) if limit), default=None)
    if longest is not None and config.prompt.max_length > longest:
        yield missing(
            f"prompt.max_length is {config.prompt.max_length}, but {config.model.base} reads {longest} tokens",
            f"give --prompt.max-length {longest} or less",
        )


def _check_quantization(config: RcConfig) -> Iterator[Check]:
    quantization = config.model.quantization
    if quantization is None:
        return
    if config.cluster.container is None and not is_importable("bitsandbytes"):
        yield missing(f"model.quantization is {quantization}, which needs bitsandbytes", "pip install bitsandbytes")
    if config.train.zero_stage == 3 and config.train.backend != "torch":
        yield missing(
            f"model.quantization is {quantization}, but ZeRO-3 cannot shard quantized weights",
            "give --train.zero-stage 2",
        )


def check_weights(location: ModelLocation, shape: ModelShape, option: str) -> Iterator[Check]:
    """Check that the files of a model on this machine contain its weights, by names and shapes."""
    from lmrc.pretrained.weights import check_headers

    if location.folder is None or not location.folder.is_dir():
        return
    try:
        check_headers(location.folder, shape.model, f"{option} {location.name}")
    except UserError as error:
        yield missing(str(error))


def _tokenizer(location: ModelLocation) -> tuple[PreTrainedTokenizerBase | None, list[Check]]:
    """Return the tokenizer, or the reason why it cannot be loaded. Neither is known if it is only on the hub."""
    if location.folder is None:
        return None, []
    from transformers import AutoTokenizer

    remedy = "put the tokenizer's files beside the weights"
    try:
        tokenizer = AutoTokenizer.from_pretrained(location.folder, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        return None, [missing(f"no tokenizer could be loaded from {location.name} ({first_line(error)})", remedy)]
    if len(tokenizer) < VOCABULARY:
        return None, [missing(f"the tokenizer of {location.name} has {len(tokenizer)} tokens", remedy)]
    return tokenizer, []


def _check_encoding(config: RcpConfig, location: ModelLocation) -> Iterator[Check]:
    """Check that the tokenizer has the special tokens and mention markers of RCP."""
    from lmrc.rcp.data.tokenization import DocumentTokenizer

    tokenizer, checks = _tokenizer(location)
    yield from checks
    if tokenizer is None:
        return
    try:
        DocumentTokenizer(tokenizer, config.model.max_length)
    except UserError as error:
        yield missing(str(error))


def _check_queries(config: RcConfig, location: ModelLocation, inputs: Inputs) -> Iterator[Check]:
    """Check the end-of-sequence token and the chat template, and build the queries' fixed parts."""
    tokenizer, checks = _tokenizer(location)
    yield from checks
    if tokenizer is None:
        return
    if tokenizer.eos_token_id is None:
        yield missing(f"the tokenizer of {location.name} has no end-of-sequence token", "set its eos_token")
    if config.prompt.template == "chat" and not tokenizer.chat_template:
        yield missing("prompt.template is chat, but the tokenizer has no chat template", "choose none or llama2")
        return
    corpus, _ = inputs.corpus(config.data.train)
    if corpus is None:
        return
    from lmrc.rc.prompts.query_builder import QueryBuilder

    if PROMPTS[config.prompt.kind].asks_relations:
        return
    try:
        QueryBuilder(tokenizer, corpus.relations, config.prompt)
    except UserError as error:
        yield missing(str(error))


def _check_room(config: RcpConfig | RcConfig, plan: LaunchPlan | None, is_there: bool) -> Iterator[Check]:
    """Compare the estimated GPU memory and disk space with what is available.

    Args:
        is_there: whether the model was found; if not, the missing estimate is not reported.
    """
    if plan is None:
        return  # the number of processes is unknown
    try:
        estimate = estimate_memory(config, plan.processes)
    except UserError:
        return  # wrong lora.targets, already reported
    if estimate.unknown is not None:
        if is_there:
            yield warning(f"memory per GPU: no estimate ({estimate.unknown})", "none needed if the GPUs are large")
        return
    yield from check_memory(plan, estimate, REMEDY)
    yield _check_checkpoints(config, estimate)


def check_memory(plan: LaunchPlan, estimate: MemoryEstimate, remedy: str) -> Iterator[Check]:
    """Compare the estimated memory with that of the GPUs, if it is known."""
    message = f"memory per GPU: about {estimate.total / GIB:.1f} GiB ({estimate.setting})"
    gpu, room = _partition_gpu(plan.config.cluster) if plan.executor == "slurm" else _own_gpu()
    if room is not None and estimate.total > room:
        yield warning(
            f"{message}, but {gpu} has {room / GIB:.0f} GiB",
            remedy,
        )
    elif room is not None:
        yield ok(f"{message}; {gpu} has {room / GIB:.0f} GiB")
    elif plan.executor == "slurm":
        fits = [card for card, size in CARDS.items() if estimate.total <= size]
        yield ok(f"{message}: {f'fits a GPU of {fits[0]} GB' if fits else f'more than a GPU of {max(CARDS)} GB'}")


def gpu_of(plan: LaunchPlan) -> str:
    """Return the name of the GPUs that a stage gets; empty without a GPU, or if it is not known."""
    return (_partition_gpu(plan.config.cluster) if plan.executor == "slurm" else _own_gpu())[0]


def _own_gpu() -> tuple[str, int | None]:
    """Return the name and the memory in bytes of this machine's GPU; None if there is none."""
    import torch

    if not torch.cuda.is_available():
        return "", None
    gpu = torch.cuda.get_device_properties(0)
    return gpu.name, gpu.total_memory


def _partition_gpu(options: ClusterOptions) -> tuple[str, int | None]:
    """Return the smallest GPU type that the job may get and its memory; None if no type is known."""
    try:
        types = {options.gpu_type} if options.gpu_type else {t for node in partition_nodes(options) for t in node.gpus}
    except slurm.SlurmError:
        return "", None
    sizes = {name: memory_of(name) for name in types if name}
    known = [(size, name) for name, size in sizes.items() if size is not None]
    return (min(known)[1], min(known)[0]) if known else ("", None)


def memory_of(gpu_type: str) -> int | None:
    """Return the memory in bytes of a GPU type in SLURM, such as a100_80gb; None if it is unknown.

    If the name does not give the size, the larger of two variants is assumed.
    """
    name = gpu_type.lower()
    size = re.search(r"(\d{2,3})gb?(?![a-z0-9])", name)
    if size:
        return int(size[1]) * GB
    models = sorted((model for model in GPUS if model in name), key=len)
    return GPUS[models[-1]] * GB if models else None


def _check_checkpoints(config: RcpConfig | RcConfig, estimate: MemoryEstimate) -> Check:
    """Check the disk space for checkpoints (trained weights and two moments in fp32) and the best weights."""
    weights = estimate.trained_parameters * FP32
    kept = config.train.checkpoint_keep + 1  # a new one is written before the oldest is deleted
    folder: Path = RunFolder.of(config.run).path
    return check_disk(folder, 3 * weights * kept + 2 * weights, f"{kept} checkpoints and the best weights")
