r"""Fine-tunes the task classifier on the teacher's labels, or on your own: `tapir classifier train` as a Ray job.

    ray job submit --address http://HEAD:8265 --working-dir . \
        -- python jobs/train_classifier.py configs/mine.yaml --run-dir s3://bucket/runs/mine

Writes `classifier/model` and `classifier/report.json` into the run; `jobs/distill.py` continues from them. Takes the
arguments of `tapir classifier train`: with `--rows FILE …` the labels are those of the files.
"""

import sys

from tapir_ray.cli import main
from tapir_ray.cluster.jobs.env_vars import load

if __name__ == "__main__":
    load()
    sys.exit(main(["classifier", "train", *sys.argv[1:]]))
