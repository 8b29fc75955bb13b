"""Round 0: reads the seed data, splits off the holdout, labels tasks, trains the classifier and the first student."""

from __future__ import annotations

from collections import Counter

import pyarrow.compute as pc

from tapir_ray.cluster.capacity import model_servers
from tapir_ray.cluster.interrupt import in_background
from tapir_ray.data.schemas import OK, SEED
from tapir_ray.errors import InputError
from tapir_ray.steps import classifier, holdout, seed, shares, train
from tapir_ray.steps.contamination_list import list_contamination
from tapir_ray.steps.context import Context


def ingest(context: Context) -> None:
    """Writes `seed/read`, `seed/split` and `seed/ingested`; duplicates and overlaps with the holdout are marked.

    `seed/contamination` lists the contaminated rows. Raises InputError as `seed.read` does, and if more than
    `filter.max_share` of the rows is filtered for one reason.
    """
    run, layout = context.run, context.loop
    if not (run.done(layout.ingested) or run.done(layout.instructions)):
        with context.stage("ingest", 0):
            seed.read(context)
            holdout.split_off(context)
    # Both are missing in a run that began with an imported table, which `import_rows` has checked.
    if run.done(layout.read) and run.done(layout.ingested):
        list_contamination(context, layout.ingested, layout.contamination)
        shares.judge(context, layout.ingested, before=layout.read, contaminated=layout.contamination, error=InputError)


def classify_and_initial_sft(context: Context) -> None:
    """Writes `seed/instructions` (every row with its task and answer) and `checkpoints/00`.

    The classifier and the initial SFT train at the same time if the seed data has its answers and both fit into the
    cluster.
    """
    layout = context.loop
    labelled = context.run.done(layout.instructions)
    if labelled or context.config.seed_data.responses != "keep" or not _fit_together(context):
        classifier.train(context)
        classifier.classify_seed(context)
        train.initial_sft(context, layout.instructions)
    else:
        with in_background(lambda: classifier.train(context)) as fitted:
            train.initial_sft(context, layout.ingested)
            fitted.result()
        classifier.classify_seed(context)
    weigh_seed_tasks(context)


def weigh_seed_tasks(context: Context) -> None:
    """Sets the weights of `curriculum.tasks: seed` to the shares of the seed rows; no effect on other taxonomies."""
    if not context.taxonomy.from_seed:
        return
    counts: Counter[str] = Counter()
    for batch in context.run.scan(context.loop.instructions, ["task", "status", "split"]):
        usable = pc.and_(pc.equal(batch["status"], OK), pc.equal(batch["split"], SEED))
        counts.update(task for task in batch["task"].filter(usable).to_pylist() if task is not None)
    context.curriculum.set_seed_counts(counts)
    context.taxonomy = context.taxonomy.with_seed_counts(counts)
    if missing := sorted({*(context.taxonomy.styled or ())} - {*context.taxonomy.labels}):
        context.progress.say(f"rewrite.tasks: no seed row has the task {', '.join(missing)}")


def _fit_together(context: Context) -> bool:
    import ray

    resources = context.config.resources
    available = ray.cluster_resources()
    # A local teacher labels for the classifier while the student is trained.
    workers = (resources.train, resources.classifier, *model_servers(context.config).values())
    return all(
        sum(worker.replicas * worker.tensor_parallel * claim for worker, claim in zip(workers, claims, strict=True))
        <= available.get(name, 0)
        for name, claims in (("CPU", [worker.cpus for worker in workers]), ("GPU", [worker.gpus for worker in workers]))
    )
