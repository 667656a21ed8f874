"""`conan-embed false-negatives` on a finished run."""

import json
import shutil
from dataclasses import replace

import polars as pl
import pytest

from conan_embed.encoder.model import EmbeddingModel
from conan_embed.errors import UserError
from conan_embed.files import read_json_lines
from conan_embed.negatives.false_negatives import HardNegative
from conan_embed.training.false_negatives import find_false_negatives, with_labels
from conan_embed.training.run import train
from conan_embed.training.setup import load_data
from tests.support.chat_server import chat_server
from tests.support.cross_encoder import make_cross_encoder
from tests.support.small_runs import lines


def test_the_hardest_negatives_are_scored_by_the_model_and_found_again(recipe, base):
    """By hand: every pair is scored by the saved model, and what is suspect follows from the scores."""
    run = train(
        recipe(
            data={
                "retrieval": [
                    {"name": "pairs", "path": str(base / "pairs.jsonl")},
                    {"name": "given", "path": str(base / "given.jsonl"), "negative_source": "given"},
                ],
                "classification": [{"name": "classes", "path": str(base / "classes.jsonl")}],
            },
            step={"too_few_negatives": "allow"},
        )
    )
    written = lines(run, "hard_negatives")
    # Texts of other classes are no answers that nobody labelled.
    assert {line["data_set"] for line in written} == {"pairs", "given"}
    model = EmbeddingModel.load(run / "model")

    def encode(texts, role):
        return model.encode(texts, prompt=model.prompts[role], precision="float32")

    positives = {row["query"]: row["positive"] for row in read_json_lines(base / "pairs.jsonl")}
    for line in written:
        if line["data_set"] == "pairs":
            assert line["negative"] not in positives[line["query"]]
            assert line["rank"] >= 1  # the offset
            query = encode([line["query"]], "query")[0]
            answers = encode(positives[line["query"]], "passage") @ query
            assert line["positive"] == positives[line["query"]][int(answers.argmax())]
            assert line["positive_score"] == pytest.approx(answers.max(), abs=1e-3)
            assert line["negative_score"] == pytest.approx(
                encode([line["negative"]], "passage")[0] @ query, abs=1e-3
            )
        else:
            assert line["rank"] is line["mined_negative_score"] is line["mined_positive_score"] is None
        near = line["negative_score"] >= line["positive_score"] - 0.05
        mined_above = (line["mined_negative_score"] or -2) >= (line["mined_positive_score"] or 2)
        assert line["suspect"] == (near or mined_above)
        assert line["label"] == ""
    gaps = [line["negative_score"] - line["positive_score"] for line in written]
    assert gaps == sorted(gaps, reverse=True)

    # The files of the run alone tell the same, and what is left out is what lies below a wider margin.
    result = find_false_negatives(run, limit=200, margin=2.0)
    again = lines(run, "hard_negatives")
    assert [{**line, "suspect": None} for line in again] == [{**line, "suspect": None} for line in written]
    assert result.likely == result.checked == len(again) == len(read_json_lines(result.file))
    output = find_false_negatives(run, run / "few.jsonl", limit=6, margin=-2.0).file
    assert len(lines(run, "hard_negatives")) == 6
    assert read_json_lines(output) == [line for line in lines(run, "hard_negatives") if line["suspect"]]


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        ("checkpoints", "not a finished run"),
        ("checkpoints/*/negatives.safetensors", "holds no hard negatives"),
    ],
)
def test_false_negatives_need_a_finished_run_with_hard_negatives(recipe, gone, words):
    run = train(recipe(training={"steps": 2, "checkpoint_every": 0}))
    (path,) = run.glob(gone)
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(UserError, match=words):
        find_false_negatives(run)


def test_a_judge_continues_where_it_was_stopped_and_its_answers_become_positives(recipe, base, monkeypatch):
    """The server says yes to every second passage, and hangs up for good in the middle of the first attempt."""
    settings = recipe()
    run = train(settings)
    monkeypatch.setattr("conan_embed.training.false_negatives._SLAB", 4)
    monkeypatch.setattr("conan_embed.documents.language_model.Endpoint.tries", 1)
    down = True

    def reply(number, prompt):
        if down and number > 6:
            return 401, "the key has expired"
        return "yes" if len(prompt) % 2 else "no"

    with chat_server(reply) as server:
        asked = {"judge": server.url, "llm": "tiny", "limit": 30, "margin": 2.0}
        with pytest.raises(UserError, match="401"):
            find_false_negatives(run, **asked)
        before = [line["label"] for line in read_json_lines(run / "false_negatives.jsonl")]
        assert 0 < sum(map(bool, before)) < len(before) == 30
        down = False
        result = find_false_negatives(run, **asked, write_data=run / "data")
        prompts = [request["messages"][0]["content"] for request in server.requests]
    # Pairs with one text each were asked about once, but for those that the server refused.
    assert len(set(prompts)) == 31 and len(prompts) <= 31 + 1 + 8
    judged = read_json_lines(result.file)
    assert result.labels == {"positive": sum(line["label"] == "positive" for line in judged)} | {
        "negative": sum(line["label"] == "negative" for line in judged)
    }
    assert set(result.labels) == {"positive", "negative"}

    # By hand: the rows of the file, each with the answers to its query.
    (data,) = result.data
    answers = [(line["query"], line["negative"]) for line in judged if line["label"] == "positive"]
    expected = [
        [*row["positive"], *(text for query, text in answers if query == row["query"])]
        for row in read_json_lines(base / "pairs.jsonl")
    ]
    written = pl.read_parquet(data)
    assert [sorted(set(row)) for row in expected] == [sorted(row) for row in written["positive"].to_list()]
    assert written["query"].to_list() == [row["query"] for row in read_json_lines(base / "pairs.jsonl")]

    # The next run knows them as positives.
    model = EmbeddingModel.load(run / "model")
    retrieval = [settings.data.retrieval[0].model_copy(update={"path": str(data)})]
    tasks = load_data(settings.data.model_copy(update={"retrieval": retrieval}), settings.cache, model)
    dataset = tasks.retrieval[0]
    known = {
        (tasks.store.text(int(query)), tasks.store.text(int(text)))
        for row, query in enumerate(dataset.query_Q)
        for text in dataset.positives[dataset.list_Q[row]]
    }
    assert set(answers) <= known


def test_labels_of_a_person_stay(recipe, tmp_path):
    run = train(recipe())
    file = find_false_negatives(run, limit=20, margin=2.0).file
    pairs = read_json_lines(file)
    pairs[0]["label"], pairs[7]["label"], pairs[7]["comment"] = "positive", "negative", "no"
    file.write_text("\n".join(map(json.dumps, pairs)))  # an editor leaves no line break at the end
    result = find_false_negatives(run, limit=2, margin=2.0, judge=str(make_cross_encoder(tmp_path / "cross")))
    again = read_json_lines(file)
    key = lambda line: (line["query"], line["negative"])  # noqa: E731
    person = {key(pair): pair["label"] for pair in (pairs[0], pairs[7])}
    assert person.items() <= {key(line): line["label"] for line in again}.items()
    assert result.likely == 2 < len(again), "a labelled pair stays though it is not among the likeliest now"
    for line in again:
        if key(line) in person:
            assert line["judge_gap"] is None
        else:
            assert line["label"] == ("positive" if line["judge_gap"] >= 0 else "negative")
    for text, words in (('{"query": "a"}\n', "line 1: not a pair"), ("no\n", "line 1: not a pair")):
        file.write_text(text)
        with pytest.raises(UserError, match=words):
            find_false_negatives(run)
    file.write_text(json.dumps({**again[0], "label": "pos"}))
    with pytest.raises(UserError, match="line 1: found the label 'pos', expected positive or negative"):
        find_false_negatives(run)


def test_no_label_is_lost_and_no_pair_is_listed_twice():
    pair = HardNegative("faq", "q", "p", "n", 0.5, 0.6, None, None, None, in_use=True, suspect=True)
    other, third = replace(pair, negative="m"), replace(pair, query="r")
    labelled = [replace(pair, label="negative"), replace(third, label="positive", judge_gap=0.2)]
    merged = with_labels([pair, other, pair], labelled)
    assert merged == [labelled[0], other, labelled[1]]
    assert with_labels([pair, pair], []) == [pair]
