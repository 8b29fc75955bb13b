"""One worker of test_host_memory.py: reads a model as a training does and reports its peak of private memory.

python -m torch.distributed.run --nproc_per_node 2 -m tests.train.reads_a_model MODEL OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import torch
from torch import distributed
from transformers import AutoModelForCausalLM  # noqa: F401 (what imports take is not the model's)

from benchmarks.private_memory import Sampler
from tapir_ray.config import Student, Train
from tapir_ray.train import engine
from tapir_ray.train.work import Work


def main() -> None:
    model, out = sys.argv[1], Path(sys.argv[2])
    distributed.init_process_group("gloo")
    rank = distributed.get_rank()
    train = Train(zero_stage=3, precision="float32", global_batch_size=2, micro_batch_size=1)
    work = Work("", None, "", pafs.LocalFileSystem(), model, None, Student(model=model), train, 1e-3, 1, 0, None)
    engine._deepspeed(torch.device("cpu"))
    from transformers.models.llama import modeling_llama  # noqa: F401

    sampler = Sampler()

    def told(model: Any, work: Work, device: Any) -> None:
        whole_mib = sum(weight.ds_numel for weight in model.parameters()) * 4 / 2**20
        (out / f"{rank}.json").write_text(json.dumps({"whole_mib": whole_mib, "peak_mib": sampler.peak_mib()}))

    engine.engine_of = told  # type: ignore[assignment]
    engine.make_engine(work, torch.device("cpu"))


if __name__ == "__main__":
    main()
