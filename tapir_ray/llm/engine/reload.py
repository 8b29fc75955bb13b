"""Extension of vLLM's worker that gives a running engine the weights of another model folder.

arguments["worker_extension_cls"] = "tapir_ray.llm.engine.reload.Reloading"
await engine.collective_rpc("take_weights", args=("runs/demo/checkpoints/01",))
"""

from __future__ import annotations

from typing import Any

from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

EXTENSION = f"{__name__}.Reloading"


class Reloading:
    """Mixin of vLLM's worker. vLLM adds it to the class of the worker by its name."""

    def take_weights(self, folder: str) -> None:
        """Replaces the weights by those of a folder with a model of the same architecture.

        Raises RuntimeError if the output layer is tied to the embeddings and does not share their weights.
        """
        worker: Any = self
        worker.reload_weights(weights_path=folder)
        model = worker.get_model()
        embeddings = [layer for layer in model.modules() if isinstance(layer, VocabParallelEmbedding)]
        heads = [layer for layer in embeddings if isinstance(layer, ParallelLMHead)]
        inputs = {id(layer.weight) for layer in embeddings if layer not in heads}
        for head in heads:
            if id(head.weight) in inputs:
                # A tied output layer has no weights in the folder, so vLLM does not process it again. On CPUs it would
                # compute with its packed copy of the old weights.
                head.quant_method.process_weights_after_loading(head)
            elif getattr(worker.model_config.hf_text_config, "tie_word_embeddings", False):
                raise RuntimeError("the output layer does not share the weights of the embeddings it is tied to")
