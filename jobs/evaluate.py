r"""Runs the evaluation suites of a trained run on its students, as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/evaluate.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Writes `evaluation/NAME` of every suite and `summary.json` into the run, and prints the tables. Trains nothing: a run
with an untrained round is refused.
"""

import argparse
import sys

from tapir_ray.cli import ended
from tapir_ray.cli.options import configured, takes_config
from tapir_ray.cluster.jobs.env_vars import load


def run(options: argparse.Namespace) -> int:
    from tapir_ray.cli.run import evaluate

    evaluate(*configured(options))
    return 0


if __name__ == "__main__":
    load()
    parser = argparse.ArgumentParser(description="Run the evaluation suites of a trained run on its students.")
    takes_config(parser, "folder or URI of the trained run")
    sys.exit(ended(run, parser.parse_args()))
