"""Config keys of 0.1 that have a new name, for error messages.

RENAMED["train.warmup_share"]                        # "train.warmup_ratio"
old_key({"resources": {"stage_cpus": 0.1}})          # "resources.stage_cpus"
"""

from __future__ import annotations

from typing import Any

RENAMED = {
    "classify.warmup_share": "classify.warmup_ratio",
    "regenerate.parts": "regenerate.shards",
    "resources.rows_per_part": "resources.rows_per_block",
    "resources.stage_cpus": "resources.transform_cpus",
    "seed_data.licence": "seed_data.license",
    "train.global_batch": "train.global_batch_size",
    "train.gradient_clipping": "train.max_grad_norm",
    "train.micro_batch": "train.micro_batch_size",
    "train.turns": "train.loss_mask",
    "train.warmup_share": "train.warmup_ratio",
}
"""New key by old key. The value `train.over_length: cut` became `truncate`."""


def old_key(content: Any) -> str | None:
    """Returns the first key of 0.1 in the nested mappings of a config, or None."""
    for key in RENAMED:
        section, name = key.split(".")
        if isinstance(content, dict) and isinstance(content.get(section), dict) and name in content[section]:
            return key
    return None
