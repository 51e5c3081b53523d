"""What training will take of each GPU's memory, by parts, before anything is started.

Parameters are counted exactly. Weights, gradients and Adam's moments follow from them, the ZeRO stage and the number of
processes. Activations are what the backward pass keeps, by formula (after Korthikanti et al. 2022, table 2, with this
project's precisions) for the longest examples; the rest is an allowance.

Precisions: trained weights are fp32 and are their own masters, with their gradients and moments fp32; with precision
bf16 the forward pass runs under autocast and frozen weights are stored in bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

from lmrc.config.schema import RcConfig, RcpConfig, Training
from lmrc.launcher.model_shapes import ModelShape, UnknownShape, architecture
from lmrc.training.sampler import MicroBatches

GIB = 2**30
FP32 = 4
BF16 = 2
# NF4 with its constants quantized too: 4.127 bits a weight (Dettmers et al. 2023, section 3).
NF4 = 4.127 / 8

# The share of a query that is answer, at most: logits are computed there only.
ANSWER_SHARE = 1 / 4
# Documents of DocRED have at most this many entities, of this many types, and it has this many relations.
ENTITIES = 42
TYPES = 6
RELATIONS = 96
# CUDA's context and kernels; NCCL's buffers where there are several processes.
CONTEXT = 1 * GIB
COMMUNICATION = GIB // 2
# Elements of the buckets of configs/deepspeed.
BUCKET = 50_000_000
# What cards of 40 and 80 GB really offer.
CARDS = {40: int(39.4 * GIB), 80: int(79.1 * GIB)}


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on each GPU; all 0, and `unknown` says why, where the architecture is not known here."""

    setting: str
    trained_parameters: int = 0
    frozen_parameters: int = 0
    weights: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    outputs: int = 0
    """Logits on answer positions (RC), or the pair classifier (RCP), with their gradients."""
    overhead: int = 0
    """CUDA's context, and the buffers of NCCL and DeepSpeed."""
    unknown: str | None = None

    @property
    def total(self) -> int:
        """Bytes in all; 0 where unknown."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.outputs + self.overhead

    def table(self) -> str:
        """The parts in GiB, their sum, and whether it fits cards of 40 and 80 GB."""
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
            ("activations", self.activations, "of the longest examples"),
            ("outputs", self.outputs, ""),
            ("overhead", self.overhead, "CUDA, NCCL and DeepSpeed's buffers"),
            ("total", self.total, ""),
        ]
        lines = [f"  {name:<12}{size / GIB:9.2f} GiB  {note}".rstrip() for name, size, note in rows]
        fits = [f"{'fits' if self.total <= room else 'does not fit'} {card} GB" for card, room in CARDS.items()]
        return "\n".join([f"memory per GPU, estimated ({self.setting}):", *lines, f"  {', '.join(fits)}"])


@dataclass(frozen=True)
class _Sharding:
    """How the trained state is spread: the ZeRO stage that is really in force, over `processes`."""

    stage: int
    processes: int

    def part(self, size: int, from_stage: int) -> int:
        """Bytes of `size` on one process, if it is sharded from `from_stage` on."""
        return -(-size // self.processes) if self.stage >= from_stage else size


def _sharding(options: Training, world_size: int) -> _Sharding:
    # Plain torch keeps everything on every process.
    return _Sharding(0 if options.backend == "torch" else options.zero_stage, world_size)


def estimate_rcp(config: RcpConfig, world_size: int) -> MemoryEstimate:
    """Memory per GPU of launch/rcp.py over `world_size` processes: encoder and classifier, all trained.

    Raises:
        UserError: if the encoder cannot read documents of `model.max_length`.
    """
    from lmrc.rcp.data.windows import Windows

    setting = _setting(config.train, world_size)
    try:
        encoder = architecture(config.model.encoder, "encoder")
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    micro = _micro_batch(config.train, world_size)
    cut = Windows.of(encoder.model)
    length = cut.fit(config.model.max_length)
    window, windows = (length, 1) if length <= cut.size else (cut.size, 2)
    classifier = classifier_parameters(encoder.hidden, config)
    return _estimate(
        config.train,
        world_size,
        encoder,
        trained=encoder.parameters + classifier,
        frozen=0,
        frozen_bytes=0,
        activations=_encoder_activations(encoder, config.train, micro * windows, window),
        # Its copies in bf16 are few enough not to count.
        outputs=micro * _pair_bytes(encoder.hidden, length, config),
    )


def estimate_rc(config: RcConfig, world_size: int) -> MemoryEstimate:
    """Memory per GPU of launch/rc.py over `world_size` processes: a frozen base and a trained adapter.

    Raises UserError where a target of LoRA is no layer of the base.
    """
    setting = _setting(config.train, world_size)
    try:
        base = architecture(config.model.base, "causal")
    except UnknownShape as error:
        return MemoryEstimate(setting, unknown=str(error))
    adapter = base.adapted(config.lora)
    tokens = _micro_batch(config.train, world_size) * config.prompt.max_length
    element = _element(config.train)
    # Logits, their copy in fp32 under bf16, log-softmax, and the gradient.
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
    """The base: what is quantized are its linear layers, not embeddings, head and norms."""
    element = _element(config.train)
    if config.model.quantization is None:
        return base.parameters * element
    linear = base.linear_parameters - base.hidden * base.vocabulary
    return (base.parameters - linear) * element + int(linear * {"8bit": 1.0, "4bit": NF4}[config.model.quantization])


def classifier_parameters(hidden: int, config: RcpConfig) -> int:
    """Parameters of RCP's new layers, those that are there only while training included."""
    import torch

    from lmrc.rcp.data.features import Features
    from lmrc.rcp.model.classifiers import CLASSIFIERS
    from lmrc.rcp.model.relation_head import AuxiliaryRelationHead

    options = config.model
    # The names of the types do not matter.
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
        # DeepSpeed's own copy of the partition that this process updates.
        overhead += sharding.part(trained * FP32, 1)
    if sharding.stage == 3:
        # The layer at work is whole, and the next one on its way.
        overhead += 2 * stored // model.layers
    return MemoryEstimate(
        setting=_setting(options, world_size),
        trained_parameters=trained,
        frozen_parameters=frozen,
        weights=sharding.part(stored, 3),
        gradients=sharding.part(trained * FP32, 2),
        optimizer=sharding.part(2 * trained * FP32, 1),
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
    """Most examples of a forward pass, as the loop cuts the global batch."""
    return MicroBatches.plan(0, world_size, options.examples_per_step, options.micro_batch_size).size


def _kept(options: Training, layers: int, layer: int, residual: int) -> int:
    """Bytes a token over all layers; with checkpointing each layer's input, and one layer at a time in full."""
    return layers * residual + layer if options.gradient_checkpointing else layers * layer


def _encoder_activations(encoder: ModelShape, options: Training, rows: int, length: int) -> int:
    """What the backward pass of a BERT-like encoder keeps of `rows` windows of `length`; sdpa, all weights trained."""
    element, hidden = _element(options), encoder.hidden
    # Under autocast query, key and value each cast the fp32 output of the layer norm for themselves.
    attention = (3 * BF16 if element == BF16 else FP32) * hidden + 4 * element * hidden
    norms = 2 * FP32 * hidden
    dropout = 2 * hidden if getattr(encoder.config, "hidden_dropout_prob", 0.0) > 0 else 0
    mlp = element * hidden + 2 * element * encoder.intermediate
    # Without checkpointing the output of the activation function is computed again.
    again = 0 if options.gradient_checkpointing else element * encoder.intermediate
    token = _kept(options, encoder.layers, attention + norms + dropout + mlp - again, FP32 * hidden)
    copies = encoder.linear_parameters * BF16 if element == BF16 else 0
    if options.gradient_checkpointing:
        copies //= encoder.layers
    return rows * length * token + copies


def _causal_activations(base: ModelShape, config: RcConfig, tokens: int, adapted: tuple[int, ...]) -> int:
    """What the backward pass of a Llama-like LM keeps of `tokens`: frozen, adapters on inputs of widths `adapted`."""
    element = _element(config.train)
    width = base.heads * base.head_size
    # Query, key, value (keys and values repeated for every head) and output.
    attention = 4 * element * width
    norms = 2 * FP32 * base.hidden
    # Gate, activated gate and up.
    mlp = 3 * element * base.intermediate
    # Each adapter keeps its own input, dropped out, the mask, and what lies between its two matrices.
    mask = 1 if config.lora.dropout > 0 else 0
    adapters = sum(inputs * (element + mask) + config.lora.r * element for inputs in adapted) // base.layers
    return tokens * _kept(config.train, base.layers, attention + norms + mlp + adapters, element * base.hidden)


def _pair_bytes(hidden: int, length: int, config: RcpConfig) -> int:
    """What RCP keeps of a document with the most entities: contexts of pairs, and both sides of each ordered pair."""
    from lmrc.rcp.model.relation_head import WIDTH

    element = _element(config.train)
    ordered = ENTITIES * (ENTITIES - 1)
    # Weights over positions before and after normalisation, in the product with the hidden states, and the context.
    contexts = ordered // 2 * (length * (2 * FP32 + element) + hidden * element)
    # tanh of both sides, in fp32 for the bilinear form, and its product.
    sides = ordered * hidden * (3 * FP32 + (2 * BF16 if element == BF16 else 0))
    if not config.train.relation_weight:
        return contexts + sides
    # tanh of both sides and their product; logits, targets, losses and gradient.
    return contexts + sides + ordered * (WIDTH * (2 * element + FP32) + RELATIONS * 4 * FP32)
