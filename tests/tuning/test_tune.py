"""The one command from end to end, with a tiny model: what it leaves, resumes, and never claims."""

import contextlib
import fcntl
import random
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
import torch

from conan_embed.cli import app
from conan_embed.encoder.model import EmbeddingModel
from conan_embed.encoder.weight_files import read_tensors
from conan_embed.errors import UserError
from conan_embed.evaluation.cached_encoder import CachedEncoder
from conan_embed.files import LOCK, read_json
from conan_embed.tuning import tune as module
from conan_embed.tuning.searching import search_tuned
from conan_embed.tuning.speed import Speed
from conan_embed.tuning.tune import TuneSettings, best_share, tune
from tests.tiny_models import make_tiny_model

WORDS = [*("file", "line", "memory", "python", "training", "data", "model"), *("negative", "answer", "park")]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base model and an evaluation set of another domain."""
    monkeypatch.setattr("conan_embed.tuning.speed._PATIENCE", 0.01)
    make_tiny_model("bert").save(tmp_path / "base")
    folder = tmp_path / "other" / "retrieval" / "small"
    folder.mkdir(parents=True)
    texts = [f"{one} and {two} together" for one in WORDS[:6] for two in WORDS[6:]]
    ids = [f"d{number}" for number in range(len(texts))]
    pl.DataFrame({"doc_id": ids, "text": texts}).write_parquet(folder / "corpus.parquet")
    asked = pl.DataFrame({"query_id": ["q0", "q1", "q2"], "text": texts[:3]})
    asked.write_parquet(folder / "queries.parquet")
    judged = pl.DataFrame({"query_id": ["q0", "q1", "q2"], "doc_id": ids[:3], "score": [1, 1, 1]})
    judged.write_parquet(folder / "qrels.parquet")
    return tmp_path


def _write_table(path: Path, *, shuffled: bool, rows: int = 160) -> Path:
    generator = random.Random(0)
    questions = [f"what about {' '.join(generator.sample(WORDS, 3))} number {row}" for row in range(rows)]
    answers = [
        question.removeprefix("what about ") + " is told here at some length" for question in questions
    ]
    if shuffled:
        generator.shuffle(answers)
    pl.DataFrame({"question": questions, "answer": answers}).write_csv(path)
    return path


def _settings(project: Path, **settings) -> TuneSettings:
    given = {"other": project / "other", "overrides": ("training.steps=4", "step.queries=8"), **settings}
    return TuneSettings(str(project / "base"), **given)


def test_the_run_leaves_a_model_passages_and_an_index_and_resumes(project: Path, monkeypatch, capsys) -> None:
    table, output = _write_table(project / "faq.csv", shuffled=False), project / "out"
    monkeypatch.setattr(module, "_choose_share", _killed)
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project))
    monkeypatch.undo()
    monkeypatch.setattr("conan_embed.tuning.speed._PATIENCE", 0.01)
    result = tune([table], output, _settings(project))
    assert read_json(output / "tune.json")["verdict"]["word"] == result.verdict.word
    assert EmbeddingModel.load(output / "model").width == 32
    passages = pl.read_parquet(output / "passages.parquet")
    corpus = pl.read_parquet(output / "training_corpus.parquet")
    assert set(corpus["doc_id"]) == set(passages.filter(split="train")["doc_id"]), (
        "held-out texts are no negatives"
    )
    assert tune([table], output, _settings(project)) == result, "a finished run is read"
    assert set(result.seconds) <= set(result.estimated)
    hits = search_tuned("file and memory", output, k=3)
    assert len(hits) == 3
    assert result.search("file and memory", k=3)["doc_id"].to_list() == [hit.doc_id for hit in hits]
    assert result.model.encode(["a text"]).shape == (1, 32)
    assert result.report.read_text().startswith("<!DOCTYPE html>")
    assert str(result).startswith(f"{result.verdict.sentence()}\nother domains: ")
    assert "faq.csv#" in hits[0].doc_id and "what about" in hits[0].doc_id
    capsys.readouterr()
    passages.head(50).write_parquet(output / "passages.parquet")
    search_tuned("file and memory", output)
    assert "changed since it was indexed" in capsys.readouterr().err


def test_a_run_of_other_documents_or_settings_is_refused_before_anything_is_touched(
    project: Path, monkeypatch
) -> None:
    table, output = _write_table(project / "faq.csv", shuffled=False), project / "out"
    monkeypatch.setattr(module, "train", _killed)
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project))
    files = _written(output)
    for change, message in (
        ({"seed": 1}, r"holds a run with other seed \(was 0, is 1\); choose another folder, or start anew"),
        ({"minutes": 3.0}, r"other minutes \(was None, is 3\.0\)"),
        ({"hold_out": 0.2}, r"other hold_out \(was 0\.1, is 0\.2\)"),
    ):
        with pytest.raises(UserError, match=message):
            tune([table], output, _settings(project, **change))
    _write_table(table, shuffled=False, rows=170)
    with pytest.raises(UserError, match="holds a run with other documents; choose another folder"):
        tune([table], output, _settings(project))
    corpus = project / "other" / "retrieval" / "small" / "corpus.parquet"
    content = corpus.read_bytes()
    pl.read_parquet(corpus).head(20).write_parquet(corpus)
    with pytest.raises(
        UserError, match="holds a run with other documents and evaluation_sets; choose another"
    ):
        tune([table], output, _settings(project))
    corpus.write_bytes(content)
    assert _written(output) == files
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project), resume=False)
    assert pl.read_parquet(output / "pairs" / "passages.parquet").height == 170


def _written(folder: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK
    }


@pytest.mark.parametrize("name", ["note.txt", "settings.json"])
@pytest.mark.parametrize("content", ['{"editor": "mine"}', "// no JSON", "[1]"])
def test_a_folder_of_somebody_else_is_never_touched(project: Path, name: str, content: str) -> None:
    (project / "mine").mkdir()
    (project / "mine" / name).write_text(content)
    for resume in (True, False):
        with pytest.raises(
            UserError, match="is not empty and was not written by `tune`; choose another folder"
        ) as error:
            tune([project / "faq.csv"], project / "mine", _settings(project), resume=resume)
        assert "--no-resume" not in str(error.value)
    assert [path.name for path in (project / "mine").iterdir()] == [name]


def test_a_mistake_in_the_command_costs_nothing_that_a_run_left(project: Path, monkeypatch) -> None:
    table, output = _write_table(project / "faq.csv", shuffled=False), project / "out"
    monkeypatch.setattr(module, "train", _killed)
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project))
    files = _written(output)
    (project / "half" / "test").mkdir(parents=True)
    for sources, change, message in (
        ([project / "faq.cvs"], {}, "faq.cvs: no such file"),
        ([table], {"overrides": ("optimizer.learning_rat=1e-5",)}, "learning_rat"),
        ([table], {"overrides": ("training.steps",)}, "training.steps: not an override"),
        ([table], {"other": project / "nowhere"}, "nowhere: no such folder of evaluation sets"),
        ([table], {"other": project / "half"}, "half: found test/ without development/"),
    ):
        for resume in (True, False):
            with pytest.raises(UserError, match=message):
                tune(sources, output, _settings(project, **change), resume=resume)
    with _other_process_in(output), pytest.raises(UserError, match=r"out: in use by process \d+"):
        tune([table], output, _settings(project), resume=False)
    assert _written(output) == files


@contextlib.contextmanager
def _other_process_in(folder: Path) -> Iterator[None]:
    with (folder / LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # of another open file, as another process would have it
        lock.write("process 1 on here, since now")
        lock.flush()
        yield


def test_settings_may_change_until_something_is_scored_and_paid_answers_are_kept(
    project: Path, monkeypatch
) -> None:
    table, output = _write_table(project / "faq.csv", shuffled=False), project / "out"
    monkeypatch.setattr(module, "_clean", _killed)
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project))
    (output / "pairs" / "answers.jsonl").write_text("paid\n")
    for change in ({"minutes": 3.0}, {"hold_out": 0.2}, {"overrides": ("training.steps=3",)}):
        with pytest.raises(KeyboardInterrupt):
            tune([table], output, _settings(project, **change))
    (output / "scores").mkdir()
    with pytest.raises(KeyboardInterrupt):
        tune([table], output, _settings(project), resume=False)
    assert not (output / "scores").exists()
    assert (output / "pairs" / "answers.jsonl").read_text() == "paid\n"
    assert read_json(output / "settings.json")["hold_out"] == 0.1


class _Forgetful(CachedEncoder):
    def encode(self, texts, **more):
        self._row.clear()
        self._file.seek(0)
        self._file.truncate()
        return super().encode(texts, **more)


def test_no_text_is_encoded_twice_by_the_same_weights_and_the_numbers_stay(
    project: Path, monkeypatch
) -> None:
    """Against a run whose encoders forget: the scores are the same, bit for bit, with fewer texts encoded."""
    make_tiny_model("bert", prompts={"query": "query: ", "passage": "passage: "}).save(project / "base")
    monkeypatch.setattr(module, "measure_speed", lambda *_: Speed(1e5, 1e5, 10, 10))
    table, counts, encode = _write_table(project / "faq.csv", shuffled=False), [], EmbeddingModel.encode

    def counting(self, texts, **more):
        counts.append(len(texts))
        return encode(self, texts, **more)

    monkeypatch.setattr(EmbeddingModel, "encode", counting)
    result = tune([table], project / "once", _settings(project))
    once = sum(counts)
    counts.clear()
    monkeypatch.setattr(module, "CachedEncoder", _Forgetful)
    again = tune([table], project / "again", _settings(project))
    passages = pl.read_parquet(project / "once" / "passages.parquet")
    others = pl.read_parquet(project / "other" / "retrieval" / "small" / "corpus.parquet")
    # The index; other domains, questions included, by the base a second time and by the chosen weights.
    assert sum(counts) - once == passages["text"].n_unique() + 2 * (len(others) + 3)
    assert (again.verdict, again.elsewhere, again.tried) == (result.verdict, result.elsewhere, result.tried)
    for name in ("base", "tuned"):
        file = Path("scores") / f"{name}.parquet"
        assert pl.read_parquet(project / "once" / file).equals(pl.read_parquet(project / "again" / file))
    vectors = [
        read_tensors(next((project / run / "index" / "search").iterdir())) for run in ("once", "again")
    ]
    # In bfloat16 an embedding depends a little on the texts that were encoded with it.
    torch.testing.assert_close(vectors[0]["passages"], vectors[1]["passages"], atol=5e-3, rtol=0)


def _killed(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_shuffled_pairs_are_never_better(project: Path) -> None:
    table = _write_table(project / "noise.csv", shuffled=True)
    result = tune([table], project / "out", _settings(project))
    assert result.verdict.agreement < 0.6
    assert result.verdict.word != "BETTER"
    arguments = ["tune", str(table), "--model", str(project / "base"), "-o", str(project / "out")]
    arguments += ["--other", str(project / "other"), "--set", "training.steps=4", "--set", "step.queries=8"]
    assert app([*arguments, "--require-better"], standalone_mode=False) == 1


def test_too_few_questions_to_judge_by_are_refused(project: Path) -> None:
    table = _write_table(project / "few.csv", shuffled=False, rows=12)
    with pytest.raises(UserError, match=r"few\.csv: \d held-out questions, expected 10 or more"):
        tune([table], project / "out", _settings(project))


def test_the_share_is_the_best_of_those_that_lose_little_elsewhere() -> None:
    assert best_share({1.0: (0.6, 0.5), 0.5: (0.5, 0.5)}, kept=0.5) == 1.0
    assert best_share({1.0: (0.6, 0.4), 0.75: (0.55, 0.497), 0.5: (0.5, 0.5)}, kept=0.5) == 0.75
    assert best_share({1.0: (0.6, 0.3), 0.5: (0.5, 0.4)}, kept=0.5) == 0.5
