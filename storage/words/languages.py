"""Which language a text is in, and the stems of its words.

Scripts that one stemmer serves need no guess: a word in them is stemmed wherever it stands. Languages in Latin letters
are told by their commonest words. A text of such a language is indexed by its words and by their stems, a query searches
for both: a wrong guess costs other forms of a word, and never the word itself. If a query does not tell its language,
its words are tried in each language that some text of the store is marked with.

Words are folded before they are stemmed, so that spellings which fold to the same word have the same stem.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from Stemmer import Stemmer

ENGLISH = "english"

_COMMON = {
    ENGLISH: "a about all am an and any are as at be been but by can could did do does for from get go got had has "
    "have he her him his how i if in into is it its just know like me my no not of on one or our out she so some than "
    "that the their them then there they this to up us was we were what when where which who why will with would you "
    "your yes good really think want time day new work love don doesn didn isn m s t ve ll re",
    "german": "aber als am an auch auf aus bei bin bis da das dass dem den der des die diese dieser doch du durch ein "
    "eine einem einen einer er es fur haben hat hatte ich ihr ihre im in ist ja kann kein keine mein meine mich mir mit "
    "nach nicht noch nur oder schon sehr sein sich sie sind so uber um und uns unter vom von vor war waren warum was "
    "wenn wer werden wie wir wird wo zu zum zur",
    "french": "ai alors au aussi aux avec avoir ce cette ces comme dans de des depuis du elle elles en est et etait etre "
    "fait il ils j je l la le les leur lui ma mais me mes mon n ne nous on ou par pas plus pour qu quand que quel quelle "
    "qui quoi sa sans se ses son sont sur ta te tes ton tous tout tres tu un une vous c d",
    "spanish": "a al algo como con cual cuando de del desde donde el ella ellos en era es esta este esto estoy fue ha "
    "hay he hoy la las le les lo los mas me mi mis mucho muy ni no nos o para pero por porque que quien se ser si sin "
    "sobre son soy su sus tambien te tiene todo tu un una unos usted y ya yo",
    "portuguese": "a ao aos as com como da das de do dos e ela ele eles em era essa esse esta estou eu foi ha isso ja "
    "la mais mas me meu meus minha muito na nao nas no nos o onde os ou para pela pelo por porque quando que quem se "
    "sem ser seu seus so sua sao tambem tem tenho um uma voce",
    "italian": "a ai al alla anche che chi ci come con cosa da dal dalla degli dei del della delle di dove e ed era gli "
    "ha hai ho i il in io la le lei lo loro lui ma mi mia mio molto nel nella noi non o per perche piu quando quello "
    "questa questo se si sono sta su sua sul suo ti tu tutto un una uno",
    "dutch": "aan al als bij daar dan dat de deze die dit door een en er ge geen had heb heeft hem het hij hoe ik in is "
    "je kan maar me met mij mijn naar niet nog nu of om onder ons ook op over te toen tot u uit van veel voor waar wanneer "
    "was wat we wel werd wie wij worden ze zich zij zijn zo",
    "swedish": "att av blev de dem den denna det dig din du efter ej en er ett fran for har hade han hans hon hur i inte "
    "jag kan man med mig min mina mitt mot mycket nar ni nu och om oss pa sa sig sin ska som till under upp ut vad var "
    "vara vi vid ar at",
    "danish": "af alle at blev da de den der deres det dig din disse du efter eller en end er et for fra ham han har "
    "havde hendes hun hvad hvem hvor hvornar i ikke ind jeg jer kan man med meget men mig min mit nar nogle nu og ogsa om "
    "op os pa sig sin skal som til ud under var ved vi vil",
    "norwegian": "av at bare ble da de den der dere det deg din du eller en er et etter for fra ha hadde han har hun hva "
    "hvem hvor hvordan i ikke jeg kan man med meg men mer min mitt mot mye na nar noe og ogsa om opp oss pa sa seg sin "
    "skal som til ut var ved vi vil",
    "finnish": "ei en emme ehka eika ette han hanen he ja jo joka jos kanssa kun kuin kuka me mika mina minulla minun "
    "missa mita mutta myos nain ne niin nyt oli olen olet olla on ovat se sen sina sinun sita tai tama tassa te vain "
    "viela voi",
    "hungarian": "a az azt az aki ami amikor be de egy el en es ez ezt ha hogy hol is ki kell le meg mert mi mint most "
    "nagyon nem nincs ok o oket mar te van vagy vagyok volt voltam",
    "romanian": "a acest aceasta ai al am ar are as au ca care ce cel cu cum da dar de din doar e ea ei el este eu fi "
    "fost in ia il la lui ma mai mea meu mi nu o pe pentru prin sa sau se si sunt te un unde unei va",
    "turkish": "acaba ama ben bana beni benim bir biz bu cok da daha de degil en gibi hangi hem her icin ile ise kadar "
    "ki kim mi mu nasil ne neden nerede niye o olan oldu olarak onun sen su var ve veya ya yok",
    "polish": "ale bardzo bo by byc byl byla co czy dla do gdzie go i ich jak jako jego jej jest jestem juz kiedy kto "
    "ktory ktora ma mam mi mnie moj moja na nie niz o od on ona oraz po pod sa sie tak tam te tego to tu ty w we z za ze",
    "czech": "a ale asi az bude by byl byla co do i ja jak jako je jeho jejich jen jeste jsem jsou k kde kdo kdyz ktera "
    "ktery ma mam me mi na nebo neni o od po pro proc protoze s se si ta tak to tu ty u uz v ve z za ze",
    "catalan": "a al amb aquest aquesta als com de del dels el ella els em en era es esta ha he hi i jo la les li mes "
    "meu molt meva no o on per pero que qui se sense si son soc tambe te tinc un una va van vaig",
    "indonesian": "ada adalah akan aku anda apa atau bahwa banyak bisa dalam dan dari dengan di dia hari ini itu juga kami "
    "karena ke kita mereka oleh pada saat saya sebuah sudah telah tidak untuk yang",
}
_LANGUAGES: dict[str, tuple[str, ...]] = {}
for _name, _words in _COMMON.items():
    for _word in set(_words.split()):
        _LANGUAGES[_word] = (*_LANGUAGES.get(_word, ()), _name)

MARKS = {name: chr(0x2B9 + place) for place, name in enumerate(_COMMON) if name != ENGLISH}
"""A term of every text in a language, by language: characters that no folded text holds."""

MARKED = chr(0x2B9)
"""A term of every text that has one of the marks."""

_SCRIPTS = (
    (re.compile("[\u0370-\u03ff]+"), "greek"),
    (re.compile("[\u0400-\u052f]+"), "russian"),
    (re.compile("[\u0620-\u064a]+"), "arabic"),
    (re.compile("[\u0900-\u097f]+"), "hindi"),
    (re.compile("[\u0531-\u0587]+"), "armenian"),
    (re.compile("[\u0b80-\u0bff]+"), "tamil"),
)
"""Scripts whose words one stemmer serves. Letters that only Persian and Urdu have are not among the Arabic ones."""


def find_language(words: Sequence[str]) -> str | None:
    """Return the language of folded words in Latin letters, of ``MARKS`` or English; None if they do not tell.

    A text is in a language if it has two of that language's commonest words at least, and more of them than English
    ones; in English if it has one, and no more of another's.
    """
    counts: dict[str, int] = {}
    for word in _LANGUAGES.keys() & words:
        for name in _LANGUAGES[word]:
            counts[name] = counts.get(name, 0) + 1
    english = counts.get(ENGLISH, 0)
    best = max(MARKS, key=lambda name: counts.get(name, 0))  # the first of equals: sets have no order
    if counts.get(best, 0) >= max(2, english + 1):
        return best
    return ENGLISH if english and english >= counts.get(best, 0) else None


class _Stemmers(threading.local):
    """A thread's stemmers; they keep the stems of the latest words, and are not made for several threads."""

    def __init__(self) -> None:
        self._made: dict[str, Stemmer] = {}

    def stem(self, language: str, words: Iterable[str]) -> list[str]:
        from Stemmer import Stemmer

        if language not in self._made:
            self._made[language] = Stemmer(language)
        return self._made[language].stemWords(list(words))


_STEMMERS = _Stemmers()


def stem_latin(language: str, words: Iterable[str]) -> list[str]:
    """Return the stems of folded words in Latin letters; ``porter`` gives those that back ends make of them."""
    return _STEMMERS.stem(language, words)


def stem_by_script(word: str) -> str:
    """Return the stem of a folded word whose script tells its stemmer; any other word as it is."""
    for letters, language in _SCRIPTS:
        if letters.fullmatch(word):
            return _STEMMERS.stem(language, (word,))[0] or word
    return word
