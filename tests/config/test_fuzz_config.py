"""Any config file is parsed to a Config or refused in one sentence: no other error is raised."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tapir_ray.config import Config, load
from tapir_ray.errors import InputError

SHIPPED = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))]
PIECES = [
    b": ", b"\n", b"  ", b"{", b"}", b"[", b"]", b"&a ", b"*a", b"<<: ", b"!!", b"- ", b"'", b'"', b"\t", b"#", b"\xff",
    b"\x00", b"\r", b"? ", b"| ", b"---\n", b"1e-2", b"0777", b"12:30", b".nan", b"yes", b"null", b"\xef\xbb\xbf",
    b"9" * 400, b"teacher: {model: x}\n", b"\n...\n", b"%YAML 1.1\n", b"\xed\xa0\x80", b"!!binary ", b"!!set ",
]  # fmt: skip
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 10**20), st.floats(), st.text(max_size=8), st.dates(),
    st.binary(max_size=4), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
    st.sampled_from(["on", "simulator", "vllm", "openai_batch", "1e-2", "inf", "teacher", "recorded", {}, []]),
)  # fmt: skip


def loaded(data: bytes, overrides: list[str] | None = None) -> Config | None:
    """Returns the config; None if it is refused in one sentence."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        try:
            return load(path, overrides)
        except InputError as error:
            assert "\n" not in str(error) and len(str(error)) < 3000
            return None


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(SHIPPED),
    st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 12), st.sampled_from(PIECES)), min_size=1, max_size=4),
)
def test_mutated_text_is_parsed_or_refused(data: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    for at, removed, piece in edits:
        at %= len(data)
        data = data[:at] + piece + data[at + removed :]
    loaded(data)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.sampled_from(SHIPPED), st.lists(st.tuples(st.integers(0, 10**6), VALUES), min_size=1, max_size=3))
def test_mutated_mappings_are_parsed_or_refused(data: bytes, edits: list[tuple[int, Any]]) -> None:
    content = yaml.safe_load(data)
    content["seed_data"] = {**content.get("seed_data", {}), "task_column": None}
    for at, value in edits:
        spots = _spots(content)
        node, key = spots[at % len(spots)]
        node[key] = value
    loaded(yaml.dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=30) | st.builds("{}={}".format, st.sampled_from(
    ["seed_data.path", "name", "train", "train.lora", "teacher.sampling.max_tokens", "seed_data", "simulator"]
), st.text(max_size=12)), min_size=1, max_size=3))  # fmt: skip
def test_mutated_overrides_are_parsed_or_refused(overrides: list[str]) -> None:
    loaded(SHIPPED[1], overrides)


def test_the_unmutated_text_is_parsed() -> None:
    assert all(loaded(data, ["seed_data.path=a.jsonl"]) is not None for data in SHIPPED)


def _spots(node: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    found = []
    for key, value in node.items():
        found.append((node, key))
        if isinstance(value, dict):
            found += _spots(value)
    return found
