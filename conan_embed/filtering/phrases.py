"""The phrases by which rules recognise a text, as patterns (Rust regular expressions), Chinese and English.

Kept apart so that they can be read, corrected and extended without reading any code. The patterns of a list are matched
together, and without regard to case.
"""


def any_of(patterns: tuple[str, ...]) -> str:
    """Return one pattern that matches what any of them matches, longer ones first, without regard to case.

    Word boundaries are those of ASCII words: then "用JSON格式" has the word JSON, and the pattern stays on the fast
    path of the engine, which boundaries of all scripts would leave (measured: 40 times slower).
    """
    joined = "|".join(sorted(patterns, key=len, reverse=True))
    return "(?i)(?:" + joined.replace(r"\b", r"(?-u:\b)") + ")"


def _phrases(text: str) -> tuple[str, ...]:
    return tuple(phrase.strip() for phrase in text.split("|"))


# What a page, an app or a forum writes by itself, whatever the text is about.
BOILERPLATE = _phrases(
    """
    转发微博 | 轉發微博 | 转发此微博 | 快转微博 | 转发了 | 此微博已被删除 | 抱歉，此微博已被作者删除 |
    repost | 查看原文 | 阅读原文 | 阅读全文 | 展开全文 | 点击查看更多 | 点击查看 | 点击下载 | 点击这里 |
    加载中 | 未经授权 | 未经许可 | 不得转载 | 禁止转载 | 版权所有 | 保留所有权利 | 版权声明 | 责任编辑 |
    扫码关注 | 扫描二维码 | 关注公众号 | 微信公众号 | 请先登录 | 登录后查看 | 页面不存在 |
    该内容已被删除 | 抱歉，您访问的页面 | 本帖最后由 | 上一篇 | 下一篇 | 相关阅读 | 相关推荐 |
    all rights reserved | terms of service | privacy policy | cookie policy | accept cookies |
    enable javascript | javascript is disabled | click here | read more | sign in to | log in to |
    subscribe to our newsletter | page not found | 404 not found | share this | leave a comment |
    skip to content | back to top | table of contents | previous article | next article
    """
)

# Headings under which a page lists where else to look.
NAVIGATION = _phrases(
    """
    另请参阅 | 另见 | 参见 | 请参阅 | 参考资料 | 参考文献 | 参考链接 | 参考 | 延伸阅读 | 扩展阅读 |
    拓展阅读 | 相关阅读 | 相关链接 | 相关文章 | 外部链接 | 更多资源 | 推荐阅读 | 目录 | see also |
    references | further reading | related articles | related reading | related links | external links |
    more resources | table of contents
    """
)

ADDRESS = r"[hH]ttps?:/{1,2}[^\s<>，。；、）]*|\bwww\.[^\s<>，。；、）]+"
MENTION = r"@[\p{L}\p{N}_/-]+[:：]?"
# Longer words in brackets are headings and labels as often as emoticons.
EMOTICON = r"\[(?:\p{Han}{1,3}|[a-z]{2,6}|马上有对象|爱心传递|好激动啊)\]"
BROKEN = r"�|锟斤拷|烫烫烫|屯屯屯|[ÃÂ][\u0080-\u00bf]|â€|ï¿½"

# How a text ends that breaks off. (An ASCII semicolon ends a line of code.)
BREAKS_OFF = (
    r"[,，、；(（《“‘\[【]$",
    r"(?:^|\s)(?:and|or|the|of|to|with|a|an|in|for|is|are)$",
    r"(?:以及|或者|并且|如下|但是|因为|所以|[：:]\s?\$)$",
)
# How one ends that announces more; the colon of the protocol of a cut address does not.
ANNOUNCES = (r"：$", r"(?:^|[^ps]):$", r"[^ph]s:$")

# --- prompt-response data ---

AI_MODEL = (
    r"作为(?:一个|一名|一款|一种|个)?(?:大型|先进的)?(?:AI|人工智能|语言|大语言|自然语言|聊天|机器)[^，。,]{0,12}[，,]",
    r"我(?:只)?是(?:一个|一名|一款|个)(?:大型|虚拟)?(?:AI|人工智能|语言模型|大语言模型|聊天机器人)",
    r"as an? (?:large |artificial intelligence |ai )?(?:language model|ai\b|artificial intelligence)",
    r"i(?:'m| am) (?:just |only )?an? (?:ai\b|artificial|language model)",
)
APOLOGY = (
    r"^\W{0,3}(?:非常|很|十分|实在|真的)?(?:抱歉|对不起|遗憾|不好意思)",
    r"^\W{0,3}(?:i(?:'m| am) (?:really |very |so )?(?:sorry|afraid)|sorry|unfortunately)",
    r"^\W{0,3}(?:i apologi[sz]e|my apologies)",
)
# An apology for somebody else's trouble is no refusal.
SYMPATHY = (
    r"(?:抱歉|对不起)[，,]?(?:我能|我理解)?(?:听|得知|看到|让)",
    r"\bsorry (?:to hear|for your|that you)\b",
)
UNABLE = (
    r"无法|不能|没有办法|没办法|没有能力|不具备|不可以|不支持|不提供|没有(?:足够|提供|具体)|缺少|缺乏|未提供|请提供",
    r"\b(?:can(?:'|’)?t|cannot|can not|unable|not able|won(?:'|’)?t|don(?:'|’)?t have)\b",
    r"\b(?:do not have|not possible)\b",
    r"\b(?:not sure|don(?:'|’)?t know|do not know|please provide|need more information)\b",
)
CANNOT = (
    r"^\W{0,3}我(?:无法|不能|没有办法|没办法)(?:为|帮|给|提供|回答|完成|执行|访问|生成|浏览|查看|直接|理解|确定)",
    r"^\W{0,3}i (?:cannot|can't|can’t|am unable|am not able|do not have access|don't have access)\b",
)
# A prompt that asks for an apology or a refusal gets one.
ASKS_FOR_APOLOGY = (
    "抱歉|对不起|遗憾|道歉|致歉|无法|不能|拒绝|婉拒",
    r"\b(?:sorry|apolog\w+|unable|cannot|can't|refus\w+|declin\w+)\b",
)
# A response in full that fits any prompt.
GENERIC = (
    "好的?|好吧|是的?|不是|对的?|没错|可以的?|当然(?:可以)?|没问题|明白了?|知道了|收到|谢谢你?|不客气|不知道|不清楚|我不知道",
    "无|没有|暂无|以上|如上|略|同上|完成|已完成|请稍等|希望(?:这|以上|对)?(?:能)?(?:对)?(?:你|您)?有(?:所)?帮助",
    "有什么可以帮(?:您|你)的吗",
    r"yes|no|ok(?:ay)?|sure|of course|thanks?(?: you)?|you(?:'re| are) welcome|i don'?t know|none|n/?a",
    "nothing",
    "done|true|false|correct|incorrect|right|wrong|certainly|no problem|see above|i hope this helps",
)
# A response that is none.
NO_OUTPUT = (r"<\s*no\s*(?:in|out)put\s*>", r"^\W*no(?:in|out)put\W*$", "<(?:无输入|无输出|无)>")
# Something stands for a picture or a file that is not there.
PLACEHOLDER = (
    r"<(?:image|img|file|url)>",
    r"\[(?:图片|图像|image|picture|附件|attachment|链接|link)\]",
    r"\{\{?(?:input|text|content|image)\}?\}",
)
# A prompt that ends by naming a text which should follow.
INPUT_WANTED = (
    r"(?:^|[^字岁元度个\d] ?)(?:以下|下面|下列|下述|上述|给定的|给出的)(?:这)?(?:些|个|段|篇|句|首|张)?"
    r"[^，。：:“\"\n]{0,4}"
    r"(?:文章|文本|段落|句子|短文|对话|故事|诗|图片|图像|单词|词语|文字|表格|邮件|陈述)"
    r"[^，,：:“\"\n]{0,6}[。.：:？?]?$",
    r"\b(?:following|given|provided|below|above)\b[^.:\n\"“]{0,20}\b(?:text|article|passage|paragraph|sentences?|code"
    r"|list|story|data|poem|image|table|email|statement|dialogue|conversation)\b[^\n:\"“,]{0,16}[.:?]?$",
)
# Tasks that work on the letters of their input: the answer has the input's words or none, never its meaning.
LETTER_TASK = (
    # Sorting and reordering.
    r"(?:按|依|以)[^。\n]{0,16}(?:排序|排列)|升序|降序|字母顺序|字典序|从(?:小到大|大到小)[^。\n]{0,6}(?:排|顺序)|排[^。\n]{0,6}从(?:小到大|大到小)",
    r"重新(?:排列|排序)[^。\n]{0,12}(?:单词|词语|字母|数字|顺序|组成)|(?:颠倒|反转|倒序|倒着)[^。\n]{0,12}(?:字符串|单词|字母)",
    r"\b(?:sort|alphabeti[sz]e|rearrange|reorder|unscramble|shuffle)\b[^.\n]{0,40}"
    r"\b(?:list|words?|letters?|numbers?|names?|order|array|items?|values?)\b",
    r"\b(?:ascending|descending|alphabetical) order\b|\banagrams?\b|变位词",
    r"\b(?:reverse|backwards?)\b[^.\n]{0,30}\b(?:string|words?|letters?)\b",
    # Counting.
    r"(?:统计|计算|数一?数)[^。\n]{0,20}(?:字数|词数|个数|单词数|字符数|字母数|出现(?:的)?次数|多少个(?:字|词|单词|字母|元音))",
    r"有多少个?(?:单词|字母|字符|元音|音节)|\bhow many (?:words|letters|vowels|syllables|characters|times)\b",
    r"\bcount (?:the |how many )",
    # Formats, cases and units.
    r"(?:转换|转化|转|改写|格式化|变)(?:成|为|到)[^。\n]{0,8}"
    r"(?:JSON|XML|YAML|CSV|HTML|Markdown|二进制|十六进制|十进制|大写|小写|罗马数字|摩尔斯|摩斯|驼峰|Base64)",
    r"(?:从|把|将)[^。\n]{0,20}(?:华氏|摄氏|英里|公里|英尺|英寸|磅|千克|公斤|美元|欧元)[^。\n]{0,8}(?:转换|换算|转|换)",
    r"\bconvert\b[^.\n]{0,60}\b(?:to|into)\b[^.\n]{0,20}\b(?:json|xml|yaml|csv|html|markdown|binary|hexadecimal"
    r"|decimal|uppercase|lowercase|roman|morse|camel|base64|fahrenheit|celsius|kilomet|miles|meters|feet|inches"
    r"|pounds|kilograms|kg|usd|euros?|dollars)",
    # Series.
    r"(?:继续|续写|补全|填写|找出)[^。\n]{0,10}(?:序列|数列|列表|模式|下一个(?:数|词|字母|项))|完成[^。\n]{0,8}(?:序列|数列)",
    r"下一个(?:数字|数|字母)|\bnext (?:number|letter|term|item|word) in\b",
    r"\b(?:continue|complete|extend|finish)\b[^.\n]{0,20}\b(?:sequence|series|pattern|list of)\b",
    r"生成[^。\n]{0,12}(?:随机数|随机密码|密码|随机字符串|字谜)",
    r"\bgenerate (?:a |\d+ )?random (?:number|password|string|sequence|word)",
    # Spelling, punctuation, sound.
    r"(?:添加|加上|插入|去掉|删除|纠正|改正|更正)[^。\n]{0,12}(?:标点|空格|元音|拼写|大小写)|首字母缩(?:略|写)|押韵的(?:词|单词)",
    r"\b(?:add|insert|remove|fix|correct)\b[^.\n]{0,24}\b(?:punctuation|spaces|vowels|spelling|capitali[sz]ation|typos?)\b",
    r"\bacronyms?\b|\brhym(?:e|es|ing) with\b",
)
# Of these tasks, a program or a method is a fine answer.
ASKS_FOR_METHOD = (
    "算法|代码|程序|函数|脚本|方法|步骤",
    r"\b(?:algorithm|code|program|function|script|method|steps)\b",
)
_CODE_WORDS = (
    "def|class|import|from|return|elif|else|public|private|static|void|int|var|let|const|function|using"
    "|SELECT|INSERT|UPDATE|DELETE|CREATE|FROM|WHERE|JOIN|sudo|apt|git|pip|npm|docker|cd|curl"
)
# No line is one of code without one of these.
CODE_SIGN = r"[(<})\];{=@$#/]|" + _CODE_WORDS
# A line of code, from its first character to its last.
CODE_LINE = (
    rf"(?m)^[ \t]*(?:(?:{_CODE_WORDS})\b[^，。]*"
    r"|(?:for|while|if|print|printf|println|console\.\w+) ?\(.*|#include.*|</?[a-z][^>\n]*>.*"
    r"|[}\])]+[;,]?|//.*|/\*.*|\$ .*|@\w+|\w+\s*=[^=。，]*|\w+(?:\.\w+)*\([^。，]*\)[;:]?|[^\p{Han}\n]*[;{]"
    r"|[^，。\n]{0,40}\{)$"
)
# What sums are made of. Numbers of list items and rules of tables are not among them.
LIST_NUMBER = r"(?m)^\s*\d{1,3}[.、)）]\s*|^[\s|:-]+$"
SUM_CHARACTER = r"[0-9+\-*/×÷=<>^%(){}\\$√∑π]"

# --- safety ---

# Words of the default block lists that medicine, law and news cannot do without, that are mild, or that
# mostly turn up inside other words; found by reading what they dropped
# (benchmarks/results/filter_2026-11-23.md).
SPARED_WORDS = frozenset(
    """
    强奸 轮奸 卖淫 嫖娼 妓院 妓女 色情 淫秽 情色 成人 激情 三级片 鸡奸 扒光 放荡 阴道 外阴 阴茎 阴部
    阴唇 阴毛 阴囊 乳房 乳头 龟头 包皮 睾丸 子宫 肛门 性器 月经 处女 性交 性爱 做爱 交配 精子 卵子 射精
    阳萎 阳痿 性病 花柳 撒尿 屁股 老母 祖宗 老二 靠背 笨蛋 白痴 妈妈的 妈的 下贱 吃屎 打飞机 打炮 吹箫
    老味 日批 sex sexual sexy breast breasts anus anal rectum butt suck scat domination bs mf xx xxx tit
    nude naked porn penis vagina nipple semen orgasm rape rapist
    """.split()  # noqa: SIM905
)
