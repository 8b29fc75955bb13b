r"""Regenerates a dataset on a cluster: `tapir regenerate` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/regenerate.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Writes `shards/NNNNN/regenerated` and `dataset/` into the run, and continues a stopped job. Takes the arguments of
`tapir regenerate`.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["regenerate", *sys.argv[1:]]))
