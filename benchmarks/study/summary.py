"""Write the scores and costs of the systems in systems.yaml, over their seeds, as tables and as JSON.

    python benchmarks/study/summary.py RUNS --train CORPUS [--seeds 66 67 68] [--systems FILE]

Scores are means over the seeds, with 95 % bootstrap intervals over documents and seeds. Costs are those of one seed, as
a mean. Hours are those in which the processes of a run lived, killed ones included. Tokens of a training are those of
its queries; tokens of answers are those of prompts and answers. A prefix that all queries share counts in each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from lmrc.common.atomic_io import write_atomically
from lmrc.common.errors import UserError
from lmrc.corpus.candidates import Candidates
from lmrc.corpus.corpus import Corpus
from lmrc.evaluation.metrics.bootstrap import DocumentCounts, intervals_over_seeds, paired_over_seeds
from lmrc.evaluation.metrics.train_facts import Facts, read_facts
from lmrc.evaluation.scored_run import ScoredRun, read_scored_run
from lmrc.evaluation.tables.table import Table
from lmrc.rc.model.adapter_metadata import AdapterMetadata
from lmrc.rc.model.lora import load_tokenizer
from lmrc.rc.prompts.questions import QuestionBuilder, encode_questions, questions_about
from lmrc.rc.prompts.templates import PROMPTS
from lmrc.runs.events import History
from lmrc.runs.run_folder import read_config

SYSTEMS = Path(__file__).with_name("systems.yaml")
SCORES = {
    "precision": "P",
    "recall": "R",
    "f1": "F1",
    "ign_f1": "Ign F1",
    "intra_f1": "Intra F1",
    "inter_f1": "Inter F1",
}
ENDS = {"preempted", "stopped", "died", "failed", "cancelled", "finished"}


class System(BaseModel):
    """A row of the table. In the names of runs, SEED stands for the seed.

    Attributes:
        name: name in the tables.
        run: the run with the predictions.
        trained: runs of training that a seed needs.
        answered: runs of inference that a seed needs.
        over: systems that this one is compared with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    run: str
    trained: tuple[str, ...]
    answered: tuple[str, ...]
    over: tuple[str, ...] = ()

    def run_of(self, seed: int) -> str:
        """Return the name of the run with the predictions of a seed."""
        return self.run.replace("SEED", str(seed))


@dataclass(frozen=True)
class Cost:
    """CPU hours and LM tokens; None if they are not known."""

    hours: float | None
    training_tokens: int | None
    answering_tokens: int | None

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            _sum(self.hours, other.hours),
            _sum(self.training_tokens, other.training_tokens),
            _sum(self.answering_tokens, other.answering_tokens),
        )


def _sum(first: Any, second: Any) -> Any:
    return None if first is None or second is None else first + second


def read_systems(path: Path) -> dict[str, System]:
    """Read the table of systems.

    Raises:
        UserError: it is missing, not YAML, or has other fields than `System`, or compares with an unknown system.
    """
    try:
        systems = TypeAdapter(dict[str, System]).validate_python(yaml.safe_load(path.read_text()))
    except (OSError, yaml.YAMLError, ValidationError) as error:
        raise UserError(f"{path}: is no table of systems: {' '.join(str(error).split())}") from None
    for key, system in systems.items():
        if unknown := set(system.over) - systems.keys():
            raise UserError(f"{path}: {key} is compared with {', '.join(sorted(unknown))}, which is no system in it")
    return systems


def hours(run: Path) -> float | None:
    """Return the hours of all attempts of a run; None if it has no events.

    An attempt that was killed lived until it last wrote into its log.
    """
    seconds, begun, job, events = 0.0, None, "", History(run).read()
    for event in events:
        time = datetime.fromisoformat(event["time"])
        if event["event"] == "started":
            if begun is not None:
                seconds += (_last_log(run, job, begun) - begun).total_seconds()
            begun, job = time, str(event["job"]).removeprefix("local-")
        elif begun is not None and event["event"] in ENDS:
            seconds += (time - begun).total_seconds()
            begun = None
    return seconds / 3600 if events else None


def _last_log(run: Path, job: str, begun: datetime) -> datetime:
    """Return when a job last wrote into its log; `begun` if it has none."""
    written = max((path.stat().st_mtime for path in (run / "log").glob(f"{job}_0_log.*")), default=None)
    return begun if written is None else datetime.fromtimestamp(written, timezone.utc)


def training_tokens(run: Path) -> int:
    """Return the tokens of all steps of a fine-tuning; 0 for a training that counts documents."""
    path = run / "metrics.jsonl"
    steps = map(json.loads, path.read_text().splitlines()) if path.is_file() else ()
    return sum(step.get("tokens", 0) for step in steps)


def answer_tokens(run: Path) -> int:
    """Return the tokens of prompts and answers: `tokens` in DONE if the run counted them; 0 if it asked no LM.

    Raises:
        UserError: the run asked an LM without an adapter, whose prompts are not known, and counted nothing.
    """
    done = json.loads((run / "DONE").read_text()) if (run / "DONE").is_file() else {}
    if "tokens" in done:
        return int(done["tokens"])
    if not (run / "generations.jsonl").is_file():
        return 0
    config = read_config(run)
    if config.get("answers"):  # those of another run
        return 0
    if not config.get("rc"):
        raise UserError(f"{run} asked an LM without an adapter: expected its tokens in DONE")
    adapter = Path(config["rc"])
    options, tokenizer = AdapterMetadata.read(adapter).prompt, load_tokenizer(str(adapter))
    corpus, prompt = Corpus.open(config["corpus"]), PROMPTS[options.kind]
    generations = [json.loads(line) for line in (run / "generations.jsonl").read_text().splitlines()]
    if prompt.asks_relations:
        candidates = Candidates.open(Path(config["candidates"]))
        builder = QuestionBuilder(tokenizer, corpus.relations, options)
        tokens = 0
        for asked in generations:
            index, known = asked["document"], {(head, tail) for head, tail in asked["pairs"]}
            chosen = [pair for pair in candidates[index] if (pair.head, pair.tail) in known]
            for query in builder.build(index, corpus[index], questions_about(chosen, options)):
                tokens += len(encode_questions(query, tokenizer, options.template).input_ids)
        return tokens
    texts = []
    for asked in generations:
        pairs = [(head, tail) for head, tail in asked["pairs"]]
        rendered = prompt.render(corpus[asked["document"]], pairs, corpus.relations, asked["left_out"])
        texts.append(rendered + asked["answer"])
    return sum(map(len, tokenizer(texts)["input_ids"])) if texts else 0


@cache
def run_cost(run: Path, trained: bool) -> Cost:
    """Return the cost of a run. Print a line if it is not known."""
    lived = hours(run)
    if lived is None:
        print(f"{run} has no events: its cost is not known")
        return Cost(None, None, None)
    return Cost(lived, training_tokens(run), 0) if trained else Cost(lived, 0, answer_tokens(run))


def seed_cost(runs: Path, system: System, seed: int) -> Cost:
    """Return the cost of all runs of a seed."""
    cost = Cost(0.0, 0, 0)
    for names, trained in ((system.trained, True), (system.answered, False)):
        for name in names:
            cost += run_cost(runs / name.replace("SEED", str(seed)), trained)
    return cost


def read_runs(runs: Path, system: System, seeds: Iterable[int], facts: Facts) -> dict[int, ScoredRun]:
    """Read the finished runs of a system by seed. Print a line for each that is left out.

    Raises:
        UserError: they answered about different documents.
    """
    found: dict[int, ScoredRun] = {}
    for seed in seeds:
        folder = runs / system.run_of(seed)
        scored = read_scored_run(folder, facts, "redocred") if (folder / "DONE").is_file() else None
        if scored is None:
            print(f"{folder} is not finished: left out")
            continue
        found[seed] = scored
    first = next(iter(found.values()), None)
    for scored in found.values():
        if first is not None and titles(scored) != titles(first):
            raise UserError(
                f"{runs}: {first.name} and {scored.name} answered about different documents, {len(first.documents)} "
                f"and {len(scored.documents)}: ask all seeds of a system about the same corpus"
            )
    return found


def titles(run: ScoredRun) -> list[str]:
    """Return the titles of the documents that a run answered about."""
    return [document.title for document in run.documents]


def mean(values: Sequence[Any]) -> float | None:
    """Return the mean; None if a value is not known."""
    return None if None in values else float(np.mean(values))


def entry(system: System, found: Mapping[int, ScoredRun], costs: Sequence[Cost]) -> dict[str, Any]:
    """Return what summary.json has about a system."""
    per_seed = [{"seed": seed} | {name: run.scores.metrics[name] for name in SCORES} for seed, run in found.items()]
    intervals = intervals_over_seeds([run.scores.by_document for run in found.values()])
    return {
        "name": system.name,
        **{name: mean([row[name] for row in per_seed]) for name in SCORES},
        "per_seed": per_seed,
        "intervals": {name: list(intervals[name]) for name in SCORES if name in intervals},
        "documents": len(next(iter(found.values())).documents),
        "seeds": len(found),
        "cpu_hours": mean([cost.hours for cost in costs]),
        "tokens": {
            "training": mean([cost.training_tokens for cost in costs]),
            "answering": mean([cost.answering_tokens for cost in costs]),
        },
    }


def compared(first: Mapping[int, ScoredRun], second: Mapping[int, ScoredRun]) -> dict[str, Any] | None:
    """Compare the means of two systems over the seeds and the documents that both have; None without any."""
    seeds = [seed for seed in first if seed in second]
    if not seeds:
        return None
    first_titles, second_titles = titles(first[seeds[0]]), titles(second[seeds[0]])
    known = set(second_titles)
    common = [title for title in first_titles if title in known]
    if not common:
        return None
    differences = paired_over_seeds(
        [_of_documents(first[seed].scores.by_document, first_titles, common) for seed in seeds],
        [_of_documents(second[seed].scores.by_document, second_titles, common) for seed in seeds],
    )
    scores = {name: differences[name].as_json() for name in SCORES if name in differences}
    return {"documents": len(common), "seeds": len(seeds), **scores}


def _of_documents(counts: DocumentCounts, all_titles: Sequence[str], wanted: Sequence[str]) -> DocumentCounts:
    """Return the counts of some documents, in their order."""
    row = {title: index for index, title in enumerate(all_titles)}
    return replace(counts, counts=counts.counts[[row[title] for title in wanted]])


def summarize(runs: Path, train: Path, seeds: Sequence[int], systems: Mapping[str, System]) -> dict[str, Any]:
    """Return the content of summary.json: one key for each system that has a finished run.

    Raises:
        UserError: a run or the training corpus is damaged, or runs of a system are on different documents.
    """
    found: dict[str, dict[int, ScoredRun]] = {}
    facts: Facts | None = None
    for key, system in systems.items():
        folders = [runs / system.run_of(seed) for seed in seeds]
        if facts is None and (finished := [folder for folder in folders if (folder / "DONE").is_file()]):
            facts = read_facts(train, Corpus.open(read_config(finished[0])["corpus"]).relations)
        found[key] = {} if facts is None else read_runs(runs, system, seeds, facts)
        if not found[key]:
            print(f"{key} has no finished run: it is not in the table")
    summary: dict[str, Any] = {}
    for key, by_seed in found.items():
        if by_seed:
            summary[key] = entry(systems[key], by_seed, [seed_cost(runs, systems[key], seed) for seed in by_seed])
            over = {other: compared(found[other], by_seed) for other in systems[key].over}
            summary[key]["over"] = {other: difference for other, difference in over.items() if difference}
    return summary


def score_table(summary: Mapping[str, dict[str, Any]]) -> Table:
    """Return a row per system: its scores with intervals, and F1 of each seed."""
    rows = [
        (
            system["name"],
            str(system["documents"]),
            *(_with_interval(system[name], system["intervals"].get(name)) for name in SCORES),
            ", ".join(f"{row['f1']:.1f}" for row in system["per_seed"]),
        )
        for system in summary.values()
    ]
    return Table(("System", "Documents", *SCORES.values(), "F1 of each seed"), tuple(rows))


def cost_table(summary: Mapping[str, dict[str, Any]]) -> Table:
    """Return a row per system: the cost of a seed."""
    rows = [
        (
            system["name"],
            _number(system["cpu_hours"], ".2f"),
            *(_number(system["tokens"][part], ",.0f") for part in ("training", "answering")),
        )
        for system in summary.values()
    ]
    header = ("System", "CPU-hours of a seed", "LM tokens, training", "LM tokens, answering")
    return Table(header, tuple(rows))


def comparison_table(summary: Mapping[str, dict[str, Any]]) -> Table:
    """Return a row per comparison: the difference of F1, its interval and p."""
    rows = [
        (
            system["name"],
            summary[other]["name"],
            str(found["documents"]),
            str(found["seeds"]),
            _with_interval(found["f1"]["difference"], found["f1"]["interval"]),
            f"{found['f1']['p']:.4f}",
        )
        for system in summary.values()
        for other, found in system["over"].items()
    ]
    return Table(("System", "Over", "Documents", "Seeds", "Difference of F1", "p"), tuple(rows), labels=2)


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    if value is None or interval is None:
        return _number(value, ".1f")
    return f"{value:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def main() -> None:
    """Write summary.json and summary.md into the folder of the runs, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="training corpus, for Ign F1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[66, 67, 68])
    parser.add_argument("--systems", type=Path, default=SYSTEMS, help="table of systems")
    options = parser.parse_args()
    try:
        summary = summarize(options.runs, options.train, options.seeds, read_systems(options.systems))
    except UserError as error:
        raise SystemExit(f"Error: {error}") from None
    if not summary:
        raise SystemExit(f"Error: no system has a finished run in {options.runs}: nothing was written")
    tables = (score_table(summary), cost_table(summary), comparison_table(summary))
    text = "\n\n".join(table.markdown() for table in tables if table.rows) + "\n"
    write_atomically(options.runs / "summary.json", json.dumps(summary, indent=1) + "\n")
    write_atomically(options.runs / "summary.md", text)
    print(text, end="")


if __name__ == "__main__":
    main()
