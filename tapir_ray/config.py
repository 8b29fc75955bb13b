"""The configuration of a run: typed, frozen, one YAML file plus `--set a.b=c`.

    config = load("configs/demo.yaml", overrides=["curriculum.rounds=3"])

Imports neither torch nor ray, so a bad file fails in milliseconds. Bad combinations fail here, in a validator, with a
sentence that names the key.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from tapir_ray import prices
from tapir_ray.errors import InputError

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Count = Annotated[int, Field(ge=1)]

SIMULATOR = "simulator"
"""The `base_url` that names the simulator of the config."""


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class SeedData(Section):
    """Where the seed instructions come from."""

    path: str | None = None
    """File, folder or HF hub id; may be left out only where `simulator.seed_rows` writes the seed data."""
    revision: str | None = None
    format: Literal["auto", "alpaca", "messages", "sharegpt", "prompt", "parquet", "hf"] = "auto"
    limit: Count | None = None
    """Rows read, in file order; the `recorded` simulator serves the ones beyond."""
    responses: Literal["keep", "fill", "replace"] = "keep"
    turns: Literal["last", "all"] = "last"
    task_column: str | None = None
    licence: str | None = None
    skip_malformed: bool = False
    """A malformed row stops the run (default) or becomes a filtered row with the line in its reason."""


class Holdout(Section):
    """Rows split off by hash before anything else; only they say what is better."""

    rows: Annotated[int, Field(ge=0)] = 400
    max_share: Share = 0.2
    """At most this share of the seed data (of each stratum) is held out."""
    stratify_by: list[str] = []
    """Columns of the seed file; the holdout then takes equal numbers from each combination of their values."""


class Sampling(Section):
    """Sampling parameters of a role; `null` leaves the engine's default."""

    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: Count = 512


class CreateModel(Section):
    """A small model made from its config on the spot (random weights), with a tokenizer trained on the seed data."""

    hidden_size: Count = 128
    intermediate_size: Count = 512
    layers: Count = 3
    heads: Count = 4
    vocab_size: Count = 2048
    max_length: Count = 512
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the random weights; a very small student learns faster from larger ones (0.07)."""

    @model_validator(mode="after")
    def _divisible(self) -> CreateModel:
        if self.hidden_size % self.heads:
            raise ValueError(f"create.hidden_size {self.hidden_size} is not a multiple of create.heads {self.heads}")
        return self


class Limits(Section):
    """What may be asked of an endpoint, over all workers of the cluster; `null` is no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    in_flight: Count = 64


class Price(Section):
    """US dollars per million tokens."""

    input: Annotated[float, Field(ge=0)] = 0.0
    cached_input: Annotated[float, Field(ge=0)] | None = None
    output: Annotated[float, Field(ge=0)] = 0.0
    reasoning: Annotated[float, Field(ge=0)] | None = None


class Batch(Section):
    """How requests become batches of a provider's batch API (engine `openai_batch`)."""

    size: Count = 10_000
    """Requests that may wait at once, over all workers, and that a batch has at most."""
    window_s: Annotated[float, Field(gt=0)] = 10.0
    """A batch is submitted when no request has come for so long."""
    poll_s: Annotated[float, Field(gt=0)] = 30.0
    price_factor: Annotated[float, Field(ge=0)] = 0.5


class Endpoint(Section):
    """A model behind the OpenAI protocol (`openai`), its batch API (`openai_batch`: half the price, up to a day), or
    one that this run serves with vLLM (`vllm`)."""

    engine: Literal["openai", "openai_batch", "vllm"] = "openai"
    model: str = "gpt-4.1"
    base_url: str | None = None
    """`simulator` names the simulator of this config; empty is the client's default."""
    api_key_env: str | None = "OPENAI_API_KEY"
    """Name of the environment variable with the key; null sends none."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=1024)
    max_completion_tokens: Count | None = None
    """Sent instead of `max_tokens` where a model wants it so (reasoning models)."""
    reasoning: Literal["drop", "keep"] = "drop"
    extra_body: dict[str, Any] = {}
    timeout_s: Annotated[float, Field(gt=0)] = 120.0
    max_attempts: Count = 6
    limits: Limits = Limits()
    price: Price | None = None
    """Empty is the list price of `prices.yaml` for the models that it knows; a price of 0 is a free endpoint."""
    batch: Batch = Batch()
    max_model_len: Count = 4096
    trust_remote_code: bool = False
    engine_kwargs: dict[str, Any] = {}

    @property
    def known_price(self) -> Price | None:
        """What the model costs: as given, nothing where it is served here or simulated, or as listed; else None.

        A batch has its `price_factor` of that.
        """
        if self.price is None and (self.engine == "vllm" or self.base_url == SIMULATOR):
            return Price()
        listed = prices.listed_price(self.model, self.base_url) if self.price is None else self.price.model_dump()
        if listed is None:
            return None
        factor = self.batch.price_factor if self.engine == "openai_batch" else 1.0
        return Price(**{name: value and value * factor for name, value in listed.items()})


class Student(Section):
    """The model that learns: a HF name or folder (`model`), or one made on the spot (`create`)."""

    engine: Literal["vllm", "openai"] = "vllm"
    model: str | None = None
    revision: str | None = None
    create: CreateModel | None = None
    endpoint: Endpoint | None = None
    """Of engine `openai`: where the student answers. It stays the same over the rounds, whatever is trained here."""
    chat_template: str | None = None
    """Name of a shipped template (`plain`, `chatml`, `llama2`, `vicuna`) or a file, for a model without one."""
    chat_template_kwargs: dict[str, Any] = {}
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Count = 2048
    sampling: Sampling = Sampling()
    engine_kwargs: dict[str, Any] = {}
    """Passed to vLLM as they are."""
    batch_size: Count = 64

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if (self.model is None) == (self.create is None):
            raise ValueError("give exactly one of student.model (a HF name or folder) and student.create")
        if (self.engine == "openai") != (self.endpoint is not None):
            raise ValueError("student.engine openai needs student.endpoint, and engine vllm needs none")
        if self.endpoint is not None and self.endpoint.engine != "openai":
            raise ValueError("student.endpoint.engine must be openai; student.engine vllm runs the student here")
        if self.create is not None and self.max_model_len > self.create.max_length:
            longest = self.create.max_length
            raise ValueError(f"student.max_model_len {self.max_model_len} is above student.create.max_length {longest}")
        return self


class Judge(Endpoint):
    """Who scores answers; the teacher, unless `model`, `engine` or `base_url` is given."""

    same_as: Literal["teacher"] | None = None
    """`teacher` shares the teacher's endpoint, limits and price; the judge has its own `sampling`."""
    mode: Literal["pairwise", "pointwise"] = "pairwise"
    both_orders: bool = True
    parse_attempts: Count = 3
    """Times an unparseable reply is asked for again before the row fails."""
    repeat_share: Share = 0.05
    """Share of the scored rows that is judged twice, to report the noise σ against the threshold."""
    min_teacher_score: Annotated[float, Field(ge=1, le=10)] = 4.0
    """A teacher answer scored below makes the row unreliable: in neither pool."""

    @model_validator(mode="before")
    @classmethod
    def _whose(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = sorted(given.keys() & (Endpoint.model_fields.keys() - {"sampling"}))
        if given.get("same_as") == "teacher" and any(given[key] != _default(Endpoint, key) for key in own):
            raise ValueError(f"judge.{own[0]} has no effect with judge.same_as teacher; leave one of them out")
        if "same_as" not in given and not given.keys() & {"model", "engine", "base_url"}:
            return {**given, "same_as": "teacher"}
        return given


class Classify(Section):
    """Where task labels come from."""

    by: Literal["deberta", "teacher", "column", "none"] = "deberta"
    model: str | None = None
    """A fine-tuned HF name or folder: used as it is. With `label_rows` it is a base model to fine-tune."""
    create: CreateModel | None = None
    label_rows: Annotated[int, Field(ge=0)] = 0
    """Instructions the teacher labels to fine-tune the classifier on; 0 uses `model` as it is."""
    label_attempts: Count = 3
    """Times the teacher is asked for a label before a row whose replies are none fails."""
    holdout_share: Share = 0.15
    max_length: Count = 256
    batch_size: Count = 64
    epochs: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    train_batch_size: Count = 32
    """Rows an optimizer step, over all workers."""
    warmup_share: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    class_weight_power: Share = 0.5
    """A label weighs (1 / its rows) to this power in the loss: 0 leaves the skew, 1 makes all labels count the same."""
    trust_remote_code: bool = False
    min_task_prob: Share = 0.0
    """A generated instruction is filtered as `other_task` only if the classifier is at least this sure."""

    @model_validator(mode="after")
    def _trainable(self) -> Classify:
        if self.by != "deberta":
            return self
        if (self.model is None) == (self.create is None):
            raise ValueError("classify.by deberta needs exactly one of classify.model and classify.create")
        if self.create is not None and self.label_rows == 0:
            raise ValueError("classify.create makes random weights: set classify.label_rows to train them")
        return self


class Difficulty(Section):
    """How hard a row is for the current student, and from where on it counts as hard."""

    measure: str = "mfd"
    """A registered measure or `package:function`."""
    threshold: float = 2.0
    """δ: hard if MFD ≥ δ."""
    top_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of δ: this share of the reliable rows, the hardest, is hard."""
    on_small_pool: Literal["move_threshold", "move_alpha", "stop"] = "move_threshold"
    """What the plan may move where a pool cannot fill its share."""
    min_hard_share: Share = 0.05
    """A hard pool below this share of the reliable rows is too small: expansions need sources."""


class Curriculum(Section):
    """The plan over rounds: α_{r+1} = min(1, α_r + Δα)."""

    tasks: str = "tapir"
    """`tapir` (published weights), `seed` (the seed data's own shares), or a YAML file with a taxonomy."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = {}
    """Replaces the weights: tasks that are not named get 0; must sum to 1."""
    toxicity: bool = False
    rounds: Annotated[int, Field(ge=0)] = 3
    alpha: Share = 0.3
    alpha_step: Share = 0.2
    difficulty: Difficulty = Difficulty()

    @field_validator("weights")
    @classmethod
    def _sum_to_one(cls, weights: dict[str, float]) -> dict[str, float]:
        if weights and abs(sum(weights.values()) - 1.0) > 1e-3:
            raise ValueError(f"the weights sum to {sum(weights.values()):.4f}; they must sum to 1")
        return weights


class Score(Section):
    """What is answered by the student and judged each round."""

    max_rows: Count = 10_000


class Expand(Section):
    """New instructions like the hard ones."""

    size: Count = 10_000
    """Draws a round; each gives at most one instruction."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    annotation: str = "respond"
    """How a new instruction gets its answer: a registered annotation or `package:function`."""


class Filter(Section):
    """What a generated row must pass."""

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = 0.7
    """Jaccard similarity of word 3-grams from which two instructions are the same."""
    ngram: Annotated[int, Field(ge=0)] = 13
    """A shared word n-gram of this length with a holdout or evaluation row is an overlap; 0 is off."""
    max_chars: Count = 8000
    other_task: bool = True
    evaluation_sets: list[str] = []
    """Files whose instructions must not be trained on."""
    functions: list[str] = []
    """`package:function`, each called with a row; returns a reason to drop it, or None."""


class Respond(Section):
    """The teacher's answers to new instructions."""

    samples: Count = 1
    """Answers asked for; with more than one the judge keeps the best."""
    min_score: Annotated[float, Field(ge=1, le=10)] | None = None
    """The judge gates new answers: below, the row is filtered."""


class Rewrite(Section):
    """The task's style: one styled call, or an answer and then its rewriting (the paper's)."""

    mode: Literal["combined", "second_pass"] = "combined"


class Mix(Section):
    """The training set of a round."""

    unit: Literal["tokens", "pairs"] = "tokens"
    size: Count | None = None
    """In `unit`s; empty takes as much as the pools give at α, which uses the smaller of them whole, `max_repeat` times:
    in that pool the tasks are then as its rows are, not as their weights."""
    max_repeat: Count = 2


class Train(Section):
    """Fine-tuning by Ray Train and DeepSpeed."""

    initial_sft: Literal["auto", "on", "off"] = "auto"
    """Fine-tune on the seed data first; `auto`: a model without a chat template of its own."""
    init_from: Literal["previous", "base"] = "previous"
    data: Literal["current", "cumulative"] = "current"
    initial_epochs: Count = 1
    epochs: Count = 1
    sequence_length: Count = 2048
    over_length: Literal["filter", "cut"] = "filter"
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    round_learning_rate: Annotated[float, Field(gt=0)] | None = None
    """Peak learning rate of the rounds after the initial SFT; empty is `learning_rate`."""
    warmup_share: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    gradient_clipping: Annotated[float, Field(ge=0)] = 1.0
    global_batch: Count = 64
    """Sequences an optimizer step, over all workers."""
    micro_batch: Count = 4
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    gradient_checkpointing: bool = False
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """A worker that dies costs at most this much training: the others wait for it and go on from the checkpoint."""
    checkpoint_steps: Count | None = None
    """A checkpoint every so many optimizer steps, instead of by time."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Times the workers of one training may die before the run stops."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"

    @field_validator("initial_sft", mode="before")
    @classmethod
    def _on_and_off_of_yaml(cls, given: Any) -> Any:
        """YAML reads a bare `on` or `off` as a truth value."""
        return {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given


class Replicas(Section):
    """Resources of one kind of worker."""

    replicas: Count = 1
    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    tensor_parallel: Count = 1
    accelerator_type: str | None = None


class Resources(Section):
    """What each part claims of the cluster. The same file with other `resources` runs elsewhere."""

    cpus: Count | None = None
    """CPUs Ray is told of when it is started here; empty is what the machine has."""
    object_store_gb: Annotated[float, Field(gt=0)] | None = None
    stage_cpus: Annotated[float, Field(gt=0)] = 0.1
    """CPUs each plain stage task claims; small, so that a pipeline fits a small machine."""
    rows_per_part: Count = 64
    """Rows that are written together by the stages that ask models: what a stop can lose of each."""
    request_workers: Count = 1
    """Actors that send requests to endpoints."""
    student: Replicas = Replicas()
    teacher: Replicas = Replicas()
    judge: Replicas = Replicas()
    classifier: Replicas = Replicas(cpus=0.5)
    train: Replicas = Replicas()
    no_progress_timeout_s: Annotated[float, Field(gt=0)] = 900.0


class Prompts(Section):
    dir: str | None = None
    """A folder whose files replace the shipped prompts of the same name."""


class Simulator(Section):
    """A simulated teacher and judge that this run starts on loopback (`tapir simulate` starts one by hand)."""

    scenario: str = "tasks"
    """`tasks`, or `recorded`: the rows of `seed_data.path` beyond `seed_data.limit`."""
    path: str | None = None
    """Another file of recorded pairs for `recorded`."""
    seed_rows: Annotated[int, Field(ge=0)] = 0
    """`tasks`: write this many skewed seed rows into the run and use them as seed data."""
    latency_s: Annotated[float, Field(ge=0)] = 0.0
    judge_noise: Annotated[float, Field(ge=0)] = 0.0
    position_bias: float = 0.0
    length_bias: float = 0.0
    error_rate: Share = 0.0
    """Share of the requests that meet an error: 429, 500, 503, a dropped or hanging connection, a broken reply."""
    max_requests_per_minute: Count | None = None
    """What is above it in any 60 seconds is answered 429."""
    log: str | None = None


class Cache(Section):
    """Replies are kept, and the same request is not paid for twice."""

    enabled: bool = True
    dir: str | None = None
    """Folder or URI that several runs may share; empty is `cache` in the run's own."""


class Budget(Section):
    max_cost: Annotated[float, Field(gt=0)] | None = None
    max_tokens: Count | None = None


class Config(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    run_dir: str | None = None
    """Folder or URI of the run; empty is `runs/NAME`."""
    random_seed: int = 0
    seed_data: SeedData = SeedData()
    holdout: Holdout = Holdout()
    student: Student
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
    resources: Resources = Resources()
    prompts: Prompts = Prompts()
    budget: Budget = Budget()
    cache: Cache = Cache()
    simulator: Simulator | None = None
    max_error_rate: Share = 0.05

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        writes_seed = self.simulator is not None and self.simulator.seed_rows > 0
        if self.seed_data.path is None and not writes_seed:
            raise ValueError("seed_data.path is missing: name a file, a folder or a HF hub id")
        for key, endpoint in self.endpoints.items():
            if endpoint.base_url == SIMULATOR and self.simulator is None:
                raise ValueError(f"{key}.base_url is 'simulator' but the config has no simulator section")
            if self.budget.max_cost is not None and endpoint.known_price is None:
                raise ValueError(
                    f"budget.max_cost cannot be kept without {key}.price, as {endpoint.model} is not in our list; "
                    "set it, or use budget.max_tokens"
                )
        if self.respond.samples > 1 and self.teacher.sampling.temperature == 0.0:
            raise ValueError(
                f"respond.samples {self.respond.samples} would be the same answer: set teacher.sampling.temperature"
            )
        for part in ("classifier", "train"):
            if getattr(self.resources, part).tensor_parallel > 1:
                raise ValueError(f"resources.{part}.tensor_parallel has no effect; use resources.{part}.replicas")
        if self.classify.by == "column" and self.seed_data.task_column is None:
            raise ValueError("classify.by column needs seed_data.task_column")
        if self.train.sequence_length > self.student.max_model_len:
            raise ValueError(
                f"train.sequence_length {self.train.sequence_length} is above student.max_model_len "
                f"{self.student.max_model_len}"
            )
        workers = self.resources.train.replicas
        if self.train.global_batch % workers:
            raise ValueError(
                f"train.global_batch {self.train.global_batch} is not a multiple of resources.train.replicas {workers}"
            )
        return self

    @property
    def endpoints(self) -> dict[str, Endpoint]:
        """The endpoints that requests go to, by the key that describes them."""
        found: dict[str, Endpoint] = {"teacher": self.teacher}
        if self.judge.same_as is None:
            found["judge"] = self.judge
        if self.student.endpoint is not None:
            found["student.endpoint"] = self.student.endpoint
        return found

    @property
    def judge_endpoint(self) -> Endpoint:
        """The endpoint the judge's requests go to: its own, or the teacher's with the judge's sampling."""
        if self.judge.same_as == "teacher":
            return self.teacher.model_copy(update={"sampling": self.judge.sampling})
        return self.judge

    def dump(self) -> str:
        """The whole configuration as YAML, every default written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)

    def results(self) -> dict[str, Any]:
        """Everything that changes results (not `run_dir`, `resources`, limits, cache or budget), as nested mappings."""
        content = self.model_dump(
            mode="json", exclude={"name", "run_dir", "resources", "budget", "cache", "max_error_rate"}
        )
        for endpoint in (content["teacher"], content["judge"], content["student"]["endpoint"] or {}):
            for speed in ("limits", "price", "timeout_s", "max_attempts", "api_key_env", "base_url", "batch"):
                endpoint.pop(speed, None)
        content["student"].pop("batch_size")
        content["classify"].pop("batch_size")
        for speed in ("micro_batch", "checkpoint_minutes", "checkpoint_steps", "max_failures"):
            content["train"].pop(speed)
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


def load(path: str | Path, overrides: list[str] | None = None) -> Config:
    """The configuration in `path` with `a.b=c` overrides applied (values are YAML).

    Raises InputError with one sentence that names the file and the key.
    """
    try:
        text = Path(path).read_text()
    except OSError as error:
        raise InputError(f"cannot read the config {path}: {error.strerror}") from error
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is empty or not a mapping of keys to values")
    for override in overrides or []:
        _apply(content, override)
    return parse(content, where=str(path))


def parse(content: dict[str, Any], where: str = "config") -> Config:
    """Validate a mapping. Raises InputError that names the first bad key and counts the others."""
    try:
        return Config.model_validate(content)
    except ValidationError as error:
        raise InputError(f"{where}: {_sentence(error)}") from error


def _apply(content: dict[str, Any], override: str) -> None:
    key, separator, value = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set {override}: write it as key.subkey=value")
    node = content
    *parents, last = key.split(".")
    for parent in parents:
        if node.get(parent) is None:
            node[parent] = {}
        node = node[parent]
        if not isinstance(node, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section")
    try:
        node[last] = yaml.safe_load(value) if value else None
    except yaml.YAMLError as error:
        raise InputError(f"--set {override}: the value is not valid YAML: {' '.join(str(error).split())}") from error


def _sentence(error: ValidationError) -> str:
    first, *others = error.errors()
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        message = f"unknown key; {_hint(first['loc'])}"
    elif "input" in first and not isinstance(first["input"], dict):
        message = f"{message} (it is {first['input']!r})"
    more = f" (and {len(others)} more)" if others else ""
    return f"{key}: {message}{more}" if key else f"{message}{more}"


def _default(section: type[Section], key: str) -> Any:
    value = section.model_fields[key].get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, Section) else value


def _hint(place: tuple[int | str, ...]) -> str:
    """The key that was probably meant at an unknown one's place, or the keys that there are."""
    section: type[Section] = Config
    for part in place[:-1]:
        annotation = section.model_fields[str(part)].annotation
        kinds = (annotation, *get_args(annotation))
        section = next(kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section))
    near = difflib.get_close_matches(str(place[-1]), section.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else f"the keys here are {', '.join(section.model_fields)}"
