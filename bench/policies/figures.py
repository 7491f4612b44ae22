"""What the page about policies shows, as numbers: hit rates, what predictors foresee, published systems compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from moestro.core import POLICIES, PREDICTORS
from moestro.trace.machines import MODELS, read_machine
from moestro.trace.path_weights import ARRAYS
from moestro.trace.replays import Learnt, Platform, Replayed, Replayer, Setting
from stories import Stories
from systems import SYSTEMS, Taken, run_system

MACHINE = "a6000-xeon"
SHARES = (0.125, 0.25, 0.5, 0.75)  # of all experts
COMPARED = (0.25, 0.5)
FORESEEN = 0.25
FORESEEN_MODEL = "deepseek-v2-lite"  # whose experts are the quickest to move

Cell = tuple[str, float]  # a model, and the share of its experts that fits


@dataclass(frozen=True)
class Foreseen:
    """How often a predictor was right, layer by layer; None where nothing was expected."""

    recall: tuple[float | None, ...]
    precision: tuple[float | None, ...]
    overall: tuple[float | None, float | None]
    used: float  # of the bytes that were read ahead: asked for in time, too early, and not at all
    late: float
    wasted: float


def learn(stories: Stories) -> tuple[Learnt, str]:
    """What is known before, and why "path" is not, where it is not."""
    experts = [int(count) for count in stories.learnt.array("experts")]
    tokens = stories.learnt.array("tokens")
    try:
        from moestro.learn.path import train_path

        vocabulary = 1 + int(max(tokens.max(), stories.judged.array("tokens").max()))
        weights = train_path(tokens, stories.learnt.chosen, experts, vocabulary)
    except ImportError as error:
        return Learnt(stories.learnt), f"not trained here: {error}"
    return Learnt(stories.learnt, {name: np.ascontiguousarray(weights[name]) for name in ARRAYS}), ""


def replayer(stories: Stories, learnt: Learnt, machine: str, model: str) -> Replayer:
    platform = Platform.of(stories.judged, read_machine(machine), MODELS[model])
    return Replayer(stories.judged, platform, learnt, stories.first_step)


def slots(stories: Stories, share: float) -> int:
    return round(share * int(stories.judged.array("experts").sum()))


def hit_rates(stories: Stories, learnt: Learnt) -> list[Replayed]:
    """Every policy alone, as it would be on the machine without a device."""
    replays = replayer(stories, learnt, "laptop", FORESEEN_MODEL)
    return [replays.run(Setting(policy), slots(stories, share)) for policy, share in product(POLICIES, SHARES)]


def foresight(stories: Stories, learnt: Learnt, policy: str) -> Iterator[tuple[str, Foreseen | str]]:
    """Of each predictor what it foresaw, or why nothing can be said."""
    replays = replayer(stories, learnt, MACHINE, FORESEEN_MODEL)
    for name in PREDICTORS[1:]:
        setting = Setting(policy, name, "hybrid")
        lacking = replays.lacking(setting)
        yield name, lacking or _foreseen(replays.run(setting, slots(stories, FORESEEN)))


def _foreseen(one: Replayed) -> Foreseen:
    moved = {name: sum(layer[f"{name}_bytes"] for layer in one.prefetch) for name in ("used", "late", "wasted")}
    whole = max(1, sum(moved.values()))
    return Foreseen(
        tuple(_share(layer, "needed") for layer in one.prefetch),
        tuple(_share(layer, "hinted") for layer in one.prefetch),
        (one.recall, one.precision),
        **{name: nbytes / whole for name, nbytes in moved.items()},
    )


def _share(layer: Mapping[str, int], of: str) -> float | None:
    return layer["foreseen"] / layer[of] if layer[of] and layer["hinted"] else None


def compare(stories: Stories, learnt: Learnt) -> dict[Cell, dict[str, Taken]]:
    """Each system with each model and cache on the machine of HybriMoE's measurements."""
    found: dict[Cell, dict[str, Taken]] = {}
    for model in MODELS:
        replays = replayer(stories, learnt, MACHINE, model)
        for share in COMPARED:
            count = slots(stories, share)
            found[model, share] = {name: run_system(replays, name, count) for name in SYSTEMS}
    return found
