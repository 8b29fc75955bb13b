"""Creates a tiny DeBERTa: random weights, and a tokenizer trained on the texts to classify.

    create_classifier(config.classify.create, texts, labels, "RUN/classifier/base", seed=0)

The result is a folder for AutoTokenizer and AutoModelForSequenceClassification; it must be trained before use.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tapir_ray.config import CreateModel
from tapir_ray.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
"""Special tokens in the order of their ids, from 0."""
POSITION_BUCKETS = 32
"""Number of buckets of relative positions; distances beyond half of it share buckets. Each row computes all buckets, so
a tiny model has few."""
BYTES = 256
"""Smallest vocabulary without the special tokens: one token for each byte, so that no text is unknown."""


def create_classifier(create: CreateModel, texts: Iterable[str], labels: Sequence[str], folder: str, seed: int) -> None:
    """Writes a `DebertaV2ForSequenceClassification` with one output per label, and its tokenizer, into `folder`.

    The same arguments write the same weights. Raises InputError if the sizes do not fit together.
    """
    if create.hidden_size % create.heads:
        raise InputError(
            f"classify.create.hidden_size {create.hidden_size} is not a multiple of classify.create.heads "
            f"{create.heads}: change one of them"
        )
    if create.max_length < 8:
        raise InputError(f"classify.create.max_length {create.max_length} is below 8 tokens: raise it")
    if create.vocab_size < BYTES + len(SPECIAL_TOKENS):
        raise InputError(f"classify.create.vocab_size is below {BYTES + len(SPECIAL_TOKENS)}: raise it")
    import torch
    from transformers import DebertaV2Config, DebertaV2ForSequenceClassification, PreTrainedTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    pad, cls, sep, unk, mask = SPECIAL_TOKENS
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=train_tokenizer(texts, create.vocab_size),
        pad_token=pad,
        cls_token=cls,
        sep_token=sep,
        unk_token=unk,
        mask_token=mask,
        model_max_length=create.max_length,
    )
    # The shape of DeBERTa-v3: relative positions only, in logarithmic buckets, sharing the content projections.
    shape: dict[str, Any] = {
        "type_vocab_size": 0,
        "relative_attention": True,
        "position_biased_input": False,
        "position_buckets": min(POSITION_BUCKETS, create.max_length // 2),
        "pos_att_type": ["p2c", "c2p"],
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    }
    config = DebertaV2Config(
        vocab_size=len(tokenizer),
        hidden_size=create.hidden_size,
        intermediate_size=create.intermediate_size,
        num_hidden_layers=create.layers,
        num_attention_heads=create.heads,
        max_position_embeddings=create.max_length,
        pad_token_id=SPECIAL_TOKENS.index(pad),
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
        **shape,
    )
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = DebertaV2ForSequenceClassification(config)
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Trains a byte-level BPE tokenizer of at most `vocab_size` tokens that wraps a text in [CLS] … [SEP]."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, SPECIAL_TOKENS.index(token)) for token in ("[CLS]", "[SEP]")],
    )
    return tokenizer
