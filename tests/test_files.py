"""File names from names that people gave."""

from pathlib import Path

import pytest

from conan_embed.files import file_name


@pytest.mark.parametrize(
    "name", ["nli [/x]", "../up", "..", ".", "a\\b", "/etc/passwd", "x\0y", "50%", "法律 (v1.2)"]
)
def test_any_name_is_one_file_of_its_folder(tmp_path, name):
    path = tmp_path / file_name(name)
    path.write_text("here")
    assert [found.read_text() for found in tmp_path.iterdir()] == ["here"]
    assert path.resolve().parent == Path(tmp_path).resolve()


def test_different_names_are_different_files():
    names = ["a/b", "a%2Fb", "a\\b", "ab", "..", "%2E%2E"]
    assert len({file_name(name) for name in names}) == len(names)


def test_ordinary_names_stay_as_they_are():
    assert file_name("医疗问答 v1.2 [zh]") == "医疗问答 v1.2 [zh]"
