"""Items are cut only where every round says so: a wrong cut makes every long row merge for ever."""

import numpy as np

from treeserve.calibration.cuts import CUTS, choose_cut


def rounds(*factors: float) -> np.ndarray:
    """[rounds, workloads, cuts]: without a cut the first workload takes so many times as long."""
    seconds = np.ones((len(factors), 3, len(CUTS)))
    seconds[:, 0, 0] = factors
    return seconds


def test_a_cut_that_wins_every_round_is_chosen_where_it_does_best():
    seconds = rounds(2, 2, 3)
    seconds[:, :, 1:] = 1.1
    seconds[:, :, CUTS.index(1024)] = 1.0
    assert choose_cut(seconds) == 1024


def test_one_round_without_a_clear_win_is_enough_to_cut_nothing():
    assert choose_cut(rounds(2, 2, 2, 2)) == CUTS[1]
    assert choose_cut(rounds(2, 2, 1.2, 2)) is None
    assert choose_cut(rounds(9, 9, 1, 9)) is None


def test_each_round_may_favour_another_cut_and_then_none_is_sure():
    seconds = np.full((2, 3, len(CUTS)), 2.0)
    seconds[0, :, 1] = 1
    seconds[1, :, 2] = 1
    assert choose_cut(seconds) is None


def test_what_one_workload_loses_counts_against_a_cut():
    seconds = rounds(2, 2)
    seconds[:, 1, 1:] = 2.5
    assert choose_cut(seconds) is None
