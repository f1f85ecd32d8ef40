"""Fits the cost model's constants to measured plans, and says how well they decide."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from treeserve.calibration.verdict import shares
from treeserve.calibration.workloads import Tree, Workload
from treeserve.errors import CalibrationError
from treeserve.scheduler.plan.cost import CostModel

Float64Array = NDArray[np.float64]

LARGEST_P90_ERROR = 0.4
"""Constants that miss by more were measured on a machine that was busy with something else."""
LARGEST_MEAN_LOSS = 0.1
"""Constants that choose so much slower plans on average are wrong in what decides."""
LOSS_THAT_COUNTS = 0.05
"""A decision that costs less than this share of the step's attention is no mistake."""
_USUAL_ERROR = 0.05
"""Larger relative errors count in proportion, not squared: something came between."""
_NUM_DAMPINGS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Constants:
    """What a plan costs, in seconds per layer; what is worked out once a step is shared out.

    base_cost + token_cost * tokens read + item_cost * items + state_cost * states
    + sharing_cost, if any row has more than one state + row_token_cost * (row, token) pairs
    + stored_token_cost * different tokens read.

    A layer finds its K and V in memory and, when it reads them again for another row, nearer by. So
    there are two prices, and only that of a token read again depends on the plan.
    """

    base_cost: float
    """A step's attention at all."""
    token_cost: float
    """Reading one token's K and V, once more."""
    item_cost: float
    """One item more."""
    state_cost: float
    """Writing and merging one row's state."""
    sharing_cost: float
    """Merging at all, once: rows with a single state need no merge."""
    row_token_cost: float
    """One row's arithmetic over one token: the same in every plan of a step."""
    stored_token_cost: float
    """Reading one token's K and V from memory, besides: the same in every plan of a step."""
    max_item_tokens: int | None
    """Longer items are cut. None: cutting does not pay."""

    def cost_model(self) -> CostModel:
        """What the planner decides by."""
        return CostModel(
            token_cost=self.token_cost,
            state_cost=self.state_cost,
            item_cost=self.item_cost,
            sharing_cost=self.sharing_cost,
            max_item_tokens=self.max_item_tokens,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MeasuredPlans:
    """A tree's two plans, and their seconds per layer."""

    tree: Tree
    shared: Workload
    flat: Workload
    shared_seconds: float
    flat_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How the constants do on trees that they were not fitted to."""

    num_trees: int
    median_error: float
    """Of predicted seconds, as a share of the measured ones."""
    p90_error: float
    """Nine of ten are missed by less."""
    num_wrong: int
    """Trees whose cheaper plan was not chosen, at a loss of more than 5%."""
    mean_loss: float
    """Seconds of the chosen plan over those of the better one, less 1."""
    worst_loss: float

    @property
    def why_not_trusted(self) -> str | None:
        """None: the constants can be planned by."""
        if self.p90_error > LARGEST_P90_ERROR:
            return f"one prediction in ten misses by {self.p90_error:.0%} or more"
        if self.mean_loss > LARGEST_MEAN_LOSS:
            return f"the plans chosen are {self.mean_loss:.0%} slower than the best on average"
        return None


@dataclass(frozen=True, slots=True)
class Crossover:
    """From which prefix on sharing wins, for one batch; None: not up to the longest measured."""

    batch: int
    measured: int | None
    predicted: int | None
    longest: int
    """The longest prefix that was measured."""


def fit_constants(plans: Sequence[MeasuredPlans], max_item_tokens: int | None) -> Constants:
    """Least squares of relative errors, large ones damped, no constant below zero.

    Raises:
        CalibrationError: The times do not grow with what is read.
    """
    features = np.concatenate([[_features(p.shared), _features(p.flat)] for p in plans])
    seconds = np.concatenate([[p.shared_seconds, p.flat_seconds] for p in plans])
    fitted = _fit_relative(features / seconds[:, None])
    base, token, item, state, sharing, row_token, stored_token = fitted.tolist()
    if token <= 0 or not np.isfinite(fitted).all():
        raise CalibrationError(
            "calibration: the measured times do not grow with the tokens read; try again while the "
            "machine does nothing else"
        )
    return Constants(
        base_cost=base,
        token_cost=token,
        item_cost=item,
        state_cost=state,
        sharing_cost=sharing,
        row_token_cost=row_token,
        stored_token_cost=stored_token,
        max_item_tokens=max_item_tokens,
    )


def judge(constants: Constants, plans: Sequence[MeasuredPlans]) -> Quality:
    """Compare predicted with measured, and what is decided with what would have been better."""
    errors = [
        abs(predict_seconds(constants, workload) / seconds - 1)
        for p in plans
        for workload, seconds in ((p.shared, p.shared_seconds), (p.flat, p.flat_seconds))
    ]
    losses = [_loss(constants, p) for p in plans]
    return Quality(
        num_trees=len(plans),
        median_error=float(np.median(errors)),
        p90_error=float(np.quantile(errors, 0.9)),
        num_wrong=sum(loss > LOSS_THAT_COUNTS for loss in losses),
        mean_loss=float(np.mean(losses)),
        worst_loss=max(losses),
    )


def find_crossovers(constants: Constants, plans: Sequence[MeasuredPlans]) -> list[Crossover]:
    """For each batch under one prefix, ascending."""
    of_batch: dict[int, list[MeasuredPlans]] = {}
    for p in plans:
        if len(p.tree) == 2 and p.tree[0].num_nodes == 1:
            of_batch.setdefault(p.tree[-1].num_nodes, []).append(p)
    crossovers = []
    cost_model = constants.cost_model()
    for batch, measured in sorted(of_batch.items()):
        by_length = sorted(measured, key=lambda p: p.tree[0].num_tokens)
        lengths = [p.tree[0].num_tokens for p in by_length]
        won = [p.shared_seconds < p.flat_seconds for p in by_length]
        chosen = [shares(p.tree, cost_model) for p in by_length]
        crossovers.append(
            Crossover(batch, _from_where(lengths, won), _from_where(lengths, chosen), lengths[-1])
        )
    return crossovers


def _features(workload: Workload) -> Float64Array:
    """[7]: what each of the constants but the last is multiplied with."""
    tokens = np.array([len(item.slots) for item in workload.items])
    rows = np.array([len(item.rows) for item in workload.items])
    merged = rows.sum() > workload.num_rows
    stored = workload.num_stored_tokens
    return np.array(
        [1, tokens.sum(), len(tokens), rows.sum(), merged, tokens @ rows, stored], dtype=float
    )


def predict_seconds(constants: Constants, workload: Workload) -> float:
    c = constants
    weights = (
        c.base_cost,
        c.token_cost,
        c.item_cost,
        c.state_cost,
        c.sharing_cost,
        c.row_token_cost,
        c.stored_token_cost,
    )
    return float(_features(workload) @ np.array(weights))


def _loss(constants: Constants, plans: MeasuredPlans) -> float:
    """Where some of the tree's levels are shared, the plan that shares all stands for it."""
    is_shared = shares(plans.tree, constants.cost_model())
    chosen = plans.shared_seconds if is_shared else plans.flat_seconds
    return chosen / min(plans.shared_seconds, plans.flat_seconds) - 1


def _from_where(lengths: Sequence[int], wins: Sequence[bool]) -> int | None:
    """The shortest length from which on every one wins."""
    shortest = None
    for length, win in zip(reversed(lengths), reversed(wins), strict=True):
        if not win:
            break
        shortest = length
    return shortest


def _fit_relative(per_second: Float64Array) -> Float64Array:
    """The weights whose products with every row are nearest to 1, by Huber's measure."""
    damping = np.ones(len(per_second))
    for _ in range(_NUM_DAMPINGS):
        fitted = _non_negative_least_squares(per_second * damping[:, None], damping)
        errors = np.abs(per_second @ fitted - 1)
        damping = np.sqrt(_USUAL_ERROR / np.maximum(errors, _USUAL_ERROR))
    return fitted


def _non_negative_least_squares(a: Float64Array, b: Float64Array) -> Float64Array:
    """The best of the unconstrained solutions over every choice of columns that are not zero.

    Exact: at the optimum, the columns that are not zero solve their own unconstrained problem.
    """
    num_columns = a.shape[1]
    best, least = np.zeros(num_columns), float(b @ b)
    for size in range(1, num_columns + 1):
        for columns in itertools.combinations(range(num_columns), size):
            solution = np.linalg.lstsq(a[:, columns], b, rcond=None)[0]
            residual = float(((a[:, columns] @ solution - b) ** 2).sum())
            if (solution >= 0).all() and residual < least:
                best, least = np.zeros(num_columns), residual
                best[list(columns)] = solution
    return best
