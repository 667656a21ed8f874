import numpy as np
import pytest

from conan_embed.errors import NotFinite
from conan_embed.filtering.recipe import Teacher
from conan_embed.filtering.teacher import TeacherScores, score_pairs


class Angles:
    """A teacher for which a text is its angle in degrees."""

    def __init__(self):
        self.prompts = {"query": "q:", "passage": "", "sts": ""}
        self.seen = []

    def encode(self, texts, *, prompt=""):
        self.seen.append((prompt, list(texts)))
        angle = np.radians([float(text) for text in texts])
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def test_scores_are_cosines_and_each_text_is_encoded_once(make_pairs):
    teacher = Angles()
    pairs = make_pairs([("0", "60"), ("0", "90"), ("30", "60"), ("0", "60")])
    scores = score_pairs(pairs, teacher, Teacher(model="angles"))
    assert scores["score"].to_numpy() == pytest.approx([0.5, 0, np.cos(np.pi / 6), 0.5], abs=1e-6)
    assert teacher.seen == [("q:", ["0", "30"]), ("", ["60", "90"])]
    score_pairs(pairs, teacher, Teacher(model="angles", query_prompt="", positive_prompt="p:"))
    assert [prompt for prompt, _ in teacher.seen[2:]] == ["", "p:"]


def test_low_scores_go(make_pairs):
    pairs = make_pairs([("0", "60"), ("0", "90"), ("30", "60")])
    scored = pairs.join(score_pairs(pairs, Angles(), Teacher(model="angles")), on="id")
    outcome = TeacherScores(Teacher(model="angles"))(scored)
    assert outcome.kept["id"].to_list() == [0, 2]
    assert outcome.dropped["dropped_by"].to_list() == ["teacher_score"]
    assert outcome.dropped["value"][0] == pytest.approx(0, abs=1e-6)


def test_rank_counts_the_better_passages_of_the_pool(make_pairs):
    setting = Teacher(model="angles", min_score=-1, max_rank=2)
    pairs = make_pairs([("0", "10"), ("0", "30"), ("0", "30"), ("0", "50"), ("90", "50")])
    scores = score_pairs(pairs, Angles(), setting)
    assert scores["rank"].to_list() == [1, 2, 2, 3, 1]
    outcome = TeacherScores(setting)(pairs.join(scores, on="id"))
    assert outcome.dropped["id"].to_list() == [3]
    assert outcome.dropped["dropped_by"].to_list() == ["teacher_rank"]


def test_no_pairs_have_no_scores(make_pairs):
    assert score_pairs(make_pairs([("0", "1")]).clear(), Angles(), Teacher(model="angles")).height == 0


def test_a_teacher_whose_embeddings_are_no_numbers_keeps_nothing(make_pairs):
    pairs = make_pairs([("0", "60"), ("0", "nan")])
    with pytest.raises(NotFinite, match="teacher's embedding of 'nan' holds NaN or infinity"):
        score_pairs(pairs, Angles(), Teacher(model="angles"))
