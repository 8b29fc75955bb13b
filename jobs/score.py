r"""Measures how hard each row is for the student: `tapir run --until score` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/score.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Writes `rounds/01/scored` with the scores and MFD of every candidate; `jobs/distill.py` continues from it. Takes the
arguments of `tapir run`: with `--from score=TABLE` it scores your own rows, and trains nothing before.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["run", *sys.argv[1:], "--until", "score"]))
