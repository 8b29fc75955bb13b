"""`python -m tapir_ray.cli`: the command `tapir`, for machines without its script on the PATH."""

import sys

from tapir_ray.cli import main

sys.exit(main())
