"""Arms: recipes that differ from one another in what is asked about, and in nothing else.

An arm is a list of overrides over one recipe. `table_4` makes those of the paper's ablation, `grid` those of a sweep.
The seed decides which queries and pairs a run sees in which order, separately for each task; so arms of one seed see
the same examples in the same order, whether a step holds both tasks or one (planning/plan.py).

Stages of training are arms too: an arm can have a recipe of its own, and start from what another arm came to.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from conan_embed.errors import UserError
from conan_embed.recipes.schema import Recipe

Equal = Literal["examples", "updates"]


@dataclass(frozen=True)
class Arm:
    """One thing to compare.

    Attributes:
        name: how tables call it.
        overrides: `dotted.key=value`, laid over the recipe.
        trained: False for the base model, unchanged.
        values: of a sweep, the value of each varied key, as written.
        recipe: where it is not the comparison's recipe that the arm changes, the path of its own.
        after: the name of an earlier arm, whose model of the same seed is this one's base model.
    """

    name: str
    overrides: tuple[str, ...] = ()
    trained: bool = True
    values: tuple[tuple[str, str], ...] = ()
    recipe: str | Path | None = None
    after: str | None = None

    @property
    def folder(self) -> str:
        """The name as a folder can have it."""
        return folder_of(self.name)

    @property
    def changes(self) -> str:
        """What sets it apart, in words."""
        own = [] if self.recipe is None else [Path(self.recipe).name]
        earlier = [] if self.after is None else [f"from the model of {self.after}"]
        return ", ".join([*own, *earlier, *self.overrides]) or "the recipe as it is"


def folder_of(name: str) -> str:
    """Return the name of an arm as a folder can have it."""
    return re.sub(r"[^\w.=+,-]+", "-", name).strip("-.") or "arm"


def table_4(recipe: Recipe, equal: Equal = "examples") -> list[Arm]:
    """Return the paper's table 4: base, vanilla, CBB only, DHNM only, both.

    Vanilla draws one task per step at random (`mixing: sequential`), contrasts a query with its own hard negatives only
    (`in_batch: none`), and keeps them. CBB trains all tasks in every step and contrasts a query with the hard negatives
    of all queries of the step (`step_hard`, the paper's sum). DHNM replaces negatives, from the recipe's own dynamic
    source or else as in the paper.

    A sequential step holds half of what a joint step holds. With `equal="examples"` the sequential arms therefore take
    twice as many steps, check their negatives at twice the interval, and so see as many queries and pairs (exactly
    where the joint arms take a multiple of 16 steps: of 32 sequential steps 16 are of each task) and check as often
    per query; they make twice the updates. With `equal="updates"` they take as many steps as the joint arms and see
    half the examples.

    Raises:
        UserError: the recipe has only one task, so there is nothing to mix, or no negatives to replace.
    """
    if not (recipe.step.queries and recipe.step.sts_pairs):
        raise UserError(
            "ablate: step.queries and step.sts_pairs must both be above 0, since table 4 compares ways to mix them; "
            f"found {recipe.step.queries} and {recipe.step.sts_pairs}."
        )
    if not recipe.step.num_negatives:
        raise UserError(
            "ablate: step.num_negatives: found 0; expected hard negatives, which table 4 replaces."
        )
    source = recipe.hard_negatives.source if recipe.hard_negatives.source != "static" else "ranking"
    static, dynamic = "hard_negatives.source=static", f"hard_negatives.source={source}"
    joint = ["step.mixing=joint", "step.in_batch=step_hard"]
    one_task = ["step.mixing=sequential", "step.in_batch=none"]
    if equal == "examples":
        one_task.append(f"hard_negatives.interval={2 * recipe.hard_negatives.interval}")
        if recipe.training.steps is not None:
            one_task.append(f"training.steps={2 * recipe.training.steps}")
    elif recipe.training.steps is None:  # an epoch of sequential steps is twice as long
        one_task.append(f"training.epochs={recipe.training.epochs / 2}")
    return [
        # A linear layer that nobody has trained is no part of the base model.
        Arm("base", ("model.dense_width=null", "model.widths=null"), trained=False),
        Arm("vanilla", (*one_task, static)),
        Arm("CBB", (*joint, static)),
        Arm("DHNM", (*one_task, dynamic)),
        Arm("CBB + DHNM", (*joint, dynamic)),
    ]


def grid(settings: Sequence[str], *, one_at_a_time: bool = False) -> list[Arm]:
    """Return an arm for every combination of the values of `key=v1,v2,...` settings; the first values come first.

    One at a time, the first arm has the first value of every key, and each other arm one other value of one key: a
    line through the first values for each key, in as many arms as there are values, instead of their product.

    Keys that change together are joined by `+`, and so are their values:
    `step.queries+step.sts_pairs=20+16,16+32,12+48`. A setting with one value holds for all arms. Commas inside brackets
    do not separate: `model.widths=[64,32],[64]`.

    Raises:
        UserError: not of that form, a value twice, or nothing varies.
    """
    common: list[str] = []
    axes: list[list[tuple[str, str]]] = []
    for setting in settings:
        keys, equals, text = setting.partition("=")
        values = _split(text)
        if not equals or not keys or not all(values):
            raise UserError(f"sweep: {setting}: expected key=value,value,... ")
        if len(set(values)) < len(values):
            raise UserError(f"sweep: {setting}: a value stands there twice; expected different ones.")
        parts = keys.count("+") + 1
        if parts > 1 and (wrong := [value for value in values if value.count("+") + 1 != parts]):
            raise UserError(
                f"sweep: {setting}: {wrong[0]!r} has {wrong[0].count('+') + 1} parts; "
                f"expected {parts}, one for each key."
            )
        if len(values) == 1:
            common += _overrides(keys, values[0])
        else:
            axes.append([(keys, value) for value in values])
    if not axes:
        raise UserError(
            "sweep: nothing varies; expected a key with several values, as hard_negatives.decay=1.05,1.15."
        )
    combinations = _one_by_one(axes) if one_at_a_time else list(itertools.product(*axes))
    short = _short_names([axis[0][0] for axis in axes])
    firsts = combinations[0] if one_at_a_time and len(axes) > 1 else ()
    arms = _arms(combinations, common, firsts, lambda keys, value: f"{short[keys]}={_short_value(value)}")
    if len({arm.folder for arm in arms}) < len(arms):  # two folders of one name, say
        arms = _arms(combinations, common, firsts, lambda keys, value: f"{short[keys]}={value}")
    return arms


def _one_by_one(axes: Sequence[Sequence[tuple[str, str]]]) -> list[tuple[tuple[str, str], ...]]:
    """The first values, then every other value among the first ones of the other keys."""
    firsts = tuple(axis[0] for axis in axes)
    others = [
        (*firsts[:number], value, *firsts[number + 1 :])
        for number, axis in enumerate(axes)
        for value in axis[1:]
    ]
    return [firsts, *others]


def _arms(
    combinations: Sequence[tuple[tuple[str, str], ...]],
    common: Sequence[str],
    firsts: Sequence[tuple[str, str]],
    name: Callable[[str, str], str],
) -> list[Arm]:
    """An arm for every combination; `firsts` are not named, being those of all others."""
    return [
        Arm(
            ", ".join(name(*pair) for pair in chosen if pair not in firsts) or "first values",
            (*common, *(override for pair in chosen for override in _overrides(*pair))),
            values=chosen,
        )
        for chosen in combinations
    ]


def _split(text: str) -> list[str]:
    return re.split(r",(?![^\[{]*[\]}])", text)


def _overrides(keys: str, value: str) -> list[str]:
    if "+" not in keys:
        return [f"{keys}={value}"]
    return [f"{key}={part}" for key, part in zip(keys.split("+"), value.split("+"), strict=True)]


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last words of keys, where they tell the keys apart."""
    short = {key: "+".join(part.rpartition(".")[2] for part in key.split("+")) for key in keys}
    return short if len(set(short.values())) == len(short) else {key: key for key in keys}


def _short_value(value: str) -> str:
    return Path(value).name if "/" in value else value
