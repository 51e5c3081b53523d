"""GPU memory estimate of a training or a classification, without starting it.

Parameters are counted exactly. Weights, gradients and Adam's moments follow from them, the ZeRO stage and the world
size. Activations saved for the backward pass are computed by a formula for the longest examples. Overhead is constant.

Precisions: trained weights, their gradients and moments are fp32, without a second master copy. With precision bf16
the forward pass runs under autocast, and frozen weights are stored in bf16.

Source: Korthikanti et al. 2022, table 2, adapted to these precisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.config.schema import (
    ClassifyConfig,
    LoraOptions,
    Quantization,
    RcConfig,
    RcpConfig,
    ResolvedPrecision,
    Training,
)
from lmrc.launcher.model_shapes import ModelShape, UnknownShape, load_model_shape
from lmrc.training.backends.zero_config import read_zero_config
from lmrc.training.sampler import MicroBatches

GIB = 2**30
FP32 = 4
BF16 = 2
# Bytes per NF4 weight with double quantization: 4.127 bits (Dettmers et al. 2023, section 3).
NF4 = 4.127 / 8

# Largest share of answer tokens in a query. Logits are computed for these only.
ANSWER_SHARE = 1 / 4
# DocRED: most entities per document, entity types, relations.
ENTITIES = 42
TYPES = 6
RELATIONS = 96
# Bytes of CUDA's context and kernels, and of NCCL's buffers if there are several processes.
CONTEXT = 1 * GIB
COMMUNICATION = GIB // 2
# Bucket size of configs/deepspeed, in elements.
BUCKET = 50_000_000
# Usable bytes of 40 GB and 80 GB GPUs.
CARDS = {40: int(39.4 * GIB), 80: int(79.1 * GIB)}


@dataclass(frozen=True)
class MemoryEstimate:
    """Estimated bytes per GPU.

    Attributes:
        outputs: logits of answer tokens (RC) or the pair classifier (RCP), with their gradients.
        overhead: CUDA's context, buffers of NCCL and DeepSpeed, and temporary tensors.
        kv_cache: keys and values of all tokens of the queries that are decoded together (classify).
        unknown: why there is no estimate (all bytes are 0 then); None otherwise.
    """

    setting: str
    trained_parameters: int = 0
    frozen_parameters: int = 0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    outputs: int = 0
    overhead: int = 0
    kv_cache: int = 0
    unknown: str | None = None

    @property
    def total(self) -> int:
        """Return the sum of all parts in bytes; 0 if unknown."""
        trained = self.gradients + self.optimizer
        return self.weights + trained + self.kv_cache + self.activations + self.outputs + self.overhead

    def table(self) -> str:
        """Return the parts in GiB, their sum, and whether it fits 40 GB and 80 GB GPUs, as text."""
        if self.unknown is not None:
            return f"memory per GPU: no estimate: {self.unknown}"
        trained = f"{self.trained_parameters:,} trained, " if self.trained_parameters else ""
        rows = [("weights", self.weights, f"{trained}{self.frozen_parameters:,} frozen parameters")]
        if self.trained_parameters:
            rows += [("gradients", self.gradients, ""), ("optimizer", self.optimizer, "Adam's two moments")]
        else:
            rows.append(("KV cache", self.kv_cache, "keys and values, if all queries have the maximum length"))
        rows += [
            ("activations", self.activations, "for the longest examples"),
            ("outputs", self.outputs, ""),
            ("overhead", self.overhead, "CUDA, NCCL, DeepSpeed's buffers, temporary tensors"),
            ("total", self.total, ""),
        ]
        lines = [f"  {name:<12}{size / GIB:9.2f} GiB  {note}".rstrip() for name, size, note in rows]
        fits = [f"{'fits' if self.total <= room else 'does not fit'} {card} GB" for card, room in CARDS.items()]
        return "\n".join([f"memory per GPU, estimated ({self.setting}):", *lines, f"  {', '.join(fits)}"])


@dataclass(frozen=True)
class _Parts:
    """Numbers of parameters, and bytes of the parts that differ between the two trainings."""

    trained: int
    activations: int
    outputs: int
    frozen: int = 0
    frozen_bytes: int = 0
    temporary: int = 0


def estimate_memory(config: RcpConfig | RcConfig, world_size: int) -> MemoryEstimate:
    """Estimate the memory per GPU of a training by `world_size` processes.

    Raises:
        UserError: the encoder cannot read documents of `model.max_length`, or a LoRA target is not a layer of the base.
    """
    options = config.train
    setting = _setting(options, world_size)
    micro = _micro_batch(options, world_size)
    try:
        if isinstance(config, RcpConfig):
            model = load_model_shape(config.model.encoder, "encoder")
            parts = _rcp_parts(config, model, micro)
        else:
            model = load_model_shape(config.model.base, "causal")
            parts = _rc_parts(config, model, micro)
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    # Plain torch shards nothing.
    stage = 0 if options.backend == "torch" else options.zero_stage

    def per_process(size: int, from_stage: int) -> int:
        """Return the bytes per process of a state of `size` bytes that ZeRO shards from `from_stage` on."""
        return -(-size // world_size) if stage >= from_stage else size

    trained = parts.trained * FP32
    stored = trained + parts.frozen_bytes
    overhead = CONTEXT + (COMMUNICATION if world_size > 1 else 0) + parts.temporary
    if stage >= 1:
        overhead += min(BUCKET, parts.trained) * FP32 * (1 if stage == 1 else 2)
    if stage in (1, 2):
        # DeepSpeed copies the partition that this process updates.
        overhead += per_process(trained, 1)
    if stage == 3:
        # Gathered parameters: DeepSpeed keeps as many as configs/deepspeed allows, not only two layers.
        parameters = parts.trained + parts.frozen
        overhead += stored * min(_max_live_parameters(), parameters) // parameters
    return MemoryEstimate(
        setting=setting,
        trained_parameters=parts.trained,
        frozen_parameters=parts.frozen,
        weights=per_process(stored, 3),
        gradients=per_process(trained, 2),
        optimizer=per_process(2 * trained, 1),
        activations=parts.activations,
        outputs=parts.outputs,
        overhead=overhead,
    )


def _rcp_parts(config: RcpConfig, encoder: ModelShape, micro: int) -> _Parts:
    """Return the parts of launch/rcp.py: encoder and classifier, all trained."""
    from lmrc.rcp.data.windows import Windows

    windows = Windows.of(encoder.model)
    length = windows.fit(config.model.max_length)
    window_length, window_count = (length, 1) if length <= windows.size else (windows.size, 2)
    return _Parts(
        trained=encoder.parameters + classifier_parameters(encoder.hidden, config),
        activations=_encoder_activations(encoder, config.train, micro * window_count, window_length),
        # The classifier's bf16 weight copies are small and ignored.
        outputs=micro * _pair_bytes(encoder.hidden, length, config),
    )


def _rc_parts(config: RcConfig, base: ModelShape, micro: int) -> _Parts:
    """Return the parts of launch/rc.py: a frozen base and a trained adapter."""
    adapter = base.lora_shape(config.lora)
    tokens = micro * config.prompt.max_length
    element = _element(config.train)
    # Logits, their fp32 copy under bf16, log-softmax, and the gradient.
    logit = element + (FP32 if element == BF16 else 0) + 2 * FP32
    return _Parts(
        trained=adapter.parameters,
        frozen=base.parameters,
        frozen_bytes=base_bytes(base, element, config.model.quantization),
        activations=_causal_activations(base, config, tokens, adapter.inputs),
        outputs=int(tokens * ANSWER_SHARE) * base.vocabulary * logit,
        # The input of an adapter is cast to fp32; the widest one counts.
        temporary=tokens * max(adapter.inputs) * FP32 if element == BF16 else 0,
    )


def estimate_classify(config: ClassifyConfig) -> MemoryEstimate:
    """Estimate the memory per GPU of launch/classify.py with `decode.backend` hf: weights, and KV caches.

    Raises:
        UserError: the adapter is missing or damaged, or a target of it is not a layer of the base.
    """
    from lmrc.rc.model.adapter import adapter_base, read_adapter_config
    from lmrc.rc.model.adapter_metadata import AdapterMetadata

    base, lora = config.base, None
    precision: ResolvedPrecision = "bf16"
    prompt, quantization = config.prompt, None
    if config.rc is not None:
        metadata, adapter = AdapterMetadata.read_for(config.rc, config.prompt), read_adapter_config(config.rc)
        prompt, precision, quantization = metadata.prompt, metadata.precision, metadata.quantization
        base = adapter_base(config.rc)
        lora = LoraOptions(r=adapter.r, targets=tuple(adapter.target_modules or ()))
    gpus, rows = config.decode.gpus_per_worker, config.decode.batch_size
    setting = f"{gpus} GPU{'s' if gpus > 1 else ''} per LM, {precision}, {rows} queries of {prompt.max_length} tokens"
    try:
        shape = load_model_shape(base, "causal")
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    element = FP32 if precision == "fp32" else BF16
    adapted = shape.lora_shape(lora).parameters if lora is not None else 0
    tokens = rows * prompt.max_length
    return MemoryEstimate(
        setting,
        frozen_parameters=shape.parameters + adapted,
        # The layers, and with them the KV caches, are spread over the GPUs of a worker.
        weights=(base_bytes(shape, element, quantization) + adapted * FP32) // gpus,
        kv_cache=tokens * kv_bytes_per_token(shape, element) // gpus,
        # All queries may be read in one pass: the residual stream, its norm, and the three tensors of an MLP.
        activations=tokens * element * (2 * shape.hidden + 3 * shape.intermediate),
        # Logits after each query's last token, and their fp32 copy.
        outputs=rows * shape.vocabulary * (element + FP32),
        overhead=CONTEXT,
    )


def kv_bytes_per_token(shape: ModelShape, element: int) -> int:
    """Return the bytes of keys and values of one token in all layers."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * element


def base_bytes(base: ModelShape, element: int, quantization: Quantization | None) -> int:
    """Return the bytes of the base. Only linear layers are quantized, not embeddings, head and norms."""
    if quantization is None:
        return base.parameters * element
    linear = base.linear_parameters - base.hidden * base.vocabulary
    return (base.parameters - linear) * element + int(linear * {"8bit": 1.0, "4bit": NF4}[quantization])


def classifier_parameters(hidden: int, config: RcpConfig) -> int:
    """Return the number of parameters of RCP's new layers, including those used only in training."""
    import torch

    from lmrc.rcp.data.features import Features
    from lmrc.rcp.model.classifiers import CLASSIFIERS
    from lmrc.rcp.model.relation_head import RelationHead

    options = config.model
    features = Features(("",) * (TYPES if options.entity_types else 0), options.sentence_distance)
    with torch.device("meta"):
        classifier = CLASSIFIERS[options.classifier](hidden, features)
        parameters = list(classifier.parameters())
        if config.train.relation_weight:
            parameters += RelationHead(classifier.width, RELATIONS).parameters()
    return sum(parameter.numel() for parameter in parameters)


def _max_live_parameters() -> int:
    """Return the number of parameters that ZeRO-3 may keep gathered."""
    return int(read_zero_config(3)["zero_optimization"]["stage3_max_live_parameters"])


def _setting(options: Training, world_size: int) -> str:
    processes = f"{world_size} process{'es' if world_size > 1 else ''}"
    checkpointing = ", gradient checkpointing" if options.gradient_checkpointing else ""
    spread = "plain torch" if options.backend == "torch" else f"ZeRO {options.zero_stage}"
    micro = f"micro-batch {_micro_batch(options, world_size)}"
    return f"{processes}, {spread}, {options.precision}, {micro}{checkpointing}"


def _element(options: Training) -> int:
    return FP32 if options.precision == "fp32" else BF16


def _micro_batch(options: Training, world_size: int) -> int:
    """Return the largest number of examples per forward pass and process."""
    return MicroBatches.plan(0, world_size, options.examples_per_step, options.micro_batch_size).size


def _bytes_per_token(options: Training, layers: int, layer: int, residual: int) -> int:
    """Return the activation bytes per token of all layers.

    Args:
        layer: bytes per token that one layer saves for its backward pass.
        residual: bytes per token of a layer's input. With gradient checkpointing only this is saved per layer, and one
            layer at a time is recomputed in full.
    """
    return layers * residual + layer if options.gradient_checkpointing else layers * layer


def _encoder_activations(encoder: ModelShape, options: Training, rows: int, length: int) -> int:
    """Return the bytes that a BERT-like encoder saves for the backward pass, with sdpa and all weights trained.

    There are `rows` windows of `length` tokens.
    """
    element, hidden = _element(options), encoder.hidden
    # With gradient checkpointing query, key and value are separate products, and each saves its own bf16 input.
    inputs = 3 if element == BF16 and options.gradient_checkpointing else 1
    attention = inputs * element * hidden + 4 * element * hidden
    norms = 2 * FP32 * hidden
    dropout = 2 * hidden if getattr(encoder.config, "hidden_dropout_prob", 0.0) > 0 else 0
    mlp = element * hidden + 2 * element * encoder.intermediate
    layer = attention + norms + dropout + mlp
    token = _bytes_per_token(options, encoder.layers, layer, FP32 * hidden)
    copies = encoder.linear_parameters * BF16 if element == BF16 else 0
    if options.gradient_checkpointing:
        copies //= encoder.layers
    return rows * length * token + copies


def _causal_activations(base: ModelShape, config: RcConfig, tokens: int, adapted: tuple[int, ...]) -> int:
    """Return the bytes that a frozen Llama-like LM with LoRA saves; `adapted` are the input widths of its layers."""
    element = _element(config.train)
    width = base.heads * base.head_size
    # Query, key, value (repeated for every head in grouped-query attention) and output.
    attention = 4 * element * width
    norms = 2 * FP32 * base.hidden
    # Gate, activated gate and up projection.
    mlp = 3 * element * base.intermediate
    # Each adapter saves its input after dropout, the dropout mask, and the output of its first matrix.
    mask = 1 if config.lora.dropout > 0 else 0
    adapters = sum(inputs * (element + mask) + config.lora.r * element for inputs in adapted) // base.layers
    return tokens * _bytes_per_token(
        config.train, base.layers, attention + norms + mlp + adapters, element * base.hidden
    )


def _pair_bytes(hidden: int, length: int, config: RcpConfig) -> int:
    """Return the bytes that RCP's pair classifier saves for the document with the most entities."""
    from lmrc.rcp.model.relation_head import WIDTH

    element = _element(config.train)
    ordered = ENTITIES * (ENTITIES - 1)
    # Attention weights before and after normalization, their copy in the product with the hidden states, the context.
    contexts = ordered // 2 * (length * (2 * FP32 + element) + hidden * element)
    # Head and tail projections (tanh), in fp32 for the bilinear form, and their product.
    projections = ordered * hidden * (3 * FP32 + (2 * BF16 if element == BF16 else 0))
    if not config.train.relation_weight:
        return contexts + projections
    # The relation head: projections and their product; logits, targets, losses and gradient.
    return contexts + projections + ordered * (WIDTH * (2 * element + FP32) + RELATIONS * 4 * FP32)
