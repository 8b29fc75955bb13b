"""What the method does: curriculum, expansion, filters, answers, mix and training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tapir_ray.config.section import Count, Section, Share, key


class Difficulty(Section):
    """How hard a row is for the current student, and from where on it counts as hard."""

    measure: str = key("mfd", invalidates=("scored", "evaluation"))
    """A registered measure or `package:object` (docs/measures.md). The judge scores no answer of the student for a
    measure that does not need it."""
    threshold: float = 2.0
    """δ: hard if difficulty ≥ δ, in units of the measure."""
    top_fraction: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Instead of δ: this share of the reliable rows, the hardest, is hard."""
    on_small_pool: Literal["move_threshold", "move_alpha", "stop"] = "move_threshold"
    """What the plan may move where a pool cannot fill its share."""
    min_hard_share: Share = 0.05
    """A hard pool below this share of the reliable rows is too small: expansions need sources."""


class Curriculum(Section):
    """The plan over rounds: α_{r+1} = min(1, α_r + Δα)."""

    tasks: str = key("tapir", invalidates=("labels", "instructions"))
    """`tapir` (published weights), `seed` (the seed data's own shares), or a YAML file with a taxonomy."""
    weights: dict[str, Annotated[float, Field(ge=0)]] = key(default_factory=dict, invalidates=("candidates",))
    """Replaces the weights: tasks that are not named get 0; must sum to 1."""
    toxicity: bool = key(False, invalidates=("labels", "instructions", "candidates"))
    rounds: Annotated[int, Field(ge=0)] = key(3, invalidates=("evaluation",))
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
    annotation: str = key("respond", invalidates=("generated",))
    """How a new instruction gets its answer: a registered annotation or `package:function`."""


class Filter(Section):
    """What a row must pass. Texts are compared without the system's turns (docs/filters.md)."""

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = key(0.7, invalidates=("ingested",))
    """Jaccard similarity of word 3-grams (of characters, in scripts without spaces) from which two instructions are the
    same."""
    ngram: Annotated[int, Field(ge=0)] = key(13, invalidates=("common_ngrams",))
    """A shared word n-gram of this length with a holdout or evaluation row is an overlap; 0 is off."""
    common_ngram_rows: Count | None = key(10, invalidates=("common_ngrams",))
    """Boilerplate: an n-gram that more training rows have than this is left out of the comparison; null leaves none
    out."""
    warn_share: Share = key(0.2, invalidates=())
    """More than this share of a table filtered for one reason is reported, with three examples."""
    max_share: Share = key(0.8, invalidates=())
    """More than this share of a table filtered for one reason stops the run; 1 lets it go on."""
    max_chars: Count = 8000
    other_task: bool = key(True, invalidates=("expanded",))
    evaluation_sets: list[str] = key(default_factory=list, invalidates=("evaluation_sets",))
    """Files whose instructions must not be trained on."""
    functions: list[str] = Field(default_factory=list)
    """`package:function`, each called with a row; returns a reason to drop it, or None."""

    @model_validator(mode="after")
    def _warns_before_it_stops(self) -> Filter:
        if self.warn_share > self.max_share:
            raise ValueError(
                f"warn_share {self.warn_share:g} is above max_share {self.max_share:g}, which stops the run"
            )
        return self


class Respond(Section):
    """The teacher's answers to new instructions."""

    samples: Count = 1
    """Answers asked for; with more than one the judge keeps the best."""
    min_score: Annotated[float, Field(ge=1, le=10)] | None = None
    """The judge gates new answers: below, the row is filtered."""

    @property
    def scores(self) -> bool:
        """Whether the judge scores new answers."""
        return self.samples > 1 or self.min_score is not None


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


class Lora(Section):
    """Low-rank adapters (peft) are trained in the place of the weights; a checkpoint is a plain model all the same."""

    rank: Count = 16
    alpha: Count = 32
    """The adapter's product counts `alpha / rank` times."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Linear modules that get an adapter, by the ends of their names (`q_proj`); `all-linear` is all but the output."""
    between_rounds: Literal["merge", "continue"] = "merge"
    """`merge`: each round begins a new adapter on the student of the round before, whose weights were rounded to
    `train.precision`. `continue`: the adapter of the round before goes on, on the same base (kept in
    `checkpoints/NN/adapter`)."""

    @field_validator("target_modules")
    @classmethod
    def _names_some(cls, modules: str | list[str]) -> str | list[str]:
        if not modules or not all(modules):
            raise ValueError("name at least one module, none of them empty, or write all-linear")
        return modules


class Train(Section):
    """Fine-tuning by Ray Train and DeepSpeed."""

    initial_sft: Literal["auto", "on", "off"] = key("auto", invalidates=("sft_training", "sft_checkpoint"))
    """Fine-tune on the seed data first; `auto`: a model without a chat template of its own."""
    init_from: Literal["previous", "base"] = key("previous", invalidates=("packed",))
    data: Literal["current", "cumulative"] = key("current", invalidates=("packed",))
    """`cumulative`: a round trains on its own mix and on those of all rounds before. The hard share is then that of all
    these mixes together, not the round's α; a pair that several of them hold is trained on once for each, at places
    that have nothing to do with one another."""
    initial_epochs: Count = key(1, invalidates=("sft_packed",))
    epochs: Count = key(1, invalidates=("packed",))
    sequence_length: Count = 2048
    packing: bool = True
    """Several pairs a sequence, none of which sees another. False gives each pair a sequence of its own: for students
    that cannot keep them apart (linear attention, convolutions), which training looks at and refuses."""
    over_length: Literal["filter", "truncate"] = "filter"
    loss_mask: Literal["last", "all"] = "last"
    """What of a conversation is in the loss: its response, or all answers of the assistant after the first question.
    A conversation whose earlier answers the chat template rewrites (it drops their thinking) has its response alone."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    round_learning_rate: Annotated[float, Field(gt=0)] | None = key(None, invalidates=("packed",))
    """Peak learning rate of the rounds after the initial SFT; empty is `learning_rate`."""
    warmup_ratio: Share = 0.03
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    global_batch_size: Count = 64
    """Sequences an optimizer step, over all workers."""
    micro_batch_size: Count = key(4, invalidates=())
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """In bfloat16 stages 2 and 3 add up the gradients of micro-batches in 32 bits, 0 and 1 in 16."""
    gradient_checkpointing: bool = key(False, invalidates=())
    checkpoint_minutes: Annotated[float, Field(gt=0)] = key(10.0, invalidates=())
    """A worker that dies costs at most this much training: the others wait for it and go on from the checkpoint."""
    checkpoint_steps: Count | None = key(None, invalidates=())
    """A checkpoint every so many optimizer steps, instead of by time."""
    checkpoints_kept: Count = key(2, invalidates=())
    """Of a training that is not done: the latest, and beside it those with the lowest loss on the holdout (without one
    the latest). The students of all rounds stay, in `checkpoints/`."""
    max_loss_rise: Annotated[float, Field(gt=0)] | None = key(3.0, invalidates=())
    """Nats by which the mean loss of ten steps may rise above its lowest (before the tenth step: above the first loss)
    before the run stops; null lets it."""
    max_failures: Annotated[int, Field(ge=0)] = key(3, invalidates=())
    """Times the workers of one training may die before the run stops."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """`flash_attention_2` needs GPUs, bfloat16, and the package flash_attn where training takes place. `sdpa` would
    leave out the cap on Gemma 2's attention, for which it is refused; on CPUs it takes each packed conversation by
    itself, on GPUs a mask hides the others."""
    lora: Lora | None = None
    """Empty trains every weight."""

    @model_validator(mode="after")
    def _one_base(self) -> Train:
        if self.lora is not None and self.lora.between_rounds == "continue" and self.init_from == "base":
            raise ValueError(
                "lora.between_rounds continue has no adapter to go on from where init_from is base: set "
                "train.init_from previous or train.lora.between_rounds merge"
            )
        return self

    @model_validator(mode="after")
    def _attention_takes_the_precision(self) -> Train:
        if self.attention == "flash_attention_2" and self.precision == "float32":
            raise ValueError(
                "attention flash_attention_2 takes 16-bit floats alone: set train.precision bfloat16 or "
                "train.attention sdpa"
            )
        return self

    @field_validator("initial_sft", mode="before")
    @classmethod
    def _on_and_off_of_yaml(cls, given: Any) -> Any:
        """YAML reads a bare `on` or `off` as a truth value."""
        return {True: "on", False: "off"}.get(given, given) if isinstance(given, bool) else given


class Evaluate(Section):
    """The suites that the last student is measured on. To add one to a finished run, start it again."""

    suites: list[str] = key(default_factory=lambda: ["holdout"], invalidates=())
    """Registered suites or `package.module:Class`. No other output depends on them."""

    @field_validator("suites")
    @classmethod
    def _each_has_its_table(cls, suites: list[str]) -> list[str]:
        names = [name_of(suite) for suite in suites]
        if doubled := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two suites have the name {doubled[0]}, which is that of their table: name each once")
        return suites


def name_of(suite: str) -> str:
    """The name of a suite, and of its table: `holdout`, or `Capitals` of `my.suites:Capitals`."""
    return suite.rpartition(":")[2]
