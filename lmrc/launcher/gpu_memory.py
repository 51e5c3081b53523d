"""GPU memory estimate of a training, without starting it.

Parameters are counted exactly. Weights, gradients and Adam's moments follow from them, the ZeRO stage and the world
size. Activations saved for the backward pass are computed by a formula for the longest examples. Overhead is constant.

Precisions: trained weights, their gradients and moments are fp32, without a second master copy. With precision bf16
the forward pass runs under autocast, and frozen weights are stored in bf16.

Source: Korthikanti et al. 2022, table 2, adapted to these precisions.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.config.schema import RcConfig, RcpConfig, Training
from lmrc.launcher.model_shapes import ModelShape, UnknownShape, load_model_shape
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
        overhead: CUDA's context, and buffers of NCCL and DeepSpeed.
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
    unknown: str | None = None

    @property
    def total(self) -> int:
        """Return the sum of all parts in bytes; 0 if unknown."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.outputs + self.overhead

    def table(self) -> str:
        """Return the parts in GiB, their sum, and whether it fits 40 GB and 80 GB GPUs, as text."""
        if self.unknown is not None:
            return f"memory per GPU: no estimate: {self.unknown}"
        rows = [
            (
                "weights",
                self.weights,
                f"{self.trained_parameters:,} trained, {self.frozen_parameters:,} frozen parameters",
            ),
            ("gradients", self.gradients, ""),
            ("optimizer", self.optimizer, "Adam's two moments"),
            ("activations", self.activations, "for the longest examples"),
            ("outputs", self.outputs, ""),
            ("overhead", self.overhead, "CUDA, NCCL and DeepSpeed's buffers"),
            ("total", self.total, ""),
        ]
        lines = [f"  {name:<12}{size / GIB:9.2f} GiB  {note}".rstrip() for name, size, note in rows]
        fits = [f"{'fits' if self.total <= room else 'does not fit'} {card} GB" for card, room in CARDS.items()]
        return "\n".join([f"memory per GPU, estimated ({self.setting}):", *lines, f"  {', '.join(fits)}"])


@dataclass(frozen=True)
class _Sharding:
    """The ZeRO stage in effect (0 for plain torch) and the number of processes that share the state."""

    stage: int
    processes: int

    def per_process(self, size: int, from_stage: int) -> int:
        """Return the bytes per process of a state of `size` bytes that ZeRO shards from `from_stage` on."""
        return -(-size // self.processes) if self.stage >= from_stage else size


def _sharding(options: Training, world_size: int) -> _Sharding:
    return _Sharding(0 if options.backend == "torch" else options.zero_stage, world_size)


def estimate_rcp(config: RcpConfig, world_size: int) -> MemoryEstimate:
    """Estimate the memory per GPU of launch/rcp.py: encoder and classifier, all trained.

    Raises:
        UserError: the encoder cannot read documents of `model.max_length`.
    """
    from lmrc.rcp.data.windows import Windows

    setting = _setting(config.train, world_size)
    try:
        encoder = load_model_shape(config.model.encoder, "encoder")
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    micro = _micro_batch(config.train, world_size)
    windows = Windows.of(encoder.model)
    length = windows.fit(config.model.max_length)
    window_length, window_count = (length, 1) if length <= windows.size else (windows.size, 2)
    classifier = classifier_parameters(encoder.hidden, config)
    return _estimate(
        config.train,
        world_size,
        encoder,
        trained=encoder.parameters + classifier,
        frozen=0,
        frozen_bytes=0,
        activations=_encoder_activations(encoder, config.train, micro * window_count, window_length),
        # The classifier's bf16 weight copies are small and ignored.
        outputs=micro * _pair_bytes(encoder.hidden, length, config),
    )


def estimate_rc(config: RcConfig, world_size: int) -> MemoryEstimate:
    """Estimate the memory per GPU of launch/rc.py: a frozen base and a trained adapter.

    Raises:
        UserError: a LoRA target is not a layer of the base.
    """
    setting = _setting(config.train, world_size)
    try:
        base = load_model_shape(config.model.base, "causal")
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    adapter = base.lora_shape(config.lora)
    tokens = _micro_batch(config.train, world_size) * config.prompt.max_length
    element = _element(config.train)
    # Logits, their fp32 copy under bf16, log-softmax, and the gradient.
    logit = element + (FP32 if element == BF16 else 0) + 2 * FP32
    return _estimate(
        config.train,
        world_size,
        base,
        trained=adapter.parameters,
        frozen=base.parameters,
        frozen_bytes=_frozen_bytes(base, config),
        activations=_causal_activations(base, config, tokens, adapter.inputs),
        outputs=int(tokens * ANSWER_SHARE) * base.vocabulary * logit,
    )


def _frozen_bytes(base: ModelShape, config: RcConfig) -> int:
    """Return the bytes of the base. Only linear layers are quantized, not embeddings, head and norms."""
    element = _element(config.train)
    if config.model.quantization is None:
        return base.parameters * element
    linear = base.linear_parameters - base.hidden * base.vocabulary
    return (base.parameters - linear) * element + int(linear * {"8bit": 1.0, "4bit": NF4}[config.model.quantization])


def classifier_parameters(hidden: int, config: RcpConfig) -> int:
    """Return the number of parameters of RCP's new layers, including those used only in training."""
    import torch

    from lmrc.rcp.data.features import Features
    from lmrc.rcp.model.classifiers import CLASSIFIERS
    from lmrc.rcp.model.relation_head import AuxiliaryRelationHead

    options = config.model
    features = Features(("",) * (TYPES if options.entity_types else 0), options.sentence_distance)
    with torch.device("meta"):
        classifier = CLASSIFIERS[options.classifier](hidden, features)
        parameters = list(classifier.parameters())
        if config.train.relation_weight:
            parameters += AuxiliaryRelationHead(classifier.width, RELATIONS).parameters()
    return sum(parameter.numel() for parameter in parameters)


def _estimate(
    options: Training,
    world_size: int,
    model: ModelShape,
    trained: int,
    frozen: int,
    frozen_bytes: int,
    activations: int,
    outputs: int,
) -> MemoryEstimate:
    sharding = _sharding(options, world_size)
    stored = trained * FP32 + frozen_bytes
    overhead = CONTEXT + (COMMUNICATION if world_size > 1 else 0)
    if sharding.stage >= 1:
        overhead += min(BUCKET, trained) * FP32 * (1 if sharding.stage == 1 else 2)
    if sharding.stage in (1, 2):
        # DeepSpeed copies the partition that this process updates.
        overhead += sharding.per_process(trained * FP32, 1)
    if sharding.stage == 3:
        # The current layer is gathered, and the next one prefetched.
        overhead += 2 * stored // model.layers
    return MemoryEstimate(
        setting=_setting(options, world_size),
        trained_parameters=trained,
        frozen_parameters=frozen,
        weights=sharding.per_process(stored, 3),
        gradients=sharding.per_process(trained * FP32, 2),
        optimizer=sharding.per_process(2 * trained * FP32, 1),
        activations=activations,
        outputs=outputs,
        overhead=overhead,
    )


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

    Args:
        rows: number of windows.
        length: tokens per window.
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
    """Return the bytes that a frozen Llama-like LM with LoRA saves for the backward pass.

    Args:
        adapted: input width of each adapted linear layer.
    """
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
    # The auxiliary head: projections and their product; logits, targets, losses and gradient.
    return contexts + projections + ordered * (WIDTH * (2 * element + FP32) + RELATIONS * 4 * FP32)
