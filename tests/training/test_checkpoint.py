"""Checkpoints: whole or not there, the newest kept, damage named, and nothing read into another model."""

import resource
import shutil

import pytest

import conan_embed.training.checkpoint as checkpoint_module
from conan_embed.errors import UserError
from conan_embed.training.checkpoint import checkpoints
from conan_embed.training.run import train
from tests.support.small_runs import NUM_STEPS, SHARD, assert_same_run, interrupt_at, killed, lines
from tests.tiny_models import make_tiny_model


def test_killed_while_saving_the_older_checkpoint_is_used(recipe, monkeypatch):
    undisturbed = train(recipe("undisturbed"))
    with monkeypatch.context() as patch:
        write_json = checkpoint_module.write_json

        def dying(path, value):
            if "step-00000006" in str(path):
                killed()
            write_json(path, value)

        patch.setattr(checkpoint_module, "write_json", dying)
        with pytest.raises(KeyboardInterrupt):
            train(recipe("killed"))
    folder = undisturbed.parent / "killed" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    # A process that had no time to tidy up leaves a folder like this one.
    shutil.copytree(folder / "step-00000003", folder / ".step-00000006.12345.tmp")
    run = train(recipe("killed"))
    assert_same_run(run, undisturbed)
    assert sorted(path.name for path in folder.iterdir()) == [f"step-{i:08d}" for i in (3, 6, 8)]


def test_only_the_newest_checkpoints_are_kept(recipe):
    run = train(recipe(training={"steps": 6, "checkpoint_every": 1, "keep_checkpoints": 2}))
    assert [path.name for path in checkpoints(run / "checkpoints")] == ["step-00000005", "step-00000006"]


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"base": "narrow"}}, "other tensors than the model"),
        ({"mining": {"depth": 5, "offset": 1}}, "other tensors than the hard negatives"),
        ({"hard_negatives": {"source": "bank"}}, "other tensors than the hard negatives"),
    ],
)
def test_a_change_that_no_checkpoint_fits_is_refused_even_where_changes_are_allowed(
    half, tmp_path, sections, words
):
    if sections.get("model", {}).get("base"):
        make_tiny_model("bert").save(tmp_path / "narrow")
        sections["model"]["base"] = str(tmp_path / "narrow")
    with pytest.raises(UserError, match=words):
        train(half(**sections), allow_changes=True)


@pytest.mark.parametrize("name", [f"model/{SHARD}", f"optimizer/{SHARD}", "negatives.safetensors"])
def test_a_damaged_checkpoint_is_named(half, tmp_path, name):
    step = tmp_path / "run" / "checkpoints" / "step-00000005"
    file = step / name
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.raises(UserError, match=f"step-00000005/{name}: damaged"):
        train(half())
    file.unlink()
    with pytest.raises(UserError, match=f"step-00000005/{name}: no such file"):
        train(half())
    shutil.rmtree(step)
    assert len(lines(train(half()), "metrics")) == NUM_STEPS  # from the one before


def test_a_full_disk_is_said_and_older_checkpoints_stay(recipe, tmp_path, monkeypatch):
    """The limit on the size of a file stands for the end of the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    interrupt_at(monkeypatch, 6, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1])))
    try:
        with pytest.raises(UserError, match=r"step-00000006: cannot be written: .*File too large"):
            train(recipe())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    folder = tmp_path / "run" / "checkpoints"
    assert [path.name for path in folder.iterdir()] == ["step-00000003"]
    monkeypatch.undo()
    assert len(lines(train(recipe()), "metrics")) == NUM_STEPS
