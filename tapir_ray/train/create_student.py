"""Creates a small student: a Llama with random weights and a tokenizer trained on the seed texts.

    create_student(CreateModel(), texts, "runs/x/checkpoints/base", chat_template=None, seed=0)

The tokenizer is a byte-level BPE whose pre-tokenizer splits into words, single digits and single punctuation marks. If
the vocabulary is large enough, every frequent word is one token; unseen text is encoded as bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tapir_ray.config import CreateModel
from tapir_ray.errors import InputError
from tapir_ray.train.chat import resolve_template

PAD, END = "<|pad|>", "<|end|>"
SPECIAL_TOKENS = (PAD, "<|system|>", "<|user|>", "<|assistant|>", END)
"""Special tokens in the order of their ids, 0 to 4; the `plain` template writes the role tokens."""

WORDS = r" ?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]|\s+(?!\S)|\s"
"""Pattern of pre-tokens. A word or mark includes the space before it. Digits are single tokens, so that a number is
encoded the same way everywhere."""

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def create_student(
    create: CreateModel, texts: Iterable[str], folder: str, chat_template: str | None, seed: int
) -> None:
    """Writes a HF folder with model, tokenizer, chat template and generation config; the same seed, the same bytes.

    The vocabulary has at most `create.vocab_size` tokens, fewer if the texts need fewer. `chat_template` is a name or
    file as in `student.chat_template`; None is `plain`. Raises InputError if the sizes do not fit together.
    """
    import torch
    from transformers import GenerationConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    if create.hidden_size % create.heads:
        raise InputError(
            f"student.create.hidden_size {create.hidden_size} is not a multiple of student.create.heads "
            f"{create.heads}: change one of them"
        )
    tokenizer = _tokenizer(create, texts, resolve_template(chat_template or "plain"))
    ids: dict[str, Any] = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    config = model_config(create, len(tokenizer), ids)
    # The caller's random numbers stay as they are.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(bos_token_id=None, **ids)
    Path(folder).mkdir(parents=True, exist_ok=True)
    disable_progress_bar()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def model_config(create: CreateModel, vocabulary: int, ids: dict[str, Any]) -> Any:
    """Returns the `LlamaConfig` of a created student with this number of tokens; `ids` are those of special tokens."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=create.hidden_size,
        intermediate_size=create.intermediate_size,
        num_hidden_layers=create.layers,
        num_attention_heads=create.heads,
        num_key_value_heads=create.heads,
        max_position_embeddings=create.max_length,
        initializer_range=create.initializer_range,
        tie_word_embeddings=True,
        bos_token_id=None,
        **ids,
    )


def _tokenizer(create: CreateModel, texts: Iterable[str], template: str) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if create.vocab_size < SMALLEST_VOCABULARY:
        raise InputError(
            f"student.create.vocab_size {create.vocab_size} is too small: raise it to at least {SMALLEST_VOCABULARY}, "
            "for the bytes and special tokens"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=create.vocab_size,
        min_frequency=2,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[1:-1]),
        chat_template=template,
        model_max_length=create.max_length,
        clean_up_tokenization_spaces=False,
    )
