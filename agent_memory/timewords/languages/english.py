"""English words of time."""

from __future__ import annotations

from agent_memory.timewords.words import Language

_NUMBERS = "one two three four five six seven eight nine ten eleven twelve".split()
_DAYS = "monday tuesday wednesday thursday friday saturday sunday".split()
_DECADES = {"nineties": 90, "eighties": 80, "seventies": 70, "sixties": 60, "fifties": 50, "forties": 40}
_DECADES |= {"thirties": 30, "twenties": 20}
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth "
    "fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
).split()

ENGLISH = Language(
    code="en",
    day_first=False,
    trails=True,
    words={
        "month": {
            "january|jan": 1,
            "february|feb": 2,
            "march|mar": 3,
            "april|apr": 4,
            "may": 5,
            "june|jun": 6,
            "july|jul": 7,
            "august|aug": 8,
            "september|sept|sep": 9,
            "october|oct": 10,
            "november|nov": 11,
            "december|dec": 12,
        },
        "weekday": {
            "monday|mon": 0,
            "tuesday|tue|tues": 1,
            "wednesday|wed": 2,
            "thursday|thu|thur|thurs": 3,
            "friday|fri": 4,
            "saturday|sat": 5,
            "sunday|sun": 6,
        },
        "weekdays": {"|".join(f"{day}s" for day in _DAYS) + "|weekends": True},
        "pluralday": {f"{day}s": at for at, day in enumerate(_DAYS)},
        "num": {word: value for value, word in enumerate(_NUMBERS, start=1)},
        "one": {"a|an|one": 1},
        "ord": {
            **{word: value for value, word in enumerate(_ORDINALS, start=1)},
            "twenty first": 21,
            "twenty second": 22,
            "twenty third": 23,
            "twenty fourth": 24,
            "twenty fifth": 25,
            "twenty sixth": 26,
            "twenty seventh": 27,
            "twenty eighth": 28,
            "twenty ninth": 29,
            "thirtieth": 30,
            "thirty first": 31,
        },
        "fuzzy": {
            "a couple of|a couple|couple of|couple": (2, 3),
            "a few|few": (2, 5),
            "several|some": (3, 8),
        },
        "unit": {
            "second|seconds": "second",
            "minute|minutes|min|mins": "minute",
            "hour|hours": "hour",
            "day|days": "day",
            "night|nights": "night",
            "week|weeks": "week",
            "weekend": "weekend",
            "weekends": "weekend",
            "fortnight|fortnights": "fortnight",
            "month|months": "month",
            "quarter|quarters": "quarter",
            "year|years": "year",
            "decade|decades": "decade",
            "century|centuries": "century",
        },
        "season": {"spring": 0, "springtime": 0, "summer|summertime": 1, "autumn|fall": 2, "winter|wintertime": 3},
        "seasons": {"springs": 0, "summers": 1, "autumns|falls": 2, "winters": 3},
        "part": {
            "morning": "morning",
            "noon|midday|lunchtime": "noon",
            "afternoon": "afternoon",
            "evening": "evening",
            "night": "night",
            "midnight": "midnight",
        },
        "day": {
            "today": 0,
            "yesterday": -1,
            "tomorrow": 1,
            "day before yesterday|the day before yesterday": -2,
            "day after tomorrow|the day after tomorrow": 2,
        },
        "daypart": {"tonight": (0, "night"), "last night": (-1, "night"), "this evening": (0, "evening")},
        "rel": {"last|previous": -1, "this|current": 0, "next|coming|upcoming|following": 1},
        "past": {"past": True, "this past": True, "trailing": True},
        "ago": {"ago|back|earlier": True},
        "nearest": {"coming|upcoming": True},
        "later": {"from now|from today|hence|later": True},
        "beforerel": {"before": True},
        "inpre": {"in": True},
        "since": {
            "since|ever since|not before|not until|no earlier than": True,
            "starting|starting from|starting in|beginning|as of": True,
        },
        "before": {"before|prior to|earlier than|preceding": True},
        "after": {"after|later than|following": True},
        "until": {"until|till|up to and including|up to|up until|through|til": True},
        "by": {"by|no later than": True},
        "from": {"from": True},
        "to": {"to|until|till|through|thru|up to": True},
        "between": {"between": True},
        "and": {"and|or": True},
        "onward": {"on|onward|onwards|forward": True},
        "in": {"in|on|at|during|throughout|within|over|for|around|about|of|back in|as early as|in the year": True},
        "of": {"of|in|on|at": True},
        "the": {"the": True},
        "edge": {
            "early|beginning of|start of|the start of|the beginning of": "early",
            "mid|middle of|the middle of": "mid",
            "late|end of|the end of": "late",
            "first half of|the first half of": "first half",
            "second half of|the second half of": "second half",
        },
        "decade": {
            **_DECADES,
            **{f"nineteen {word}": 1900 + value for word, value in _DECADES.items()},
        },
        "bare": {"|".join(_DECADES): True},
        "owner": {"my|your|his|her|their|our|highs|temperatures": True},
        "weekword": {"week|calendar week|week number|wk|cw": True},
        "yearword": {"year": True},
        "last": {"last": True},
        "holiday": {
            "christmas|xmas|christmases": "christmas",
            "christmas eve": "12-24",
            "christmas day": "12-25",
            "boxing day": "12-26",
            "easter|easters": "easter",
            "thanksgiving|thanksgivings": "thanksgiving",
            "halloween": "10-31",
            "new year's eve|new year eve": "12-31",
            "new year's day|new year day|new year": "01-01",
            "valentine's day|valentine day|valentines day": "02-14",
        },
        "every": {"every|each|any|most|some|black|good|ash|super|casual": True},
        "label": {
            "version|chapter|section|page|no|number|model|level|room|part|step|task|phase|release|volume|season|"
            "episode|v|route|highway|figure|table|line|item|question|gate|terminal|platform|top|the top|which|"
            "these|those|my|your|our|their|his|her|all|only|just|than|the": True
        },
        "lapsed": {"did|was|were|had|used|went|happened|ago|said|told": True},
        "coming": {"will|shall|due|plan|plans|planned|planning|going|scheduled|upcoming|ll|tomorrow": True},
        "present": {"is|are|am": True},
        "spoken": {"o clock": True},
        "half": {"half a|half an|half|a half": True},
        "andhalf": {"and a half": True},
        "at": {"at|by|around|about": True},
    },
    common=frozenset(
        "the a an is are was were do does did have has had will would can could should i you he she it we they my "
        "your his her our their me him us them what when where who whom which why how in on at of to for with "
        "from by about and or but not no there here if then than this that these those go went get got be been "
        "any all some as so into while because before after since until during between again also just only yet "
        "still".split()
    ),
    weak=frozenset(
        "may march mar jan dec sep sept oct april june august sat sun mon wed fri thu tue second spring fall".split()
    ),
)
