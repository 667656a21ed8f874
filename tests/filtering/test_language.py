import random

import numpy as np
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from conan_embed.filtering import language
from conan_embed.filtering.language import LanguageModel, Languages
from conan_embed.filtering.recipe import Language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("北京是中国的首都。", "zh"),
        ("春雲落紙不歸天", "zh"),
        ("如何在 Ubuntu 上安装 Docker Compose", "zh"),
        ("The quick brown fox jumps over the lazy dog near the river.", "en"),
        ("Der schnelle braune Fuchs springt über den faulen Hund und freut sich.", "de"),
        ("La vida es muy corta y hay que disfrutar de cada momento con la familia.", "es"),
        ("お誕生日おめでとうございます", "ja"),
        ("생일 축하합니다 여러분", "ko"),
        ("Привет, как у тебя сегодня дела и что нового?", "ru"),
        ("Kubernetes", "und"),
        ("123 + 456", "und"),
        ("青蛙旅行の护身符和三叶草怎么收集", "zh"),
    ],
)
def test_language_of_a_text(make_pairs, text, language):
    assert make_pairs([(text, "x")])["query_language"].to_list() == [language]


GERMAN = "Der schnelle braune Fuchs springt über den faulen Hund und freut sich."
ENGLISH = "The quick brown fox jumps over the lazy dog near the river."
CHINESE = "敏捷的棕色狐狸跳过了懒狗。"


def test_sides_in_other_languages_go(make_pairs):
    pairs = make_pairs([(CHINESE, ENGLISH), (GERMAN, CHINESE), (CHINESE, GERMAN), ("Docker", CHINESE)])
    outcome = Languages(Language())(pairs)
    assert outcome.kept["id"].to_list() == [0, 3]
    assert outcome.dropped["dropped_by"].to_list() == ["query_language", "positive_language"]
    assert Languages(Language(keep=("zh", "en", "de")))(pairs).kept.height == 4


def test_one_language_where_asked_for(make_pairs):
    pairs = make_pairs([(CHINESE, ENGLISH), (ENGLISH, ENGLISH), ("Docker", CHINESE)])
    outcome = Languages(Language(same=True))(pairs)
    assert outcome.kept["id"].to_list() == [1, 2]
    assert outcome.dropped["dropped_by"].to_list() == ["same_language"]


def test_all_texts_at_once_get_the_answers_of_one_by_one(monkeypatch):
    rng = random.Random(0)
    words = [
        word
        for text in (ENGLISH, GERMAN, "Привет, как дела", "CIUDAD vida día", "été où\u0301")
        for word in text.split()
    ]
    texts = ["", " ", "中", "ABC", *(" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(200))]
    candidates = Language().candidates
    slow = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    slow.set_languages(list(candidates))
    codes, probabilities = zip(*map(slow.classify, texts), strict=True)
    for most in (1 << 20, 100):  # bytes at a time
        monkeypatch.setattr(language, "_BATCH_BYTES", most)
        model = LanguageModel.load(candidates)
        best, probability = model.classify(texts)
        assert [model.languages[index] for index in best] == list(codes)
        np.testing.assert_allclose(probability, probabilities, atol=1e-4)  # sums of float32
    assert model.classify([])[0].tolist() == []
