r"""Checks that the cluster fits a config: `tapir check --address http://HEAD:8265` submits this job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/check.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Compares `resources` with the nodes that exist or can be added, and tries models and storage from a worker. Spends
nothing. Takes the arguments of `tapir check`.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["check", *sys.argv[1:], "--address", "auto"]))
