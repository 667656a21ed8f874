"""What stands in the way of hard negatives in a run, told before its first step.

A run whose negatives can never be replaced trains for hours as a static one and looks like a result; so does one in
which half of the queries have no negatives. Whatever can be known beforehand is printed: too few negatives, steps or
visits, rankings without a further window, bounds that scores cannot reach.
"""

from collections.abc import Sequence

import numpy as np

from conan_embed.negatives.rules import make_rule
from conan_embed.negatives.sources import uses_up_a_list
from conan_embed.negatives.table import NegativeTable
from conan_embed.recipes.sections import Replacement, Step
from conan_embed.texts.tasks import RetrievalDataset


def shortages(sets: Sequence[RetrievalDataset], table: NegativeTable, settings: Step) -> list[str]:
    """Return a sentence for each data set with queries that have fewer hard negatives than a step asks for.

    Args:
        sets: in the order of the table's rows.
        table: as it stands before the first step.
    """
    sentences, start = [], 0
    for data in sets:
        available_Q = table.available_Q[start : start + len(data)]
        start += len(data)
        if data.negative_source != "none" and (available_Q < settings.num_negatives).any():
            sentences.append(_shortage(data.name, available_Q, settings))
    return sentences


def _shortage(name: str, available_Q: np.ndarray, settings: Step) -> str:
    nothing = "learn nothing" if settings.in_batch == "none" else "have only those of other queries"
    is_empty_Q = available_Q == 0
    empty = f", {int(is_empty_Q.sum()):,} of them none: these {nothing}" if is_empty_Q.any() else ""
    return (
        f"{_count(available_Q < settings.num_negatives)} of {name!r} have fewer than {settings.num_negatives}{empty}; "
        f"expected a mining.min_usable of {settings.num_negatives} or more, a smaller mining.offset, or a looser bound."
    )


def obstacles(
    settings: Replacement,
    table: NegativeTable,
    sets: Sequence[RetrievalDataset],
    *,
    num_steps: int,
    epochs: float | None,
) -> list[str]:
    """Return a sentence for each thing that keeps negatives from being replaced; none where nothing does.

    Data sets that have no hard negatives by choice (`negative_source: none`) do not count.

    Args:
        table: as it stands before the first step.
        sets: in the order of the table's rows.
        num_steps: of the run.
        epochs: how often the run sees each query; None where it sees some more often than others.
    """
    if settings.source == "static":
        return []
    last_check = (num_steps - 1) // settings.interval * settings.interval
    if last_check == 0:
        return [
            f"no negatives will be replaced: the first check comes after step {settings.interval:,}, and the run has "
            f"{num_steps:,} steps; expected a smaller hard_negatives.interval."
        ]
    has_negatives_Q = _of_queries(sets, [data.negative_source != "none" for data in sets])
    sentences = [_too_few_visits(settings, table, has_negatives_Q, last_check / num_steps, epochs)]
    sentences += [_exhausted(settings, table, sets), _out_of_reach(settings, table)]
    return [sentence for sentence in sentences if sentence]


def _of_queries(sets: Sequence[RetrievalDataset], values: Sequence[bool]) -> np.ndarray:
    """Return bool [Q], the value of each query's data set."""
    return np.repeat(np.array(values, bool), [len(data) for data in sets])


def _too_few_visits(
    settings: Replacement,
    table: NegativeTable,
    has_negatives_Q: np.ndarray,
    share_of_run: float,
    epochs: float | None,
) -> str:
    """S_0 of a query that no model scored yet is its first visit, S its second, which comes in the second epoch."""
    is_unknown_Q = np.asarray(np.isnan(table.initial_QN).all(axis=1))[has_negatives_Q]
    if settings.rule == "share" or epochs is None or epochs * share_of_run > 1 or not is_unknown_Q.any():
        return ""
    return (
        f"{_count(is_unknown_Q)} will keep their negatives: S_0 is not known from mining, so that a query must be seen "
        f"twice before a check, and the run sees each {epochs * share_of_run:.2g} times before its last one; expected "
        "more epochs."
    )


def _exhausted(settings: Replacement, table: NegativeTable, sets: Sequence[RetrievalDataset]) -> str:
    """Of `bank` and `remine`, negatives that were given or drawn are replaced from their lists, too."""
    if settings.on_exhausted == "restart":
        return ""
    whole = make_rule(settings).whole
    uses_up_Q = _of_queries(sets, [uses_up_a_list(data, settings.source) for data in sets])
    is_exhausted_Q = table.exhausted(whole=whole)[uses_up_Q]
    if not is_exhausted_Q.any():
        return ""
    is_mined = any(data.negative_source == "mined" and uses_up_a_list(data, settings.source) for data in sets)
    remedy = (
        f"a larger mining.depth, a mining.min_usable of several times {table.num_negatives}, or "
        "hard_negatives.source: bank"
        if is_mined
        else "more negatives in the files, negative_source: mined, or hard_negatives.on_exhausted: restart"
    )
    return (
        f"{_count(is_exhausted_Q)} will keep their negatives: their {'ranking' if is_mined else 'list'} has no further "
        f"{'window' if whole else 'rank'}; expected {remedy}."
    )


def _out_of_reach(settings: Replacement, table: NegativeTable) -> str:
    """Scores do not fall below those of unrelated texts, the background."""
    background = table.background
    if settings.rule == "share" or settings.subtract_background or np.isnan(background):
        return ""
    with np.errstate(invalid="ignore"):
        is_far_QN = np.minimum(table.initial_QN / settings.decay, settings.max_score) < background
        if settings.rule == "each" and settings.too_easy is not None:
            is_far_QN &= table.initial_QN >= settings.too_easy
    is_known_QN = ~np.isnan(table.initial_QN)
    is_far_Q = is_known_QN.any(axis=1) & (is_far_QN | ~is_known_QN).all(axis=1)
    if not is_far_Q.any():
        return ""
    return (
        f"{_count(is_far_Q)} will hardly have their negatives replaced: the rule asks for scores below those of "
        f"unrelated texts, whose mean cosine is {background:.2f}; expected hard_negatives.subtract_background: true or "
        "hard_negatives.rule: share."
    )


def _count(is_one_Q: np.ndarray) -> str:
    number, total = int(is_one_Q.sum()), len(is_one_Q)
    return f"all {total:,} queries" if number == total else f"{number:,} of {total:,} queries"
