"""Training with real Ray Train and DeepSpeed workers: the steps of a plain loop, and a usable folder."""

from __future__ import annotations

import functools
import json
import math
import os
import re
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma2Config

from tapir_ray.cluster.interrupt import interrupt, interruptible
from tapir_ray.config import Replicas, Resources, Student, Train
from tapir_ray.data.schemas import PACKED, conform
from tapir_ray.errors import StageError, Stopped
from tapir_ray.train import loop
from tapir_ray.train.batches import PackedReader, collate
from tapir_ray.train.chat import IGNORED, encode_pair, load_tokenizer
from tapir_ray.train.checkpoint import PROGRESS_FILE
from tapir_ray.train.loop import learning_rate_at
from tapir_ray.train.loss import response_loss
from tapir_ray.train.student import TrainResult, train_student

FS = pafs.LocalFileSystem()
TRAIN = Train(
    sequence_length=64,
    global_batch_size=4,
    micro_batch_size=1,
    precision="float32",
    zero_stage=2,
    warmup_ratio=0.2,
    max_grad_norm=0.5,
)
RATE = 1e-2


@pytest.fixture(scope="module")
def packed(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    return packed_folder(model, tmp_path_factory.mktemp("packed"))


def packed_folder(model: str, folder: Path, student: Student | None = None, sequences: int = 22) -> str:
    """Returns a packed table of two conversations a sequence; 22 sequences leave the last of 6 global batches of 4
    partly empty."""
    student = student or Student(model=model)
    tokenizer = load_tokenizer(model, student)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(sequences):
        ids, labels, positions = [], [], []
        for _ in range(2):
            words = " ".join(rng.choice(["one", "two", "three"], rng.integers(1, 9)))
            messages = [{"role": "user", "content": f"Say {words}."}]
            prompt, response = encode_pair(tokenizer, messages, words, student.chat_template_kwargs)
            ids += prompt + response
            labels += [IGNORED] * len(prompt) + response
            positions += range(len(prompt + response))
        row = {"seq_index": number, "input_ids": ids, "labels": labels, "position_ids": positions}
        rows.append({**row, "pair_ids": [f"pair-{2 * number}", f"pair-{2 * number + 1}"]})
    pq.write_table(conform(rows, PACKED), folder / "packed-000-000000.parquet", row_group_size=8)
    return str(folder)


def plain_losses(model_dir: str, packed: str, part: tuple[int, int] = (1, 1)) -> list[float]:
    """Returns the losses of `plain_training` of the model in a folder."""
    return plain_training(AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32), packed, part)


def plain_training(model: Any, packed: str, part: tuple[int, int] = (1, 1)) -> list[float]:
    """Trains the same model in one process, without Ray or DeepSpeed, in part r of R of a schedule."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    reader = PackedReader(packed, FS)
    losses = []
    for step in range(6):
        rows = [reader[i] for i in range(step * 4, min(step * 4 + 4, 22))]
        place, steps = (part[0] - 1) * 6 + step, part[1] * 6
        optimizer.param_groups[0]["lr"] = learning_rate_at(place, steps, RATE, TRAIN.warmup_ratio)
        optimizer.zero_grad()
        loss = response_loss(model, collate(rows, False)) / sum((row["labels"] != IGNORED).sum() for row in rows)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def run(model: str, packed: str, folder: Path, name: str, **changes: Any) -> TrainResult:
    workers = changes.pop("workers", 2)
    rate = changes.pop("learning_rate", RATE)
    on_progress, holdout = changes.pop("on_progress", None), changes.pop("holdout", None)
    base_model = changes.pop("base_model", None)
    student = changes.pop("student", Student(model=model))
    part = changes.pop("schedule_part", (1, 1))
    return train_student(
        packed_dir=packed,
        fs=FS,
        init_model=model,
        out_dir=str(folder / name),
        storage_dir=str(folder / "ray_train"),
        name=name,
        student=student,
        train=TRAIN.model_copy(update=changes),
        resources=Resources(train=Replicas(replicas=workers, cpus=1.0)),
        epochs=1,
        learning_rate=rate,
        random_seed=0,
        base_model=base_model,
        on_progress=on_progress,
        holdout_dir=holdout,
        schedule_part=part,
    )


def same_model_as_reported(result: TrainResult, packed: str) -> bool:
    """Asserts that the saved weights have a lower loss on the first batch than the training started with."""
    model = AutoModelForCausalLM.from_pretrained(result.checkpoint, dtype=torch.float32)
    rows = [PackedReader(packed, FS)[i] for i in range(4)]
    loss = response_loss(model, collate(rows, False)) / sum((row["labels"] != IGNORED).sum() for row in rows)
    return bool(loss.item() < result.first_loss - 0.5)


@pytest.mark.slow
def test_a_model_that_cannot_be_trained_is_refused_before_the_first_step(
    ray_local: None, model: str, packed: str, tmp_path: Path
) -> None:
    """The workers have the model's config: a driver need not have the files of a hub model."""
    shutil.copytree(model, tmp_path / "capped")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma2Config(**sizes, num_key_value_heads=1, head_dim=16, attn_logit_softcapping=50.0)
    config.save_pretrained(tmp_path / "capped")
    with pytest.raises(StageError, match=r"attn_logit_softcapping 50\).* set train\.attention eager"):
        run(str(tmp_path / "capped"), packed, tmp_path, "capped", workers=1)


@pytest.mark.slow
def test_two_workers_take_the_steps_of_a_plain_loop_and_write_a_usable_student(
    ray_local: None, model: str, packed: str, tmp_path: Path
) -> None:
    messages: list[dict[str, Any]] = []
    on_interrupt = signal.getsignal(signal.SIGINT)
    result = run(model, packed, tmp_path, "two", on_progress=messages.append)
    assert signal.getsignal(signal.SIGINT) is on_interrupt, "Ctrl-C would end the process as Ray Train does"
    assert result.losses == pytest.approx(plain_losses(model, packed), rel=1e-4)
    assert (result.steps, result.sequences) == (6, 22)
    assert (result.first_loss, result.last_loss) == (result.losses[0], result.losses[-1])
    assert result.last_loss < result.first_loss - 0.5
    rows = [PackedReader(packed, FS)[i] for i in range(22)]
    assert result.tokens == sum(len(row["labels"]) for row in rows)
    assert result.response_tokens == sum(int((row["labels"] != IGNORED).sum()) for row in rows)
    assert [messages[0]["step"], messages[-1]["step"], messages[-1]["steps"]] == [1, 6, 6]
    assert same_model_as_reported(result, packed)
    tokenizer = AutoTokenizer.from_pretrained(result.checkpoint)
    assert tokenizer.chat_template
    loaded = AutoModelForCausalLM.from_pretrained(result.checkpoint)
    assert loaded.config.tie_word_embeddings
    assert loaded.generation_config.eos_token_id == tokenizer.eos_token_id


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "precision"), [(2, "float32"), (0, "bfloat16"), (2, "bfloat16"), (3, "bfloat16")])
def test_a_killed_worker_costs_only_the_steps_since_the_last_checkpoint(
    ray_local: None, model: str, packed: str, tmp_path: Path, stage: int, precision: str
) -> None:
    """In 16 bits, the 32-bit weights updated by DeepSpeed must be restored too. The training has a part of a schedule,
    which it keeps."""
    part = (2, 3)
    settings: dict[str, Any] = {"zero_stage": stage, "precision": precision, "schedule_part": part}
    plain = precision == "float32"
    expected = plain_losses(model, packed, part) if plain else run(model, packed, tmp_path, "whole", **settings).losses
    steps: list[int] = []
    killed: list[int] = []

    def on_progress(message: dict[str, Any]) -> None:
        steps.append(message["step"])
        if message["step"] >= 3 and not killed:
            killed.append(message["step"])
            os.kill(message["pid"], signal.SIGKILL)

    result = run(model, packed, tmp_path, "killed", on_progress=on_progress, checkpoint_steps=1, **settings)
    assert killed
    after = steps[steps.index(killed[0]) + 1 :]
    assert min(after) > 2, "it did not start from scratch"
    assert result.losses == pytest.approx(expected, rel=1e-4)
    assert result.tokens == sum(len(PackedReader(packed, FS)[i]["labels"]) for i in range(22))


@pytest.mark.slow
def test_a_stopped_training_leaves_no_waiting_thread(ray_local: None, model: str, packed: str, tmp_path: Path) -> None:
    """Such a thread crashes the process once Ray is shut down."""
    before = set(threading.enumerate())
    with interruptible(), pytest.raises(Stopped, match="by a signal"):
        run(model, packed, tmp_path, "stopped", on_progress=lambda _: interrupt(Stopped("by a signal")))
    assert set(threading.enumerate()) <= before


def test_an_empty_training_set_is_refused_at_once(model: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(StageError, match=r"no sequence to train on.*train\.sequence_length 64"):
        run(model, str(tmp_path / "empty"), tmp_path, "none")


@pytest.mark.slow
def test_two_threads_of_zero_3_save_whole_weights(ray_local: None, model: str, packed: str, tmp_path: Path) -> None:
    results: dict[str, TrainResult] = {}

    def train(name: str) -> None:
        results[name] = run(model, packed, tmp_path, name, workers=2, zero_stage=3, gradient_checkpointing=name == "b")

    threads = [threading.Thread(target=train, args=(name,)) for name in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = plain_losses(model, packed)
    for name in ("a", "b"):
        assert results[name].losses == pytest.approx(expected, rel=1e-3)
        assert same_model_as_reported(results[name], packed)


def train_badly(config: dict[str, Any], bad: int) -> None:
    """The worker, with an infinite learning rate in step `bad` (from 1)."""
    sane = loop.learning_rate_at

    def rate(step: int, *rest: Any) -> float:
        return math.inf if step + 1 == bad else sane(step, *rest)

    loop.learning_rate_at = rate
    loop.train_worker(config)


@pytest.mark.slow
def test_the_loss_on_the_holdout_is_measured_at_every_checkpoint(
    ray_local: None, model: str, packed: str, tmp_path: Path
) -> None:
    sane = run(model, packed, tmp_path, "sane", workers=1, warmup_ratio=0.0, holdout=packed, checkpoint_steps=2)
    assert [step for step, _ in sane.holdout_losses] == [0, 2, 4, 6]
    assert sane.holdout_losses[-1][1] < sane.holdout_losses[0][1] - 0.5
    assert len(sane.holdout_pairs) == 44
    loss, tokens = map(sum, zip(*sane.holdout_pairs.values(), strict=True))
    assert loss / tokens == pytest.approx(sane.holdout_losses[-1][1], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("bad", "seen", "kept"), [(3, 4, 2), (6, 6, 4)])
def test_a_loss_that_is_not_finite_names_step_pairs_and_last_good_checkpoint(
    ray_local: None, model: str, packed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    bad: int, seen: int, kept: int,
) -> None:  # fmt: skip
    """Broken weights of a step show in the loss of the next step; those of the last step in the loss before the
    export."""
    monkeypatch.setattr("tapir_ray.train.student.train_worker", functools.partial(train_badly, bad=bad))
    with pytest.raises(StageError) as error:
        run(model, packed, tmp_path, "bad", workers=1, checkpoint_steps=2)
    match = re.search(
        r"at step (\d) of 6 .* train\.learning_rate.* --fork .* pairs are (.*); the last good checkpoint is (.*) "
        r"\(step (\d)\); without a change the run continues from the latest, of step (\d)$",
        str(error.value),
    )
    assert match, str(error.value)
    assert (int(match[1]), int(match[4]), int(match[5])) == (seen, kept, kept)
    assert match[2].split(", ") == [f"pair-{number}" for number in range(8 * seen - 8, min(44, 8 * seen))]
    assert len(json.loads((Path(match[3]) / PROGRESS_FILE).read_text())["losses"]) == kept
    assert not (tmp_path / "bad").exists(), "no student is written"
