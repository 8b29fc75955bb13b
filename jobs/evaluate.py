r"""Score the last student of a trained run on its holdout, as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/evaluate.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Leaves `evaluation/holdout` and `summary.json` in the run and prints its table. A run whose rounds are not all trained
is refused: nothing is trained here.
"""

import argparse
import sys

from tapir_ray.cli import configured, ended, takes_config
from tapir_ray.cluster.jobs.env_vars import load


def run(options: argparse.Namespace) -> int:
    from tapir_ray.cli.run import evaluate

    evaluate(*configured(options))
    return 0


if __name__ == "__main__":
    load()
    parser = argparse.ArgumentParser(description="Score the last student of a trained run on its holdout.")
    takes_config(parser, "folder or URI of the trained run")
    sys.exit(ended(run, parser.parse_args()))
