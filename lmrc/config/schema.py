"""Every option of the suite, once: its default, its unit, its check.

One tree per experiment (`RcpConfig`, `RcConfig`, `ProposeConfig`, `ClassifyConfig`, `DemoConfig`, `PipelineConfig`)
and one of `lmrc extract`.
The defaults are the paper's for DocRED (arXiv 2408.13889, tables 6 and 7). `lmrc.config.loader` reads YAML and the command
line into these trees.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmrc.config.sbatch import SbatchOptions
from lmrc.config.server import RequestFields, ServerUrl, VariableName
from lmrc.config.threshold import Threshold

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, lt=1.0)]
ZeroStage = Annotated[int, Field(ge=0, le=3)]
IgnVariant = Literal["docred", "redocred"]
ResolvedPrecision = Literal["fp32", "bf16"]
Precision = Literal["auto", "fp32", "bf16"]
ClassifierKind = Literal["bilinear", "grouped"]
Quantization = Literal["8bit", "4bit"]
PromptKind = Literal["rc", "direct", "rcp-llm"]
PromptTemplate = Literal["llama2", "chat"]
Shortening = Literal["sentences"]
RcpMetric = Literal["f1", "precision", "recall", "average_precision", "best_f1", "loss"]
# The losses registered in lmrc/rcp/model/losses.py.
RcpLoss = Literal["bce"]
RcMetric = Literal["loss", "token_accuracy"]
GpuRequest = Literal["gpus-per-node", "gres", "gpus", "none"]

# Tables 6 and 7.
PAPER_BATCH = 4
LLAMA_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class Options(BaseModel):
    """A node of the tree: unknown keys are errors, defaults are checked too, values do not change once read."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)


class RunOptions(Options):
    """Which run this is. The same name resumes the same run."""

    name: str = Field("", pattern=r"^[\w.-]*$", description="name of the run; empty: that of the config file")
    folder: Path = Field(Path("runs"), description="folder that holds the run folders")
    seed: int = Field(66, ge=0, description="seed of initialisation, data order and dropout")


class TrainingData(Options):
    """Corpora to learn from and to be measured on (folders made by `lmrc data build`)."""

    train: Path = Field(Path("data/docred/train"), description="corpus to train on")
    dev: Path = Field(Path("data/docred/dev"), description="corpus that chooses the best weights")


class Training(Options):
    """The training loop, for both stages."""

    epochs: Count = Field(30, description="passes over the training corpus")
    max_steps: Count | None = Field(None, description="stop after this many optimizer steps; none: all epochs")
    batch_size: Count = Field(
        PAPER_BATCH,
        description="examples per optimizer step, over all GPUs; one per GPU if there are more GPUs than that",
    )
    global_batch_size: Count | None = Field(
        None,
        description="examples per optimizer step, exactly; none: what batch_size says, settled at the first launch and "
        "kept by every resume",
    )
    micro_batch_size: Count = Field(4, description="examples a forward pass and process; the rest is accumulated")
    learning_rate: Rate = Field(3e-5, description="peak learning rate of the pretrained or adapted weights")
    warmup: float = Field(0.06, ge=0.0, description="linear warm-up: below 1 a share of all steps, from 1 on steps")
    weight_decay: Share = Field(0.0, description="AdamW's decoupled weight decay")
    adam_epsilon: Rate = Field(1e-6, description="AdamW's epsilon")
    gradient_clip: float = Field(1.0, gt=0.0, description="largest norm of the gradient")
    precision: Precision = Field("auto", description="of the forward pass; auto: bf16 where the hardware has it")
    gradient_checkpointing: bool = Field(False, description="recompute activations in the backward pass")
    zero_stage: ZeroStage = Field(0, description="ZeRO stage: reads configs/deepspeed/zero<stage>.yaml")
    backend: Literal["auto", "deepspeed", "torch"] = Field("auto", description="auto: DeepSpeed where it runs")
    eval_every: int = Field(200, ge=0, description="optimizer steps between evaluations; 0: only after each epoch")
    eval_at_start: bool = Field(False, description="evaluate before the first step too")
    metric: str = Field("f1", description="dev metric that chooses the best weights; a name with 'loss' is minimised")
    patience: Count | None = Field(None, description="stop after this many evaluations without a better one")
    checkpoint_minutes: float = Field(10.0, gt=0.0, description="minutes between checkpoints, besides each epoch's")
    checkpoint_keep: Count = Field(2, description="checkpoints kept besides the best weights")

    @property
    def examples_per_step(self) -> int:
        """Examples per optimizer step, over all processes."""
        return self.global_batch_size or self.batch_size

    @property
    def batch_sentence(self) -> str:
        """How many examples an optimizer step has, and why."""
        asked, size = self.batch_size, self.examples_per_step
        if size == asked:
            return f"{size} examples per optimizer step, as train.batch_size says"
        more = f"more than train.batch_size {asked}, so that each GPU has one"
        whose = "the paper's batch" if asked == PAPER_BATCH else "that batch"
        why = more if size > asked else f"fewer than train.batch_size {asked}"
        return f"{size} examples per optimizer step, {why}: no longer {whose}"


class ClusterOptions(Options):
    """Where it runs; a site keeps its own in configs/cluster/NAME.yaml, named by `--cluster NAME`."""

    where: Literal["auto", "slurm", "local", "here"] = Field(
        "auto", description="SLURM, local processes, or this process; auto: SLURM where sbatch is found"
    )
    nodes: Count | None = Field(None, description="nodes; none: as many as the GPUs need, or 1")
    gpus: Count | None = Field(
        None, description="GPUs in all; none: all of this machine's, or all of the nodes (sinfo tells how many)"
    )
    gpu_request: GpuRequest = Field(
        "gpus-per-node", description="sbatch option that asks for GPUs; none: the site hands them out by itself"
    )
    gpu_type: str | None = Field(None, pattern=r"^[\w.-]+$", description="SLURM's type of the GPUs, such as a100")
    partition: str | None = Field(None, description="SLURM partition")
    account: str | None = Field(None, description="SLURM account")
    qos: str | None = Field(None, description="SLURM quality of service")
    constraint: str | None = Field(None, description="SLURM node features")
    exclude: str | None = Field(None, description="SLURM nodes to avoid, such as n[3-5]")
    time: Count = Field(1440, description="time limit in minutes")
    cpus_per_gpu: Count = Field(4, description="CPU cores a process")
    mem_per_gpu: str | None = Field(None, pattern=r"^\d+[KMGT]$", description="host memory a process, such as 64G")
    signal_delay: Count = Field(120, description="seconds before the time limit at which the job saves and requeues")
    max_requeues: int = Field(100, ge=0, description="times a job comes back by itself")
    max_running: Count | None = Field(None, description="inference workers that run at once; none: all")
    hang_minutes: float = Field(10.0, gt=0.0, description="minutes a process waits for the others before it gives up")
    setup: str = Field("", description="shell lines run before Python, such as 'module load cuda'")
    sbatch: SbatchOptions = Field(
        {},
        description="more sbatch options, which win over ours: 'reservation=maint licenses=x:2 exclusive'; 'qos=' "
        "leaves one of ours out",
    )
    interface: str | None = Field(None, description="network interface of NCCL and gloo, such as ib0")
    cache_folder: str | None = Field(None, description="caches of Hugging Face, torch and Triton; may hold $VARIABLES")
    temporary_folder: str | None = Field(None, description="TMPDIR; may hold $VARIABLES, such as $SLURM_TMPDIR")
    extensions_folder: str | None = Field(None, description="TORCH_EXTENSIONS_DIR: DeepSpeed's compiled operators")


class WorkOptions(Options):
    """How inference is cut into units that workers claim."""

    unit_documents: Count = Field(16, description="documents a unit: what is lost at most when a worker dies")
    attempts: Count = Field(3, description="times a unit is tried before it is given up and named")
    lease_seconds: float = Field(60.0, gt=0.0, description="seconds without a sign of life that make a worker dead")


class RcpModelOptions(Options):
    """Relation Candidate Proposal: section 3.1."""

    encoder: str = Field(
        "roberta-large",
        description="BERT- or RoBERTa-like encoder: folder, hub or embedded: name; best/ of a run: its weights go on",
    )
    max_length: int = Field(
        1024,
        ge=16,
        description="word pieces a document, at most what two windows of the encoder hold; mentions beyond get zero "
        "vectors",
    )
    classifier: ClassifierKind = Field(
        "bilinear", description="bilinear: equation 6; grouped: the published code's, in blocks of 64, with two outputs"
    )
    entity_types: bool = Field(False, description="add embeddings of the entities' types, those of the training corpus")
    type_markers: bool = Field(
        False, description="open each mention with the word of its entity's type, such as person, in place of '*'"
    )
    sentence_distance: bool = Field(
        False, description="add an embedding of a pair's distance in sentences and number of mentions"
    )


class RcpTraining(Training):
    """Table 6, DocRED."""

    metric: RcpMetric = Field("f1", description="dev metric that chooses the best weights; loss is minimized")
    loss: RcpLoss = Field("bce", description="training loss; bce: binary cross entropy of P(relation)")
    classifier_learning_rate: Rate = Field(1e-4, description="peak learning rate of the new layers")
    positive_weight: float = Field(
        1.0, gt=0.0, description="weight in the loss of a pair with a relation, beside 1 of a pair without any"
    )
    relation_weight: float = Field(
        0.0, ge=0.0, description="weight of naming the relations, a further task while training; 0: none"
    )


class RcpConfig(Options):
    """launch/rcp.py: train the candidate classifier."""

    run: RunOptions = RunOptions()
    data: TrainingData = TrainingData()
    model: RcpModelOptions = RcpModelOptions()
    train: RcpTraining = RcpTraining()
    cluster: ClusterOptions = ClusterOptions()


class RcModelOptions(Options):
    """The causal LM of Relation Classification: section 3.2."""

    base: str = Field("meta-llama/Llama-2-13b-chat-hf", description="causal LM: folder, hub or embedded: name")
    attn_implementation: Literal["flash_attention_2", "sdpa"] = Field(
        "flash_attention_2", description="attention kernel; flash_attention_2 falls back to sdpa where it is missing"
    )
    quantization: Quantization | None = Field(
        None, description="of the frozen base, 8bit or 4bit (NF4): needs bitsandbytes, a GPU and ZeRO below 3"
    )


class LoraOptions(Options):
    """Low-rank adaptation, table 7."""

    r: Count = Field(8, description="rank")
    alpha: Count = Field(16, description="scale: updates are multiplied by alpha / r")
    dropout: Share = Field(0.05, description="dropout before the adapter")
    targets: tuple[str, ...] = Field(LLAMA_PROJECTIONS, min_length=1, description="linear layers that are adapted")


class PromptOptions(Options):
    """What the LM reads: table 12 (`rc`, pairs with a relation) or table 11 (`direct`, all pairs, may answer None)."""

    kind: PromptKind = Field("rc", description="rc: table 12; direct: table 11; rcp-llm: Yes or No, for table 5")
    template: PromptTemplate | None = Field(
        None, description="none: the prompt as it is; llama2: in [INST]; chat: in the tokenizer's chat template"
    )
    pairs_per_query: Count | None = Field(None, description="most pairs a query; none: as many as fit max_length")
    max_length: int = Field(4096, ge=64, description="tokens of demonstrations, prompt and answer together")
    shorten: Shortening | None = Field(
        None,
        description="text that does not fit with one pair; none: refused; sentences: without those that name neither "
        "of its entities, the farthest from any that does first",
    )


class RcTraining(Training):
    """Table 7, RC stage on DocRED."""

    epochs: Count = Field(8, description="passes over the training corpus")
    learning_rate: Rate = Field(1e-4, description="peak learning rate of the adapter")
    warmup: float = Field(100, ge=0.0, description="linear warm-up: below 1 a share of all steps, from 1 on steps")
    adam_epsilon: Rate = Field(1e-8, description="AdamW's epsilon")
    micro_batch_size: Count = Field(1, description="queries a forward pass and process; the rest is accumulated")
    zero_stage: ZeroStage = Field(2, description="ZeRO stage: reads configs/deepspeed/zero<stage>.yaml")
    eval_every: int = Field(0, ge=0, description="optimizer steps between evaluations; 0: only after each epoch")
    metric: RcMetric = Field("loss", description="dev metric that chooses the best weights; loss is minimized")
    none_ratio: float | None = Field(
        None,
        gt=0.0,
        description="pairs without a relation learnt for each with one (direct, rcp-llm); none: all",
    )


class RcConfig(Options):
    """launch/rc.py: fine-tune the LM with LoRA."""

    run: RunOptions = RunOptions()
    data: TrainingData = TrainingData()
    model: RcModelOptions = RcModelOptions()
    lora: LoraOptions = LoraOptions()
    prompt: PromptOptions = PromptOptions()
    train: RcTraining = RcTraining()
    cluster: ClusterOptions = ClusterOptions()


class ProposeConfig(Options):
    """launch/propose.py: candidates of a corpus."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/dev"), description="corpus to propose candidates for")
    rcp: Path = Field(Path("runs/rcp/best"), description="folder with the trained classifier")
    threshold: Threshold = Field(
        "0.5", description="least P(relation) of a candidate: a number; f1 or recall=0.9: chosen on dev for these"
    )
    top_k: Count | None = Field(None, description="most candidates a document, the most probable; none: no limit")
    batch_size: Count = Field(8, description="documents a forward pass")
    work: WorkOptions = WorkOptions()
    cluster: ClusterOptions = ClusterOptions()


class ServerOptions(Options):
    """An OpenAI-compatible server that answers instead of a model of ours. Limits are those of one process."""

    url: ServerUrl = Field("http://localhost:8000/v1", description="address of the server, with its /v1")
    model: str = Field("", description="name of the model or adapter there")
    endpoint: Literal["chat", "completions"] = Field(
        "chat", description="chat: messages, by the server's chat template; completions: the prompt as it is"
    )
    key_variable: VariableName | None = Field(
        "OPENAI_API_KEY", description="environment variable that holds the key; none: the server needs none"
    )
    seed: int = Field(66, ge=0, description="seed that is sent with each request")
    body: RequestFields = Field({}, description="more fields of each request: 'top_p=0.9'; null leaves one of ours out")
    concurrency: Count = Field(8, description="requests in flight")
    requests_per_minute: Count | None = Field(None, description="most requests a minute; none: no limit")
    tokens_per_minute: Count | None = Field(None, description="most tokens of prompts and answers a minute")
    timeout_seconds: float = Field(600.0, gt=0.0, description="seconds within which an answer must be there")
    retries: int = Field(8, ge=0, description="times a request is repeated after a failure that may pass")
    prompt_price: float | None = Field(None, ge=0.0, description="price of a million tokens of prompts")
    completion_price: float | None = Field(None, ge=0.0, description="price of a million tokens of answers")


class DecodeOptions(Options):
    """How the LM answers."""

    backend: Literal["hf", "vllm", "openai"] = Field(
        "hf", description="hf: a model of ours; vllm: by vLLM in this process; openai: the server of `server`"
    )
    gpus_per_worker: Count = Field(
        1, description="GPUs that hold one LM: its layers one after another (hf), or each in parts (vllm)"
    )
    mode: Literal["constrained", "free", "score"] = Field(
        "constrained",
        description="constrained: only relations of the asked pairs can be written; free: any text; score: all weighed",
    )
    threshold: Share = Field(0.5, description="least probability of a relation that is predicted, in mode score")
    batch_size: Count = Field(8, description="queries answered together")
    max_new_tokens: Count = Field(2048, description="longest answer in tokens")
    min_name_score: int = Field(
        80, ge=0, le=100, description="least fuzz.ratio of a name in an answer and its entity; 0: the published code's"
    )


class FewShotOptions(Options):
    """Demonstrations before each query, for an LM that was not fine-tuned (appendix C)."""

    examples: int = Field(0, ge=0, description="demonstrations before each query; the paper's: 3")
    pairs: Count = Field(10, description="most pairs a demonstration")
    corpus: Path = Field(Path("data/docred/train"), description="labelled corpus they are drawn from")
    seed: int = Field(66, ge=0, description="seed that draws them")


class ClassifyConfig(Options):
    """launch/classify.py: name the relations of candidates."""

    run: RunOptions = RunOptions()
    corpus: Path = Field(Path("data/docred/dev"), description="corpus the candidates belong to")
    candidates: Path | None = Field(None, description="folder written by propose; none: the gold pairs (rc-gold)")
    rc: Path | None = Field(Path("runs/rc/best"), description="folder with the trained adapter; none: `base` as it is")
    base: str = Field("", description="LM without an adapter, or the tokenizer that counts for a server's")
    prompt: PromptOptions = PromptOptions()
    few_shot: FewShotOptions = FewShotOptions()
    documents: Count | None = Field(None, description="only the first this many documents; none: all")
    decode: DecodeOptions = DecodeOptions()
    server: ServerOptions = ServerOptions()
    work: WorkOptions = WorkOptions()
    cluster: ClusterOptions = ClusterOptions()


class ExtractConfig(Options):
    """`lmrc extract`: both stages on new documents, on this machine."""

    documents: Path = Field(description="documents in DocRED's format; labels are not looked at")
    rcp: Path = Field(description="folder with the trained classifier")
    rc: Path = Field(description="folder with the trained adapter")
    out: Path = Field(description="file of the triples")
    relations: Path | None = Field(None, description="relation set as JSON {id: name}; none: the adapter's")
    threshold: Threshold = Field("0.5", description="least P(pair has a relation): a number, f1 or recall=0.9")
    top_k: Count | None = Field(None, description="most pairs a document, the most probable; none: no limit")
    mode: Literal["constrained", "score"] = Field(
        "constrained", description="constrained: the most probable answer; score: every relation of enough probability"
    )
    relation_threshold: Share = Field(0.5, description="least P(relation of the pair), in mode score")
    batch_size: Count = Field(8, description="documents, and then queries, that go through a model together")
    gpus: Count = Field(1, description="GPUs that hold the LM, if it does not fit one")
    shorten: Shortening | None = Field(
        None,
        description="how to shorten a document that does not fit; sentences: leave out sentences that name neither "
        "entity, the farthest first; none: as the adapter was trained",
    )


class SyntheticData(Options):
    """Sizes of the demo's synthetic corpora."""

    train_documents: Count = Field(500, description="documents to train on")
    dev_documents: Count = Field(40, description="documents that choose the best weights")
    test_documents: Count = Field(12, description="held-out documents that are scored")
    seed: int = Field(2408, ge=0, description="seed of the synthetic text")


class DemoConfig(Options):
    """`lmrc demo`: the whole chain on synthetic documents. Paths inside the stages are filled in by the demo."""

    run: RunOptions = RunOptions(name="demo")
    synthetic: SyntheticData = SyntheticData()
    rc_documents: Count = Field(80, description="training documents the LM is fine-tuned on: the first ones")
    rc_dev_documents: Count = Field(8, description="dev documents that measure the LM while it learns: the first ones")
    rcp: RcpConfig = RcpConfig()
    propose: ProposeConfig = ProposeConfig()
    rc: RcConfig = RcConfig()
    classify: ClassifyConfig = ClassifyConfig()


class PipelineData(TrainingData):
    """Corpora of the chain, each a folder, or documents (.json, .json.gz) that a corpus is built from."""

    train: Path = Field(Path("data/docred/train"), description="corpus or documents to train on")
    dev: Path = Field(Path("data/docred/dev"), description="corpus or documents that choose the best weights")
    test: Path = Field(Path("data/docred/dev"), description="labelled corpus or documents that are scored")
    relations: Path | None = Field(None, description="relation set of documents, as JSON {id: name}; none: DocRED's")


class BuildConfig(Options):
    """The pipeline's first step: corpora from documents."""

    run: RunOptions = RunOptions()
    documents: dict[str, Path] = Field({}, description="documents by the name of their corpus")
    relations: Path | None = Field(None, description="relation set as JSON {id: name}; none: DocRED's")
    corpora: Path = Field(Path("data"), description="folder of the new corpora")
    cluster: ClusterOptions = ClusterOptions()


class ScoreConfig(Options):
    """The pipeline's last step: scores.json and the report."""

    run: RunOptions = RunOptions()
    classify: Path = Field(Path("runs/classify"), description="run folder of classify")
    trained: tuple[Path, ...] = Field((), description="run folders whose learning curves are reported")
    train: Path = Field(Path("data/docred/train"), description="training corpus, for Ign F1")
    ign_variant: IgnVariant | None = Field(None, description="whose formula of Ign F1; none: the corpus's")
    out: Path = Field(Path("runs"), description="folder of scores.json, report.html, tables/ and figures/")
    cluster: ClusterOptions = ClusterOptions()


class PipelineConfig(Options):
    """launch/pipeline.py: the whole chain. Runs, data and models of the stages are filled in by the pipeline."""

    run: RunOptions = RunOptions()
    data: PipelineData = PipelineData()
    ign_variant: IgnVariant | None = Field(None, description="whose formula of Ign F1; none: the corpus's")
    rcp: RcpConfig = RcpConfig()
    propose: ProposeConfig = ProposeConfig()
    rc: RcConfig = RcConfig()
    classify: ClassifyConfig = ClassifyConfig()
    cluster: ClusterOptions = ClusterOptions()
    small: ClusterOptions = ClusterOptions()
