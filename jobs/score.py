r"""Find out how hard each row is for the student: `tapir run --until score` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/score.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Leaves `rounds/01/scored` with the scores and MFD of every candidate; `jobs/distill.py` on the same run goes on from it.
Takes what `tapir run` takes: with `--from score=TABLE` the rows to score are your own, and nothing is trained before.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["run", *sys.argv[1:], "--until", "score"]))
