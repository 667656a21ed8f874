"""JSON lines and arrays: which lines are rows, and where they stand."""

import pytest

from conan_embed.texts.columns import CLASSIFICATION
from conan_embed.texts.json_rows import read_json

GOOD = '{"text": "a", "label": "x"}'


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_blank_and_broken_lines_keep_the_places_of_the_others(tmp_path, end):
    path = tmp_path / "data.jsonl"
    lines = [GOOD, "", GOOD, "  ", "[1]", "{", GOOD + GOOD, '{"text": 3, "label": "x"}', GOOD]
    path.write_text(end.join(lines), encoding="utf-8", newline="")
    rows = read_json(path, CLASSIFICATION, None)
    assert rows.numbers.tolist() == [1, 3, 9]
    assert {number: fault.reason for number, fault in rows.faults.items()} == {
        5: "not an object",
        6: "broken JSON",
        7: "broken JSON",
        8: "wrong type",
    }
    assert rows.location(9) == "line 9"


@pytest.mark.parametrize("cut", range(1, 70, 7))
def test_a_line_is_in_the_part_in_which_it_begins(tmp_path, cut):
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(f'{{"text": "{i}", "label": "水"}}' for i in range(4)), encoding="utf-8")
    parts = [read_json(path, CLASSIFICATION, part) for part in ((0, cut), (cut, path.stat().st_size))]
    texts = [part.frame["text"].to_list() if len(part.numbers) else [] for part in parts]
    assert texts[0] + texts[1] == ["0", "1", "2", "3"] and len(texts[0]) >= 1
    if texts[1]:
        assert parts[1].location(1) == f"line {len(texts[0]) + 1}"


def test_an_array_and_lines_in_a_file_of_one_name(tmp_path):
    (tmp_path / "array.json").write_text(f"\n [{GOOD},\n 7, {GOOD}]")
    (tmp_path / "lines.json").write_text(f"{GOOD}\n7\n{GOOD}\n")
    for name, place in (("array.json", "row 2"), ("lines.json", "line 2")):
        rows = read_json(tmp_path / name, CLASSIFICATION, None)
        assert rows.frame.rows() == [("a", "x")] * 2
        assert [rows.location(number) for number in rows.faults] == [place]
