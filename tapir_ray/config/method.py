"""Settings of the method: scores, expansion, filters, answers, mix and training."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from tapir_ray.config.section import Count, Section, Share, key, on_and_off_of_yaml


class Score(Section):
    """Rows that the student answers and the judge scores."""

    max_rows: Count = 10_000
    """Rows per round."""
    candidates: Literal["all", "unseen"] = "all"
    """`unseen`: only rows that no training set has had, so that the difficulty does not measure memory."""


class Shares(Section):
    """Shares that sum to 1. If any is given, the others are 0."""

    @model_validator(mode="before")
    @classmethod
    def _only_those_given(cls, given: Any) -> Any:
        return {**dict.fromkeys(cls.model_fields, 0.0), **given} if isinstance(given, dict) and given else given

    @model_validator(mode="after")
    def _sum_to_one(self) -> Self:
        if abs(sum(self.shares.values()) - 1.0) > 1e-3:
            given = " + ".join(f"{name} {share:g}" for name, share in self.shares.items() if share) or "all shares 0"
            raise ValueError(f"the shares ({given}) sum to {sum(self.shares.values()):.4g}, but must sum to 1")
        return self

    @property
    def shares(self) -> dict[str, float]:
        """Share by name."""
        return {name: getattr(self, name) for name in type(self).model_fields}


class Sources(Shares):
    """Shares of a round's draws by the rows that they are drawn from."""

    hard: Share = 1.0
    easy: Share = 0.0
    random: Share = 0.0
    """All usable rows, scored or not, of any pool."""


class Operations(Shares):
    """Shares of a round's draws by the operation of Evol-Instruct, for `expand.prompt: evolve`."""

    constraint: Share = 0.2
    """Add one constraint or requirement."""
    deepen: Share = 0.2
    """Ask for more depth and breadth of the same question."""
    concretise: Share = 0.2
    """Replace general concepts by specific ones."""
    reasoning: Share = 0.2
    """Ask for more steps of reasoning."""
    breadth: Share = 0.2
    """A new, rarer topic of the same domain."""


class Expand(Section):
    """New instructions similar to drawn rows."""

    size: Count = 10_000
    """Draws per round; each gives at most one new instruction."""
    sources: Sources = Sources()
    prompt: Literal["like", "evolve", "feedback"] = "like"
    """What the teacher is asked for: an instruction like the drawn one, the drawn one changed by an operation of
    Evol-Instruct, or one on the weakness that the student's answer and the judge's reasons show (EvoKD)."""
    examples: Annotated[int, Field(ge=1, le=16)] = 1
    """Rows of one pool and task that a request shows, with `prompt: like`: the drawn one, and others by a hash."""
    operations: Operations = Operations()
    easier_share: Share = 0.5
    """With `prompt: feedback`: share of the draws that ask for an easier instruction; the others ask for a harder
    one."""
    probe_share: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of a round's generated rows that is kept out of its training set, so that the next round scores them
    unseen. The last round has none."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    annotation: str = key("respond", invalidates=("generated",))
    """Answers new instructions: a registered annotation or `package:function`."""

    @model_validator(mode="after")
    def _examples_are_varied(self) -> Self:
        if self.examples > 1 and self.prompt != "like":
            raise ValueError(
                f"examples {self.examples} shows several rows to vary, but prompt {self.prompt} changes one: set "
                "expand.examples 1 or expand.prompt like"
            )
        return self


class Filter(Section):
    """Filters of rows. Texts are compared without system turns (docs/filters.md)."""

    near_duplicate: Annotated[float, Field(gt=0, le=1)] = key(0.7, invalidates=("ingested",))
    """Two instructions are duplicates from this Jaccard similarity of their word 3-grams on; of character 3-grams in
    scripts without spaces."""
    ngram: Annotated[int, Field(ge=0)] = key(13, invalidates=("common_ngrams",))
    """A row is contaminated if it shares an n-gram of this many words with a holdout or evaluation row; 0 is off."""
    common_ngram_rows: Count | None = key(10, invalidates=("common_ngrams",))
    """An n-gram of more training rows than this is boilerplate and not compared; `null`: none is boilerplate."""
    warn_share: Share = key(0.2, invalidates=())
    """Warns, with three examples, if more of a table than this is filtered for one reason."""
    max_share: Share = key(0.8, invalidates=())
    """Stops the run if more of a table than this is filtered for one reason; 1 never stops."""
    max_chars: Count = 8000
    other_task: bool = key(True, invalidates=("expanded",))
    evaluation_sets: list[str] = key(default_factory=list, invalidates=("evaluation_sets",))
    """Files with instructions that must not be trained on."""
    functions: list[str] = key(default_factory=list, invalidates=("answers", "checked"))
    """`package:function`, each called with a row; returns a reason to filter it, or None."""

    @model_validator(mode="after")
    def _warns_before_it_stops(self) -> Filter:
        if self.warn_share > self.max_share:
            raise ValueError(
                f"warn_share {self.warn_share:g} is above max_share {self.max_share:g}, so the run stops before it "
                "warns: lower warn_share"
            )
        return self


class Respond(Section):
    """Teacher answers to new instructions."""

    samples: Count = 1
    """Answers per instruction; of several the judge keeps the best."""
    min_score: Annotated[float, Field(ge=1, le=10)] | None = None
    """Lowest judge score of a new answer; below it the row is filtered. `null`: new answers are not judged."""

    @property
    def scores(self) -> bool:
        """Whether the judge scores new answers."""
        return self.samples > 1 or self.min_score is not None


class Rewrite(Section):
    """Style of the task: one request with the style, or an answer and then its rewriting (as in the paper)."""

    mode: Literal["combined", "second_pass"] = "combined"
    tasks: Literal["all"] | list[str] = "all"
    """Tasks whose answers are written in their style; other tasks are answered plainly. `[]`: no styles."""
    mark: bool = key(False, invalidates=("pool", "answered_training", "control_pool", "new"))
    """Append the style to the last user turn of the training rows of styled answers, after a blank line."""

    @field_validator("tasks", mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        if isinstance(given, str) and given != "all":
            raise ValueError(f"write a list of tasks, such as [{given}], or all")
        return given


class Mix(Section):
    """Training set of a round."""

    unit: Literal["tokens", "pairs"] = "tokens"
    """Unit of α and `size`; tokens are those of responses."""
    size: Count | None = None
    """Units of the training set; `null` makes it as large as α allows. The smaller pool is then used whole, each row
    `max_repeat` times, so its task shares are those of its rows. Example in pairs: 100 hard and 1,000 easy rows, α 0.5,
    `max_repeat` 2 give 200 hard and 200 easy pairs."""
    max_repeat: Count = 2
    """Most times that a row may be in the set."""
    fill: Literal["none", "unscored"] = key("none", invalidates=("pool",))
    """`unscored`: rows that were not scored this round fill the set up to `size`, each once, before any row is
    repeated."""


class Lora(Section):
    """Low-rank adapters (peft), trained instead of all weights. They are merged on export: a checkpoint is a plain
    model."""

    rank: Count = 16
    alpha: Count = 32
    """The adapter is scaled by `alpha / rank`."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target_modules: Literal["all-linear"] | list[str] = "all-linear"
    """Linear modules with an adapter: a list of ends of names (`q_proj`), or all but the output (`all-linear`)."""
    between_rounds: Literal["merge", "continue"] = "merge"
    """`merge`: each round begins a new adapter on the last student, rounded to `train.precision`. `continue`: rounds
    train the same adapter on the same base (kept in `checkpoints/NN/adapter`)."""

    @field_validator("target_modules")
    @classmethod
    def _names_some(cls, modules: str | list[str]) -> str | list[str]:
        if not modules or not all(modules):
            raise ValueError("name at least one module, without empty names, or write all-linear")
        return modules


class Train(Section):
    """Fine-tuning by Ray Train and DeepSpeed."""

    initial_sft: Literal["auto", "on", "off"] = key("auto", invalidates=("sft_training", "sft_checkpoint"))
    """Fine-tune on the seed data first; `auto` does so for a model without a chat template."""
    init_from: Literal["previous", "base"] = key("previous", invalidates=("packed",))
    data: Literal["current", "cumulative"] = key("current", invalidates=("packed",))
    """`cumulative`: a round trains on the mixes of all rounds so far. The hard share is then that of all these mixes
    together, not the round's α. A pair in several mixes is trained on once for each, at independent places."""
    initial_epochs: Count = key(1, invalidates=("sft_packed",))
    initial_share: Annotated[float, Field(gt=0, le=1)] = key(1.0, invalidates=("sft_training", "pool_answers"))
    """Share of the seed rows in the initial SFT, chosen by a hash of their ids; the others stay unseen."""
    epochs: Count = key(1, invalidates=("packed",))
    sequence_length: Count = 2048
    packing: bool = True
    """Several pairs share a sequence, and none sees another. Training refuses students that cannot keep pairs apart
    (linear attention, convolutions): set `false` for them, which gives each pair its own sequence."""
    over_length: Literal["filter", "truncate"] = "filter"
    """What happens to a pair above `sequence_length`."""
    loss_mask: Literal["last", "all"] = "last"
    """Tokens in the loss: the response, or `all` answers of the assistant after the first question. If the chat
    template rewrites earlier answers (drops their thoughts), the response alone."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    round_learning_rate: Annotated[float, Field(gt=0)] | None = key(None, invalidates=("packed",))
    """Peak learning rate of the rounds after the initial SFT; `null` is `learning_rate`."""
    warmup_ratio: Share = 0.03
    """Share of the schedule's steps in which the learning rate rises."""
    schedule: Literal["per_round", "whole"] = key("per_round", invalidates=("packed",))
    """Learning-rate schedule of the rounds. `whole`: one warm-up and one decay over all of them; round r of R covers
    the part from (r − 1) / R to r / R. The initial SFT has a schedule of its own."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Gradients are scaled down to this norm; 0 is off."""
    global_batch_size: Count = 64
    """Sequences per optimizer step, over all workers; a multiple of `resources.train.replicas`."""
    micro_batch_size: Count = key(4, invalidates=())
    """Sequences per forward pass of one worker."""
    precision: Literal["float32", "bfloat16"] = "bfloat16"
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO stage. In bfloat16, 2 and 3 add up the gradients of micro-batches in 32 bits, 0 and 1 in 16."""
    gradient_checkpointing: bool = key(False, invalidates=())
    checkpoint_minutes: Annotated[float, Field(gt=0)] = key(10.0, invalidates=())
    """Minutes between checkpoints: the most training time that a dead worker costs."""
    checkpoint_steps: Count | None = key(None, invalidates=())
    """Optimizer steps between checkpoints, instead of minutes."""
    checkpoints_kept: Count = key(2, invalidates=())
    """Checkpoints kept while a training runs: the latest, and those with the lowest loss on the holdout (without a
    holdout the latest). The students of all rounds stay, in `checkpoints/`."""
    max_loss_rise: Annotated[float, Field(gt=0)] | None = key(3.0, invalidates=())
    """The run stops if the mean loss of 10 steps rises by more nats above its lowest (before step 10: above the first
    loss); `null` never stops."""
    max_failures: Annotated[int, Field(ge=0)] = key(3, invalidates=())
    """Deaths of workers in one training before the run stops."""
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    """`flash_attention_2` needs GPUs, bfloat16, and the package flash_attn on the workers. `sdpa` is refused for Gemma
    2, as it would leave out the cap on its attention scores. On CPUs `sdpa` computes packed conversations one by one,
    on GPUs together under a mask."""
    lora: Lora | None = None
    """`null` trains all weights."""

    @model_validator(mode="after")
    def _one_base(self) -> Train:
        if self.lora is not None and self.lora.between_rounds == "continue" and self.init_from == "base":
            raise ValueError(
                "lora.between_rounds continue has no adapter to continue with init_from base: set train.init_from "
                "previous or train.lora.between_rounds merge"
            )
        return self

    @model_validator(mode="after")
    def _schedule_has_one_student(self) -> Train:
        if self.schedule == "whole" and self.init_from == "base":
            raise ValueError(
                "schedule whole has one decay for a student that all rounds train, but with init_from base each round "
                "trains another one: set train.init_from previous or train.schedule per_round"
            )
        return self

    @model_validator(mode="after")
    def _attention_takes_the_precision(self) -> Train:
        if self.attention == "flash_attention_2" and self.precision == "float32":
            raise ValueError(
                "attention flash_attention_2 takes only 16-bit floats: set train.precision bfloat16 or "
                "train.attention sdpa"
            )
        return self

    _on_and_off = field_validator("initial_sft", mode="before")(on_and_off_of_yaml)
