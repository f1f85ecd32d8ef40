"""Which draws of sharing on and off may differ, and which may not."""

from treeserve.bench.decode.compare import compare_samples, compare_tokens
from treeserve.bench.decode.sides import Drawn


def draw(token: int, logprob: float, **others: float) -> Drawn:
    top = {int(name[1:]): value for name, value in others.items()}
    return Drawn(token, logprob, {token: logprob, **top})


def test_equal_tokens_with_equal_log_probabilities_are_the_same():
    sample = [draw(3, -1.0), draw(4, -2.0)]
    found = compare_samples([sample], [[draw(3, -1.0), draw(4, -2.0005)]], "float32")
    assert (found.num_equal, found.num_parted, found.wrong) == (2, 0, "")


def test_equal_tokens_with_other_log_probabilities_are_wrong():
    found = compare_samples([[draw(3, -1.0)]], [[draw(3, -1.1)]], "float32")
    assert found.wrong.startswith("sample 0, token 0: log-probabilities differ by 0.1")


def test_a_sample_may_part_where_both_hold_both_tokens_for_as_likely():
    left = [draw(3, -1.0, t4=-1.001), draw(9, -1.0)]
    right = [draw(4, -1.0, t3=-1.001), draw(8, -5.0)]
    found = compare_samples([left], [right], "float32")
    assert (found.num_equal, found.num_parted, found.wrong) == (0, 1, "")


def test_a_sample_may_not_part_where_one_side_is_sure():
    left = [draw(3, -1.0, t4=-3.0)]
    right = [draw(4, -1.0, t3=-1.001)]
    found = compare_samples([left], [right], "float32")
    assert found.wrong == "sample 0, token 0: tokens 3 and 4 differ, and not by rounding"


def test_a_token_that_is_not_among_the_likeliest_is_wrong():
    found = compare_samples([[draw(3, -1.0)]], [[draw(4, -1.0)]], "bfloat16")
    assert "differ" in found.wrong


def test_tokens_alone_may_part_only_where_the_drawn_one_was_hardly_likelier():
    mine = [draw(3, -1.0), draw(4, -1.0, t5=-1.001), draw(6, -1.0)]
    parted = compare_tokens([mine, mine], [[3, 4, 6], [3, 5, 9]], "float32")
    assert (parted.num_equal, parted.num_parted, parted.wrong) == (4, 1, "")
    wrong = compare_tokens([mine], [[3, 4, 7]], "float32").wrong
    assert wrong == "sample 0, token 2: tokens 6 and 7 differ, and not by rounding"
