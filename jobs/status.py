r"""Shows the progress of a run from storage that the cluster reaches: `tapir status --address URL` submits this job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/status.py s3://bucket/runs/mine

Changes nothing. Takes the arguments of `tapir status`.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["status", *sys.argv[1:]]))
