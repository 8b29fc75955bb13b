r"""Runs or continues the whole loop on a cluster: `tapir run` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/distill.py configs/mine.yaml --run-dir s3://bucket/runs/mine

`tapir submit` also numbers the attempts, returns the exit status and passes on keys:

    tapir submit configs/mine.yaml --job distill --address http://HEAD:8265 --run-dir s3://bucket/runs/mine \
        --env OPENAI_API_KEY

Takes the arguments of `tapir run`.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["run", *sys.argv[1:]]))
