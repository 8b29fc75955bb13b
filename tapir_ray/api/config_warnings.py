"""Warnings about valid but risky configs, printed before a run begins.

for sentence in warnings_about(config):
    print(sentence)        # the judge is the teacher: it may prefer its own answers; …
"""

from __future__ import annotations

from tapir_ray.config import SIMULATOR, Config, prices
from tapir_ray.config.data import TASKS
from tapir_ray.llm.client.check import is_own


def warnings_about(config: Config) -> list[str]:
    """Returns a sentence for each risk:

    - a model name without a date, and a price from the list
    - a judge that is the teacher, and noise that cannot be measured
    - a simulated teacher that does not know the seed data
    - answers that are trained on several times, and unseen rows that repeat answers that are
    - a student without steps, and a pool without open questions, for `method: elad`
    """
    found = []
    for key, endpoint in config.endpoints.items():
        if not endpoint.has_provider:
            continue
        if not prices.is_pinned(endpoint.model) and not is_own(endpoint.base_url):
            found.append(
                f"{key}.model {endpoint.model} has no date: if its provider changes the model behind the name, the run "
                "mixes both; name a model with a date"
            )
        if endpoint.price is None and (listed := endpoint.known_price) is not None:
            found.append(
                f"{key}.price is not set: counting {listed.input:g} dollars for a million input tokens and "
                f"{listed.output:g} for output, by {prices.source()}; check these prices, or set {key}.price"
            )
    judge, teacher = config.judge_endpoint, config.teacher
    simulated = teacher.base_url == SIMULATOR
    same = config.judge.same_as == "teacher" or (judge.model, judge.base_url) == (teacher.model, teacher.base_url)
    if same and config.judges and not simulated:
        found.append("the judge is the teacher: it may prefer its own answers; name another model in judge.model")
    if config.judges and config.judge.repeat_share and config.judge.repeated_at(judge) == 0.0:
        found.append(
            "judge.repeat_share judges rows twice, but at temperature 0 a reply repeats itself, so σ is not measured: "
            "raise judge.repeat_temperature, or set judge.repeat_share 0"
        )
    if simulated and config.simulator is not None and config.seed_data.path and config.simulator.scenario == TASKS:
        found.append(
            "the simulated teacher (simulator.scenario tasks) knows only the instructions of simulator.seed_rows and "
            "cannot answer the rows of seed_data.path: name a real teacher, or set simulator.scenario: recorded"
        )
    if config.seed_data.turns == config.train.loss_mask == "all":
        found.append(
            "seed_data.turns and train.loss_mask are both all: a conversation becomes a row for each of its answers, "
            "and each row trains on the earlier answers again; set one of them to last"
        )
    if config.seed_data.turns == "all" and config.score.candidates == "unseen" and config.train.initial_share < 1.0:
        found.append(
            "seed_data.turns all with score.candidates unseen: the initial SFT may train on an earlier turn of a "
            "conversation whose later turn counts as unseen; set seed_data.turns last"
        )
    return found + (elad_risks(config) if config.work == "elad" else [])


def elad_risks(config: Config) -> list[str]:
    """Returns a sentence for each risk of the method ELAD."""
    found: list[str] = []
    if config.train.initial_sft == "off":
        return found
    if config.seed_data.responses == "keep":
        found.append(
            "method elad with seed_data.responses keep: the initial SFT trains on the answers of the seed data, and if "
            "they show no steps, the student writes none that could be corrected; set seed_data.responses replace"
        )
    if config.train.initial_share == 1.0 and config.certain_initial_sft:
        found.append(
            "method elad with train.initial_share 1: the initial SFT trains on an answer to every question of the "
            "pool, so all of them are answered before any is corrected; lower it, such as to 0.2"
        )
    return found
