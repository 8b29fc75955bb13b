"""`python -m tapir_ray.cli`: what the command `tapir` does."""

import sys

from tapir_ray.cli import main

sys.exit(main())
