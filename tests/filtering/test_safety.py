import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.recipe import Safety
from conan_embed.filtering.safety import BlockLists, Safe, read_block_lists, with_hosts


def test_words_of_the_user_stand_alone_in_latin_and_anywhere_in_chinese(make_pairs):
    lists = BlockLists(words=frozenset({"spam", "赌场"}))
    pairs = make_pairs(
        [("Buy SPAM now", "x"), ("spammer", "x"), ("q", "澳门赌场上线"), ("请发spam邮件", "x")]
    )
    outcome = Safe(lists, Safety())(pairs)
    assert outcome.kept["id"].to_list() == [1]
    assert set(outcome.dropped["dropped_by"]) == {"blocked_words"}


def test_default_words_need_several(make_pairs):
    lists = BlockLists(default_words=frozenset({"坏词", "恶语", "badword"}))
    pairs = make_pairs([("坏词坏词", "坏词"), ("坏词", "恶语"), ("BadWord", "坏词"), ("好", "的")])
    assert Safe(lists, Safety())(pairs).kept["id"].to_list() == [0, 3]
    assert Safe(lists, Safety(min_default_words=1))(pairs).kept["id"].to_list() == [3]
    assert Safe(lists, Safety(min_default_words=1))(pairs).dropped["value"].to_list() == [1.0, 2.0, 2.0]


def test_default_list_has_both_languages_and_spares_medicine():
    words = read_block_lists(Safety()).default_words
    assert any(word.isascii() for word in words)
    assert any(not word.isascii() for word in words)
    assert not words & {"月经", "乳房", "breast"}
    assert not read_block_lists(Safety(default_words=False)).default_words


def test_domains_and_what_is_below_them(make_pairs, tmp_path):
    listed = tmp_path / "domains.txt"
    listed.write_text("# bad places\nwww.bad.com\nevil.co.uk\n\n", encoding="utf-8")
    setting = Safety(domains=(str(listed),))
    lists = read_block_lists(setting)
    assert lists.domains == {"bad.com", "evil.co.uk"}
    texts = [
        ("[看](https://a.b.bad.com/x)", "x"),
        ("q", "WWW.EVIL.co.uk:80"),
        ("notbad.com", "https://notbad.com"),
        ("无", "bad.com"),
        ("https://co.uk", "http://bad.com.cn"),
    ]
    outcome = Safe(lists, setting)(with_hosts(make_pairs(texts)))
    assert outcome.kept["id"].to_list() == [2, 3, 4]
    assert outcome.dropped["dropped_by"].to_list() == ["blocked_domains"] * 2


def test_a_missing_list_is_named(tmp_path):
    with pytest.raises(UserError, match=r"nowhere\.txt: cannot be read as a block list"):
        read_block_lists(Safety(words=(str(tmp_path / "nowhere.txt"),)))
