"""Prompt-response data of language models as pairs: readers of its formats, and a rule filter of its own.

Readers turn Alpaca records, ShareGPT and messages conversations into (prompt, response) pairs. The rules take out what
makes a poor pair for an embedding model: refusals, echoes of the prompt, answers of no content, code or sums alone, and
tasks whose answer shares no meaning with the prompt (sort these words, count the letters, convert this to JSON). They
apply to the pairs of sources marked `prompt_response`.
"""

import polars as pl

from conan_embed.errors import UserError
from conan_embed.filtering.measures import overlap
from conan_embed.filtering.recipe import Source
from conan_embed.filtering.rules import Rule, apply_rules, at_least, at_most
from conan_embed.filtering.stage import Outcome

_PROMPT_ROLES = ["user", "human", "prompter", "question"]
_RESPONSE_ROLES = ["assistant", "gpt", "bot", "chatgpt", "model", "answer"]
ECHO_GRAM = 3


def _text(name: str) -> pl.Expr:
    return pl.col(name).cast(pl.String).fill_null("").str.strip_chars()


def read_alpaca(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Turn `instruction`, `input` (may be absent), `output` into query and positive, one pair a record.

    Raises:
        UserError: a column is missing.
    """
    _need(records, ("instruction", "output"), source)
    given = _text("input") if "input" in records.columns else pl.lit("")
    prompt = pl.when(given.str.to_lowercase().is_in(["", "noinput", "<noinput>", "无输入"]))
    query = prompt.then(_text("instruction")).otherwise(
        pl.concat_str([_text("instruction"), given], separator="\n")
    )
    return records.with_columns(query.alias("query"), _text("output").alias("positive"))


def read_messages(records: pl.DataFrame, source: Source) -> pl.DataFrame:
    """Turn conversations into query and positive.

    A pair is a user's message and the assistant's message right after it; system messages are passed over. `turns` of
    the source says which pairs of a conversation are taken; with `context`, up to two earlier messages stand in front
    of the prompt, one a line.

    Raises:
        UserError: there is no column `messages` or `conversations`, or its items have no role and content.
    """
    column = next(
        (name for name in ("messages", "conversations", "conversation") if name in records.columns), None
    )
    if column is None:
        found = ", ".join(records.columns)
        raise UserError(f"{source.path}: no column 'messages' or 'conversations' (found: {found}).")
    inner = records.schema[column].inner if isinstance(records.schema[column], pl.List) else None
    fields = [field.name for field in inner.fields] if isinstance(inner, pl.Struct) else []
    role = next((name for name in ("role", "from") if name in fields), None)
    content = next((name for name in ("content", "value") if name in fields), None)
    if role is None or content is None:
        raise UserError(
            f"{source.path}: {column!r} must hold objects with role and content, or from and value (found: {fields})."
        )
    others = [name for name in records.columns if name != column]
    turns = (
        records.with_row_index("_record")
        .explode(column)
        .with_columns(
            pl.col(column).struct.field(role).str.to_lowercase().alias("_role"),
            pl.col(column).struct.field(content).fill_null("").str.strip_chars().alias("_content"),
        )
        .filter(pl.col("_role").is_in([*_PROMPT_ROLES, *_RESPONSE_ROLES]))
    )
    before = [pl.col("_content").shift(back).over("_record") for back in (2, 1)]
    query = pl.col("_content")
    if source.turns == "context":
        query = pl.concat_str([*before, query], separator="\n", ignore_nulls=True)
    pairs = turns.with_columns(
        query.alias("query"),
        pl.col("_content").shift(-1).over("_record").alias("positive"),
        pl.col("_role").shift(-1).over("_record").alias("_next"),
    ).filter(pl.col("_role").is_in(_PROMPT_ROLES) & pl.col("_next").is_in(_RESPONSE_ROLES))
    if source.turns == "first":
        pairs = pairs.unique("_record", keep="first", maintain_order=True)
    return pairs.select("query", "positive", *others)


def _need(records: pl.DataFrame, columns: tuple[str, ...], source: Source) -> None:
    for name in columns:
        if name not in records.columns:
            raise UserError(f"{source.path}: no column {name!r} (found: {', '.join(records.columns)}).")


_AI_MODEL = (
    r"作为(?:一个|一名|一款|一种|个)?(?:大型|先进的)?(?:AI|人工智能|语言|大语言|自然语言|聊天|机器)[^，。,]{0,12}[，,]"
    r"|我(?:只)?是(?:一个|一名|一款|个)(?:大型|虚拟)?(?:AI|人工智能|语言模型|大语言模型|聊天机器人)"
    r"|as an? (?:large |artificial intelligence |ai )?(?:language model|ai\b|artificial intelligence)"
    r"|i(?:'m| am) (?:just |only )?an? (?:ai\b|artificial|language model)"
)
_UNABLE = (
    r"(?:无法|不能|没有办法|没办法|没有能力|不具备|不可以|不支持|不提供|没有(?:足够|提供|具体)|缺少|缺乏|未提供|请提供)"
    r"|\b(?:can(?:'|’)?t|cannot|can not|unable|not able|won(?:'|’)?t|don(?:'|’)?t have|do not have|not possible"
    r"|not sure|don(?:'|’)?t know|do not know|please provide|need more information)\b"
)
_APOLOGY = r"^\W{0,3}(?:非常|很|十分|实在|真的)?(?:抱歉|对不起|遗憾|不好意思)|^\W{0,3}(?:i(?:'m| am) (?:really |very |so )?(?:sorry|afraid)|sorry|unfortunately|i apologi[sz]e|my apologies)"
_CANNOT = r"^\W{0,3}(?:我)(?:无法|不能|没有办法|没办法)(?:为|帮|给|提供|回答|完成|执行|访问|生成|浏览|查看|直接|理解|确定)|^\W{0,3}i (?:cannot|can't|can’t|am unable|am not able|do not have access|don't have access)\b"
# A response in full that fits any prompt.
_GENERIC = (
    r"(?i)^\W*(?:好的?|好吧|是的?|不是|对的?|没错|可以的?|当然(?:可以)?|没问题|明白了?|知道了|收到|谢谢你?|不客气|不知道|不清楚|我不知道"
    r"|无|没有|暂无|以上|如上|略|同上|完成|已完成|请稍等|希望(?:这|以上|对)?(?:能)?(?:对)?(?:你|您)?有(?:所)?帮助|有什么可以帮(?:您|你)的吗"
    r"|yes|no|ok(?:ay)?|sure|of course|thanks?(?: you)?|you(?:'re| are) welcome|i don'?t know|none|n/?a|nothing|done|true|false"
    r"|correct|incorrect|right|wrong|certainly|no problem|see above|i hope this helps)\W*$"
)
# Tasks that work on the letters of their input: the answer has the input's words or none, never its meaning.
_LETTER_TASK = (
    r"(?:按|依|以)[^。\n]{0,16}(?:排序|排列)|(?:升序|降序|字母顺序|字典序|从小到大|从大到小)|重新(?:排列|排序)[^。\n]{0,12}(?:单词|词语|字母|数字|顺序|组成)"
    r"|(?:统计|计算|数一?数)[^。\n]{0,20}(?:字数|词数|个数|单词数|字符数|字母数|出现(?:的)?次数|多少个(?:字|词|单词|字母|元音))"
    r"|有多少个?(?:单词|字母|字符|元音|音节)|(?:转换|转化|转|改写|格式化|变)(?:成|为|到)[^。\n]{0,8}(?:JSON|XML|YAML|CSV|HTML|Markdown|二进制|十六进制|十进制|大写|小写|罗马数字|摩尔斯|摩斯|驼峰|Base64)"
    r"|(?:从|把|将)[^。\n]{0,20}(?:华氏|摄氏|英里|公里|英尺|英寸|磅|千克|公斤|美元|欧元)[^。\n]{0,8}(?:转换|换算|转|换)"
    r"|(?:继续|完成|续写|补全|填写|找出)[^。\n]{0,10}(?:序列|数列|列表|模式|下一个(?:数|词|字母|项))|下一个(?:数字|数|字母)|生成[^。\n]{0,12}(?:随机数|随机密码|密码|随机字符串|字谜)"
    r"|(?:颠倒|反转|倒序|倒着)[^。\n]{0,12}(?:字符串|单词|句子|顺序|写)|变位词|首字母缩(?:略|写)|(?:添加|加上|插入|去掉|删除|纠正|改正|更正)[^。\n]{0,12}(?:标点|空格|元音|拼写|大小写)"
    r"|押韵的(?:词|单词)"
    r"|\b(?:sort|alphabeti[sz]e|rearrange|reorder|unscramble|shuffle)\b[^.\n]{0,40}\b(?:list|words?|letters?|numbers?|names?|order|array|items?|values?)\b"
    r"|\b(?:ascending|descending|alphabetical) order\b|\bcount (?:the |how many )|\bhow many (?:words|letters|vowels|syllables|characters|times)\b"
    r"|\bconvert\b[^.\n]{0,60}\b(?:to|into)\b[^.\n]{0,20}\b(?:json|xml|yaml|csv|html|markdown|binary|hexadecimal|decimal|uppercase|lowercase|roman|morse|camel|base64|fahrenheit|celsius|kilomet|miles|meters|feet|inches|pounds|kilograms|kg|usd|euros?|dollars)"
    r"|\b(?:continue|complete|extend|finish)\b[^.\n]{0,20}\b(?:sequence|series|pattern|list)\b|\bnext (?:number|letter|term|item|word) in\b"
    r"|\b(?:reverse|backwards?)\b[^.\n]{0,30}\b(?:string|words?|letters?|sentence|order)\b|\banagrams?\b|\bacronyms?\b|\brhym(?:e|es|ing) with\b"
    r"|\bgenerate (?:a |\d+ )?random (?:number|password|string|sequence|word)|\b(?:add|insert|remove|fix|correct)\b[^.\n]{0,24}\b(?:punctuation|spaces|vowels|spelling|capitali[sz]ation|typos?)\b"
)
_MISSING = (
    r"(?i)<\s*no\s*(?:in|out)put\s*>|^\W*(?:no)(?:in|out)put\W*$|<(?:无输入|无输出|无)>|\[(?:图片|图像|image|附件|attachment|链接|link)\]"
    r"|\{\{?(?:input|text|name|content)\}?\}|\[(?:insert|插入|your|您的|你的)[^\]]{0,20}\]|<(?:image|img|file|url)>"
)
_CODE_LINE = (
    r"(?m)^[ \t]*(?:def |class |import |from \S+ import|return\b|for ?\(|while ?\(|if ?\(|else\b|elif\b|public |private |static |void |int |var |let |const "
    r"|function\b|#include|using |print(?:f|ln)?\(|console\.|SELECT |INSERT |UPDATE |DELETE |CREATE |FROM |WHERE |</?[a-z][^>\n]*>|[}\])]+[;,]?$|//|/\*|\* |@\w+|\w+\s*=[^=].*;?$"
    r"|\w+(?:\.\w+)*\([^。，]*\)[;:]?$|.*[;{]$|\$ |(?:sudo|apt|git|pip|npm|docker|cd|curl) ).*$"
)
_SUM = r"[0-9+\-*/×÷=<>^%().,\s\\{}$√∑π]"
_UNFINISHED = r"(?:[,，、:：;；(（《“]|\b(?:and|or|the|of|to|with|a|an|in|for|is|are)|以及|或者|并且|但是|因为|所以|的|和|与)$"
_INPUT_WANTED = (
    r"(?:以下|下面|下列|下述|上述|给定的|所给(?:的)?|提供的)(?:这)?(?:些|个|段|篇|句|首|张)?(?:[^，。：:\n]{0,8})"
    r"(?:文章|文本|段落|句子|短文|对话|代码|列表|故事|内容|数据|诗|图片|图像|信息|单词|词语|文字|表格|邮件|陈述|问题)[^\n]{0,24}$"
    r"|\b(?:following|given|provided|below|above)\b[^.\n]{0,20}\b(?:text|article|passage|paragraph|sentences?|code|list|story|data|poem|image|table|email|statement|words?|dialogue|conversation)\b[^\n]{0,40}$"
)


def _code_share() -> pl.Expr:
    rest = pl.col("positive").str.replace_all(_CODE_LINE, "").str.replace_all(r"\s", "").str.len_chars()
    visible = pl.col("positive_characters") - pl.col("positive_spaces")
    return (
        pl.when(pl.col("positive").str.contains(_CODE_LINE)).then(1 - rest / visible.clip(1)).otherwise(0.0)
    )


def _one(flag: pl.Expr) -> pl.Expr:
    return flag.cast(pl.Float64)


def _starts(pattern: str, characters: int) -> pl.Expr:
    return pl.col("positive").str.slice(0, characters).str.contains("(?i)" + pattern)


PROMPT_RESPONSE_RULES: tuple[Rule, ...] = (
    Rule(
        "refusal",
        "1 where the response opens with an apology and says that it cannot, or says outright that it cannot",
        "positive",
        _one((_starts(_APOLOGY, 40) & _starts(_UNABLE, 120)) | _starts(_CANNOT, 40)),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "language_model",
        "1 where the response speaks of itself as a language model in its first 200 characters",
        "positive",
        _one(_starts(_AI_MODEL, 200)),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "placeholder",
        "1 where a side has a placeholder in place of an input, a picture or an output",
        "positive",
        _one(pl.col("query").str.contains(_MISSING) | pl.col("positive").str.contains(_MISSING)),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "missing_input",
        "1 where a prompt of one line speaks of a text below that is not there",
        "query",
        _one(
            ~pl.col("query").str.contains("\n", literal=True)
            & pl.col("query").str.contains("(?i)" + _INPUT_WANTED)
        ),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "letter_task",
        "1 where the prompt is a task on letters, order or format (sort, count, convert, continue the list)",
        "query",
        _one(pl.col("query").str.contains("(?i)" + _LETTER_TASK)),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "echo",
        "share of the response's runs of three characters that stand in the prompt",
        "positive",
        pl.col("_echo"),
        at_most(0.7),
        at_most(0.75),
    ),
    Rule(
        "rewrite",
        "Jaccard similarity of the runs of three characters of prompt and response",
        "positive",
        pl.col("_rewrite"),
        at_most(0.5),
        at_most(0.5),
    ),
    Rule(
        "generic_answer",
        "1 where the whole response is a phrase that fits any prompt",
        "positive",
        _one(pl.col("positive").str.contains(_GENERIC)),
        at_most(0),
        at_most(0),
    ),
    Rule(
        "short_answer",
        "Han characters and words of the response",
        "positive",
        pl.col("positive_tokens"),
        at_least(6),
        at_least(4),
    ),
    Rule(
        "code_answer",
        "share of the response's visible characters in lines of code",
        "positive",
        _code_share(),
        at_most(0.7),
        at_most(0.7),
    ),
    Rule(
        "arithmetic_answer",
        "share of the response in digits, operators and spaces",
        "positive",
        1
        - pl.col("positive").str.replace_all(_SUM, "").str.len_chars()
        / pl.col("positive_characters").clip(1),
        at_most(0.5),
        at_most(0.5),
    ),
    Rule(
        "unfinished_answer",
        "1 where the response breaks off (a comma, a colon, a conjunction at its end)",
        "positive",
        _one(pl.col("positive").str.slice(-8).str.contains("(?i)" + _UNFINISHED)),
        at_most(0),
        at_most(0),
    ),
)


def with_echo(pairs: pl.DataFrame) -> pl.DataFrame:
    """Add `_echo` and `_rewrite`: the runs of three characters in common, over the response's and over all."""
    common, query, positive = overlap(pairs["query"], pairs["positive"], ECHO_GRAM)
    return pairs.with_columns(
        pl.Series("_echo", common / positive.clip(1)),
        pl.Series("_rewrite", common / (query + positive - common).clip(1)),
    )


def check_prompt_response(pairs: pl.DataFrame, rules: list[Rule]) -> Outcome:
    """Apply the prompt-response rules to the pairs whose `prompt_response` is true."""
    marked = pl.col("prompt_response")
    outcome = apply_rules(with_echo(pairs.filter(marked)), rules, "prompt_response")
    kept = pl.concat([pairs.filter(~marked), outcome.kept.drop("_echo", "_rewrite")]).sort("id")
    return Outcome(kept, outcome.dropped, outcome.applied)
