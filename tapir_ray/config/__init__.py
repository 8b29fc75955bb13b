"""The configuration of a run: typed, frozen, one YAML file plus `--set a.b=c`.

    config = load("configs/demo.yaml", overrides=["curriculum.rounds=3"])

Imports neither torch nor ray, so a bad file fails in milliseconds. Bad combinations fail here, in a validator, with a
sentence that names the key.
"""

from tapir_ray.config.classify import Classify
from tapir_ray.config.config import Config
from tapir_ray.config.curriculum import Curriculum, Difficulty
from tapir_ray.config.data import Holdout, SeedData, Simulator
from tapir_ray.config.elad import Elad
from tapir_ray.config.load import changed, load, parse
from tapir_ray.config.method import Expand, Filter, Lora, Mix, Respond, Rewrite, Score, Train
from tapir_ray.config.models import (
    SIMULATOR,
    Batch,
    CreateModel,
    Endpoint,
    Judge,
    Limits,
    Sampling,
    Student,
)
from tapir_ray.config.price import Price, PriceTier
from tapir_ray.config.regenerate import Regenerate, Shards
from tapir_ray.config.resources import Budget, Cache, Prompts, Replicas, Resources
from tapir_ray.config.section import Count, Section, Share

__all__ = [
    "SIMULATOR",
    "Batch",
    "Budget",
    "Cache",
    "Classify",
    "Config",
    "Count",
    "CreateModel",
    "Curriculum",
    "Difficulty",
    "Elad",
    "Endpoint",
    "Expand",
    "Filter",
    "Holdout",
    "Judge",
    "Limits",
    "Lora",
    "Mix",
    "Price",
    "PriceTier",
    "Prompts",
    "Regenerate",
    "Replicas",
    "Resources",
    "Respond",
    "Rewrite",
    "Sampling",
    "Score",
    "Section",
    "SeedData",
    "Shards",
    "Share",
    "Simulator",
    "Student",
    "Train",
    "changed",
    "load",
    "parse",
]
