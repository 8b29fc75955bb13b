"""Settings of task labels: their source, and how a classifier is fine-tuned on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapir_ray.config.models import CreateModel
from tapir_ray.config.section import Count, Section, Share, key


class Classify(Section):
    """Source of the task labels."""

    by: Literal["deberta", "teacher", "column", "none"] = "deberta"
    model: str | None = None
    """Hugging Face name or folder of a fine-tuned classifier; with `label_rows` above 0, of a base to fine-tune."""
    create: CreateModel | None = None
    label_rows: Annotated[int, Field(ge=0)] = 0
    """Rows that the teacher labels, to fine-tune the classifier on; 0 uses `model` as it is."""
    label_attempts: Count = 3
    """Requests for a label before the row fails."""
    holdout_share: Share = 0.15
    max_length: Count = 256
    batch_size: Count = key(64, invalidates=())
    epochs: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    train_batch_size: Count = 32
    """Rows per optimizer step, over all workers."""
    warmup_ratio: Share = 0.1
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    class_weight_power: Share = 0.5
    """Weight of a label in the loss: (1 / its rows) to this power. 0 keeps the skew, 1 weighs all labels equally."""
    trust_remote_code: bool = False
    min_task_prob: Share = 0.0
    """A generated instruction is filtered as `other_task` only if its predicted task has this probability or more."""

    @model_validator(mode="after")
    def _trainable(self) -> Classify:
        if self.by != "deberta":
            return self
        if (self.model is None) == (self.create is None):
            raise ValueError("classify.by deberta needs exactly one of classify.model and classify.create")
        if self.create is not None and self.label_rows == 0:
            raise ValueError("classify.create makes random weights: set classify.label_rows above 0 to train them")
        return self
