"""Logs of a run: one object a line, what a kill undid forgotten, numbers to every tracker."""

import pytest

from conan_embed.files import read_json_lines
from conan_embed.training.metrics import MetricsLog, NoLog


class Recorder:
    def __init__(self):
        self.numbers, self.closed = [], False

    def log(self, numbers, step):
        self.numbers.append((step, numbers))

    def close(self):
        self.closed = True


def open_log(folder, done, *trackers):
    return MetricsLog(folder, from_step=done, trackers=trackers)


def test_lines_after_the_checkpoint_and_a_broken_one_are_forgotten(tmp_path):
    log = open_log(tmp_path, -1)
    for step in (1, 2, 3):
        log.write("metrics", {"step": step, "loss": 1 / step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    log = open_log(tmp_path, 2)
    log.write("metrics", {"step": 3, "loss": 9.0})
    log.close()
    assert [(line["step"], line["loss"]) for line in read_json_lines(tmp_path / "metrics.jsonl")] == [
        *((1, 1.0), (2, 0.5), (3, 9.0))
    ]


def test_a_new_run_forgets_the_evaluation_of_step_0_too(tmp_path):
    log = open_log(tmp_path, -1)
    log.write("evaluation", {"step": 0, "results": {"sts/A": {"main_score": 0.5}}})
    log.close()
    open_log(tmp_path, -1).close()
    assert read_json_lines(tmp_path / "evaluation.jsonl") == []


def test_each_line_can_be_read_before_the_log_is_closed(tmp_path):
    log = open_log(tmp_path, -1)
    log.write("negatives", {"step": 4, "replaced": 2, "unknown": None})
    assert read_json_lines(tmp_path / "negatives.jsonl") == [{"step": 4, "replaced": 2}]
    log.close()


def test_trackers_get_numbers_by_the_name_of_their_log(tmp_path):
    tracker = Recorder()
    log = open_log(tmp_path, -1, tracker)
    log.write("metrics", {"step": 1, "loss": 2.0, "loss/sts": None, "note": "text"})
    log.write("negatives", {"step": 1, "replaced": 3})
    log.write("evaluation", {"step": 1, "results": {"sts/A": {"main_score": 0.25}}, "summary": {}})
    log.close()
    assert tracker.numbers == [
        (1, {"loss": 2.0}),
        (1, {"negatives/replaced": 3}),
        (
            1,
            {
                **dict.fromkeys(
                    ("evaluation/sts", "evaluation/average", "evaluation/average_of_tasks"), 0.25
                ),
                "evaluation_sets/sts/A": 0.25,
            },
        ),
    ]
    assert tracker.closed


def test_an_unknown_log_is_our_mistake(tmp_path):
    log = open_log(tmp_path, -1)
    with pytest.raises(KeyError):
        log.write("other", {"step": 1})
    log.close()
    NoLog().write("other", {"step": 1})
