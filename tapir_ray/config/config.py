"""The configuration of a run, and the checks across its sections."""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, model_validator

from tapir_ray.config.classify import Classify
from tapir_ray.config.curriculum import Curriculum
from tapir_ray.config.data import Holdout, SeedData, Simulator
from tapir_ray.config.elad import Elad
from tapir_ray.config.engines import spec_of
from tapir_ray.config.evaluate import ASK_JUDGE, HOLDOUT_SUITE, Evaluate, split_spec
from tapir_ray.config.keys import without_neutral
from tapir_ray.config.method import Expand, Filter, Mix, Respond, Rewrite, Score, Train
from tapir_ray.config.models import SIMULATOR, Endpoint, Judge, Student
from tapir_ray.config.regenerate import Regenerate
from tapir_ray.config.registry import MEASURES, measure_declares, needs_judge
from tapir_ray.config.resources import Budget, Cache, Prompts, Resources
from tapir_ray.config.section import Section, Share, key
from tapir_ray.config.yaml_files import Dumper

NO_UNSEEN_ROWS = (
    "score.candidates unseen leaves round 1 without candidates, since the initial SFT trains on all seed rows: set "
    "train.initial_share below 1, train.initial_sft off, or score.candidates all"
)


class Config(Section):
    """Configuration of one run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")] = key(invalidates=())
    method: Literal["tapir", "elad"] = key("tapir", invalidates=("candidates", "answers", "pool_answers"))
    """How a student is distilled (docs/method.md, docs/elad.md). Without effect on `tapir regenerate`."""
    run_dir: str | None = key(None, invalidates=())
    """Folder or URI of the run; `null` is `runs/NAME`."""
    random_seed: int = key(0, invalidates=("read",))
    seed_data: SeedData = key(SeedData(), invalidates=("read",))
    holdout: Holdout = key(Holdout(), invalidates=("split",))
    student: Student = key(Student(), invalidates=("base",))
    """Not needed by `tapir regenerate`, which trains nothing."""
    teacher: Endpoint = key(Endpoint(), invalidates=("labels", "instructions", "expanded", "generated"))
    judge: Judge = key(Judge.model_validate({}), invalidates=("answers", "scored", "generated", "evaluation"))
    classify: Classify = key(Classify(by="none"), invalidates=("labels", "instructions"))
    curriculum: Curriculum = key(Curriculum(), invalidates=("expanded",))
    score: Score = key(Score(), invalidates=("candidates",))
    expand: Expand = key(Expand(), invalidates=("expanded",))
    filter: Filter = key(Filter(), invalidates=("checked",))
    respond: Respond = key(Respond(), invalidates=("answers", "generated"))
    rewrite: Rewrite = key(Rewrite(), invalidates=("answers", "generated"))
    mix: Mix = key(Mix(), invalidates=("expanded",))
    elad: Elad = key(Elad(), invalidates=("explained",))
    """Only for `method: elad`."""
    train: Train = key(Train(), invalidates=("holdout_packed", "sft_packed", "packed", "control_pool"))
    evaluate: Evaluate = key(Evaluate(), invalidates=())
    control: Literal["none", "sft", "random"] = key("none", invalidates=())
    """Second student next to the rounds, on as many tokens: `sft` trains it on the seed data alone, `random` also on
    new instructions like random seed rows. Each kind has its own tables, so a finished run may get a control."""
    regenerate: Regenerate | None = key(None, invalidates=("ingested", "labelled", "regenerated"))
    """Only for `tapir regenerate`."""
    resources: Resources = key(Resources(), invalidates=())
    prompts: Prompts = key(Prompts(), invalidates=("labels", "instructions", "scored", "expanded", "generated"))
    budget: Budget = key(Budget(), invalidates=())
    cache: Cache = key(Cache(), invalidates=())
    simulator: Simulator | None = key(None, invalidates=("read",))
    trackers: list[str] = key(["tensorboard"], invalidates=())
    """Where the run's numbers go: `tensorboard`, `mlflow`, `wandb`, `trackio`, or `package:Class`
    (docs/trackers.md)."""
    max_error_rate: Share = key(0.05, invalidates=())
    """A stage ends the run if a larger share of its rows has failed."""

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        writes_seed = self.simulator is not None and self.simulator.seed_rows > 0
        if self.seed_data.path is None and not writes_seed and self.reads_seed_data:
            raise ValueError("seed_data.path is missing: name a file, a folder or a HF hub id")
        if self.regenerate is not None:
            self.regenerate.refuse(self.seed_data, self.classify, self.curriculum, self.filter)
            if self.regenerate.does("rewrite") and self.rewrite.tasks == []:
                raise ValueError("the operation rewrite needs a task in rewrite.tasks: name some, or remove it")
            if self.evaluate.only:
                raise ValueError("evaluate.only measures a model, and regenerate makes a dataset: take one of them out")
        elif self.evaluate.only and self.student.model is None:
            raise ValueError("evaluate.only measures student.model as it is: name a HF name or folder")
        elif self.student.model is None and self.student.create is None:
            raise ValueError("give exactly one of student.model (a HF name or folder) and student.create")
        for where, endpoint in self.endpoints.items():
            if endpoint.base_url == SIMULATOR and self.simulator is None:
                raise ValueError(f"{where}.base_url is 'simulator' but the config has no simulator section")
            if self.budget.max_cost is not None and endpoint.known_price is None:
                raise ValueError(
                    f"budget.max_cost needs {where}.price: {endpoint.model} is not in the price list (genai-prices) of "
                    "its provider; set the price, or use budget.max_tokens"
                )
        if self.respond.samples > 1 and self.teacher.sampling.temperature == 0.0:
            raise ValueError(
                f"respond.samples {self.respond.samples} would give one answer several times: set "
                "teacher.sampling.temperature above 0"
            )
        for role in ("classifier", "train"):
            if getattr(self.resources, role).tensor_parallel > 1:
                raise ValueError(f"resources.{role}.tensor_parallel has no effect; use resources.{role}.replicas")
        for role in ("teacher", "judge", "classifier", "train"):
            if getattr(self.resources, role).keep:
                raise ValueError(f"resources.{role}.keep has no effect: only engines of the student are kept")
        if self.resources.train.min_replicas is not None:
            raise ValueError("resources.train.min_replicas has no effect: training keeps its number of workers")
        if self.classify.by == "column" and self.seed_data.task_column is None:
            raise ValueError("classify.by column needs seed_data.task_column")
        if self.holdout.rows and HOLDOUT_SUITE not in self.evaluate.suites and not self.evaluate.only:
            raise ValueError(
                "evaluate.suites lacks holdout, whose scores choose the best round: add it, or set holdout.rows 0"
            )
        if self.train.sequence_length > self.student.max_model_len and not self.evaluate.only:
            raise ValueError(
                f"train.sequence_length {self.train.sequence_length} is above student.max_model_len "
                f"{self.student.max_model_len}"
            )
        if self.regenerate is None:
            self._refuse_without_unseen_rows()
        self._refuse_engines()
        if self.regenerate is None and self.student.endpoint is not None and self.measure_needs_losses:
            raise ValueError(
                f"curriculum.difficulty.measure {self.curriculum.difficulty.measure} needs the student's losses, which "
                "no endpoint gives: set student.engine vllm and take student.endpoint out, or name a measure without "
                "losses"
            )
        if self.work == "elad":
            self.elad.refuse(self.student, self.teacher, self.curriculum, self.control)
        if self.regenerate is None:
            self.curriculum.difficulty.refuse()
        if self.regenerate is None and self.resources.train.replicas > 1 and 0 < self.resources.train.gpus <= 0.5:
            raise ValueError(
                f"resources.train.gpus {self.resources.train.gpus:g}: training workers cannot share a GPU; set "
                "resources.train.gpus 1, or resources.train.replicas 1"
            )
        if self.train.attention == "flash_attention_2" and not self.resources.train.gpus:
            raise ValueError(
                "train.attention flash_attention_2 needs GPUs: set resources.train.gpus, or train.attention sdpa"
            )
        workers = self.resources.train.replicas
        if self.train.global_batch_size % workers:
            raise ValueError(
                f"train.global_batch_size {self.train.global_batch_size} is not a multiple of "
                f"resources.train.replicas {workers}"
            )
        return self

    def _refuse_without_unseen_rows(self) -> None:
        """Raises ValueError if round 1 has no candidates, since the initial SFT has trained on all rows."""
        if self.certain_initial_sft and not self.leaves_unseen_rows and self.curriculum.rounds:
            raise ValueError(NO_UNSEEN_ROWS)

    def _refuse_engines(self) -> None:
        """Raises ValueError for settings that an engine cannot start with."""
        engines: dict[str, Student | Endpoint] = {"student": self.student, **self.endpoints}
        for section, settings in engines.items():
            claim = settings.spec.claims(self.resources, section)
            if claim is not None:
                settings.spec.refuse(section, settings, claim)
        if self.resources.student.keep and self.student.spec.local and not self.student.spec.keeps:
            raise ValueError(
                f"resources.student.keep has no effect on student.engine {self.student.engine}, whose engines end with "
                "their table: take it out"
            )

    @property
    def work(self) -> str:
        """Key of `METHODS`: the method that distils, or `regenerate`, or `evaluate`."""
        if self.evaluate.only:
            return "evaluate"
        return self.method if self.regenerate is None else "regenerate"

    @property
    def scores_candidates(self) -> bool:
        """Whether the candidates of a round are answered and scored, and not the holdout alone."""
        if self.work == "elad":
            return self.elad.select == "mfd"
        return self.curriculum.difficulty.select != "none"

    @property
    def stop_rounds(self) -> int:
        """Rounds in a row without a gain after which `curriculum.stop_when: no_gain` ends the run."""
        return self.curriculum.stop_rounds or (2 if self.method == "elad" else 1)

    @property
    def answers_pool(self) -> bool:
        """Whether the teacher answers all seed rows that need it, and not only the holdout and the initial SFT's."""
        return self.work != "elad" or self.elad.select == "mfd"

    @property
    def reads_seed_data(self) -> bool:
        """Whether the run needs seed data; a model that is measured needs it for the holdout alone."""
        return not self.evaluate.only or HOLDOUT_SUITE in self.evaluate.suites

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """Endpoints that requests go to, by config key: `teacher`, `judge`, `student.endpoint`."""
        found: dict[str, Endpoint] = {"teacher": self.teacher} if self.asks_teacher else {}
        if self.judge.same_as is None and self.judges:
            found["judge"] = self.judge
        if self.student.endpoint is not None:
            found["student.endpoint"] = self.student.endpoint
        return found

    @property
    def asks_teacher(self) -> bool:
        """Whether the teacher's endpoint is used; a model is measured without it, unless it is the judge or answers
        the holdout."""
        if not self.evaluate.only:
            return True
        answers = self.reads_seed_data and (self.seed_data.responses != "keep" or self.classify.by != "none")
        return answers or (self.judges and self.judge.same_as == "teacher")

    @property
    def judges(self) -> bool:
        """Whether the run asks the judge at all. Some regenerations, and measures with suites, do not."""
        if self.evaluate.only:
            measured = HOLDOUT_SUITE in self.evaluate.suites and self.measure_needs_judge
            return measured or self.suites_need_judge
        made = self.regenerate
        if made is None:
            return self.measure_needs_judge or self.respond.scores or self.suites_need_judge
        return made.does("judge") or (made.answers and self.respond.scores)

    @property
    def measure_needs_judge(self) -> bool:
        """Whether the judge scores the student's answers for `curriculum.difficulty.measure`."""
        return needs_judge(self.curriculum.difficulty.measure, MEASURES, what="curriculum.difficulty.measure")

    @property
    def measure_needs_losses(self) -> bool:
        """Whether `curriculum.difficulty.measure` needs the student's losses of the rows' own responses."""
        return bool(measure_declares("losses", False, self.curriculum.difficulty.measure))

    @property
    def measure_is_verified(self) -> bool:
        """Whether `curriculum.difficulty.measure` has the student's samples scored by `judge.verifiers`."""
        return bool(measure_declares("verified", False, self.curriculum.difficulty.measure))

    @property
    def suites_need_judge(self) -> bool:
        """Whether a suite asks the judge. The holdout asks it as the measure says."""
        names = {split_spec(suite)[0] for suite in self.evaluate.suites}
        users = (name for name in names if ":" in name)
        return bool(names & {*ASK_JUDGE}) or any(needs_judge(name, {}, what="evaluate.suites") for name in users)

    @property
    def certain_initial_sft(self) -> bool:
        """Whether the initial SFT is on, whatever the student's files are."""
        setting = self.train.initial_sft
        return setting == "on" or (setting == "auto" and self.student.create is not None)

    @property
    def leaves_unseen_rows(self) -> bool:
        """Whether round 1 has candidates after an initial SFT; probes can help from round 2 on."""
        return self.score.candidates == "all" or self.train.initial_share < 1.0

    @property
    def judge_endpoint(self) -> Endpoint:
        """Endpoint of the judge's requests: its own, or the teacher's with the judge's sampling."""
        if self.judge.same_as == "teacher":
            return self.teacher.model_copy(update={"sampling": self.judge.sampling})
        return self.judge

    def dump(self) -> str:
        """Returns the configuration as YAML, with every default."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True)

    def results(self) -> dict[str, Any]:
        """Returns the values that results depend on, as nested mappings, without fields of `invalidates=()`."""
        content = without_neutral(self)
        for endpoint in (content["teacher"], content["judge"], content["student"]["endpoint"] or {}):
            # A batch API answers with the same model: a run may switch to it and back.
            if endpoint and (unbatched := spec_of(endpoint["engine"]).unbatched):
                endpoint["engine"] = unbatched
        for engine in (content["teacher"], content["judge"], content["student"]):
            for speed in spec_of(engine["engine"]).speed:
                engine["engine_kwargs"].pop(speed, None)
        if self.regenerate is None:
            content.pop("regenerate")
        if self.simulator is not None and self.simulator.seed_rows:
            # The generated seed file is inside the run's folder, which may be moved.
            content["seed_data"].pop("path")
        return content

    def digest(self) -> str:
        """Returns the first 16 hex digits of the SHA-256 of `results`."""
        return hashlib.sha256(json.dumps(self.results(), sort_keys=True).encode()).hexdigest()[:16]
