"""Settings of the models of a run and of their engines: student, teacher and judge."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import to_jsonable_python

from tapir_ray.config import prices
from tapir_ray.config.engines import OPENAI, SPECS, VLLM, EngineName, EngineSpec, spec_of
from tapir_ray.config.price import Price
from tapir_ray.config.section import Count, Section, Share, default_of, key, on_and_off_of_yaml
from tapir_ray.data.thoughts import DEFAULT_MARKS
from tapir_ray.errors.redaction import looks_like_a_key, secret_of

SIMULATOR = "simulator"
"""Value of `base_url` that stands for the simulator of the config."""


class Sampling(Section):
    """Sampling parameters of a role."""

    temperature: Annotated[float, Field(ge=0.0)] = 0.0
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    max_tokens: Count = 512


class CreateModel(Section):
    """Small model with random weights, made from its config, and a tokenizer trained on the seed data."""

    hidden_size: Count = 128
    intermediate_size: Count = 512
    layers: Count = 3
    heads: Count = 4
    vocab_size: Count = 2048
    max_length: Count = 512
    initializer_range: Annotated[float, Field(gt=0)] = 0.02
    """Standard deviation of the random weights; a very small student learns faster with 0.07."""

    @model_validator(mode="after")
    def _divisible(self) -> CreateModel:
        if self.hidden_size % self.heads:
            raise ValueError(f"create.hidden_size {self.hidden_size} is not a multiple of create.heads {self.heads}")
        return self


class Limits(Section):
    """Limits of an endpoint, over all workers of the cluster; `null` is no limit."""

    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    in_flight: Count = 64
    """Most requests at once."""


def _two_marks(mark: tuple[str, str]) -> tuple[str, str]:
    if not all(text.strip() for text in mark) or mark[0].lower() == mark[1].lower():
        raise ValueError("write two different texts, [open, close], such as ['<think>', '</think>']")
    return mark


Marks = list[Annotated[tuple[str, str], AfterValidator(_two_marks)]]
"""Pairs of texts around thoughts, as `[open, close]`."""


class Batch(Section):
    """Batches of requests to a provider's batch API."""

    size: Count = 10_000
    """Most requests that may wait at once, over all workers; also the most in a batch."""
    max_requests: Count = 50_000
    """A batch is submitted at this number of requests; OpenAI takes 50,000."""
    max_bytes: Count = 200_000_000
    """A batch is submitted before its file is larger; OpenAI takes 200 MB. A larger single request fails its row."""
    window_s: Annotated[float, Field(gt=0)] = 10.0
    """A batch is submitted if no request has come for this many seconds."""
    poll_s: Annotated[float, Field(gt=0)] = 30.0
    """Seconds between two looks at a submitted batch."""
    price_factor: Annotated[float, Field(ge=0)] = 0.5
    """Price of a batched request, as a share of the normal price."""


class Endpoint(Section):
    """Model and the engine that answers for it (docs/engines.md)."""

    engine: EngineName = OPENAI.name
    model: str = "gpt-4.1"
    base_url: str | None = key(None, invalidates=())
    """URL of the endpoint; `null` is OpenAI, `simulator` the simulator of this config."""
    api_key_env: str | None = key("OPENAI_API_KEY", invalidates=())
    """Name of the environment variable with the API key; `null` sends none."""
    sampling: Sampling = Sampling(temperature=0.0, max_tokens=1024)
    max_completion_tokens: Count | None = None
    """Sent instead of `sampling.max_tokens`, for models that require it (reasoning models)."""
    reasoning: Literal["drop", "keep"] = "drop"
    """`keep` stores the thoughts before an answer in the column `reasoning`."""
    thinking_marks: Marks = Field(default_factory=lambda: list(DEFAULT_MARKS))
    """Texts around thoughts, as `[[open, close]]`. Thoughts are removed only from the beginning of a reply. `[]` leaves
    every reply as it is. Set it for a model with other marks, or if answers may begin with a default mark."""
    finish_reasons: dict[str, Literal["stop", "length", "content_filter", "error"]] = Field(default_factory=dict)
    """Meaning of finish reasons that only this endpoint uses: whole answer (`stop`), cut off (`length`), filtered
    (`content_filter`) or to be asked again (`error`). The key "" is for replies without a finish_reason. Those of the
    common providers are known."""
    extra_body: dict[str, Any] = Field(default_factory=dict)
    """Fields to add to every request."""
    timeout_s: Annotated[float, Field(gt=0)] = key(120.0, invalidates=())
    max_attempts: Count = key(6, invalidates=())
    """Attempts of a request before its row fails."""
    limits: Limits = key(Limits(), invalidates=())
    price: Price | None = key(None, invalidates=())
    """`null` is the list price of the installed version of `genai-prices`; 0 is a free endpoint."""
    batch: Batch = key(Batch(), invalidates=())
    max_model_len: Count = 4096
    trust_remote_code: bool = False
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)

    @field_validator("api_key_env")
    @classmethod
    def _names_a_variable(cls, name: str | None) -> str | None:
        if name is not None and (not re.fullmatch(r"[A-Za-z_]\w*", name) or looks_like_a_key(name)):
            raise ValueError("write the name of an environment variable, such as OPENAI_API_KEY, not the key itself")
        return name

    @field_validator("base_url")
    @classmethod
    def _holds_no_secret(cls, url: str | None) -> str | None:
        if url is not None and (found := secret_of(url if "://" in url else f"https://{url}")):
            raise ValueError(f"the URL holds {found}, which files would show; name a variable in api_key_env")
        return url

    @field_validator("extra_body")
    @classmethod
    def _no_stream(cls, extra_body: dict[str, Any]) -> dict[str, Any]:
        if extra_body.get("stream"):
            raise ValueError("stream is not supported, as replies are read whole; leave it out")
        return extra_body

    @property
    def spec(self) -> EngineSpec:
        """Spec of the engine."""
        return spec_of(self.engine)

    @property
    def has_provider(self) -> bool:
        """Whether a provider answers, who may charge for it and change the model. Not the run's own engine, nor the
        simulator."""
        return self.spec.paid and self.base_url != SIMULATOR

    @property
    def known_price(self) -> Price | None:
        """Price of the model: `price` if given, 0 without a provider, else the list price; None if it is not listed.

        For a batch API, multiplied by `batch.price_factor`.
        """
        if self.price is None and not self.has_provider:
            return Price()
        if self.price is None:
            listed = prices.listed_price(self.model, self.base_url)
            if listed is None:
                return None
            price = Price.model_validate(listed)
        else:
            price = self.price
        return price.times(self.batch.price_factor) if self.spec.batch_s else price


class Student(Section):
    """Model that is trained: a Hugging Face name or folder (`model`), or one made from its config (`create`)."""

    engine: EngineName = key(VLLM.name, invalidates=("scored", "evaluation"))
    model: str | None = None
    revision: str | None = None
    create: CreateModel | None = None
    endpoint: Endpoint | None = key(None, invalidates=("scored", "evaluation"))
    """Endpoint where the student answers, for an engine outside the run (`openai`). Its model stays the same over the
    rounds: the run does not update it."""
    chat_template: str | None = None
    """Shipped template (`plain`, `chatml`, `llama2`, `vicuna`) or a file, for a model without one."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    trust_remote_code: bool = False
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_model_len: Count = 2048
    sampling: Sampling = key(Sampling(), invalidates=("scored", "evaluation"))
    thinking_marks: Marks = Field(default_factory=lambda: list(DEFAULT_MARKS))
    """Texts around thoughts, as for the teacher, for a student that runs here. Thoughts are not judged; a row fails if
    `sampling.max_tokens` ends them. Many templates turn them off: `chat_template_kwargs: {enable_thinking: false}`."""
    engine_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Passed to vLLM; `max_num_seqs` and `max_num_batched_tokens` default to those of `vllm.LLM`."""
    batch_size: Count = key(64, invalidates=())
    """Rows that go to the engine together."""

    @model_validator(mode="after")
    def _one_source(self) -> Student:
        if self.model is not None and self.create is not None:
            raise ValueError("give exactly one of student.model (a HF name or folder) and student.create")
        if not self.spec.student:
            raise ValueError(f"student.engine {self.engine} cannot be used for the student; set {_for_students()}")
        if self.spec.local == (self.endpoint is not None):
            needed = "runs the student here and takes no" if self.spec.local else "needs"
            raise ValueError(f"student.engine {self.engine} {needed} student.endpoint")
        if self.endpoint is not None and self.endpoint.engine != self.engine:
            raise ValueError(f"student.endpoint.engine must be {self.engine}, the same as student.engine")
        if self.endpoint is not None and self.thinking_marks != list(DEFAULT_MARKS):
            raise ValueError(
                "student.thinking_marks has no effect with an endpoint; set student.endpoint.thinking_marks"
            )
        if self.create is not None and self.max_model_len > self.create.max_length:
            longest = self.create.max_length
            raise ValueError(f"student.max_model_len {self.max_model_len} is above student.create.max_length {longest}")
        return self

    @property
    def spec(self) -> EngineSpec:
        """Spec of the engine."""
        return spec_of(self.engine)


def _for_students() -> str:
    return " or ".join(name for name, spec in SPECS.items() if spec.student)


def _is_default(key: str, value: Any) -> bool:
    # A value from YAML or JSON has lists, a default may have tuples.
    return bool(to_jsonable_python(value) == to_jsonable_python(default_of(Endpoint, key)))


class Judge(Endpoint):
    """Judge of answers; the teacher unless `model`, `engine` or `base_url` is given."""

    same_as: Literal["teacher"] | None = None
    """`teacher` shares the teacher's endpoint, limits and price; the judge has its own `sampling`."""
    mode: Literal["pairwise", "pointwise", "rubric"] = "pairwise"
    """`pairwise` shows both answers in one request, `pointwise` each in its own. `rubric` shows both and asks for a
    score of each criterion of the task (`criteria` of `curriculum.tasks`)."""
    both_orders: bool = True
    """Ask in both orders of the answers, and average the scores."""
    parse_attempts: Count = 3
    """Requests before a row without readable scores fails."""
    structured: Literal["auto", "on", "off"] = "auto"
    """Ask for JSON by a schema (`response_format`), which leaves few replies without scores. If the endpoint refuses
    it, `auto` asks in plain text from then on and `on` fails the row. A `response_format` in `extra_body` wins."""
    repeat_share: Share = 0.05
    """Share of the rows that is judged twice, to measure the noise σ."""
    repeat_temperature: Annotated[float, Field(ge=0)] = 0.7
    """Temperature of the second judging, if the judge's own is lower: at 0 an endpoint repeats its reply, whatever the
    seed. σ is then an upper bound of the noise at the judge's own temperature. With 0 for both, σ is not measured."""
    verifiers: list[str] = key(invalidates=("scored", "evaluation", "generated"), default_factory=list)
    """Registered verifiers or `package:function` (docs/measures.md). The first that grades both answers of a row scores
    it, and the judge is not asked. New answers (`respond.min_score`) and samples of a measure are graded likewise."""
    verified_share: Share = 0.05
    """Share of the verified rows that the judge scores as well, to report how far both agree."""
    min_teacher_score: Annotated[float, Field(ge=1, le=10)] = 4.0
    """A row whose teacher answer scores below is unreliable and in neither pool."""

    def repeated_at(self, endpoint: Endpoint) -> float:
        """Returns the temperature of the second judging by `endpoint`, the judge's. At 0 the replies cannot differ.

        A temperature in `extra_body` wins; `null` there is the provider's own, counted as 1.
        """
        asked = endpoint.extra_body.get("temperature", max(self.repeat_temperature, endpoint.sampling.temperature))
        return 1.0 if asked is None else float(asked)

    _on_and_off = field_validator("structured", mode="before")(on_and_off_of_yaml)

    @model_validator(mode="before")
    @classmethod
    def _whose(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = sorted(given.keys() & (Endpoint.model_fields.keys() - {"sampling"}))
        if given.get("same_as") == "teacher" and not all(_is_default(key, given[key]) for key in own):
            raise ValueError(f"judge.{own[0]} has no effect with judge.same_as teacher; leave one of them out")
        if "same_as" not in given and not given.keys() & {"model", "engine", "base_url"}:
            return {**given, "same_as": "teacher"}
        return given
