"""What the runs of run.sh found and what they cost, as tables and as JSON.

    python benchmarks/study/summary.py RUNS --sample CORPUS --dev CORPUS --train CORPUS

Tokens of a training are those of its queries, the beginning that all share counted in each; tokens of answers are those
of prompts and texts. Hours are those in which the processes of a run lived, killed ones included.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from lmrc.common.atomic_io import write_atomically
from lmrc.corpus.corpus import Corpus
from lmrc.corpus.predictions import Predictions
from lmrc.evaluation.metrics.compare import Comparison, compare
from lmrc.evaluation.metrics.gold_table import Gold
from lmrc.evaluation.metrics.scores import scores_of
from lmrc.evaluation.metrics.train_facts import read_facts
from lmrc.evaluation.metrics.triple_table import Triples
from lmrc.evaluation.scored_run import ScoredRun, read_scored_run
from lmrc.evaluation.tables.table import Table
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.runs.events import History

ENDS = {"preempted", "stopped", "died", "failed", "cancelled", "finished"}


@dataclass(frozen=True)
class System:
    """A row of the table: the run that answered, what was trained for it, and all that ran to answer."""

    name: str
    run: str
    trained: tuple[str, ...]
    answered: tuple[str, ...]


SYSTEMS = (
    System("LMRC: RCP, then RC", "lmrc", ("rcp", "rc"), ("propose", "lmrc")),
    System("the LM on all pairs (direct)", "direct-answers", ("direct",), ("direct-answers",)),
    System("direct, learnt from fewer None", "direct-3-answers", ("direct-3",), ("direct-3-answers",)),
    System("an LM in the place of RCP", "lmrc-llm", ("rcp-llm", "rc"), ("rcp-llm-answers", "lmrc-llm")),
    System("RC on gold pairs", "rc-gold", ("rc",), ("rc-gold",)),
    System("LMRC, RCP's threshold for F1", "lmrc-f1", ("rcp", "rc"), ("propose-f1", "lmrc-f1")),
    System("the same, all relations weighed", "lmrc-f1-weighed", ("rcp", "rc"), ("propose-f1", "lmrc-f1-weighed")),
    System("LMRC, whole dev", "lmrc-dev", ("rcp", "rc"), ("propose-dev", "lmrc-dev")),
)


def hours(run: Path) -> float:
    """Hours of all attempts of a run; one that was killed lived until the last word in its log."""
    seconds, begun, job = 0.0, None, ""
    for event in History(run).read():
        time = datetime.fromisoformat(event["time"])
        if event["event"] == "started":
            if begun is not None:
                seconds += (_last_word(run, job) - begun).total_seconds()
            begun, job = time, str(event["job"]).removeprefix("local-")
        elif begun is not None and event["event"] in ENDS:
            seconds += (time - begun).total_seconds()
            begun = None
    return seconds / 3600


def _last_word(run: Path, job: str) -> datetime:
    """When a job last wrote into its log."""
    written = max(path.stat().st_mtime for path in (run / "log").glob(f"{job}_0_log.*"))
    return datetime.fromtimestamp(written, timezone.utc)


def attempts(run: Path) -> int:
    """How often a run was started."""
    return sum(event["event"] == "started" for event in History(run).read())


def training_tokens(run: Path) -> int | None:
    """Tokens of all steps of a fine-tuning; None for a training that counts documents."""
    steps = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    tokens = [step["tokens"] for step in steps if "tokens" in step]
    return sum(tokens) if tokens else None


def answer_tokens(run: Path, adapter: Path, corpus: Corpus) -> int:
    """Tokens of prompts and answers of a run that asked an LM."""
    settings, tokenizer = AdapterMetadata.read(adapter), load_tokenizer(str(adapter))
    texts = []
    for line in (run / "generations.jsonl").read_text().splitlines():
        asked = json.loads(line)
        pairs = [(head, tail) for head, tail in asked["pairs"]]
        document = corpus[asked["document"]]
        texts.append(
            PROMPTS[settings.prompt.kind].render(document, pairs, corpus.relations, asked["left_out"]) + asked["answer"]
        )
    return sum(map(len, tokenizer(texts)["input_ids"])) if texts else 0


def cost(runs: Path, system: System, corpus: Corpus) -> dict[str, Any]:
    """Hours and tokens of training and of answering."""
    trained, answered = [runs / name for name in system.trained], [runs / name for name in system.answered]
    adapters = {name: name.removesuffix("-answers") for name in system.answered if name.endswith("-answers")}
    asked = [run for run in answered if (run / "generations.jsonl").is_file()]
    return {
        "training_hours": sum(map(hours, trained)),
        "training_tokens": sum(training_tokens(run) or 0 for run in trained),
        "attempts": {run.name: attempts(run) for run in trained},
        "answering_hours": sum(map(hours, answered)),
        "answering_tokens": sum(
            answer_tokens(run, runs / adapters.get(run.name, "rc") / "best", corpus) for run in asked
        ),
    }


def shown(scores: dict[str, Any], name: str) -> str:
    """A score with its interval."""
    if scores[name] is None:
        return "-"
    low, high = scores["intervals"][name]
    return f"{scores[name]:.1f} [{low:.1f}, {high:.1f}]"


def score_table(systems: Sequence[dict[str, Any]]) -> Table:
    """A row a system, as tables 2 and 3 of the paper have them."""
    names = ("precision", "recall", "f1", "ign_f1", "intra_f1", "inter_f1")
    rows = [
        (
            system["name"],
            str(system["scores"]["documents"]),
            *(shown(system["scores"], name) for name in names),
            "-" if system["pairs"] is None else f"{system['pairs']['f1']:.1f}",
        )
        for system in systems
    ]
    return Table(("System", "Documents", "P", "R", "F1", "Ign F1", "Intra F1", "Inter F1", "F1 of RCP"), tuple(rows))


def cost_table(systems: Sequence[dict[str, Any]]) -> Table:
    """What each system cost."""
    rows = [
        (
            system["name"],
            f"{system['cost']['training_hours']:.2f}",
            f"{system['cost']['training_tokens']:,}",
            f"{system['cost']['answering_hours']:.2f}",
            f"{system['cost']['answering_tokens']:,}",
        )
        for system in systems
    ]
    header = (
        "System",
        "Training, hours",
        "Training, tokens of the LM",
        "Answering, hours",
        "Answering, tokens of the LM",
    )
    return Table(header, tuple(rows))


def _columns(run: ScoredRun) -> Predictions:
    return run.predictions if isinstance(run.predictions, Predictions) else Predictions.of(run.predictions)


def compared(first: ScoredRun, second: ScoredRun) -> Comparison:
    """Two systems on the same documents."""
    triples = Triples.of(Gold.of(first.documents, first.relations), [_columns(first), _columns(second)])
    one, other = scores_of(triples)
    return compare(triples, (one, other))


def main() -> None:
    """Write summary.json and summary.md into the folder of the runs, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    for name in ("sample", "dev", "train"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    options = parser.parse_args()
    corpora = {folder: Corpus.open(folder) for folder in (options.sample, options.dev)}
    facts = read_facts(options.train, corpora[options.sample].relations)
    systems: list[dict[str, Any]] = []
    evaluated: dict[str, ScoredRun] = {}
    for system in SYSTEMS:
        run = options.runs / system.run
        found = read_scored_run(run, facts, "redocred") if (run / "DONE").is_file() else None
        if found is None:
            print(f"{run} is not finished: left out")
            continue
        evaluated[system.run] = found
        corpus = corpora[options.dev if system.run.endswith("-dev") else options.sample]
        systems.append(
            {
                "name": system.name,
                "scores": found.scores.as_json() | {"per_relation": None, "splits": None},
                "pairs": None if found.proposed is None else found.proposed.as_json(),
                "cost": cost(options.runs, system, corpus),
            }
        )
    summary: dict[str, Any] = {"systems": systems}
    lines = [score_table(systems).markdown(), "", cost_table(systems).markdown()]
    for name in ("direct-answers", "direct-3-answers"):
        if not {"lmrc", name} <= set(evaluated):
            continue
        difference = compared(evaluated[name], evaluated["lmrc"]).as_json()["differences"]["f1"]
        # None where the other system found nothing.
        ratio = evaluated["lmrc"].scores.all.f1 / difference["first"] if difference["first"] else None
        summary[f"lmrc_over_{name}"] = {"f1_ratio": ratio, "difference": difference}
        lines += ["", f"LMRC over {name}: {json.dumps(summary[f'lmrc_over_{name}'])}"]
    write_atomically(options.runs / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(options.runs / "summary.md", "\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
