"""All options of the suite, with defaults, units and bounds: one tree per command.

The defaults are the paper's for DocRED (arXiv 2408.13889, tables 6 and 7). `lmrc.config.loader` reads YAML and the
command line into these trees.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmrc.config.types import (
    Folds,
    RelationThreshold,
    RequestFields,
    SbatchOptions,
    Seeds,
    ServerUrl,
    Sweep,
    Threshold,
    TrainedModel,
    VariableName,
)

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
ZeroStage = Annotated[int, Field(ge=0, le=3)]
IgnVariant = Literal["docred", "redocred"]
ResolvedPrecision = Literal["fp32", "bf16"]
Precision = Literal["auto", "fp32", "bf16"]
ClassifierKind = Literal["bilinear", "grouped"]
Quantization = Literal["8bit", "4bit"]
PromptKind = Literal["rc", "direct", "rcp-llm", "likelihood"]
PromptTemplate = Literal["llama2", "chat"]
Truncation = Literal["sentences"]
RcpMetric = Literal["f1", "precision", "recall", "average_precision", "best_f1", "relation_f1", "loss"]
# The losses registered in lmrc/rcp/model/losses.py.
RcpLoss = Literal["bce"]
RcMetric = Literal["loss", "token_accuracy"]
TrackerName = Literal["tensorboard", "wandb", "mlflow", "trackio"]
Requeue = Literal["auto", "requeue", "chain", "never"]
GpuRequest = Literal["gpus-per-node", "gres", "gpus", "none"]
System = Literal["rc", "encoder", "fused"]

# Tables 6 and 7.
PAPER_BATCH = 4
LLAMA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


# Options named `schema` hide a deprecated method of pydantic, which is not used.
warnings.filterwarnings("ignore", 'Field name "schema" in .* shadows an attribute', UserWarning)


class Options(BaseModel):
    """Base class of a section of options. Unknown keys are errors, and instances are immutable."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class RunOptions(Options):
    """Identity of a run. The same name resumes the same run."""

    name: str = Field("", pattern=r"^[\w.-]*$", description="name of the run; empty: name of the config file")
    folder: Path = Field(Path("runs"), description="folder of the run folders")
    seed: int = Field(66, ge=0, description="seed of initialization, data order and dropout")
    verbose: bool = Field(
        False, description="log on all ranks, and details; by default rank 0 logs, and other ranks only warnings"
    )


class TrainingData(Options):
    """Training and dev corpora, built by `lmrc data build`."""

    train: Path = Field(Path("data/docred/train"), description="corpus to train on")
    dev: Path = Field(Path("data/docred/dev"), description="corpus that selects the best weights")


class Training(Options):
    """Options of the training loop, for both stages."""

    epochs: Count = Field(30, description="number of epochs")
    max_steps: Count | None = Field(None, description="maximum number of optimizer steps; none: all epochs")
    batch_size: Count = Field(
        PAPER_BATCH,
        description="examples per optimizer step, over all GPUs; one per GPU if there are more GPUs than examples",
    )
    global_batch_size: Count | None = Field(
        None,
        description="exact number of examples per optimizer step; none: derived from batch_size at the first launch "
        "and kept when the run is resumed",
    )
    micro_batch_size: Count = Field(
        4, description="examples per forward pass and process; gradients are accumulated up to the batch"
    )
    learning_rate: Rate = Field(3e-5, description="peak learning rate of the pretrained or adapted weights")
    warmup: float = Field(
        0.06, ge=0.0, description="linear warm-up: a fraction of all steps if below 1, else a number of steps"
    )
    weight_decay: Share = Field(0.0, description="AdamW's decoupled weight decay")
    adam_epsilon: Rate = Field(1e-6, description="AdamW's epsilon")
    gradient_clip: float = Field(1.0, gt=0.0, description="maximum norm of the gradient")
    precision: Precision = Field(
        "auto", description="precision of the forward pass; auto: bf16 if the hardware supports it"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    zero_stage: ZeroStage = Field(0, description="ZeRO stage; its settings are in configs/deepspeed/zero<stage>.yaml")
    backend: Literal["auto", "deepspeed", "torch"] = Field(
        "auto", description="auto: DeepSpeed if it is installed and runs here, else torch"
    )
    eval_every: int = Field(200, ge=0, description="optimizer steps between evaluations; 0: only after each epoch")
    eval_at_start: bool = Field(False, description="also evaluate before the first step")
    metric: str = Field(
        "f1", description="dev metric that selects the best weights; minimized if its name contains 'loss'"
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="which weights best/ holds: best: of the evaluation with the best train.metric; last: of the last "
        "step, so that dev selects nothing",
    )
    patience: Count | None = Field(None, description="stop after this many evaluations without improvement")
    checkpoint_minutes: float = Field(
        10.0,
        gt=0.0,
        description="minutes between checkpoints; an epoch also ends with one if a quarter of the time has passed",
    )
    checkpoint_keep: Count = Field(2, description="checkpoints kept besides the best weights")
    deterministic: bool = Field(
        False,
        description="use deterministic algorithms only, so that a resume on GPUs of the same kind and number is "
        "bit-identical; slower; on a CPU it always is",
    )
    trackers: tuple[TrackerName, ...] = Field(
        ("tensorboard",),
        description="experiment trackers besides metrics.jsonl, with commas: tensorboard, wandb, mlflow, trackio",
    )
    tracker_group: str | None = Field(
        None, description="group of the run in the trackers; none: the name of its pipeline or group of seeds"
    )
    tracker_tags: tuple[str, ...] = Field((), description="tags of the run in the trackers, with commas")

    @property
    def examples_per_step(self) -> int:
        """Return the number of examples per optimizer step, over all processes."""
        return self.global_batch_size or self.batch_size

    @property
    def batch_sentence(self) -> str:
        """Return a sentence that states the batch size and its reason."""
        asked, size = self.batch_size, self.examples_per_step
        if size == asked:
            return f"{size} examples per optimizer step, as train.batch_size says"
        more = f"more than train.batch_size {asked}, so that each GPU has one"
        whose = "the paper's batch" if asked == PAPER_BATCH else "that batch"
        why = more if size > asked else f"fewer than train.batch_size {asked}"
        return f"{size} examples per optimizer step, {why}: no longer {whose}"


class ClusterOptions(Options):
    """Resources and site settings. `--cluster NAME` reads those of a site from configs/cluster/NAME.yaml."""

    where: Literal["auto", "slurm", "local", "here"] = Field(
        "auto",
        description="slurm: jobs; local: processes on this machine; here: this process; auto: slurm if sbatch is found",
    )
    nodes: Count | None = Field(None, description="number of nodes; none: as many as the GPUs need, or 1")
    gpus: Count | None = Field(
        None, description="total number of GPUs; none: all of this machine, or all of the nodes (as sinfo reports)"
    )
    gpu_request: GpuRequest = Field(
        "gpus-per-node", description="sbatch option that requests GPUs; none: the site assigns them without a request"
    )
    gpu_type: str | None = Field(None, pattern=r"^[\w.-]+$", description="SLURM GPU type, such as a100")
    partition: str | None = Field(None, description="SLURM partition")
    account: str | None = Field(None, description="SLURM account")
    qos: str | None = Field(None, description="SLURM quality of service")
    constraint: str | None = Field(None, description="SLURM node features")
    exclude: str | None = Field(None, description="SLURM nodes to exclude, such as n[3-5]")
    time: Count = Field(1440, description="time limit in minutes")
    cpus_per_gpu: Count = Field(4, description="CPU cores per process")
    mem_per_gpu: str | None = Field(None, pattern=r"^\d+[KMGT]$", description="host memory per process, such as 64G")
    signal_delay: Count = Field(120, description="seconds before the time limit at which the job saves and requeues")
    max_requeues: int = Field(100, ge=0, description="maximum number of times a job requeues itself")
    requeue: Requeue = Field(
        "auto",
        description="how an interrupted job goes on; requeue: SLURM starts it again; chain: further jobs, submitted "
        "with it, resume the run one after the other; never: you repeat the command; auto: chain if the site has "
        "JobRequeue=0 or sbatch has no-requeue, else requeue",
    )
    chain_jobs: int = Field(10, ge=2, description="number of jobs in a chain; those that are not needed are cancelled")
    node_check: bool = Field(
        True,
        description="check GPUs, host memory, temporary and run folder of each node before a job begins, and requeue "
        "the job without a node that fails",
    )
    max_running: Count | None = Field(
        None, description="maximum number of inference workers that run at once; none: all"
    )
    collective_timeout_minutes: float = Field(
        10.0, gt=0.0, description="timeout of collectives in minutes: a rank that waits longer for the others fails"
    )
    gpu_hour_price: float | None = Field(
        None, ge=0.0, description="price of a GPU-hour in your currency, for the cost of runs; none: no price"
    )
    group_readable: bool = Field(False, description="let your group read the run folder, even if your umask does not")
    container: str | None = Field(
        None,
        description="image that jobs run in: .sif or a folder for apptainer or singularity; .sqsh, docker://… or "
        "REGISTRY#NAME:TAG for pyxis",
    )
    container_mounts: tuple[str, ...] = Field(
        (),
        description="more folders to mount, as SOURCE[:DESTINATION[:OPTIONS]] with commas; run folder, data, models "
        "and caches are always mounted; may contain $VARIABLES",
    )
    setup: str = Field("", description="shell commands to run before Python, such as 'module load cuda'")
    sbatch: SbatchOptions = Field(
        {},
        description="more sbatch options, which override ours: 'reservation=maint licenses=x:2 exclusive'; 'qos=' "
        "removes one of ours",
    )
    interface: str | None = Field(None, description="network interface for NCCL and gloo, such as ib0")
    cache_folder: str | None = Field(
        None,
        description="folder of the hub's, torch's and Triton's caches, without the hub's login token; may contain "
        "$VARIABLES",
    )
    offline: bool = Field(
        False, description="the nodes have no network: jobs read models from a cache, and trackers record offline"
    )
    stage_base: str | None = Field(
        None,
        description="folder of a node's own disk, to which pretrained models are copied once per node; may contain "
        "$VARIABLES, such as $SLURM_TMPDIR; none: every process reads the shared files",
    )
    temporary_folder: str | None = Field(None, description="TMPDIR; may contain $VARIABLES, such as $SLURM_TMPDIR")
    extensions_folder: str | None = Field(None, description="TORCH_EXTENSIONS_DIR, for DeepSpeed's compiled operators")


class WorkOptions(Options):
    """Options of the work units that inference workers claim."""

    docs_per_unit: Count = Field(16, description="documents per work unit: the most work that is lost if a worker dies")
    attempts: Count = Field(3, description="maximum number of attempts at a unit; then it is reported as failed")
    lease_seconds: float = Field(
        60.0, gt=0.0, description="a worker without a heartbeat for this many seconds is considered dead"
    )


class RcpModelOptions(Options):
    """The classifier of Relation Candidate Proposal (section 3.1)."""

    encoder: str = Field(
        "roberta-large",
        description="BERT- or RoBERTa-like encoder: folder, hub name or embedded: name; best/ of a run continues it",
    )
    max_length: int = Field(
        1024,
        ge=16,
        description="maximum word pieces per document, at most two windows of the encoder; mentions beyond it get zero "
        "vectors",
    )
    classifier: ClassifierKind = Field(
        "bilinear",
        description="bilinear: equation 6; grouped: bilinear in blocks of 64 with two outputs, as in the paper's code",
    )
    entity_types: bool = Field(
        False, description="add embeddings of the entity types that occur in the training corpus"
    )
    type_markers: bool = Field(
        False, description="mark the start of a mention with its entity type as a word, such as person, instead of '*'"
    )
    sentence_distance: bool = Field(
        False, description="add embeddings of the pair's sentence distance and number of mentions"
    )


class RcpTraining(Training):
    """Options of RCP training (table 6, DocRED)."""

    metric: RcpMetric = Field("f1", description="dev metric that selects the best weights; loss is minimized")
    loss: RcpLoss = Field("bce", description="training loss; bce: binary cross entropy of P(relation)")
    classifier_learning_rate: Rate = Field(1e-4, description="peak learning rate of the new layers")
    positive_weight: float = Field(
        1.0, gt=0.0, description="loss weight of a pair with a relation; a pair without one has weight 1"
    )
    relation_weight: float = Field(
        0.0, ge=0.0, description="loss weight of the relation head, which names the relations of a pair; 0: no head"
    )
    schema_minimum: int = Field(
        0,
        ge=0,
        description="the relation head names a relation only between entity types that the training corpus has so many "
        "triples of; 0: between any types",
    )


class RcpConfig(Options):
    """Options of launch/rcp.py, which trains the candidate classifier."""

    run: RunOptions = RunOptions()
    data: TrainingData = TrainingData()
    model: RcpModelOptions = RcpModelOptions()
    train: RcpTraining = RcpTraining()
    cluster: ClusterOptions = ClusterOptions()


class RcModelOptions(Options):
    """The causal LM of Relation Classification (section 3.2)."""

    base: str = Field("meta-llama/Llama-2-13b-chat-hf", description="causal LM: folder, hub name or embedded: name")
    quantization: Quantization | None = Field(
        None,
        description="quantization of the frozen base, 8bit or 4bit (NF4); needs bitsandbytes, a GPU and ZeRO below 3",
    )


class LoraOptions(Options):
    """Options of LoRA (table 7)."""

    r: Count = Field(8, description="rank")
    alpha: Count = Field(16, description="scaling: updates are multiplied by alpha / r")
    dropout: Share = Field(0.05, description="dropout before the adapter")
    targets: tuple[str, ...] = Field(LLAMA_PROJECTIONS, min_length=1, description="linear layers that get an adapter")


class PromptOptions(Options):
    """The prompt: table 12 (`rc`, pairs with a relation), table 11 (`direct`, all pairs or None), or another one."""

    kind: PromptKind = Field(
        "rc",
        description="rc: table 12; direct: table 11; rcp-llm: answer Yes or No, for table 5; likelihood: score "
        "relations that the encoder finds possible, by the probability of the tail's name",
    )
    template: PromptTemplate | None = Field(
        None, description="none: the plain prompt; llama2: inside [INST]; chat: the tokenizer's chat template"
    )
    pairs_per_query: Count | None = Field(
        None, description="maximum number of pairs per query; none: as many as fit max_length"
    )
    max_length: int = Field(4096, ge=64, description="maximum tokens of demonstrations, prompt and answer together")
    truncate: Truncation | None = Field(
        None,
        description="how to shorten a document that does not fit with one pair; none: raise an error; sentences: drop "
        "sentences that mention neither entity, farthest first",
    )
    relations_per_pair: Count = Field(
        5, description="likelihood: maximum number of relations to ask about per pair, the most probable ones"
    )
    min_relation_probability: Share = Field(
        0.03, description="likelihood: least probability by the relation head of a relation that is asked about"
    )
    schema: Path | None = Field(  # type: ignore[assignment]
        None,
        description="relation schema (lmrc data schema), saved with the adapter: inference offers a pair the relations "
        "that may hold between its entity types; none: all relations",
    )


class RcTraining(Training):
    """Options of RC training (table 7, DocRED)."""

    epochs: Count = Field(8, description="number of epochs")
    learning_rate: Rate = Field(1e-4, description="peak learning rate of the adapter")
    warmup: float = Field(
        100, ge=0.0, description="linear warm-up: a fraction of all steps if below 1, else a number of steps"
    )
    adam_epsilon: Rate = Field(1e-8, description="AdamW's epsilon")
    micro_batch_size: Count = Field(
        1, description="queries per forward pass and process; gradients are accumulated up to the batch"
    )
    zero_stage: ZeroStage = Field(2, description="ZeRO stage; its settings are in configs/deepspeed/zero<stage>.yaml")
    eval_every: int = Field(0, ge=0, description="optimizer steps between evaluations; 0: only after each epoch")
    metric: RcMetric = Field("loss", description="dev metric that selects the best weights; loss is minimized")
    negative_ratio: float | None = Field(
        None,
        gt=0.0,
        description="training pairs without a relation per pair with one (direct, rcp-llm); none: all pairs",
    )


class RcConfig(Options):
    """Options of launch/rc.py, which fine-tunes the LM with LoRA."""

    run: RunOptions = RunOptions()
    data: TrainingData = TrainingData()
    model: RcModelOptions = RcModelOptions()
    lora: LoraOptions = LoraOptions()
    prompt: PromptOptions = PromptOptions()
    train: RcTraining = RcTraining()
    cluster: ClusterOptions = ClusterOptions()


class ProposeConfig(Options):
    """Options of launch/propose.py, which proposes candidates for a corpus."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/dev"), description="corpus to propose candidates for")
    rcp: TrainedModel = Field(
        Path("runs/rcp/best"), description="folder with the trained classifier, or its name on the hub"
    )
    threshold: Threshold = Field(
        "0.5",
        description="minimum P(relation) of a candidate: a number; f1 or recall=0.9: chosen on dev for this metric",
    )
    relation_threshold: RelationThreshold = Field(
        "f1",
        description="minimum probability of a triple by the relation head alone: a number; f1: chosen on dev; only for "
        "a model trained with train.relation_weight",
    )
    schema: Path | None = Field(  # type: ignore[assignment]
        None, description="relation schema of the triples by the relation head; none: that of the model, if it has one"
    )
    top_k: Count | None = Field(
        None, description="maximum number of candidates per document, the most probable ones; none: no limit"
    )
    batch_size: Count = Field(8, description="documents per forward pass")
    work: WorkOptions = WorkOptions()
    cluster: ClusterOptions = ClusterOptions()


class ServerOptions(Options):
    """An OpenAI-compatible server that generates the answers. Limits are per process."""

    url: ServerUrl = Field("http://localhost:8000/v1", description="address of the server, with its /v1")
    model: str = Field("", description="name of the model or adapter on the server")
    endpoint: Literal["chat", "completions"] = Field(
        "chat", description="chat: messages, with the server's chat template; completions: the plain prompt"
    )
    key_variable: VariableName | None = Field(
        "OPENAI_API_KEY", description="environment variable with the API key; none: the server needs no key"
    )
    seed: int = Field(66, ge=0, description="seed sent with each request")
    body: RequestFields = Field({}, description="more fields of each request: 'top_p=0.9'; null removes one of ours")
    concurrency: Count = Field(8, description="maximum number of requests in flight")
    requests_per_minute: Count | None = Field(None, description="maximum requests per minute; none: no limit")
    tokens_per_minute: Count | None = Field(
        None, description="maximum tokens of prompts and answers per minute; none: no limit"
    )
    timeout_seconds: float = Field(600.0, gt=0.0, description="timeout of a request in seconds")
    retries: int = Field(8, ge=0, description="maximum number of retries after a temporary failure")
    prompt_price: float | None = Field(None, ge=0.0, description="price per million prompt tokens")
    completion_price: float | None = Field(None, ge=0.0, description="price per million answer tokens")


class DecodeOptions(Options):
    """Options of decoding."""

    backend: Literal["hf", "vllm", "openai"] = Field(
        "hf", description="hf: transformers; vllm: vLLM in this process; openai: the server in section server"
    )
    gpus_per_worker: Count = Field(1, description="GPUs per LM: layers are distributed (hf), or tensor parallel (vllm)")
    mode: Literal["constrained", "free", "score"] = Field(
        "constrained",
        description="constrained: greedy, valid relations only; free: any text; score: probability of every relation",
    )
    threshold: Share = Field(0.5, description="minimum probability of a predicted relation, in mode score")
    schema: Path | None = Field(  # type: ignore[assignment]
        None,
        description="relation schema of the answers, in modes constrained and score; none: that of the adapter, if it "
        "has one",
    )
    batch_size: Count = Field(8, description="queries per batch")
    max_new_tokens: Count = Field(2048, description="maximum tokens of an answer")
    min_fuzzy_score: int = Field(
        80,
        ge=0,
        le=100,
        description="minimum fuzz.ratio of a name in an answer and its entity, in mode free; 0: as in the paper's code",
    )


class FewShotOptions(Options):
    """Few-shot demonstrations for an LM that was not fine-tuned (appendix C)."""

    examples: int = Field(0, ge=0, description="demonstrations per query; 3 in the paper")
    pairs: Count = Field(10, description="maximum number of pairs per demonstration")
    corpus: Path = Field(Path("data/docred/train"), description="labeled corpus that demonstrations are sampled from")
    seed: int = Field(66, ge=0, description="seed of the sampling")


class ClassifyConfig(Options):
    """Options of launch/classify.py, which classifies the relations of candidates."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/dev"), description="corpus of the candidates")
    candidates: Path | None = Field(
        None, description="candidates folder written by propose; none: the gold pairs (rc-gold)"
    )
    rc: TrainedModel | None = Field(
        Path("runs/rc/best"),
        description="folder with the trained adapter, or its name on the hub; none: base without an adapter",
    )
    base: str = Field("", description="LM without an adapter; with a server, the tokenizer that counts tokens")
    system: System = Field(
        "rc",
        description="rc: the answers of the LM; encoder: the relation head of RCP, without an LM; fused: a calibrated "
        "sum of P(pair), relation head and LM, which needs fusion",
    )
    fusion: Path | None = Field(
        None,
        description="fusion.json written by lmrc fusion fit; none: with system encoder, the relation head's own "
        "probability",
    )
    precision: Share | None = Field(
        None, description="predict with the threshold that holds this precision; none: the threshold with the best F1"
    )
    ask: Literal["band", "all"] = Field(
        "band", description="candidates that the LM is asked about in system fused; band: those it could change; all"
    )
    answers: Path | None = Field(
        None,
        description="run of classify that scored all candidates with the LM, whose scores are fused; none: ask the LM",
    )
    prompt: PromptOptions = PromptOptions()
    few_shot: FewShotOptions = FewShotOptions()
    documents: Count | None = Field(None, description="classify only this many documents, from the first; none: all")
    decode: DecodeOptions = DecodeOptions()
    server: ServerOptions = ServerOptions()
    work: WorkOptions = WorkOptions()
    cluster: ClusterOptions = ClusterOptions()

    @property
    def asks_lm(self) -> bool:
        """Return True if an LM is loaded: in every system but encoder, unless an earlier run has the answers."""
        return self.system != "encoder" and self.answers is None


class ExtractConfig(Options):
    """Options of `lmrc extract`, which runs both stages on new documents on this machine."""

    documents: Path = Field(
        description="documents in DocRED format (labels are ignored), JSON with texts, a text, a folder of texts, or - "
        "for standard input"
    )
    rcp: TrainedModel = Field(description="folder with the trained classifier, or its name on the hub")
    rc: TrainedModel = Field(description="folder with the trained adapter, or its name on the hub")
    out: Path | None = Field(
        None, description="file of the triples; -: standard output; none: those of a text are printed"
    )
    format: Literal["json", "jsonl", "csv", "turtle", "graphml", "neo4j"] | None = Field(
        None, description="format of the triples; none: by the end of the name of out"
    )
    merge_entities: Literal["name"] | None = Field(
        None, description="name: entities of all documents with one name and type are one, in csv and graphs"
    )
    html: Path | None = Field(None, description="page to write, with the texts, entities and triples")
    mentions: Literal["rules", "spacy", "gliner", "spans"] | None = Field(
        None, description="backend that finds mentions in texts; spans: all bring theirs; none: rules, if they do not"
    )
    mentions_model: str | None = Field(None, description="model of spacy or gliner; none: a small English one")
    relations: Path | None = Field(None, description="relation set as JSON {id: name}; none: that of the adapter")
    threshold: Threshold = Field("0.5", description="minimum P(pair has a relation): a number, f1 or recall=0.9")
    top_k: Count | None = Field(
        None, description="maximum number of pairs per document, the most probable ones; none: no limit"
    )
    mode: Literal["constrained", "score"] = Field(
        "constrained", description="constrained: greedy answer; score: probability of every relation"
    )
    relation_threshold: Share = Field(0.5, description="minimum P(relation of the pair), in mode score")
    schema: Path | None = Field(  # type: ignore[assignment]
        None, description="relation schema of the answers; none: that of the adapter, if it has one"
    )
    batch_size: Count = Field(8, description="documents (RCP) and queries (RC) per batch")
    gpus: Count = Field(1, description="number of GPUs to split the LM over, if it does not fit one")
    fusion: Path | None = Field(
        None, description="fusion.json written by lmrc fusion fit; none: the score is P(pair) x P(relation of the pair)"
    )
    precision: Share | None = Field(
        None, description="keep triples with the threshold that holds this precision; none: the one with the best F1"
    )
    ask: Literal["band", "all"] = Field(
        "band", description="candidates that the LM is asked about with a fusion; band: those it could change; all"
    )
    truncate: Truncation | None = Field(
        None,
        description="how to shorten a document that does not fit; sentences: drop sentences that mention neither "
        "entity, farthest first; none: as the adapter was trained",
    )


class SyntheticData(Options):
    """Sizes of the demo's synthetic corpora."""

    train_documents: Count = Field(500, description="training documents")
    dev_documents: Count = Field(40, description="dev documents, which select the best weights")
    test_documents: Count = Field(12, description="held-out test documents")
    seed: int = Field(2408, ge=0, description="seed of the synthetic text")


class DemoConfig(Options):
    """Options of `lmrc demo`, which runs all stages on synthetic documents. It sets the paths of the stages itself."""

    run: RunOptions = RunOptions(name="demo")
    synthetic: SyntheticData = SyntheticData()
    rc_documents: Count = Field(80, description="number of training documents to fine-tune the LM on, from the first")
    rc_dev_documents: Count = Field(8, description="number of dev documents to evaluate the LM on, from the first")
    untrained_documents: Count = Field(
        4, description="number of test documents that untrained models are asked about too, from the first"
    )
    rcp: RcpConfig = RcpConfig()
    propose: ProposeConfig = ProposeConfig()
    rc: RcConfig = RcConfig()
    classify: ClassifyConfig = ClassifyConfig()


class PipelineData(TrainingData):
    """Corpora of the pipeline: each is a corpus folder, or documents (JSON, JSON Lines, Parquet) to build one from."""

    train: Path = Field(Path("data/docred/train"), description="corpus or documents to train on")
    dev: Path = Field(Path("data/docred/dev"), description="corpus or documents that select the best weights")
    test: Path = Field(Path("data/docred/dev"), description="labeled corpus or documents to score on")
    relations: Path | None = Field(
        None, description="relation set of the documents as JSON {id: name} or rel2id.json; none: that of DocRED"
    )
    fix: bool = Field(
        False, description="mend or leave out what breaks DocRED's format; each change is written to CORPUS.fixes.jsonl"
    )


class BuildConfig(Options):
    """Options of the pipeline's first step, which builds corpora from documents."""

    run: RunOptions = RunOptions()
    documents: dict[str, Path] = Field({}, description="documents by name of their corpus")
    relations: Path | None = Field(None, description="relation set as JSON {id: name}; none: that of DocRED")
    fix: bool = Field(False, description="mend or leave out what breaks DocRED's format")
    corpora: Path = Field(Path("data"), description="folder of the new corpora")
    cluster: ClusterOptions = ClusterOptions()


class SplitConfig(Options):
    """Options of the pipeline's step that splits the training corpus for cross-fitting."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/train"), description="corpus to split")
    folds: int = Field(2, ge=2, description="number of folds")
    held_out: int = Field(10, ge=2, description="one in so many documents is kept from the LM")
    cluster: ClusterOptions = ClusterOptions()


class JoinConfig(Options):
    """Options of the pipeline's step that joins the candidates of all folds."""

    run: RunOptions = RunOptions()
    proposed: tuple[Path, ...] = Field((), description="candidates folders of the held-out parts of all folds")
    parts: dict[str, Path] = Field({}, description="corpora of training documents by name of their joined candidates")
    cluster: ClusterOptions = ClusterOptions()


class FitConfig(Options):
    """Options of the pipeline's step that fits the fusion."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/held-out"), description="labeled training documents kept from the LM")
    candidates: Path = Field(Path("data/docred/candidates"), description="their candidates")
    answers: Path = Field(Path("runs/classify"), description="run folder of classify, which scored these candidates")
    cluster: ClusterOptions = ClusterOptions()


class ScoreConfig(Options):
    """Options of the pipeline's last step, which writes scores.json and the report."""

    run: RunOptions = RunOptions()
    classify: Path = Field(Path("runs/classify"), description="run folder of classify")
    trained: tuple[Path, ...] = Field((), description="run folders of the trainings, for learning curves")
    train: Path = Field(Path("data/docred/train"), description="training corpus, for Ign F1")
    ign_variant: IgnVariant | None = Field(None, description="data set that defines Ign F1; none: that of the corpus")
    out: Path = Field(Path("runs"), description="folder of scores.json, report.html, tables/ and figures/")
    cluster: ClusterOptions = ClusterOptions()


class SummaryConfig(Options):
    """Options of the last step of a group of pipelines, which writes scores.json and the report of its members."""

    run: RunOptions = RunOptions()
    group: Path = Field(Path("runs/group.json"), description="file that lists the members")
    train: Path = Field(Path("data/docred/train"), description="training corpus, for Ign F1")
    ign_variant: IgnVariant | None = Field(None, description="data set that defines Ign F1; none: that of the corpus")
    out: Path = Field(Path("runs"), description="folder of scores.json, report.html, tables/ and figures/")
    cluster: ClusterOptions = ClusterOptions()


class GroupOptions(Options):
    """Seeds and sweeps: the pipeline is run once for each member of a group, and the members are scored together."""

    seeds: Seeds = Field((), description="seeds, one member each; empty: run.seed alone")
    sweep: Sweep = Field(
        {},
        description="values by option, one member each: 'rcp.train.learning_rate=1e-5,3e-5'; several options and seeds "
        "make a grid",
    )
    at_once: Count | None = Field(None, description="maximum number of members that run at once; none: all")
    against: str | None = Field(
        None,
        description="run, pipeline, member, or values of the sweep, that the members are compared with by a paired "
        "bootstrap; none: no comparison",
    )

    @property
    def is_given(self) -> bool:
        """Return True if the pipeline has several members."""
        return bool(self.seeds or self.sweep)


class CrossfitOptions(Options):
    """Cross-fitting: a fusion is fitted on training documents that neither stage was trained on."""

    folds: Folds = Field(
        0,
        description="number of encoders that propose candidates for the training documents they were not trained on, 2 "
        "or more; a fusion is fitted on these; 0: no cross-fitting",
    )
    held_out: int = Field(
        10, ge=2, description="one in so many training documents is kept from the LM, to fit the fusion on"
    )


class PipelineConfig(Options):
    """Options of launch/pipeline.py, which runs all stages. It sets runs, data and models of the stages itself."""

    run: RunOptions = RunOptions()
    data: PipelineData = PipelineData()
    ign_variant: IgnVariant | None = Field(None, description="data set that defines Ign F1; none: that of the corpus")
    crossfit: CrossfitOptions = CrossfitOptions()
    group: GroupOptions = GroupOptions()
    rcp: RcpConfig = RcpConfig()
    propose: ProposeConfig = ProposeConfig()
    rc: RcConfig = RcConfig()
    classify: ClassifyConfig = ClassifyConfig()
    cluster: ClusterOptions = ClusterOptions()
    cpu_job: ClusterOptions = ClusterOptions()
