"""Japanese and Chinese words of time."""

from __future__ import annotations

from collections.abc import Mapping

from agent_memory.timewords.words import Language

_DIGITS = "一二三四五六七八九"


def _count(most: int) -> Mapping[str, int]:
    """Return the numbers from 1 as they are written in both languages."""
    numbers = {}
    for value in range(1, most + 1):
        tens, ones = divmod(value, 10)
        written = ("" if tens == 0 else "十" if tens == 1 else _DIGITS[tens - 1] + "十") + (
            _DIGITS[ones - 1] if ones else ""
        )
        numbers[written] = value
    return {**numbers, **{sign + "十": 10 * value for value, sign in enumerate(_DIGITS[2:], start=3)}}


_WEEKDAYS = "月火水木金土日"

JAPANESE = Language(
    code="ja",
    spaced=False,
    day_first=False,
    words={
        "weekday": {f"{sign}曜日|{sign}曜": value for value, sign in enumerate(_WEEKDAYS)},
        "num": _count(31),
        "fuzzy": {"数": (2, 5), "何": (2, 5)},
        "unit": {
            "秒": "second",
            "分": "minute",
            "時間": "hour",
            "日|日間": "day",
            "週間|週": "week",
            "か月|ヶ月|カ月|ヵ月|箇月|か月間|ヶ月間|ヵ月間|カ月間": "month",
            "年|年間": "year",
            "四半期": "quarter",
            "世紀": "century",
        },
        "half": {"半": True},
        "andhalf": {"半": True},
        "yearsign": {"年": True},
        "monthsign": {"月": True},
        "daysign": {"日": True},
        "decadesign": {"年代": True},
        "quartersign": {"四半期": True},
        "nth": {"第": True},
        "season": {"春": 0, "夏": 1, "秋": 2, "冬": 3},
        "part": {
            "朝|午前": "morning",
            "昼|正午": "noon",
            "午後": "afternoon",
            "夕方|夕": "evening",
            "夜|晩": "night",
            "深夜|真夜中": "midnight",
        },
        "day": {
            "今日|きょう|本日": 0,
            "昨日|きのう": -1,
            "一昨日|おととい|おとつい": -2,
            "明日|あした|あす": 1,
            "明後日|あさって": 2,
        },
        "daypart": {
            "今朝|けさ": (0, "morning"),
            "今晩|今夜": (0, "night"),
            "昨夜|昨晩|ゆうべ": (-1, "night"),
            "明朝": (1, "morning"),
            "明晩": (1, "night"),
        },
        "shifted": {
            "先々週|先先週": ("week", -2),
            "先週": ("week", -1),
            "今週": ("week", 0),
            "来週": ("week", 1),
            "再来週": ("week", 2),
            "先々週末": ("weekend", -2),
            "先週末": ("weekend", -1),
            "今週末": ("weekend", 0),
            "来週末": ("weekend", 1),
            "週末": ("weekend", 0),
            "先々月|先先月": ("month", -2),
            "先月": ("month", -1),
            "今月": ("month", 0),
            "来月": ("month", 1),
            "再来月": ("month", 2),
            "一昨年|おととし": ("year", -2),
            "昨年|去年": ("year", -1),
            "今年|ことし|本年": ("year", 0),
            "来年": ("year", 1),
            "再来年": ("year", 2),
            "前四半期": ("quarter", -1),
        },
        "shiftededge": {"年初": ("year", "early"), "年末": ("year", "late"), "月末": ("month", "late")},
        "past": {"過去|ここ|この|直近|最近": True},
        "rel": {"前の|この前の|前回の": -1, "次の|今度の|来る": 1, "今後|これから": 1},
        "ago": {"前": True},
        "later": {"後": True},
        "postsince": {"から|以来|以降": True},
        "postafter": {"以後|のあと|の後|より後|後": True},
        "postbefore": {"以前|より前|の前|前": True},
        "postuntil": {"まで|までに": True},
        "of": {"の|に|、": True},
        "and": {"と": True},
        "edge": {},
        "endedge": {"上旬|初め|はじめ|頭|年初": "early", "中旬|半ば|なかば": "mid", "下旬|末|終わり|年末|月末": "late"},
        "every": {"毎|毎週|毎月": True},
        "holiday": {"クリスマス": "christmas", "大晦日": "12-31", "元日|正月": "01-01"},
        "lapsed": {"した|でした|だった|ました": True},
        "coming": {"予定|つもり|でしょう": True},
    },
    weak=frozenset("日 分 年 月 前 後 春 夏 秋 冬 朝 昼 夜 晩 数 何 この ここ".split()),
)

_CHINESE_WEEKDAYS = [*"一二三四五六"]

CHINESE = Language(
    code="zh",
    spaced=False,
    day_first=False,
    words={
        "weekday": {
            **{
                f"星期{sign}|周{sign}|週{sign}|礼拜{sign}|禮拜{sign}": value
                for value, sign in enumerate(_CHINESE_WEEKDAYS)
            },
            "星期日|星期天|周日|周天|週日|礼拜天|礼拜日|禮拜天": 6,
        },
        "num": {**_count(31), "两|兩": 2},
        "fuzzy": {"几|幾|数|數": (2, 5)},
        "unit": {
            "秒|秒钟": "second",
            "分钟|分鐘": "minute",
            "小时|小時|个小时|個小時|钟头": "hour",
            "天|日": "day",
            "周|週|星期|礼拜|个星期|個星期|个礼拜|個禮拜": "week",
            "周末|个周末|個週末": "weekend",
            "个月|個月": "month",
            "年": "year",
            "季度|个季度": "quarter",
            "世纪|世紀": "century",
        },
        "half": {"半": True},
        "andhalf": {"半|个半|個半": True},
        "yearsign": {"年": True},
        "monthsign": {"月|月份": True},
        "daysign": {"日|号|號": True},
        "decadesign": {"年代": True},
        "quartersign": {"季度": True},
        "nth": {"第": True},
        "season": {"春天|春季|春": 0, "夏天|夏季|夏": 1, "秋天|秋季|秋": 2, "冬天|冬季|冬": 3},
        "part": {
            "早上|上午|早晨|清晨": "morning",
            "中午": "noon",
            "下午": "afternoon",
            "傍晚": "evening",
            "晚上|夜里|夜裡|晚": "night",
            "半夜|午夜": "midnight",
        },
        "day": {
            "今天|今日": 0,
            "昨天|昨日": -1,
            "前天|前日": -2,
            "大前天": -3,
            "明天|明日": 1,
            "后天|後天": 2,
            "大后天|大後天": 3,
        },
        "daypart": {
            "今早|今天早上|今晨": (0, "morning"),
            "今晚|今夜": (0, "night"),
            "昨晚|昨夜": (-1, "night"),
            "明早": (1, "morning"),
            "明晚": (1, "night"),
        },
        "shifted": {
            "上上周|上上週|上上星期|上上个星期": ("week", -2),
            "上周|上週|上星期|上个星期|上個星期|上礼拜|上个礼拜|上一周": ("week", -1),
            "这周|這週|本周|本週|这星期|这个星期|這個星期|本星期|这礼拜|这个礼拜": ("week", 0),
            "下周|下週|下星期|下个星期|下個星期|下礼拜|下个礼拜|下一周": ("week", 1),
            "下下周|下下週|下下个星期": ("week", 2),
            "上上周末|上上个周末": ("weekend", -2),
            "上周末|上週末|上个周末|上個週末": ("weekend", -1),
            "这周末|這週末|本周末|这个周末|這個週末|周末|週末": ("weekend", 0),
            "下周末|下週末|下个周末|下個週末": ("weekend", 1),
            "上上个月|上上個月": ("month", -2),
            "上个月|上個月|上月": ("month", -1),
            "这个月|這個月|本月|这月": ("month", 0),
            "下个月|下個月|下月": ("month", 1),
            "前年": ("year", -2),
            "去年": ("year", -1),
            "今年|本年": ("year", 0),
            "明年": ("year", 1),
            "后年|後年": ("year", 2),
            "上个季度|上季度|上一季度": ("quarter", -1),
            "这个季度|本季度": ("quarter", 0),
            "下个季度|下季度": ("quarter", 1),
        },
        "shiftededge": {
            "年初": ("year", "early"),
            "年底|年末": ("year", "late"),
            "月初": ("month", "early"),
            "月底|月末": ("month", "late"),
        },
        "past": {"过去|過去|最近|近|这|這": True},
        "rel": {"未来|未來|接下来|今后": 1},
        "ago": {"前|之前|以前": True},
        "later": {"后|後|之后|之後|以后|以後": True},
        "postsince": {"以来|以來|起|开始|開始": True},
        "postafter": {"之后|之後|以后|以後|后|後": True},
        "postbefore": {"之前|以前|前": True},
        "postuntil": {"为止|為止": True},
        "since": {"自|自从|自從|从|從": True},
        "from": {"从|從|自": True},
        "to": {"到|至": True},
        "until": {"直到|截至": True},
        "between": {"在": True},
        "and": {"和|与|與": True},
        "of": {"的|在|，": True},
        "in": {"在|于": True},
        "endedge": {"初|月初|年初|上旬": "early", "中旬|年中|月中": "mid", "底|末|月底|年底|月末|年末|下旬": "late"},
        "halfsign": {"上半年": 1, "下半年": 2},
        "every": {"每|每个|每周|每星期|每个星期|每個星期": True},
        "holiday": {"圣诞节|聖誕節|圣诞": "christmas", "除夕": "12-31", "元旦": "01-01"},
        "lapsed": {"了|过|過": True},
        "coming": {"会|會|将|將|要|打算|计划": True},
    },
    weak=frozenset("日 年 月 前 后 後 春 夏 秋 冬 晚 几 幾 数 近 这 這 周 天 起 初 底 末".split()),
)
