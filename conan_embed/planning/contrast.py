"""Is there anything to learn? A query needs a positive and a negative, a graded pair another of another grade.

Without them the loss is 0 from the first step to the last, without any warning. So a run whose steps all lack them is
refused before it starts, and single such steps are counted (training/loop.py).
"""

import torch

from conan_embed.errors import UserError
from conan_embed.negatives.table import NegativeTable
from conan_embed.objectives.relations import NEGATIVE, POSITIVE, Relations
from conan_embed.planning.plan import StepPlan, StepSource, StsPlan

_MOST_STEPS = 256  # looked at before the start; of a longer epoch without any contrast nothing is said


def has_contrast(plan: StepPlan) -> bool:
    """Return whether any part of the step has something to learn."""
    return (plan.retrieval is not None and queries_have_contrast(plan.retrieval.relations)) or (
        plan.sts is not None and pairs_have_contrast(plan.sts)
    )


def queries_have_contrast(relations: Relations) -> bool:
    """Return whether a query has a positive and a negative.

    Example:
        >>> queries_have_contrast(Relations.in_batch(1)), queries_have_contrast(Relations.in_batch(2))
        (False, True)
    """
    num_queries = len(relations.group_Q)
    has_positive = torch.zeros(num_queries, dtype=torch.bool)
    has_positive[relations.row_X[relations.value_X == POSITIVE]] = True
    has_negative = torch.zeros(num_queries, dtype=torch.bool)
    has_negative[relations.row_X[relations.value_X == NEGATIVE]] = True
    # In the batch: the candidates of the query's group, less those that are an exception for it.
    in_group = relations.group_C[relations.group_C >= 0]
    size = torch.bincount(in_group, minlength=max(1, int(relations.group_Q.max()) + 1))
    shared = relations.group_Q >= 0
    count_Q = torch.where(shared, size[relations.group_Q.clamp(min=0)], 0)
    excepted = relations.group_C[relations.column_X] == relations.group_Q[relations.row_X]
    count_Q -= torch.bincount(relations.row_X[excepted], minlength=num_queries)
    return bool((has_positive & (has_negative | (count_Q > 0))).any())


def pairs_have_contrast(plan: StsPlan) -> bool:
    """Return whether two pairs of one data set have different scores."""
    for group in plan.group_P.unique():
        labels = plan.label_P[plan.group_P == group]
        if bool((labels != labels[0]).any()):
            return True
    return False


def check_contrast(source: StepSource, table: NegativeTable | None, num_steps: int) -> None:
    """Refuse a run in which nothing can be learned; all processes must call it.

    As a rule the first step settles it.

    Raises:
        UserError: in no step of an epoch does a query have a negative, or do two STS pairs have different scores.
    """
    num_whole = min(num_steps, source.steps_for(1))
    settled: dict[str, bool] = {}
    for step in range(min(num_whole, _MOST_STEPS)):
        plan = source.step(step, table)
        if plan.retrieval is not None:
            settled["queries"] = settled.get("queries") or queries_have_contrast(plan.retrieval.relations)
        if plan.sts is not None:
            settled["pairs"] = settled.get("pairs") or pairs_have_contrast(plan.sts)
        if all(settled.values()):
            return
    if num_whole > _MOST_STEPS:
        return
    if not settled.get("queries", True):
        raise UserError(
            "data.retrieval: nothing to learn: no query of any step has a negative candidate; expected hard negatives "
            "(step.num_negatives, negative_source), or several queries with different positives in a step "
            "(step.queries, step.in_batch)."
        )
    raise UserError(
        "data.sts: nothing to learn: no step holds two pairs of a data set with different scores; expected scores of "
        "at least two grades, and step.sts_pairs of at least 2."
    )
