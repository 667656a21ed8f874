"""Who failed first, whose message is printed, and which errors mean that another process is gone."""

import subprocess
import sys

import pytest
import torch.distributed as dist

from conan_embed.distributed import failures
from tests.support.many_processes import start_world


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (failures.PeerLost("process 1 sent no heartbeat"), True),
        (dist.DistNetworkError("the store is gone"), True),
        (RuntimeError("[../gloo/transport/tcp/pair.cc:534] Connection closed by peer"), True),
        (RuntimeError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
    ],
)
def test_errors_of_other_processes(error, expected):
    assert failures.is_peer_failure(error) == expected


def test_a_process_alone_reports_and_ends(capsys):
    assert not failures.in_group() and failures.process_suffix() == ""
    with pytest.raises(SystemExit) as ended:
        failures.exit_all(3, lambda: print("the reason"))
    assert ended.value.code == 3
    assert capsys.readouterr().out == "the reason\n"


def fail_together(folder):
    """Every process fails with a status and a message of its own."""
    from conan_embed.distributed import collectives

    collectives.start("cpu")
    rank = collectives.rank()
    failures.exit_all(10 + rank, lambda: (folder / f"{rank}.txt").write_text(failures.process_suffix()))


def test_of_several_failures_that_of_process_0_is_reported_and_its_status_is_that_of_all(tmp_path):
    assert start_world(3, fail_together, tmp_path) == [10, 10, 10]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"0.txt": ""}


def test_reading_this_file_does_not_import_torch():
    """It is read before every command, also before `--help`."""
    code = "import sys; import conan_embed.distributed.failures; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
