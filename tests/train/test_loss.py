"""The chunked loss equals the plain one in value and gradient for any model, and never holds all logits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import peft
import pytest
import torch
import torch.nn.functional as functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    CodeGenConfig,
    Cohere2Config,
    CohereConfig,
    Gemma2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    MixtralConfig,
    PhiConfig,
    Qwen2Config,
    VaultGemmaConfig,
)

from tapir_ray.train import loss as loss_module
from tapir_ray.train.chat import IGNORED
from tapir_ray.train.logits import Change, measured_change
from tapir_ray.train.loss import chunked_cross_entropy, response_loss, token_losses

VOCABULARY, HIDDEN, ROWS, LENGTH = 97, 32, 3, 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT = {"vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": 2, "n_head": 4, "n_positions": 64, "rotary_dim": 4}
MODELS = {
    "llama": LlamaConfig(**SIZES),
    "llama_tied": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "qwen2": Qwen2Config(**SIZES),
    "mixtral": MixtralConfig(**SIZES, num_local_experts=2),
    "phi_bias": PhiConfig(**SIZES),
    "codegen_bias": CodeGenConfig(**GPT),
    "gptj_bias": GPTJConfig(**GPT),
    "cohere_logit_scale": CohereConfig(**SIZES, logit_scale=0.25),
    "cohere2_logit_scale": Cohere2Config(**SIZES, logit_scale=0.3),
    "granite_logits_scaling": GraniteConfig(**SIZES, logits_scaling=6.0),
    "gemma2_soft_cap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=0.5),
    "gemma2_no_soft_cap": Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=None),
    "vaultgemma_soft_cap": VaultGemmaConfig(**SIZES, head_dim=8, final_logit_softcapping=0.3),
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Makes chunks of 7 tokens, so that the last one of a batch is not full. One thread suffices for tiny matrices."""
    monkeypatch.setattr(loss_module, "LOGITS_AT_ONCE", 7 * VOCABULARY + 5)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def model_of(config: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=dtype).train()
    head = model.get_output_embeddings()
    # Logits large enough for a cap to matter; a new model's bias is 0.
    torch.nn.init.normal_(head.weight, std=0.2)
    if head.bias is not None:
        torch.nn.init.normal_(head.bias)
    return model


def batch_of(share: float = 0.5) -> dict[str, torch.Tensor]:
    """Returns random tokens, `share` of them in the loss."""
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(rng.integers(3, VOCABULARY, (ROWS, LENGTH)))
    labels = ids.masked_fill(torch.from_numpy(rng.random((ROWS, LENGTH)) >= share), IGNORED)
    return {"input_ids": ids, "labels": labels, "position_ids": torch.arange(LENGTH).expand(ROWS, LENGTH).contiguous()}


def plain_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Returns the textbook loss, from all logits of the batch at once."""
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[:, :-1].float()
    return functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
    )


def gradient(model: Any, loss: torch.Tensor) -> torch.Tensor:
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad and p.grad is not None])


def assert_same(model: Any, batch: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    expected = plain_loss(model, batch)
    expected_gradient = gradient(model, expected)
    for _ in range(2):
        found = response_loss(model, batch)
        assert found.dtype == torch.float32 and found.shape == ()
        assert found.item() == pytest.approx(expected.item(), rel=tolerance)
        apart = (gradient(model, found) - expected_gradient).norm() / expected_gradient.norm()
        assert apart < tolerance


class MostLogits(TorchDispatchMode):
    """Records the most elements of any tensor made inside whose last dimension is the vocabulary."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and tensor.shape[-1:] == (VOCABULARY,):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradient_equal_the_plain_ones(name: str) -> None:
    assert_same(model_of(MODELS[name]), batch_of())


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_of_each_token_is_at_its_left_neighbour(name: str) -> None:
    model, batch = model_of(MODELS[name]).eval(), batch_of()
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits[:, :-1].float()
    expected = functional.cross_entropy(
        logits.transpose(1, 2), batch["labels"][:, 1:], ignore_index=IGNORED, reduction="none"
    )
    for _ in range(2):
        losses = token_losses(model, batch)
        assert losses.shape == (ROWS, LENGTH) and not losses.requires_grad and losses[:, -1].eq(0).all()
        torch.testing.assert_close(losses[:, :-1], expected.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_no_family_computes_all_logits_at_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    model, batch = model_of(MODELS[name]), batch_of(share=1.0)
    for _ in range(2):
        with MostLogits() as most:
            response_loss(model, batch).backward()
            token_losses(model, batch)
        assert most.elements <= max(loss_module.LOGITS_AT_ONCE, HIDDEN * VOCABULARY)
    assert not caplog.text


@pytest.mark.parametrize(
    "do",
    [
        lambda logits: logits + 1.0,
        lambda logits: logits**3,
        lambda logits: torch.cat([logits[..., :-1], logits[..., -1:] * 2], dim=-1),
        lambda logits: logits[..., :-2],
    ],
    ids=["shifted", "cubed", "one token", "cut"],
)
def test_a_model_with_another_change_of_its_logits_computes_them_at_once_and_logs_it(
    do: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model, batch = model_of(MODELS["llama"]), batch_of(share=1.0)
    batch["labels"].clamp_(max=VOCABULARY - 3)
    plain = model.forward

    def forward(**inputs: Any) -> Any:
        output = plain(**inputs)
        output.logits = do(output.logits)
        return output

    model.forward = forward
    assert_same(model, batch)
    assert caplog.text.count("all logits of a batch are computed at once") == 1


def test_the_models_change_of_its_logits_is_measured_without_side_effects() -> None:
    """Measured at any scale, in the model's dtype. The dropout of the step has the same random numbers afterwards."""
    inputs = {name: given for name, given in batch_of().items() if name != "labels"}
    for dtype in (torch.float32, torch.bfloat16):
        for settings in ({"logit_scale": 0.0625}, {"logit_scale": 7.3}):
            model = model_of(CohereConfig(**SIZES, attention_dropout=0.5, **settings), dtype)
            state = torch.get_rng_state()
            change = measured_change(model, model.get_output_embeddings(), inputs)
            assert torch.equal(torch.get_rng_state(), state) and model.training
            assert change == Change(pytest.approx(settings["logit_scale"], rel=1e-6))
    model = model_of(MODELS["gemma2_soft_cap"], torch.bfloat16)
    change = measured_change(model, model.get_output_embeddings(), inputs)
    assert change == Change(pytest.approx(1.0, rel=1e-6), pytest.approx(0.5, rel=1e-6))


@pytest.mark.parametrize("tokens", [0, 1, 6, 7, 8, 14, 15])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_give_the_loss_of_any_number_of_tokens(tokens: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(tokens, HIDDEN, dtype=dtype, requires_grad=True)
    weight = torch.randn(VOCABULARY, HIDDEN, dtype=dtype, requires_grad=True)
    targets = torch.randint(VOCABULARY, (tokens,))
    loss = functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")
    expected = torch.autograd.grad(loss * 0.25, (hidden, weight))
    found_loss = chunked_cross_entropy(hidden, weight, targets)
    found = torch.autograd.grad(found_loss * 0.25, (hidden, weight))
    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
    torch.testing.assert_close(found_loss, loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, expected, **tolerance)
    assert [gradient.dtype for gradient in found] == [dtype, dtype]


def test_gradients_are_returned_once() -> None:
    loss = response_loss(model_of(MODELS["llama"]), batch_of())
    loss.backward(retain_graph=True)
    with pytest.raises(AttributeError):
        loss.backward()


def test_the_loss_is_defined_without_gradients_and_without_responses() -> None:
    model, batch = model_of(MODELS["llama_tied"]), batch_of()
    with torch.no_grad():
        assert response_loss(model, batch).item() == pytest.approx(plain_loss(model, batch).item(), rel=1e-5)
    nothing = response_loss(model, {**batch, "labels": torch.full_like(batch["labels"], IGNORED)})
    assert nothing.item() == 0.0
    assert gradient(model, nothing).abs().sum() == 0.0


def test_bfloat16_is_as_close_to_float32_as_the_plain_loss() -> None:
    batch = batch_of()
    exact = model_of(MODELS["llama"])
    expected = gradient(exact, plain_loss(exact, batch))
    model = model_of(MODELS["llama"], torch.bfloat16)
    plain = gradient(model, plain_loss(model, batch)).float()
    chunked = gradient(model, response_loss(model, batch)).float()
    assert (chunked - expected).norm() < 1.1 * (plain - expected).norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_model_is_unchanged_afterwards(checkpointing: bool) -> None:
    model, batch = model_of(MODELS["llama"]), batch_of()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert_same(model, batch)
    assert model(input_ids=batch["input_ids"]).logits.shape == (ROWS, LENGTH, VOCABULARY)


@pytest.mark.parametrize("more", [{}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["q_proj", "lm_head"]}])
def test_adapters_have_the_plain_loss(more: dict[str, Any]) -> None:
    settings = {"target_modules": ["q_proj", "v_proj"], **more}
    model = peft.get_peft_model(model_of(MODELS["llama"]), peft.LoraConfig(r=2, init_lora_weights=False, **settings))
    assert_same(model, batch_of())
