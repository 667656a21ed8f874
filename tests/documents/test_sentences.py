import pytest

from conan_embed.documents.sentences import first_sentence, sentences


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", []),
        ("no end", ["no end"]),
        ("One. Two! Three?", ["One. ", "Two! ", "Three?"]),
        ("第一句。第二句！“第三句？”末尾", ["第一句。", "第二句！", "“第三句？”", "末尾"]),
        ("Use e.g. lists, cf. Fig. 3. Done.", ["Use e.g. lists, cf. Fig. 3. ", "Done."]),
        ("Version 3.11 is out. It is fast.", ["Version 3.11 is out. ", "It is fast."]),
        ("It ends (so they say. Really) here. Yes.", ["It ends (so they say. Really) here. ", "Yes."]),
        ("J. Smith wrote it.", ["J. Smith wrote it."]),
        ("a. b goes on. Next", ["a. b goes on. ", "Next"]),
    ],
)
def test_sentences_end_where_a_reader_sees_it(text, parts):
    assert sentences(text) == parts
    assert "".join(sentences(text)) == text


def test_first_sentence():
    assert first_sentence("Sort. Ties keep their order. ") == ("Sort.", "Ties keep their order.")
    assert first_sentence("") == ("", "")
