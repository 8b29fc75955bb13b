"""Small tokenizers of the types of real models, each with control tokens and a chat template that writes them.

They are trained on a few sentences, so that a word is several tokens, and a mark encoded as text is too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Say one two three. What is 3 + 4? It is 7.",
    "import re  # a comment\n    return x < 3 and y > 4\n\n",
    "Wörter, слова, 字と語, naïve — “quoted” text | im_end im_start inst s user",
    "".join(map(chr, range(33, 127))),
] * 30
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ bos_token + '[INST] ' + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + "
    "(m.content | trim) + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + "
    "'\n' + (m.content | trim) + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% else %}{{ '<｜Assistant｜>' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜>' }}{% endif %}"
)
PHI3 = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)


def _special(*contents: str, **options: bool) -> list[AddedToken]:
    return [AddedToken(content, special=True, normalized=False, **options) for content in contents]


def _finished(tokenizer: Tokenizer, template: str, **names: str) -> Any:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=template, **names)


def _bytes(size: int = 400) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def _with_bytes(marks: tuple[str, ...]) -> Any:
    """Returns a trainer of a vocabulary that begins with the marks and a piece for each byte."""
    pieces = [*_special(*marks), *(f"<0x{byte:02X}>" for byte in range(256))]
    return trainers.BpeTrainer(vocab_size=500, special_tokens=pieces, show_progress=False)


def _forget_bytes(tokenizer: Tokenizer, marks: tuple[str, ...]) -> Tokenizer:
    """Removes the added tokens that the trainer makes of the bytes."""
    spec = json.loads(tokenizer.to_str())
    spec["added_tokens"] = [token for token in spec["added_tokens"] if token["content"] in marks]
    return Tokenizer.from_str(json.dumps(spec))


def qwen() -> Any:
    """Byte-level BPE with NFC; marks of tools and thoughts are added tokens that are not special."""
    tokenizer = _bytes()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken(mark, normalized=False) for mark in ("<tool_call>", "<think>", "</think>", "  ")])
    return _finished(tokenizer, CHATML, eos_token="<|im_end|>", pad_token="<|endoftext|>")


def llama3() -> Any:
    tokenizer = _bytes()
    marks = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    tokenizer.add_special_tokens(_special(*marks))
    return _finished(tokenizer, LLAMA3, bos_token=marks[0], eos_token=marks[-1])


def deepseek() -> Any:
    """Marks of roles are not special, and are matched in the normalised text."""
    tokenizer = _bytes()
    tokenizer.normalizer = normalizers.Sequence([])
    tokenizer.add_special_tokens(_special("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"))
    tokenizer.add_tokens([AddedToken(mark, normalized=True) for mark in ("<｜User｜>", "<｜Assistant｜>")])
    names = {"bos_token": "<｜begin▁of▁sentence｜>", "eos_token": "<｜end▁of▁sentence｜>"}
    return _finished(tokenizer, DEEPSEEK, **names)


def phi3() -> Any:
    """Marks include the white space after them."""
    tokenizer = _bytes()
    tokenizer.add_special_tokens(_special("<|endoftext|>"))
    tokenizer.add_special_tokens(_special("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", rstrip=True))
    return _finished(tokenizer, PHI3, eos_token="<|end|>", pad_token="<|endoftext|>")


def llama2() -> Any:
    """BPE of sentencepiece: a normaliser writes the first space, bytes stand for unknown characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    marks = ("<unk>", "<s>", "</s>")
    tokenizer.train_from_iterator(TEXTS, _with_bytes(marks))
    tokenizer = _forget_bytes(tokenizer, marks)
    return _finished(tokenizer, LLAMA2, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def gemma() -> Any:
    """BPE without a first space; white space and tags are added tokens that are text."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("▁"), "merged_with_previous")
    marks = ("<unk>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
    tokenizer.train_from_iterator(TEXTS, _with_bytes(marks))
    tokenizer = _forget_bytes(tokenizer, marks)
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in ("\n\n", "<h1>", "▁▁")])
    return _finished(tokenizer, GEMMA, bos_token="<bos>", eos_token="<eos>", unk_token="<unk>")


def unigram() -> Any:
    """A Unigram model whose pieces include the control tokens, so that its segmentation may find them in text too."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace()
    special = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=_special(*special), unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return _finished(tokenizer, CHATML, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def word_level() -> Any:
    """Whole words alone: a mark as text is unknown."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["<unk>", "<|im_start|>", "<|im_end|>"]
    tokenizer.train_from_iterator(TEXTS, trainers.WordLevelTrainer(special_tokens=_special(*special)))
    return _finished(tokenizer, CHATML, eos_token="<|im_end|>", unk_token="<unk>")


KINDS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "qwen": (qwen, ["<|im_end|>", "<|im_start|>", "<|endoftext|>"]),
    "llama3": (llama3, ["<|eot_id|>", "<|start_header_id|>", "<|begin_of_text|>"]),
    "deepseek": (deepseek, ["<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"]),
    "phi3": (phi3, ["<|end|>", "<|user|>", "<|endoftext|>"]),
    "llama2": (llama2, ["<s>", "</s>"]),
    "gemma": (gemma, ["<start_of_turn>", "<end_of_turn>", "<bos>"]),
    "unigram": (unigram, ["<s>", "<|im_end|>"]),
}
"""By model: its tokenizer, and its marks that a text may contain."""
