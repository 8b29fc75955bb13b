"""Writes docs/benchmarks.md from benchmarks/results/*.json: figures, machines and aims.

python benchmarks/page.py
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benchmarks" / "results"

HEAD = """# What was measured

Written by `python benchmarks/page.py` from the files in `benchmarks/results/`, which the scripts of the same names
write. A ratio compares two things on the same machine in the same run; speeds in tokens or rows a second say how fast
that machine was, and nothing else.
"""

TITLES = {
    "train": "Training",
    "memory": "Memory of training",
    "infer": "The student's answers",
    "classify": "Classification",
    "classifier": "The task classifier",
    "loop": "The demo's wall time",
    "scale": "Large datasets",
    "requests": "Requests to a teacher or judge",
    "pilot": "What `tapir check --pilot` forecasts",
    "demo_gain": "What the demo's student gains",
    "gpu": "On a GPU",
}
AIMS = {
    "train.ours_against_trl_packed": ("tokens/s of 2 workers, ZeRO-2, against TRL with packing", "at least 1.25"),
    "train.ours_against_trl_default": ("the same against TRL's defaults (padded)", "at least 1.5"),
    "train.ours_against_trl_tuned": ("the same against TRL with packing and without gradient checkpointing", ""),
    "train.ours_1_worker_against_bare_loop": ("tokens/s of 1 worker against a bare PyTorch loop", "at least 0.95"),
    "memory.whole_against_chunked_logits": ("peak with all logits at once against ours, largest model and length", ""),
    "memory.loading_zero_3_against_zero_2": ("peak of a worker while it loads, ZeRO-3 against ZeRO-2", ""),
    "memory.weights_zero_3_against_a_full_copy": (
        "peak of a worker of 2 while ZeRO-3 reads the weights, against all of them",
        "below 1",
    ),
    "memory.training_zero_3_against_zero_2": ("peak of a worker while it trains, ZeRO-3 against ZeRO-2", ""),
    "infer.stage_against_llm_chat_0.4M": ("tokens/s of the student stage against `vllm.LLM.chat`, 0.4M parameters", ""),
    "infer.stage_against_llm_chat_30M": ("the same, 30M parameters", ""),
    "infer.stage_against_llm_chat_105M": ("the same, 105M parameters", "at least 0.95"),
    "infer.answering_and_judging_against_the_longer_384": (
        "seconds of answering and judging 384 rows as one pipeline against the longer of the two alone, 1.167 at best",
        "at most 1.15",
    ),
    "infer.answering_and_judging_against_the_longer_768": ("the same, 768 rows, 1.083 at best", "at most 1.15"),
    "infer.answering_and_judging_against_the_longer_1536": ("the same, 1,536 rows, 1.042 at best", "at most 1.15"),
    "classify.stage_against_pipeline_2M": (
        "rows/s against `transformers.pipeline` at its best, 2M parameters",
        "at least 2.3",
    ),
    "classify.stage_against_pipeline_14M": ("the same, 14M parameters", "at least 1.9"),
    "loop.startup_share": ("share of the wall time in which engines, workers and Ray start", "at most 0.35"),
    "loop.share_with_all_first_rows": ("the same with the wait for the first rows of every other stage", ""),
    "demo_gain.seeds_above_sft": (
        "share of the seeds whose gain over the initial SFT has an interval above 0",
        "",
    ),
    "demo_gain.seeds_above_control": ("the same over the control, plain SFT on as many tokens", "at least 0.8"),
    "demo_gain.score_after_rounds": ("mean score after the rounds, of 10", "at least 5"),
    "demo_gain.score_over_control": ("mean difference from the control, in points of 10", "at least 1"),
}
"""Meaning and aim of a ratio; a ratio that is not here has a name that explains it."""


def main() -> None:
    PAGE.write_text(page(json.loads(file.read_text()) for file in sorted(RESULTS.glob("*.json"))))


def page(results: Iterable[Mapping[str, Any]]) -> str:
    """Returns the page of these results, in the order of TITLES."""
    found = {result["benchmark"]: result for result in results}
    return "\n".join([HEAD, *(section(found[name]) for name in TITLES if name in found)])


def section(result: Mapping[str, Any]) -> str:
    """Returns the section of a result: title, ratios and any tables of figures."""
    name = result["benchmark"]
    earlier = [
        f"{part} {found['date']}"
        for part, found in result["figures"].items()
        if isinstance(found, dict) and found.get("date", result["date"]) != result["date"]
    ]
    before = f" Measured before: {', '.join(earlier)}." if earlier else ""
    versions = ", ".join(f"{package} {version}" for package, version in result["versions"].items())
    rows = []
    for key, value in result["ratios"].items():
        what, aim = AIMS.get(f"{name}.{key}", (key.replace("_", " "), "at most 1" if "its bar" in key else ""))
        rows.append((what, f"{value:.3f}", aim))
    parts = [
        f"## {TITLES[name]}\n",
        f"`python benchmarks/{name}.py`, {result['date']}, on {result['machine']}: {versions}.{before}\n",
        *((table(("ratio", "measured", "aim"), rows),) if name not in TOLD_BY_FIGURES else ()),
        *(FIGURES[name](result["figures"]) if name in FIGURES else ()),
    ]
    return "\n".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table, with an empty line after it."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def of_training(figures: Mapping[str, Any]) -> list[str]:
    rates, startups = figures["tokens_per_second"], figures["startup_s"]
    rows = [
        (f"`{name}`", rates[name], ", ".join(f"{rate:.0f}" for rate in figures["rounds"][name]), startups[name])
        for name in rates
    ]
    by_round = {
        AIMS[f"train.{name}"][0]: ", ".join(f"{value:.2f}" for value in values)
        for name, values in figures.get("ratios_by_round", {}).items()
    }
    shares = ", ".join(f"{part} {share:.0%}" for part, share in figures["our_time_by_phase"].items())
    return [
        f"A Llama of {figures['parameters'] / 1e6:.0f}M parameters, {figures['pairs']} Alpaca pairs in "
        f"{figures['sequences']} sequences of 512 ({figures['share_of_the_packed_sequences_filled']:.0%} filled), "
        "float32:\n",
        table(("contender", "tokens/s", "by round", "start-up (s)"), rows),
        *([table(("ratio", "by round"), by_round.items())] if by_round else ()),
        f"Where the time of a worker goes (2 workers): {shares}.\n",
    ]


def of_answers(figures: Mapping[str, Any]) -> list[str]:
    sizes = {size: found for size, found in figures.items() if isinstance(found, dict) and "tokens_per_second" in found}
    rows = [
        (
            size,
            *(with_rounds(rate, found["rounds"][name]) for name, rate in found["tokens_per_second"].items()),
            *(min(found["engine_start_seconds"][name]) for name in ("stage", "llm_chat")),
        )
        for size, found in sizes.items()
    ]
    header = ("parameters", "stage (tokens/s)", "`LLM.chat`", "stage's engine start (s)", "`LLM`'s start (s)")
    what = "medians (and each round, with an engine of its own), and the shortest start of the rounds"
    return [f"{figures['new_tokens']} new tokens a prompt, {what}:\n", table(header, rows)]


def with_rounds(rate: float, rounds: Sequence[float]) -> str:
    return f"{rate}" if len(rounds) == 1 else f"{rate} ({', '.join(f'{one:.0f}' for one in rounds)})"


def of_classification(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            size,
            *found["rows_per_second"].values(),
            found["labels_differing"],
            found["labels_differing_from_the_row_alone"],
        )
        for size, found in figures.items()
        if isinstance(found, dict)
    ]
    header = ("parameters", "stage (rows/s)", "pipeline", "other labels", "of them, other than the pipeline says alone")
    return [
        f"{figures['rows']:,} Alpaca instructions. Where a label is another one, the pipeline was asked for that row "
        "by itself:\n",
        table(header, rows),
    ]


def of_memory(figures: Mapping[str, Any]) -> list[str]:
    phases = list(next(iter(figures["peak_mib"].values())))
    rows = [(case, *(found[phase] for phase in phases)) for case, found in figures["peak_mib"].items()]
    sizes = ", ".join(
        f"{size} has a vocabulary of {figures['vocabulary'][size]:,} and weights of {weights:,.0f} MiB"
        for size, weights in sorted(figures["weights_mib"].items(), key=lambda one: one[1])
    )
    return [
        f"Peak private memory of a worker of {figures['workers']} in MiB, float32; {sizes}:\n",
        table(("model, sequence, ZeRO stage, loss", *phases), rows),
        "While ZeRO-3 reads the weights (`weights`) a worker holds its share of them, of the output layer's too where "
        "that is tied to the embedding, and twice the largest weight, which is the embedding here. ZeRO-2 maps the "
        "file, which is not private memory: its weights appear with `loading`.\n",
    ]


def of_loop(figures: Mapping[str, Any]) -> list[str]:
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in figures["stage_seconds"].items())
    starts = ", ".join(
        f"{name.replace('_', ' ')} {seconds:.0f}" for name, seconds in figures["startup_seconds"].items()
    )
    return [f"{figures['wall_seconds']:.0f} seconds: {stages}. Of these, start-up: {starts}.\n"]


def of_classifier(figures: Mapping[str, Any]) -> list[str]:
    rows = [
        (size, case.replace("_", " "), one["rows"], one["accuracy"], one["macro_f1"], one["majority"]["accuracy"])
        for size, found in figures.items()
        if isinstance(found, dict) and "judged" in found
        for case, one in found["judged"].items()
    ]
    header = ("parameters", "judged on", "rows", "accuracy", "macro-F1", "accuracy of always the commonest label")
    sources = ", ".join(f"{name} {sum(labels.values()):,}" for name, labels in figures["rows"].items())
    return [
        f"Trained on labels by source ({sources} rows). `holdout` are rows of the same sources, `mt bench` the "
        "MT-Bench questions whose category has a label; `without` a source is trained on the others alone and judged "
        "on that source's rows whose label another one gives as well (roleplay's is its own). A source's style is "
        "learnt, not its task.\n",
        table(header, rows),
    ]


FIGURES = {
    "train": of_training,
    "classifier": of_classifier,
    "infer": of_answers,
    "classify": of_classification,
    "memory": of_memory,
    "loop": of_loop,
}
TOLD_BY_FIGURES = {"classifier"}
"""Results whose ratios a table of their figures shows."""


if __name__ == "__main__":
    main()
