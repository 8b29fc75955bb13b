"""The whole configuration of a run, with what must fit together in it."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from tapir_ray.config.classify import Classify
from tapir_ray.config.data import Holdout, SeedData, Simulator
from tapir_ray.config.engines import spec_of
from tapir_ray.config.method import Curriculum, Expand, Filter, Mix, Respond, Rewrite, Score, Train
from tapir_ray.config.models import SIMULATOR, Endpoint, Judge, Student
from tapir_ray.config.regenerate import Regenerate
from tapir_ray.config.resources import Budget, Cache, Prompts, Resources
from tapir_ray.config.section import Section, Share
from tapir_ray.config.yaml_files import Dumper


class Config(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    run_dir: str | None = None
    """Folder or URI of the run; empty is `runs/NAME`."""
    random_seed: int = 0
    seed_data: SeedData = SeedData()
    holdout: Holdout = Holdout()
    student: Student = Student()
    """Left out where a dataset is regenerated, which needs none."""
    teacher: Endpoint = Endpoint()
    judge: Judge = Judge.model_validate({})
    classify: Classify = Classify(by="none")
    curriculum: Curriculum = Curriculum()
    score: Score = Score()
    expand: Expand = Expand()
    filter: Filter = Filter()
    respond: Respond = Respond()
    rewrite: Rewrite = Rewrite()
    mix: Mix = Mix()
    train: Train = Train()
    regenerate: Regenerate | None = None
    """Only for `tapir regenerate`."""
    resources: Resources = Resources()
    prompts: Prompts = Prompts()
    budget: Budget = Budget()
    cache: Cache = Cache()
    simulator: Simulator | None = None
    trackers: list[str] = Field(default_factory=list)
    """`package:Class` of more places for the run's numbers (docs/trackers.md)."""
    max_error_rate: Share = 0.05

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        writes_seed = self.simulator is not None and self.simulator.seed_rows > 0
        if self.seed_data.path is None and not writes_seed:
            raise ValueError("seed_data.path is missing: name a file, a folder or a HF hub id")
        if self.regenerate is not None:
            self.regenerate.refuse(self.seed_data, self.classify, self.curriculum, self.filter)
        elif self.student.model is None and self.student.create is None:
            raise ValueError("give exactly one of student.model (a HF name or folder) and student.create")
        for key, endpoint in self.endpoints.items():
            if endpoint.base_url == SIMULATOR and self.simulator is None:
                raise ValueError(f"{key}.base_url is 'simulator' but the config has no simulator section")
            if self.budget.max_cost is not None and endpoint.known_price is None:
                raise ValueError(
                    f"budget.max_cost cannot be kept without {key}.price, as {endpoint.model} is not in our list "
                    "(genai-prices) for its provider; set it, or use budget.max_tokens"
                )
        if self.respond.samples > 1 and self.teacher.sampling.temperature == 0.0:
            raise ValueError(
                f"respond.samples {self.respond.samples} would be the same answer: set teacher.sampling.temperature"
            )
        for role in ("classifier", "train"):
            if getattr(self.resources, role).tensor_parallel > 1:
                raise ValueError(f"resources.{role}.tensor_parallel has no effect; use resources.{role}.replicas")
        if self.resources.train.min_replicas is not None:
            raise ValueError("resources.train.min_replicas has no effect: a training has the same workers to its end")
        if self.classify.by == "column" and self.seed_data.task_column is None:
            raise ValueError("classify.by column needs seed_data.task_column")
        if self.train.sequence_length > self.student.max_model_len:
            raise ValueError(
                f"train.sequence_length {self.train.sequence_length} is above student.max_model_len "
                f"{self.student.max_model_len}"
            )
        self._refuse_engines()
        if self.regenerate is None and self.resources.train.replicas > 1 and 0 < self.resources.train.gpus <= 0.5:
            raise ValueError(
                f"resources.train.gpus {self.resources.train.gpus:g}: workers of one training cannot share a GPU; give "
                "each a whole one, or set resources.train.replicas 1"
            )
        if self.train.attention == "flash_attention_2" and not self.resources.train.gpus:
            raise ValueError("train.attention flash_attention_2 needs GPUs: set resources.train.gpus, or sdpa")
        workers = self.resources.train.replicas
        if self.train.global_batch_size % workers:
            raise ValueError(
                f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
                f"resources.train.replicas {workers}"
            )
        return self

    def _refuse_engines(self) -> None:
        """Raises ValueError for what an engine cannot start with."""
        engines: dict[str, Student | Endpoint] = {"student": self.student, **self.endpoints}
        for section, settings in engines.items():
            claim = settings.spec.claims(self.resources, section)
            if claim is not None:
                settings.spec.refuse(section, settings, claim)

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints that requests go to, by the key that describes them."""
        found: dict[str, Endpoint] = {"teacher": self.teacher}
        if self.judge.same_as is None and self.judges:
            found["judge"] = self.judge
        if self.student.endpoint is not None:
            found["student.endpoint"] = self.student.endpoint
        return found

    @property
    def judges(self) -> bool:
        """Whether anything is asked of the judge: not by every regeneration."""
        made = self.regenerate
        return made is None or made.does("judge") or (made.answers and self.respond.scores)

    @property
    def judge_endpoint(self) -> Endpoint:
        """The endpoint the judge's requests go to: its own, or the teacher's with the judge's sampling."""
        if self.judge.same_as == "teacher":
            return self.teacher.model_copy(update={"sampling": self.judge.sampling})
        return self.judge

    def dump(self) -> str:
        """The whole configuration as YAML, every default written out."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)

    def results(self) -> dict[str, Any]:
        """Everything that changes results (not `run_dir`, `resources`, limits, cache, budget or trackers), as nested
        mappings."""
        content = self.model_dump(
            mode="json", exclude={"name", "run_dir", "resources", "budget", "cache", "trackers", "max_error_rate"}
        )
        for endpoint in (content["teacher"], content["judge"], content["student"]["endpoint"] or {}):
            for speed in ("limits", "price", "timeout_s", "max_attempts", "api_key_env", "base_url", "batch"):
                endpoint.pop(speed, None)
            if endpoint and (unbatched := spec_of(endpoint["engine"]).unbatched):  # the same model, by another door
                endpoint["engine"] = unbatched
        for engine in (content["teacher"], content["judge"], content["student"]):
            for speed in spec_of(engine["engine"]).speed:
                engine.get("engine_kwargs", {}).pop(speed, None)
        for limit in ("warn_share", "max_share"):
            content["filter"].pop(limit)
        content["student"].pop("batch_size")
        content["classify"].pop("batch_size")
        for speed in (
            "micro_batch_size",
            "gradient_checkpointing",
            "checkpoint_minutes",
            "checkpoint_steps",
            "checkpoints_kept",
            "max_loss_rise",
            "max_failures",
        ):
            content["train"].pop(speed)
        if content["regenerate"] is None:
            content.pop("regenerate")
        else:
            content["regenerate"]["shards"].pop("at_once")
        if content["simulator"]:
            content["simulator"].pop("log")
            for weather in ("latency_s", "error_rate", "max_requests_per_minute"):
                content["simulator"].pop(weather)
            if content["simulator"]["seed_rows"]:
                content["seed_data"].pop("path")  # inside the run's folder, which may be moved
        return content

    def digest(self) -> str:
        """Hash of `results`; 16 hex digits."""
        return hashlib.sha256(json.dumps(self.results(), sort_keys=True).encode()).hexdigest()[:16]
