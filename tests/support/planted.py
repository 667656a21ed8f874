"""Results of arms that nobody trained, with differences planted."""

from collections.abc import Sequence

import numpy as np

from conan_embed.ablation.arms import Arm
from conan_embed.ablation.job import ArmResult

ITEMS = {"retrieval/医疗": 60, "retrieval/Small": 40, "sts/STSB": 100, "clustering/CLS": 0}


def planted(arms: Sequence[Arm], gains: Sequence[float], num_seeds: int = 3) -> list[list[ArmResult]]:
    """Return results [arm][seed]; arm i lies `gains[i]` above the first on every task."""
    generator = np.random.default_rng(0)
    common = {task: generator.uniform(0.2, 0.8, size=max(1, count)) for task, count in ITEMS.items()}
    results: list[list[ArmResult]] = []
    for arm, gain in zip(arms, gains, strict=True):
        of_arm = []
        for seed in range(num_seeds if arm.trained else 1):
            values = {
                task: items
                + gain
                + generator.normal(scale=0.003)
                + generator.normal(scale=0.02, size=len(items))
                for task, items in common.items()
            }
            values["clustering/CLS"] = common["clustering/CLS"] + gain + generator.normal(scale=0.003)
            of_arm.append(
                ArmResult(
                    arm=arm.name,
                    seed=seed,
                    scores={task: float(items.mean()) for task, items in values.items()},
                    items={task: items.tolist() for task, items in values.items() if ITEMS[task]},
                    seen={"updates": 128, "queries": 2048, "pairs": 4096, "tokens": 1_200_000, "replaced": 0},
                    seconds=1.0,
                )
            )
        results.append(of_arm if arm.trained else of_arm * num_seeds)
    return results
