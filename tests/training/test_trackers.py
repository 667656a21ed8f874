"""Trackers beside TensorBoard: what they are told, with stand-ins for their packages."""

import sys
from types import ModuleType, SimpleNamespace

import pytest

from conan_embed.errors import UserError
from conan_embed.recipes.schema import Recipe
from conan_embed.recipes.sections import Tracking
from conan_embed.training.metrics import MetricsLog
from conan_embed.training.trackers import check_trackers, open_trackers


class Fake(ModuleType):
    """wandb, trackio and mlflow in one: remembers what it was called with."""

    def __init__(self, name):
        super().__init__(name)
        self.started, self.logged, self.closed, self.params = [], [], 0, {}
        self.id = "the-identity"

    def init(self, **settings):
        self.started.append(settings)
        return self

    def log(self, values, step):
        self.logged += [(key, value, step) for key, value in values.items()]

    def finish(self):
        self.closed += 1

    # mlflow's client
    entities = SimpleNamespace(
        Param=lambda key, value: (key, value),
        Metric=lambda key, value, timestamp, step: (key, value, step),
    )

    def MlflowClient(self, tracking_uri):
        self.started.append({"uri": tracking_uri})
        return self

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id=f"number of {name}")

    def create_run(self, experiment, run_name):
        self.started[-1] |= {"project": experiment, "name": run_name, "config": self.params}
        return SimpleNamespace(info=SimpleNamespace(run_id=self.id))

    def log_batch(self, run, params=(), metrics=()):
        assert run == self.id
        self.params |= dict(params)
        self.logged += metrics

    def update_run(self, run, status):
        assert (run, status) == (self.id, "RUNNING")

    def set_terminated(self, run):
        self.closed += 1


def recipe(**tracking):
    values = {
        "model": {"base": "b"},
        "data": {"retrieval": [{"name": "r", "path": "r"}]},
        "step": {"sts_pairs": 0},
        "tracking": {"tensorboard": False, "project": "mine", **tracking},
    }
    return Recipe.model_validate(values)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_a_tracker_gets_every_number_and_goes_on_as_the_same_run(name, monkeypatch, tmp_path):
    fake = Fake(name)
    monkeypatch.setitem(sys.modules, name, fake)
    run = tmp_path / "small"
    run.mkdir()
    settings = recipe(**{name: True})
    check_trackers(settings.tracking)
    log = MetricsLog(run, from_step=-1, trackers=open_trackers(settings.tracking, settings.as_dict(), run, 0))
    result = {"main_score": 0.25, "metric": "cosine_spearman"}
    log.write(
        "evaluation", {"step": 0, "results": {"sts/A": result}, "summary": {"sts": 0.25, "average": 0.25}}
    )
    log.write("metrics", {"step": 1, "loss": 2.0, "loss/sts": None})
    log.write("negatives", {"step": 1, "replaced": 3})
    log.close()
    assert fake.logged == [
        ("evaluation/sts", 0.25, 0),
        ("evaluation/average", 0.25, 0),
        ("evaluation/average_of_tasks", 0.25, 0),
        ("evaluation_sets/sts/A", 0.25, 0),
        ("loss", 2.0, 1),
        ("negatives/replaced", 3, 1),
    ]
    assert fake.closed == 1
    (started,) = fake.started
    assert "mine" in started["project"]
    assert started["name"] == "small"
    config = started["config"]
    assert config["model.base"] == "b" if name == "mlflow" else config == settings.as_dict()
    if name == "wandb":
        assert (started["mode"], started["dir"], started["id"]) == ("offline", str(run), None)
    if name == "mlflow":
        assert started["uri"] == f"sqlite:///{run / 'mlflow.db'}"

    (tracker,) = open_trackers(settings.tracking, settings.as_dict(), run, 1)
    tracker.log({"loss": 1.0}, 2)
    again = fake.started[-1]
    expected = {
        "wandb": ("id", "the-identity"),
        "trackio": ("resume", "allow"),
        "mlflow": ("uri", again.get("uri")),
    }
    assert again[expected[name][0]] == expected[name][1]
    assert fake.logged[-1] == ("loss", 1.0, 2)


def test_wandb_is_online_where_the_environment_says_so(monkeypatch, tmp_path):
    fake = Fake("wandb")
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    open_trackers(Tracking(tensorboard=False, wandb=True), {}, tmp_path, 0)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    open_trackers(Tracking(tensorboard=False, wandb=True), {}, tmp_path, 0)
    assert [started["mode"] for started in fake.started] == ["online", "disabled"]


def test_a_missing_package_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r'tracking\.trackio: .*pip install "conan-embed\[trackio\]"'):
        check_trackers(Tracking(trackio=True))
