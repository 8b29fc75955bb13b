r"""Produce a dataset anew on a cluster: `tapir regenerate` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/regenerate.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Leaves `shards/NNNNN/regenerated` and `dataset/` in the run, and goes on where an earlier job of the run was stopped.
Takes what `tapir regenerate` takes.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["regenerate", *sys.argv[1:]]))
