"""Trackers beside TensorBoard, the real ones, offline: what their files hold afterwards, and where these lie.

Each runs in a process of its own with a working directory of its own, in which nothing may be left.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SETS = {"sts/STS 甲": (0.25, {"64": 0.2, "16": 0.1}), "retrieval/faq (new)": (0.75, {"64": 0.6, "16": 0.5})}
EXPECTED = {
    "evaluation/average": 0.5,
    "evaluation/sts": 0.25,
    "evaluation/retrieval": 0.75,
    "evaluation_at_64/average": 0.4,
    "evaluation_at_16/average": 0.3,
    "evaluation_sets/sts/STS 甲": 0.25,
    "evaluation_sets/retrieval/faq (new)": 0.75,
    "evaluation_sets_at_64/sts/STS 甲": 0.2,
    "evaluation_sets_at_16/retrieval/faq (new)": 0.5,
    "loss": 2.0,
    "negatives/replaced": 3,
}
RUN = """
import json, sys
from pathlib import Path
from conan_embed.recipes.schema import Tracking
from conan_embed.training.metrics import MetricsLog
from conan_embed.training.trackers import open_trackers

name, folder, sets = sys.argv[1], Path(sys.argv[2]), json.loads(sys.argv[3])
settings = Tracking.model_validate({"project": "mine", "tensorboard": False, name: True})
config = {"model": {"base": "b", "widths": [64, 16]}}
results = {
    key: {"main_score": score, "metric": "m", "widths": widths} for key, (score, widths) in sets.items()
}
for done in (0, 1):  # a run, and the same run resumed
    log = MetricsLog(folder, from_step=done, trackers=open_trackers(settings, config, folder, done))
    log.write("metrics", {"step": done + 1, "loss": 2.0 / (done + 1)})
    log.write("negatives", {"step": done + 1, "replaced": 3})
    log.write("evaluation", {"step": done + 1, "results": results, "summary": {}})
    log.close()
"""


def log_with(name, tmp_path, **environment):
    """Log a run and its resumption; return the run's folder. Home and working directory are of its own."""
    if importlib.util.find_spec("torch.utils.tensorboard" if name == "tensorboard" else name) is None:
        pytest.skip(f"{name} is not installed")
    folder, working, home = (tmp_path / part for part in ("run", "working", "home"))
    for path in (folder, working, home):
        path.mkdir()
    unset = ("WANDB_API_KEY", "WANDB_MODE", "WANDB_DIR", "TRACKIO_DIR", "MLFLOW_TRACKING_URI")
    inherited = {key: value for key, value in os.environ.items() if key not in unset}
    subprocess.run(
        [sys.executable, "-c", RUN, name, str(folder), json.dumps(SETS)],
        cwd=working,
        env=inherited
        | {"HOME": str(home), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        | environment,
        check=True,
        timeout=300,
    )
    assert not list(working.iterdir())
    return folder


def check(found, rename=lambda key: key):
    """`found`: by name, the values of steps 1 and 2."""
    for key, value in EXPECTED.items():
        last = value / 2 if key == "loss" else value
        assert found[rename(key)] == pytest.approx([value, last]), key


def test_tensorboard_shows_sets_and_widths(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = log_with("tensorboard", tmp_path)
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    found = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    check(found)


def test_wandb_keeps_sets_and_widths_in_the_run_folder(tmp_path):
    folder = log_with("wandb", tmp_path)
    files = sorted(folder.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 2 and len({file.name for file in files}) == 1  # one run, resumed
    found = {}
    for file in files:
        for row in wandb_history(file):
            for key in EXPECTED.keys() & row.keys():
                found.setdefault(key, []).append(row[key])
    check(found)


def wandb_history(path):
    """Yield what a file of an offline run logged, step by step: records in a LevelDB log of 32 KiB blocks."""
    from wandb.proto import wandb_internal_pb2

    data, at, record = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            message = wandb_internal_pb2.Record.FromString(record)
            record = b""
            if message.HasField("history"):
                items = message.history.item
                yield {item.key or ".".join(item.nested_key): json.loads(item.value_json) for item in items}


def test_trackio_shows_sets_and_widths(tmp_path):
    pytest.importorskip("trackio")
    folder = log_with("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "trackio"))
    script = (
        "import json; from trackio.sqlite_storage import SQLiteStorage as s;"
        f"print('ROWS' + json.dumps(s.get_logs('mine', {folder.name!r}), default=str)); print(s.get_runs('mine'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "['run']" in done.stdout  # one run, resumed
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("ROWS")]
    found = {}
    for row in json.loads(line[4:]):
        for key in EXPECTED.keys() & row.keys():
            found.setdefault(key, []).append(row[key])
    check(found)


@pytest.mark.parametrize("given", ["", "sqlite"])
def test_mlflow_shows_sets_and_widths_and_keeps_everything_in_the_run_folder_or_where_told(given, tmp_path):
    pytest.importorskip("mlflow")
    place = tmp_path / "elsewhere" if given else tmp_path / "run"
    if given:
        place.mkdir()
    uri = f"sqlite:///{place / 'mlflow.db'}"
    folder = log_with("mlflow", tmp_path, **({"MLFLOW_TRACKING_URI": uri} if given else {}))
    assert (folder / "mlflow.db").exists() == (not given)
    script = f"""
import json, mlflow
client = mlflow.MlflowClient(tracking_uri={uri!r})
(run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
found = {{key: [m.value for m in client.get_metric_history(run.info.run_id, key)] for key in run.data.metrics}}
client.log_text(run.info.run_id, "kept", "note.txt")
shown = [found, run.data.params, run.info.status, run.info.artifact_uri]
print("SHOWN" + json.dumps(shown))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path / "working", capture_output=True, text=True, check=True
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("SHOWN")]
    found, params, status, artifacts = json.loads(line[5:])
    check(found, lambda key: key.replace("(", "_").replace(")", "_"))
    assert params == {"model.base": "b", "model.widths.0": "64", "model.widths.1": "16"}
    assert status == "FINISHED"
    assert artifacts.startswith((place / "mlruns").as_uri())
    assert list((place / "mlruns").rglob("note.txt"))
    assert not list((tmp_path / "working").iterdir())
