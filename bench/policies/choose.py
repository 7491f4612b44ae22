"""Which settings are good everywhere: every policy, predictor and planner that needs nothing learnt, in many cases.

    python bench/policies/choose.py --json bench/results/policy-choice.json       # several minutes

A case is a machine, a model whose experts the demo model's routing is replayed with, and a share of them that fits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "e2e"))

from bench_record import record, write_json
from figures import COMPARED, MODELS, replayer, slots
from moestro.core import POLICIES
from moestro.threads import default_threads
from moestro.trace.machines import known_machines
from moestro.trace.replays import Learnt, Setting
from stories import Stories, record_stories
from systems import AUTO

POLICY, PREFETCH = tuple(name for name in POLICIES if name != "static"), ("none", "auto", "next_gate", "impact")
PLANNER = ("hybrid", "greedy_01")

Case = tuple[str, str, float]


def main() -> None:
    arguments = _arguments()
    stories = record_stories()
    took: dict[Case, dict[Setting, float]] = {}
    for case in product(known_machines(), MODELS, COMPARED):
        took[case] = seconds(stories, case)
        best = min(took[case], key=lambda setting: took[case][setting])
        auto = took[case][AUTO] / took[case][best]
        print(f"{', '.join(map(str, case))}: best {name(best)}, auto takes {auto:.3f} of its time", flush=True)
    worst = dict(sorted(longer(took).items(), key=lambda one: one[1]))
    for setting, ratio in worst.items():
        print(f"{name(setting)}: at worst {ratio:.3f} of the best one's time")
    if arguments.json:
        cases = {
            ", ".join(map(str, case)): {name(setting): value for setting, value in row.items()}
            for case, row in took.items()
        }
        longest = {name(setting): ratio for setting, ratio in worst.items()}
        write_json(arguments.json, {**record(default_threads()), "at_worst": longest, "seconds_per_token": cases})


def seconds(stories: Stories, case: Case) -> dict[Setting, float]:
    """Per token, of every setting; without a device planners make no difference."""
    machine, model, share = case
    replays, count = replayer(stories, Learnt(), machine, model), slots(stories, share)
    planners = PLANNER if replays.platform.has_device else ("",)
    settings = [Setting(*names) for names in product(POLICY, PREFETCH, planners)]
    with ThreadPoolExecutor(default_threads()) as pool:
        replayed = pool.map(lambda setting: replays.run(setting, count).seconds_per_token, settings)
        found = dict(zip(settings, replayed, strict=True))
    return {
        Setting(policy, prefetch, planner): found[Setting(policy, prefetch, planner if len(planners) > 1 else "")]
        for policy, prefetch, planner in product(POLICY, PREFETCH, PLANNER)
    }


def longer(took: Mapping[Case, Mapping[Setting, float]]) -> dict[Setting, float]:
    """How many times as long as the best one of a case each setting takes, in the worst case for it."""
    return dict(_longer(took))


def _longer(took: Mapping[Case, Mapping[Setting, float]]) -> Iterator[tuple[Setting, float]]:
    for setting in next(iter(took.values())):
        yield setting, max(row[setting] / min(row.values()) for row in took.values())


def name(setting: Setting) -> str:
    return " + ".join((setting.policy, setting.prefetch, setting.planner))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
