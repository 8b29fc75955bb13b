"""A simulated teacher and judge behind a real OpenAI-compatible HTTP server, for the demo, tests and benchmarks.

with running(Options(scenario="tasks", seed=7)) as base_url:      # a child process on loopback
    openai.OpenAI(base_url=base_url, api_key="any").chat.completions.create(...)
"""

from tapir_ray.simulator.options import Options
from tapir_ray.simulator.process import running
from tapir_ray.simulator.seed import write_seed

__all__ = ["Options", "running", "write_seed"]
