import pytest
from hypothesis import given
from hypothesis import strategies as st

from conan_embed.documents.sentences import first_sentence, split_sentences


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
        ("It ends (and this stays open. Yes.", ["It ends (and this stays open. ", "Yes."]),
        ("a. b goes on. Next", ["a. b goes on. ", "Next"]),
    ],
)
def test_sentences_end_where_a_reader_sees_it(text, parts):
    assert split_sentences(text) == parts
    assert "".join(split_sentences(text)) == text


def test_first_sentence():
    assert first_sentence("Sort. Ties keep their order. ") == ("Sort.", "Ties keep their order.")
    assert first_sentence("") == ("", "")


def test_lines_end_sentences_where_asked():
    text = "See 3.14, e.g. (this\nThen “stop!” Now. 备份完成。再恢复？是的"
    assert split_sentences(text, at_lines=True) == [
        "See 3.14, e.g. (this\n",
        "Then “stop!” ",
        "Now. ",
        "备份完成。",
        "再恢复？",
        "是的",
    ]
    assert split_sentences(text) == [text[:34], "Now. ", "备份完成。", "再恢复？", "是的"]


@given(st.text(st.sampled_from("aZ .!?。？()\n”…e.g"), max_size=60), st.booleans())
def test_the_parts_joined_are_the_text(text, at_lines):
    parts = split_sentences(text, at_lines=at_lines)
    assert "".join(parts) == text and all(parts)


@pytest.mark.parametrize("unit", ["One sentence. ", "e.g. ", "(open. ", "一句。"])
def test_a_long_text_takes_no_longer_than_its_length_asks(unit):
    """Looking at all that is left after each sentence would take hours here."""
    text = unit * 200_000
    assert "".join(split_sentences(text)) == text
