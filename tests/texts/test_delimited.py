"""TSV has no quoting; CSV is tested with the other formats (test_readers.py)."""

import pytest

from conan_embed.errors import UserError
from conan_embed.texts.columns import RETRIEVAL
from conan_embed.texts.readers import read_retrieval, read_rows


@pytest.fixture
def tsv(tmp_path):
    def write(*lines, header="query\tpositive"):
        path = tmp_path / "data.tsv"
        path.write_text("".join(line + "\n" for line in (header, *lines)), encoding="utf-8", newline="")
        return path

    return write


@pytest.mark.parametrize(
    "text",
    [
        '"quoted"',
        'says "yes',
        '"',
        '""',
        "5' 10\"",
        '"a" and "b"',
        "'x'",
        "a,b;c",
        "\\t \\n",
        '["a"',
        "\u2028x",
    ],
)
def test_quotation_marks_of_tsv_are_text(tsv, text):
    path = tsv(f"{text}\t1", f"2\t{text}", "last\t3")
    assert read_retrieval(path).rows() == [(text, ["1"], []), ("2", [text], []), ("last", ["3"], [])]


@pytest.mark.parametrize("cell", ['"he said ""yes"""', '"a ""b"" c"'])
def test_cells_of_tsv_that_are_quoted_as_in_csv_are_refused(tsv, cell):
    path = tsv("a\t1", f"{cell}\t2")
    with pytest.raises(
        UserError, match=r"data.tsv: line 3: found the text .*, expected a cell of TSV, which has no"
    ):
        read_retrieval(path)
    assert len(read_retrieval(path, on_bad_row="drop")) == 1


def test_lines_of_tsv(tsv):
    path = tsv("a\t1\r", "", "  ", "b\t2\textra", "c", "\t3", header="\ufeffquery\tpositive\r")
    rows = read_rows(path, RETRIEVAL)
    assert rows.good_rows().rows() == [("a", ["1"], [])]
    assert {number: fault.found for number, fault in rows.faults.items()} == {
        5: "3 fields",
        6: "1 field",
        7: "an empty cell",
    }
