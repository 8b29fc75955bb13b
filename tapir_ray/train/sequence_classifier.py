"""Sequence classification model with its tokenizer, for training and for classification.

    model = SequenceClassifier("microsoft/deberta-v3-base", max_length=256, labels=["Math", "Writing"])
    labels, probabilities = model.predict(model.encode(["What is 2 + 2?"]), batch_size=64)

The model is a HF name, folder or URI. Import this module in workers only: it loads torch and transformers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import AutoTokenizer

from tapir_ray.run.model_store import local
from tapir_ray.train.batches import longest_first
from tapir_ray.train.weights import load_classifier, refuse_sizes

TokenIds = list[int]

TOKENS_ON_CPU = 1024
"""Most padded tokens of a batch on a CPU; larger batches leave the caches, which halves rows per second (measured)."""


class SequenceClassifier:
    """`model`, in 32-bit floats, and its `tokenizer`. Texts are truncated to their first `max_length` tokens.

    With `labels` the head has exactly these outputs; weights of a head of another size are dropped. `threads` sets
    torch's threads in this process; `gpu` puts the model on the worker's GPU.

    Raises InputError for files or weights that are missing, unexpected or do not fit together.
    """

    def __init__(
        self,
        name: str,
        *,
        max_length: int,
        labels: Sequence[str] | None = None,
        threads: int = 1,
        gpu: bool = False,
        trust_remote_code: bool = False,
    ) -> None:
        torch.set_num_threads(threads)
        self.device = torch.device("cuda" if gpu else "cpu")
        self.tokenizer = AutoTokenizer.from_pretrained(local(name), trust_remote_code=trust_remote_code)
        self.tokenizer.truncation_side = "right"
        head = {}
        if labels is not None:
            head = {
                "num_labels": len(labels),
                "id2label": dict(enumerate(labels)),
                "label2id": {label: index for index, label in enumerate(labels)},
            }
        # A checkpoint in 16 bits, as DeBERTa-v3's, would otherwise be trained in 16 bits, which gives NaN.
        self.model = load_classifier(
            name,
            "classify.model",
            new_head=labels is not None,
            dtype=torch.float32,
            trust_remote_code=trust_remote_code,
            **head,
        ).to(self.device)
        refuse_sizes(self.tokenizer, self.model, name, "classify.model")
        # The attention mask hides padding, so any token serves a model without a pad token.
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model.config.pad_token_id = self.tokenizer.pad_token_id
        self.max_length = min(max_length, self.tokenizer.model_max_length)

    @property
    def labels(self) -> list[str]:
        """Names of the outputs, in order."""
        return [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]

    def encode(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text: at most `max_length`, including special tokens."""
        if not texts:
            return []
        encoded = self.tokenizer(
            list(texts),
            truncation=True,
            max_length=self.max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        return encoded["input_ids"]

    def pad(self, rows: Sequence[TokenIds]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask` [rows, longest row] on the device, padded on the right."""
        longest = max(len(row) for row in rows)
        ids_BT = np.full((len(rows), longest), self.tokenizer.pad_token_id, dtype=np.int64)
        mask_BT = np.zeros((len(rows), longest), dtype=np.int64)
        for index, row in enumerate(rows):
            ids_BT[index, : len(row)] = row
            mask_BT[index, : len(row)] = 1
        return {
            "input_ids": torch.from_numpy(ids_BT).to(self.device),
            "attention_mask": torch.from_numpy(mask_BT).to(self.device),
        }

    def predict(self, rows: Sequence[TokenIds], batch_size: int) -> tuple[list[int], list[float]]:
        """(most probable output of each row, its probability), in the order of the rows.

        Batches of at most `batch_size` rows have similar lengths, which leaves little padding. The longest rows go
        first, so that a batch that does not fit into memory fails at once.
        """
        outputs, probabilities = [0] * len(rows), [0.0] * len(rows)
        max_tokens = None if self.device.type == "cuda" else TOKENS_ON_CPU
        self.model.eval()
        with torch.inference_mode():
            for batch in longest_first([len(row) for row in rows], batch_size, max_tokens):
                logits_BC = self.model(**self.pad([rows[index] for index in batch])).logits
                best_B, output_B = logits_BC.float().softmax(dim=-1).max(dim=-1)
                for index, output, probability in zip(batch, output_B.tolist(), best_B.tolist(), strict=True):
                    outputs[index], probabilities[index] = output, probability
        return outputs, probabilities
