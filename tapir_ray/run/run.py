"""A run on storage: its config, its events and (in `tables.py`) its tables.

run = Run.open(config, "runs/demo")
if not run.done("rounds/01/scored"):
    run.write("rounds/01/scored", dataset, SCORED)
run.event("round", round=1)
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pyarrow.fs as pafs

from tapir_ray.config import Config
from tapir_ray.config.differences import differences, in_words
from tapir_ray.config.renamed import old_key
from tapir_ray.config.yaml_files import read_yaml
from tapir_ray.data.values import one_line
from tapir_ray.errors import InputError, full_disk
from tapir_ray.run.attempts import refuse_second_owner
from tapir_ray.run.layout import BEGUN
from tapir_ray.run.manifest import MANIFEST
from tapir_ray.run.tables import Tables


class Run(Tables):
    """Folder of one run. Paths in it are relative, such as `rounds/01/scored`."""

    def __init__(self, fs: pafs.FileSystem, root: str, uri: str) -> None:
        super().__init__(fs, root, uri)
        self.run_id = ""

    @classmethod
    def open(cls, config: Config, uri: str) -> Run:
        """Creates a run, or continues the run in the folder if its stored config gives the same results.

        A run without a finished table, such as one that was refused for its input, takes over the new config. Raises
        InputError that names the different keys if the folder belongs to a config with other results.
        """
        run = cls.at(uri)
        run.refuse_another(config)
        stored = run.stored_config() if run.exists("config.yaml") else None
        if stored is not None and stored != config:
            refuse_second_owner(run)
            if stored.digest() != config.digest():
                run._clear_begun()
        if stored is None or (stored != config and run._was_started()):
            try:
                run.write_text("config.yaml", config.dump())
            except OSError as error:
                if full_disk(error) is not None:
                    raise
                raise InputError(f"{run.uri} cannot be written to: {one_line(error)}") from error
        # With the folder, since two runs of one config may share a cluster, and the id names their actors.
        place = hashlib.blake2b(run.uri.encode(), digest_size=4).hexdigest()
        run.run_id = f"{config.name}-{config.digest()}-{place}"
        return run

    def _clear_begun(self) -> None:
        """Deletes the tables of a run without a finished one. Its usage and its cached replies are kept."""
        for name in set(self.children("")) & BEGUN:
            if self.fs.get_file_info(self.path(name)).type == pafs.FileType.Directory:
                self.clear(name)
            else:
                self.fs.delete_file(self.path(name))

    def refuse_another(self, config: Config) -> None:
        """Raises InputError unless the folder is empty or has a run that `config` can continue."""
        others = [entry for entry in self.children("") if not entry.startswith(".") and entry != "config.yaml"]
        if not self.exists("config.yaml"):
            if others:
                raise InputError(f"{self.uri} is not empty and has no run (no config.yaml); use another --run-dir")
            return
        stored = self.stored_config()
        if not self._was_started() and (others or stored.digest() != config.digest()):
            raise InputError(f"{self.uri} is not empty and has no run that was started; use another --run-dir")
        if stored.digest() != config.digest() and self._has_table():
            fork = f" and --fork {self.uri}, which keeps the outputs that are still valid"
            raise InputError(
                f"{self.uri} has a run with another config ({in_words(differences(stored, config))}); "
                "set these keys back to continue it, or start a new run with another --run-dir"
                f"{fork if config.regenerate is None else ''}"
            )

    def stored_config(self) -> Config:
        """Returns the config of the run. Raises InputError for a file that is not a config, or one of tapir-ray 0.1."""
        try:
            content = read_yaml(self.read_text("config.yaml"), "config.yaml").value
            if old_key(content) is None:
                return Config.model_validate(content)
        except (ValueError, InputError) as error:
            raise InputError(
                f"{self.uri_of('config.yaml')} is not the config of a run; if the file is damaged, restore the config "
                "that the run was started with, or use another --run-dir"
            ) from error
        raise InputError(f"{self.uri} was written by tapir-ray 0.1, which 0.2 cannot continue: use another --run-dir")

    def _was_started(self) -> bool:
        """Whether a run has written to the folder; without that its config.yaml may be a user's own."""
        return self.exists("attempts") or self.exists("events.jsonl")

    def _has_table(self) -> bool:
        found = self.fs.get_file_info(pafs.FileSelector(self.root, recursive=True))
        folders = (info.path.rpartition("/")[0] for info in found if info.base_name == MANIFEST)
        return any(self.done(folder.removeprefix(f"{self.root}/")) is not None for folder in folders)

    def under_way(self) -> list[dict[str, Any]]:
        """Returns the stages in progress and those that an error has ended, for the heartbeat."""
        return self.progress.told() if self.progress is not None else []

    def events(self, kind: str) -> list[dict[str, Any]]:
        """Returns the events of a kind from all attempts, oldest first."""
        return [event for event in self.all_events() if event["event"] == kind]

    def all_events(self) -> list[dict[str, Any]]:
        """Returns the events of all attempts, oldest first. A truncated line is left out with a warning."""
        if not self.exists("events.jsonl"):
            return []
        found = []
        for line in self.read_text("events.jsonl").split("\n"):
            try:
                event = json.loads(line) if line.strip() else None
            except ValueError:
                event = {}
            if isinstance(event, dict) and "event" in event:
                found.append(event)
            elif line.strip():
                self.tell_torn("events.jsonl", "has unreadable lines, which are left out")
        return found
