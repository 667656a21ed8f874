"""Steps over shards: each shard once, and what goes wrong in a worker is said by the process that started it."""

import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.engine import Progress, run_step


def double(shard: int) -> Progress:
    return Progress(2 * shard, shard)


def refuse(shard: int) -> Progress:
    raise UserError(f"shard {shard}: found 中文, expected English.")


def fail(shard: int) -> Progress:
    raise ZeroDivisionError(f"in shard {shard}")


def test_each_shard_is_worked_on_once() -> None:
    found = list(run_step(double, [3, 0, 5], runner="native", workers=1))
    assert sorted(progress.kept for progress in found) == [0, 3, 5]
    assert all(progress.rows == 2 * progress.kept for progress in found)
    assert list(run_step(fail, [], runner="native", workers=1)) == []


def test_a_users_error_comes_as_it_was_raised() -> None:
    with pytest.raises(UserError, match=r"^shard 4: found 中文, expected English\.$"):
        list(run_step(refuse, [4], runner="native", workers=1))


def test_another_error_comes_with_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a step failed in a worker:.*ZeroDivisionError: in shard 4"):
        list(run_step(fail, [4], runner="native", workers=1))


def test_a_process_keeps_its_first_runner() -> None:
    pytest.importorskip("ray")
    list(run_step(double, [1], runner="native", workers=1))
    with pytest.raises(
        UserError, match="already runs Daft's native runner; start a new one for the ray runner"
    ):
        list(run_step(double, [1], runner="ray", workers=1))
