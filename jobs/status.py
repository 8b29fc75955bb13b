r"""Say where a run is, from its storage as the cluster sees it: `tapir status`, which sends this job with `--address`.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/status.py s3://bucket/runs/mine

Changes nothing. Takes what `tapir status` takes.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["status", *sys.argv[1:]]))
