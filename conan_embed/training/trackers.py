"""Trackers that get the numbers of metrics.jsonl too: TensorBoard by default; wandb, trackio and mlflow on request.

None of them needs an account: wandb keeps a run offline in the run directory (`wandb sync` uploads it later) unless
WANDB_API_KEY or WANDB_MODE says otherwise, trackio and mlflow write local files: mlflow's database and artifacts lie in
the run directory. Their own environment variables (TRACKIO_DIR, MLFLOW_TRACKING_URI, ...) apply.
"""

import importlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from conan_embed.errors import UserError
from conan_embed.recipes.sections import Tracking

_OPTIONAL = ("wandb", "trackio", "mlflow")


class Tracker(Protocol):
    """Takes numbers by name, step by step."""

    def log(self, values: dict[str, float], step: int) -> None: ...

    def close(self) -> None: ...


def check_trackers(settings: Tracking) -> None:
    """Raise UserError where a tracker is asked for whose package is not installed."""
    for name in _OPTIONAL:
        if getattr(settings, name):
            _package(name)


def open_trackers(settings: Tracking, config: dict[str, Any], folder: Path, from_step: int) -> list[Tracker]:
    """Return the trackers that the recipe asks for.

    Args:
        settings: the recipe's section.
        config: the whole recipe as a dictionary, which trackers show beside the run.
        folder: the run directory; its name is the run's. A resumed run keeps the identity that is written there.
        from_step: steps already done; TensorBoard forgets later ones.
    """
    trackers: list[Tracker] = []
    if settings.tensorboard:
        trackers.append(_TensorBoard(folder, from_step))
    if settings.wandb:
        trackers.append(_Wandb(settings.project, config, folder, from_step > 0))
    if settings.trackio:
        trackers.append(_Trackio(settings.project, config, folder, from_step > 0))
    if settings.mlflow:
        trackers.append(_Mlflow(settings.project, config, folder, from_step > 0))
    return trackers


def _package(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(
            f"tracking.{name}: the package {name} cannot be imported ({error}); "
            f'expected it to be installed: pip install "conan-embed[{name}]".'
        ) from None


class _TensorBoard:
    def __init__(self, folder: Path, from_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._board = SummaryWriter(folder / "tensorboard", purge_step=from_step + 1)

    def log(self, values: dict[str, float], step: int) -> None:
        for key, value in values.items():
            self._board.add_scalar(key, value, step)

    def close(self) -> None:
        self._board.close()


class _Wandb:
    def __init__(self, project: str, config: dict[str, Any], folder: Path, resumed: bool) -> None:
        wandb = _package("wandb")
        known = _read_id(folder / "wandb-run.txt") if resumed else None
        # Without a key in the environment it would ask for one, in the middle of a night's run.
        usual = "online" if os.environ.get("WANDB_API_KEY") else "offline"
        mode = os.environ.get("WANDB_MODE", usual)
        self._run = wandb.init(
            project=project,
            name=_name(folder),
            dir=str(folder),
            config=config,
            id=known,
            resume="allow" if known else None,
            mode=mode,
        )
        (folder / "wandb-run.txt").write_text(self._run.id, encoding="utf-8")

    def log(self, values: dict[str, float], step: int) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()


class _Trackio:
    def __init__(self, project: str, config: dict[str, Any], folder: Path, resumed: bool) -> None:
        self._trackio = _package("trackio")
        self._trackio.init(
            project=project,
            name=_name(folder),
            config=config,
            resume="allow" if resumed else "never",
        )

    def log(self, values: dict[str, float], step: int) -> None:
        self._trackio.log(values, step=step)

    def close(self) -> None:
        self._trackio.finish()


class _Mlflow:
    def __init__(self, project: str, config: dict[str, Any], folder: Path, resumed: bool) -> None:
        mlflow = _package("mlflow")
        self._entities = mlflow.entities
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        known = _read_id(folder / "mlflow-run.txt") if resumed else None
        if known:
            self._run = known
            self._client.update_run(known, status="RUNNING")
            return
        experiment = self._client.get_experiment_by_name(project)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(project, artifact_location=_artifacts(uri, folder))
        )
        self._run = self._client.create_run(number, run_name=_name(folder)).info.run_id
        params = [self._entities.Param(_mlflow_name(key), str(value)) for key, value in _leaves(config)]
        for start in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self._run, params=params[start : start + _MOST_PARAMS])
        (folder / "mlflow-run.txt").write_text(self._run, encoding="utf-8")

    def log(self, values: dict[str, float], step: int) -> None:
        now = int(1000 * time.time())
        metrics = [
            self._entities.Metric(_mlflow_name(key), value, now, step) for key, value in values.items()
        ]
        self._client.log_batch(self._run, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run)


_MOST_PARAMS = 100  # in one call to mlflow


def _artifacts(uri: str, folder: Path) -> str | None:
    """Return where mlflow keeps files of an experiment that begins, or None where its store knows a place.

    With a database it would be `mlruns` in the working directory. We name that of the database's folder, or of the
    run's where the database is no file.
    """
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme == "sqlite":
        return Path(uri.split(":///", 1)[-1]).resolve().with_name("mlruns").as_uri()
    if scheme in ("postgresql", "mysql", "mssql"):
        return (folder.resolve() / "mlruns").as_uri()
    return None


def _mlflow_name(key: str) -> str:
    """Names of sets may hold what mlflow refuses in a name."""
    return re.sub(r"[^\w/.: -]", "_", key)


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested dictionaries and lists."""
    parts = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    )
    if parts is None:
        yield key, value
        return
    for name, part in parts:
        yield from _leaves(part, f"{key}.{name}" if key else str(name))


def _name(folder: Path) -> str:
    """`small`, or of an arm of a comparison `vanilla-seed-0`."""
    return f"{folder.parent.name}-{folder.name}" if folder.name.startswith("seed-") else folder.name


def _read_id(path: Path) -> str | None:
    return path.read_text(encoding="utf-8").strip() if path.exists() else None
