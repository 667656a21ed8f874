"""Every rule has Chinese and English pairs on both sides of its bounds."""

import polars as pl
import pytest

from conan_embed.errors import UserError
from conan_embed.filtering.bounds import RuleSettings
from conan_embed.filtering.prompt_response import PROMPT_RESPONSE_RULES, with_echo
from conan_embed.filtering.rules import RULES, Rules, active_rules

ZH = "北京是中华人民共和国的首都，也是全国的政治中心与文化中心。"
EN = "Beijing is the capital of China and the centre of its politics and culture."
ZH_Q, EN_Q = "中国的首都是哪里？", "What is the capital of China?"
ZH_LINES = (
    "春天的花园里开满了红色的花。\n"
    "夏天的池塘里游着金色的鱼。\n"
    "秋天的果园里挂着沉甸甸的梨。\n"
    "冬天的屋檐下结着晶莹的冰。\n"
)
EN_LINES = (
    "Red flowers open in the garden in spring.\n"
    "Golden fish swim in the pond in summer.\n"
    "Heavy pears hang in the orchard in autumn.\n"
    "Clear ice forms below the roof in winter.\n"
)
ZH_CODE = "import os\ndef main(path):\n    return os.listdir(path)\nprint(main('.'))"

# rule: for Chinese and for English, a pair that passes and a pair that goes.
CASES: dict[str, list[tuple[tuple[str, str], tuple[str, str]]]] = {
    "query_characters": [
        (("首都", ZH), ("京", ZH)),
        (("Go", EN), ("x", EN)),
        ((ZH * 20, ZH * 4), (ZH * 30, ZH * 4)),
    ],
    "positive_characters": [((ZH_Q, "北京"), (ZH_Q, "京")), ((EN_Q, "It is Beijing."), (EN_Q, "Beijing"))],
    "query_tokens": [(("首都", ZH), ("唉···", ZH)), (("Beijing", EN), ("``", EN))],
    "positive_tokens": [
        ((ZH_Q, "首都就是北京"), (ZH_Q, "就是北京！")),
        ((EN_Q, "It is Beijing"), (EN_Q, "Surely Beijing")),
    ],
    "length_ratio": [
        ((ZH * 5, "他说的是真的"), (ZH * 9, "他说的是真的")),
        ((EN * 3, "That is all true"), (EN * 9, "That is all true")),
    ],
    "query_letters": [
        (("第3章 2024年", ZH), ("6 + 3 = ？？？ 年", ZH)),
        (("Chapter 3, 2024", EN), ("6 + 3 = x ...", EN)),
    ],
    "positive_letters": [
        ((ZH_Q, ZH), (ZH_Q, "见(1,-1)、(2,-6)、(3,-9)")),
        ((EN_Q, EN), (EN_Q, "ab (1,-1), (2,-6), (3,-9)")),
    ],
    "query_digits": [
        (("2024年奥运会在哪里举行", ZH), ("2024-2025年 138 0013", ZH)),
        (("Windows 2000 server", EN), ("tel 138 0013 8000", EN)),
    ],
    "positive_digits": [
        ((ZH_Q, "成立于1949年的十月一日"), (ZH_Q, "电话13800138000转8001")),
        ((EN_Q, "Founded on 1 October 1949"), (EN_Q, "call 138 0013 8000, ext 8001")),
    ],
    "query_punctuation": [(("什么？！", ZH), ("够了！！！！！！", ZH)), (("What?!", EN), ("Stop!!!!!!", EN))],
    "positive_punctuation": [
        ((ZH_Q, "真的，是这样！"), (ZH_Q, "真的。。。。。。。。是。。。这样")),
        ((EN_Q, "Yes, it is so!"), (EN_Q, "Yes......... it....... is")),
    ],
    "query_symbols": [
        (("今天♪的歌是什么歌", ZH), ("歌♪♪♪▲▲", ZH)),
        (("A song for today ♪", EN), ("song ♪♪▲", EN)),
    ],
    "positive_symbols": [
        ((ZH_Q, "这首歌很好听，推荐给大家♪"), (ZH_Q, "□□□遠，□□歸□□")),
        ((EN_Q, "A lovely song for all of us ♪"), (EN_Q, "┌──────┐ box └──────┘")),
    ],
    "query_emoji": [
        (("今天的天气真好啊[哈哈]", ZH), ("[哈哈][哈哈]好", ZH)),
        (("Nice day in the park 😀", EN), ("Nice 😀😀😀", EN)),
    ],
    "positive_emoji": [
        ((ZH_Q, "这是我看过最好的电影[鼓掌]"), (ZH_Q, "爱你们[爱你][爱你]")),
        ((EN_Q, "The best film that I ever saw 😀"), (EN_Q, "Wow 😀😀😀😀")),
    ],
    "query_links": [
        (
            ("这篇文章说的是不是真的？你们怎么看 http://t.cn/a", ZH),
            ("看 http://example.com/abcdefgh @某某用户", ZH),
        ),
        (("What does http://t.cn/a say on this question", EN), ("see http://example.com/abc/def/ghi", EN)),
    ],
    "positive_links": [
        ((ZH_Q, "@小明 我觉得他说得很有道理"), (ZH_Q, "@小明同学 @小红同学 @小刚同学 看")),
        ((EN_Q, "@amy I think that he is quite right"), (EN_Q, "@amy_smith @bob_jones @carol look")),
    ],
    "repeated_lines": [((ZH_Q, ZH_LINES), (ZH_Q, ZH_LINES * 3)), ((EN_Q, EN_LINES), (EN_Q, EN_LINES * 3))],
    "repeated_grams": [
        ((ZH_Q, ZH + ZH_LINES), (ZH_Q, "买它买它赶快买它" * 9)),
        ((EN_Q, EN), (EN_Q, "buy it now, " * 12)),
    ],
    "copy": [
        (
            ("中国的首都", "中国的首都是北京，北京有两千多万人口。"),
            ("中国的首都是北京", "中国的首都是北京。"),
        ),
        (("capital of China", "The capital of China is a city of many people."), (EN, EN)),
    ],
    "boilerplate": [
        ((ZH_Q, ZH + "查看原文"), (ZH_Q, "转发微博。阅读全文")),
        ((EN_Q, EN + " Read more"), (EN_Q, "Click here to read more. All rights reserved.")),
    ],
    "navigation": [
        (("集群部署 参考资料管理办法", ZH), ("集群部署 参考资料", ZH)),
        (("How to cite references in a paper", EN), ("Deployment See also", EN)),
    ],
    "truncated": [
        ((ZH_Q, "首都是北京，这是众所周知的。"), (ZH_Q, "首都是北京，主要有以下几个原因：")),
        ((EN_Q, "It is Beijing because of its history"), (EN_Q, "It is Beijing because of its history and")),
    ],
    "mojibake": [
        ((ZH_Q, ZH), (ZH_Q, "首都是锟斤拷锟斤拷北京")),
        ((EN_Q, EN), (EN_Q, "It is the centre of politics\ufffd\ufffd")),
    ],
    "refusal": [
        (
            ("给客户写一封道歉信", "抱歉，我们无法按时发货，特此致歉。"),
            ("设计一张海报", "抱歉，该任务需要视觉输出，我们无法完成。"),
        ),
        (
            ("Say sorry to a friend", "I'm sorry that I cannot come to your party."),
            ("Draw a cat", "I'm sorry, I cannot draw pictures of cats."),
        ),
    ],
    "language_model": [
        (
            ("什么是语言模型", "语言模型是给词语序列以概率的模型。"),
            ("你今天吃了什么", "作为一个AI语言模型，我不会吃东西。"),
        ),
        (
            ("What is a language model?", "A language model gives probabilities to words."),
            ("What did you eat?", "As an AI language model, I do not eat food."),
        ),
    ],
    "placeholder": [
        (
            ("给朋友写一封信", "亲爱的[姓名]，谢谢你一直以来的帮助。"),
            ("描述这张图 <image>", "图中有一只黑色的猫。"),
        ),
        (("Write to a friend", "Dear [name], thank you for all your help."), ("Draw a poster", "<nooutput>")),
    ],
    "missing_input": [
        (
            ("总结下面的文章：人工智能正在改变世界。", "人工智能改变世界。"),
            ("总结以下文章。", "这篇文章讲述了人工智能的发展。"),
        ),
        (
            ('Summarise the following text: "AI changes the world."', "AI brings change to all of us."),
            ("Summarise the following article.", "The article speaks about AI."),
        ),
    ],
    "letter_task": [
        (
            ("为什么快速排序比冒泡排序快？", "因为它的平均复杂度更低。"),
            ("把下面的单词按字母顺序排列\n梨 苹果", "苹果，梨，就是这样的顺序"),
        ),
        (
            ("Why is quicksort fast?", "It halves the work at each step."),
            ("Sort the list of words alphabetically\npear, apple", "apple, pear"),
        ),
    ],
    "echo": [
        (
            ("中国的首都是哪里", "是北京，一座有三千年历史的古城。"),
            ("改正：他昨天去了学校旁边的商店买面包和牛奶", "他昨天去了学校旁边的商店买面包和牛奶。"),
        ),
        (
            (EN_Q, "It is a city in the north with three thousand years behind it."),
            ("Say again: the man went to the shop for bread", "The man went to the shop for bread".lower()),
        ),
    ],
    "rewrite": [
        (
            ("普通食盐的化学名称是什么", "食盐的主要成分是氯化钠，化学式为NaCl。"),
            ("他昨天去了北京的大学图书馆看书", "他昨天去了北京的大学图书馆看报"),
        ),
        (
            ("Name the salt on the table", "Sodium chloride, from the sea or a mine"),
            (
                "She walked slowly along the quiet river in the morning",
                "She walked slowly along the quiet river in the evening",
            ),
        ),
    ],
    "generic_answer": [
        (("你会来吗", "好的，我明天下午三点到。"), ("你会来吗", "没问题！")),
        (("Will you come?", "Yes, I will be there at three."), ("Will you come?", "Of course!")),
    ],
    "short_answer": [
        ((ZH_Q, "首都就是北京"), (ZH_Q, "就是北京！")),
        ((EN_Q, "It is Beijing"), (EN_Q, "Surely Beijing")),
    ],
    "code_answer": [
        (
            ("如何列出文件", "可以用 os.listdir(path) 来列出一个文件夹中的文件。\nimport os"),
            ("如何列出文件", ZH_CODE),
        ),
        (
            ("How do I list files?", "Call os.listdir with the folder.\nimport os\nIt gives the names."),
            ("How do I list files?", ZH_CODE),
        ),
    ],
    "arithmetic_answer": [
        (("列出三种水果", "1. 苹果\n2. 梨子\n3. 香蕉"), ("计算", "3*4+5=17, 17/2=8.5 解")),
        (("List three fruits", "1. apple\n2. pear\n3. plum"), ("Compute it", "x = 3*4+5 = 17, 17/2 = 8.5")),
    ],
    "unfinished_answer": [
        (("为什么", "因为地球绕着太阳转。"), ("为什么", "因为地球绕着太阳转，但是")),
        (("Why?", "Because the earth turns"), ("Why?", "Because the earth turns and")),
    ],
}


def rules_by_name():
    return {rule.name: rule for rule in (*RULES, *PROMPT_RESPONSE_RULES)}


def test_every_rule_has_chinese_and_english_cases():
    assert list(CASES) == list(rules_by_name())
    assert all(len(cases) >= 2 for cases in CASES.values())


@pytest.mark.parametrize("name", CASES)
def test_rule_passes_and_drops(name, make_pairs):
    rule = rules_by_name()[name]
    for passes, goes in CASES[name]:
        outcome = Rules([rule])(with_echo(make_pairs([passes, goes])))
        assert outcome.kept["id"].to_list() == [0], (passes, goes, outcome.dropped)
        assert outcome.dropped["dropped_by"].to_list() == [name]
        assert outcome.dropped["stage"].to_list() == ["rules"]
        assert outcome.dropped["value"].is_not_null().all()


def test_good_pairs_pass_every_rule(make_pairs):
    pairs = with_echo(make_pairs([(ZH_Q, ZH), (EN_Q, EN), (ZH_Q, EN), (EN_Q, ZH)]))
    assert Rules([*RULES, *PROMPT_RESPONSE_RULES])(pairs).kept.height == 4


def test_first_broken_rule_is_the_reason_and_all_are_counted(make_pairs):
    outcome = Rules(RULES)(make_pairs([(ZH_Q, "！")]))
    assert outcome.dropped["dropped_by"].to_list() == ["positive_characters"]
    assert outcome.applied["positive_tokens"] == outcome.applied["positive_letters"] == 1


def test_recipe_moves_bounds_by_language(make_pairs):
    pairs = make_pairs([(ZH_Q, ZH), (EN_Q, EN)])

    def kept(**setting):
        rules = active_rules(RULES, {"positive_tokens": RuleSettings(**setting)}, "rules")
        return Rules(rules)(pairs).kept["id"].to_list()

    assert kept(minimum=20) == [0]
    assert kept(en={"minimum": 20}) == [0]
    assert kept(zh={"minimum": 99}) == [1]
    assert kept(maximum=1) == []
    assert kept(maximum=1, enabled=False) == [0, 1]
    assert kept(maximum=1, skip=["web_page"]) == [0, 1]
    assert kept(maximum=1, skip=["test"]) == [0, 1]


def test_unknown_rule_is_named():
    with pytest.raises(UserError, match=r"rules\.copi: unknown rule \(did you mean 'copy'\?\)"):
        active_rules(RULES, {"copi": RuleSettings()}, "rules")


def test_no_pairs_are_no_trouble(make_pairs):
    pairs = with_echo(make_pairs([(ZH_Q, ZH)]).clear())
    outcome = Rules([*RULES, *PROMPT_RESPONSE_RULES])(pairs)
    assert outcome.kept.height == outcome.dropped.height == 0
    assert outcome.dropped.schema["value"] == pl.Float64
