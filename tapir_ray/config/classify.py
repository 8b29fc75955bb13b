"""Task labels: who gives them, and how a classifier is fine-tuned on them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from tapir_ray.config.models import CreateModel
from tapir_ray.config.section import Count, Section, Share, key


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
    batch_size: Count = key(64, invalidates=())
    epochs: Count = 3
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    train_batch_size: Count = 32
    """Rows an optimizer step, over all workers."""
    warmup_ratio: Share = 0.1
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
