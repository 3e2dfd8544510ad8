"""German and Dutch words of time."""

from __future__ import annotations

from agent_memory.timewords.words import Language

_DE_NUMBERS = "ein zwei drei vier fünf sechs sieben acht neun zehn elf zwölf".split()
_DE_ORDINALS = "erst zweit dritt viert fünft sechst siebt acht neunt zehnt elft zwölft".split()
_NL_NUMBERS = "een twee drie vier vijf zes zeven acht negen tien elf twaalf".split()


def _inflect(*stems: str, ends: str = "e en er es em") -> str:
    """Return the spellings of adjectives."""
    return "|".join(stem + end for stem in stems for end in ends.split())


def _compound(days: str, parts: dict[str, str]) -> dict[str, tuple[int, str]]:
    """Return weekday and part of a day of words such as "Freitagabend"."""
    return {day + written: (number, part) for number, day in enumerate(days.split()) for written, part in parts.items()}


_DE_DAYS = "montag dienstag mittwoch donnerstag freitag samstag sonntag"
_DE_PARTS = {
    "morgen": "morning",
    "vormittag": "morning",
    "mittag": "noon",
    "nachmittag": "afternoon",
    "abend": "evening",
    "nacht": "night",
}
_TENS = {"negentig": 90, "tachtig": 80, "zeventig": 70, "zestig": 60, "vijftig": 50, "veertig": 40, "dertig": 30}
_TENS |= {"twintig": 20}
_NL_DAYS = "maandag dinsdag woensdag donderdag vrijdag zaterdag zondag"
_NL_PARTS = {
    "ochtend": "morning",
    "morgen": "morning",
    "middag": "afternoon",
    "namiddag": "afternoon",
    "avond": "evening",
    "nacht": "night",
}

GERMAN = Language(
    code="de",
    words={
        "month": {
            "januar|jänner|jan": 1,
            "februar|feber|feb": 2,
            "märz|maerz|mär": 3,
            "april|apr": 4,
            "mai": 5,
            "juni|jun": 6,
            "juli|jul": 7,
            "august|aug": 8,
            "september|sept|sep": 9,
            "oktober|okt": 10,
            "november|nov": 11,
            "dezember|dez": 12,
        },
        "weekday": {
            "montag|mo": 0,
            "dienstag|di": 1,
            "mittwoch|mi": 2,
            "donnerstag|do": 3,
            "freitag|fr": 4,
            "samstag|sonnabend|sa": 5,
            "sonntag|so": 6,
        },
        "weekdaypart": _compound(_DE_DAYS, _DE_PARTS),
        "weekdays": {"montags|dienstags|mittwochs|donnerstags|freitags|samstags|sonntags|wochenenden": True},
        "num": {
            **{word: value for value, word in enumerate(_DE_NUMBERS, start=1)},
            "fuenf": 5,
            "zwoelf": 12,
            "einem|einer|eine|einen": 1,
        },
        "ord": {_inflect(stem): value for value, stem in enumerate(_DE_ORDINALS, start=1)},
        "fuzzy": {"ein paar|paar": (2, 5), "einigen|einige|wenigen|wenige": (2, 5), "mehreren|mehrere": (3, 8)},
        "unit": {
            "sekunde|sekunden": "second",
            "minute|minuten": "minute",
            "stunde|stunden": "hour",
            "tag|tage|tagen|tages": "day",
            "nacht|nächte|nächten": "night",
            "woche|wochen": "week",
            "wochenende|wochenenden|wochenendes": "weekend",
            "monat|monate|monaten|monats": "month",
            "quartal|quartale|quartalen|quartals": "quarter",
            "jahr|jahre|jahren|jahres": "year",
            "jahrzehnt|jahrzehnte|jahrzehnten": "decade",
            "jahrhundert|jahrhunderts": "century",
        },
        "season": {"frühling|frühjahr|frühlings": 0, "sommer|sommers": 1, "herbst|herbstes": 2, "winter|winters": 3},
        "seasons": {"frühlingen|frühjahren": 0, "sommern": 1, "herbsten": 2, "wintern": 3},
        "half": {_inflect("halb"): True},
        "sesqui": {
            _inflect("anderthalb", "eineinhalb", ends="e en er") + "|anderthalb|eineinhalb": 1,
            "zweieinhalb": 2,
        },
        "nearest": {_inflect("kommend"): True},
        "part": {
            "morgen|früh|vormittag|morgens": "morning",
            "mittag|mittags": "noon",
            "nachmittag|nachmittags": "afternoon",
            "abend|abends": "evening",
            "nacht|nachts": "night",
            "mitternacht": "midnight",
        },
        "day": {"heute": 0, "gestern": -1, "morgen": 1, "vorgestern": -2, "übermorgen": 2, "vorvorgestern": -3},
        "daypart": {
            "heute morgen|heute früh|heute vormittag": (0, "morning"),
            "gestern morgen|gestern früh|gestern vormittag": (-1, "morning"),
            "morgen früh|morgen vormittag": (1, "morning"),
            "heute nacht": (0, "night"),
            "letzte nacht|gestern nacht|vergangene nacht": (-1, "night"),
            "morgen abend": (1, "evening"),
        },
        "rel": {
            _inflect("letzt", "vorig", "vergangen"): -1,
            _inflect("vorletzt"): -2,
            _inflect("dies") + "|dieses|diesjährigen": 0,
            _inflect("nächst", "kommend", "folgend"): 1,
            _inflect("übernächst"): 2,
        },
        "past": {_inflect("letzt", "vergangen"): True},
        "agopre": {"vor": True},
        "later": {"später": True},
        "inpre": {"in": True},
        "since": {"seit|ab|nicht vor|frühestens": True},
        "before": {"vor": True},
        "after": {"nach": True},
        "until": {"bis|nicht nach|spätestens|bis einschließlich|bis zum|bis zu|bis ende": True},
        "from": {"von|vom|zwischen dem": True},
        "to": {"bis|bis zum": True},
        "between": {"zwischen": True},
        "and": {"und": True},
        "onward": {"an": True},
        "in": {"in|im|am|an|um|zu|zum|über|während|ins|seit dem|den|dem|der": True},
        "of": {"des|der|im|in|am|um|von|vom|dem|den": True},
        "the": {"der|die|das|den|dem|des": True},
        "edge": {"anfang|frühe|frühen": "early", "mitte": "mid", "ende|späten": "late"},
        "decade": {"neunziger|neunzigern": 90, "achtziger|achtzigern": 80, "siebziger|siebzigern": 70, "sechziger": 60},
        "halfword": {"halbjahr|hälfte": True},
        "weekword": {"kw|kalenderwoche|woche": True},
        "yearword": {"jahr|jahre|jahres": True},
        "holiday": {
            "weihnachten": "christmas",
            "heiligabend": "12-24",
            "ostern": "easter",
            "silvester": "12-31",
            "neujahr": "01-01",
        },
        "every": {_inflect("jed") + "|alle|allen": True},
        "label": {"version|kapitel|seite|nummer|nr|modell|zimmer|raum|teil|schritt|gleis|die|welche|diese": True},
        "lapsed": {"war|waren|hatte|hatten|habe|haben|hat|wurde|wurden|warst|gab": True},
        "coming": {"wird|werde|werden|wirst|fällig|geplant": True},
        "at": {"um|gegen": True},
    },
    common=frozenset(
        "der die das den dem des ein eine einen einem einer ist sind war waren hat habe haben hatte wird werden "
        "ich du er sie es wir ihr mein meine dein was wann wo wer wen wem warum wie welche welcher im in am an "
        "auf aus bei bis mit nach seit von vom vor zu zum zur und oder aber nicht kein keine auch noch schon dass "
        "wenn als für gab hier uns mir mich dich sich über zwischen".split()
    ),
    weak=frozenset("mo di mi do fr sa so mär jan früh morgen mai april august juli".split()),
)

DUTCH = Language(
    code="nl",
    words={
        "month": {
            "januari|jan": 1,
            "februari|feb": 2,
            "maart|mrt": 3,
            "april|apr": 4,
            "mei": 5,
            "juni|jun": 6,
            "juli|jul": 7,
            "augustus|aug": 8,
            "september|sept|sep": 9,
            "oktober|okt": 10,
            "november|nov": 11,
            "december|dec": 12,
        },
        "weekday": {
            "maandag": 0,
            "dinsdag": 1,
            "woensdag": 2,
            "donderdag": 3,
            "vrijdag": 4,
            "zaterdag": 5,
            "zondag": 6,
        },
        "weekdaypart": _compound(_NL_DAYS, _NL_PARTS),
        "num": {**{word: value for value, word in enumerate(_NL_NUMBERS, start=1)}, "één": 1},
        "ord": {"eerste": 1, "tweede": 2, "derde": 3, "vierde": 4},
        "fuzzy": {"een paar|paar": (2, 5), "enkele|een aantal": (2, 5)},
        "weekdays": {"weekenden|weekends": True},
        "unit": {
            "seconde|seconden": "second",
            "minuut|minuten": "minute",
            "uur|uren": "hour",
            "dag|dagen": "day",
            "nacht|nachten": "night",
            "week|weken": "week",
            "weekend|weekenden|weekends": "weekend",
            "maand|maanden": "month",
            "kwartaal|kwartalen": "quarter",
            "jaar|jaren": "year",
            "decennium|decennia": "decade",
            "eeuw": "century",
        },
        "season": {"lente|voorjaar": 0, "zomer": 1, "herfst|najaar": 2, "winter": 3},
        "seasons": {"lentes|voorjaren": 0, "zomers": 1, "herfsten|najaren": 2, "winters": 3},
        "half": {"half|halve": True},
        "sesqui": {"anderhalf|anderhalve": 1, "tweeënhalf": 2},
        "nearest": {"komende|komend": True},
        "tens": _TENS,
        "part": {
            "ochtend|ochtends|morgens": "morning",
            "middag|middags|namiddag": "afternoon",
            "avond|avonds": "evening",
            "nacht|nachts": "night",
            "middernacht": "midnight",
        },
        "day": {"vandaag": 0, "gisteren": -1, "morgen": 1, "eergisteren": -2, "overmorgen": 2},
        "daypart": {
            "vanochtend|vanmorgen": (0, "morning"),
            "vanmiddag": (0, "afternoon"),
            "vanavond": (0, "evening"),
            "vannacht": (0, "night"),
            "gisterochtend|gistermorgen": (-1, "morning"),
            "gistermiddag": (-1, "afternoon"),
            "gisteravond": (-1, "evening"),
            "gisternacht|afgelopen nacht": (-1, "night"),
            "morgenochtend": (1, "morning"),
            "morgenavond": (1, "evening"),
        },
        "rel": {
            "vorige|vorig|laatste|afgelopen|voorbije": -1,
            "voorlaatste": -2,
            "deze|dit": 0,
            "volgende|volgend|komende|aanstaande|komend": 1,
        },
        "past": {"afgelopen|laatste|voorbije": True},
        "ago": {"geleden|terug": True},
        "inpre": {"over|binnen": True},
        "later": {"later": True},
        "since": {"sinds|vanaf|niet voor|niet vóór": True},
        "before": {"vóór|voor|voordat": True},
        "after": {"na": True},
        "until": {"tot|niet na|uiterlijk|tot en met|t m": True},
        "from": {"van|vanaf": True},
        "to": {"tot|tot en met|t m|tot aan": True},
        "between": {"tussen": True},
        "and": {"en": True},
        "in": {"in|op|om|tijdens|gedurende|met|rond": True},
        "of": {"van|in|op|om": True},
        "the": {"de|het|s": True},
        "edge": {"begin|vroeg in": "early", "midden|medio|halverwege": "mid", "eind|einde|laat in": "late"},
        "decadeword": {"jaren": True},
        "weekword": {"week": True},
        "yearword": {"jaar": True},
        "holiday": {"kerst|kerstmis": "christmas", "pasen": "easter", "oudejaarsavond": "12-31", "nieuwjaar": "01-01"},
        "every": {"elke|iedere|alle": True},
        "label": {"versie|version|hoofdstuk|pagina|nummer|model|kamer|deel|stap|de|welke|deze": True},
        "lapsed": {"was|waren|had|hadden|heb|heeft|hebben|werd|deed|ging": True},
        "coming": {"zal|zullen|gaat|ga|gepland": True},
        "at": {"om|rond": True},
    },
    common=frozenset(
        "de het een is zijn was waren heb heeft hebben had ik jij je hij zij ze wij we mijn jouw wat wanneer waar "
        "wie waarom hoe welke in op aan bij met van voor tot naar uit en of maar niet geen ook nog al dat die dit "
        "deze er hier om te toen deed ging gedaan".split()
    ),
    weak=frozenset("jan dec sep morgen mei april juni juli".split()),
)
