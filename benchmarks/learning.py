"""(f) The learning stage at the defaults: skill, curves, explained variance, coupling."""

from __future__ import annotations

import logging
import re
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from benchmarks.measure import run_alone

#: Seed of the synthetic world whose table is learnt from.
SEED = 6
#: Cores and fits at the same time: what the goal is set for.
CORES = 2
#: Settings of a quick run: every part, little of each.
_QUICK = {
    "trees": 20,
    "candidates": 1,
    "folds": 2,
    "mascon_folds": 2,
    "inner_folds": 2,
    "bootstrap_draws": 50,
}
#: The line that a job of the skill logs.
_LINE = re.compile(
    r"^(?P<target>\w+), (?P<split>\w+), fold \d+ of \d+, (?P<model>\w+): .* (?P<seconds>[\d.]+) s"
)


class _Costs(logging.Handler):
    """Sums of the seconds that jobs say they took, by target, split and model."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, dict[str, float]] = {
            name: defaultdict(float) for name in ("target", "split", "model")
        }
        self.jobs = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Add a job's seconds to the sums."""
        line = _LINE.match(record.getMessage())
        if line is None:
            return
        self.jobs += 1
        for name, sums in self.seconds.items():
            sums[line[name]] += float(line["seconds"])


def stage(quick: bool) -> dict[str, Any]:
    """Return how long each part of the stage takes (s), on a world's table of features."""
    from cryofuse.config import CouplingSettings, ExplainedSettings, SkillSettings
    from cryofuse.learning.coupling import correlate_mascons
    from cryofuse.learning.curve import trace_learning
    from cryofuse.learning.importance import explain_variance, list_rows, rank_features
    from cryofuse.learning.models import single_threaded
    from cryofuse.learning.skill import evaluate, select_samples
    from cryofuse.mascons.footprints import neighbours
    from cryofuse.simulate.learning import learning_world

    with single_threaded():
        pass  # the boosting library is imported before the clock starts
    world = learning_world(SEED)
    skill = SkillSettings(**(_QUICK if quick else {}))
    explained, coupling = ExplainedSettings(), CouplingSettings()
    near = neighbours(world.mascons, skill.neighbour_buffer_km or 0.0)
    costs = _Costs()
    logger = logging.getLogger("cryofuse.learning.skill")
    logger.addHandler(costs)
    logger.setLevel(logging.INFO)
    wall: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = call()
        wall[name] = time.perf_counter() - began
        return result

    _, predictions = timed("skill", lambda: evaluate(world.features, skill, near, run))
    logger.removeHandler(costs)
    timed("learning curves", lambda: trace_learning(world.features, skill, near, run))
    rows = list_rows(world.features, skill)
    timed("explained parts", lambda: explain_variance(predictions, explained, rows, skill))
    timed("importance", lambda: rank_features(world.features, explained, skill, near, run))
    timed("coupling", lambda: correlate_mascons(world.fusion, world.mascons, coupling))
    samples = select_samples(world.features, skill.targets[0], skill)
    return {
        "mascons": int(world.features["mascon_id"].nunique()),
        "months": int(world.features["month"].nunique()),
        "features": len(samples.names),
        "samples": len(samples.table),
        "wall_s": wall,
        "fits": costs.jobs,
        "skill_s": {name: dict(sums) for name, sums in costs.seconds.items()},
    }


def run(folder: str, scale: int) -> dict[str, Any]:
    """Measure the stage; a quick run takes few trees, folds and settings."""
    return run_alone("learning:stage", cores=CORES, quick=scale > 1)
