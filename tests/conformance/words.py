"""Words as people write them: every script, every spelling of one word, other forms of it."""

from __future__ import annotations

import hashlib

import pytest
from conformance.samples import find_words, make_draft, put

OTHERS = [f"filler {letter * 3} about something else" for letter in "abcdefghijkl"]

SAME = {
    "composed and decomposed": ("Köln", "Ko\u0308ln"),
    "composed and decomposed Korean": ("한국", "\u1112\u1161\u11ab\u1100\u116e\u11a8"),
    "composed and decomposed kana": ("ガラス", "カ\u3099ラス"),
    "composed and decomposed Vietnamese": ("Việt", "Vie\u0323\u0302t"),
    "composed and decomposed Cyrillic": ("чай", "чаи\u0306"),
    "Vietnamese without tones": ("Đà Nẵng", "da nang"),
    "full width": ("ＡＢＣ１２３", "abc123"),
    "half-width kana": ("ﾋﾟｱﾉ", "ピアノ"),
    "half-width Korean": ("ﾡ", "ㄱ"),
    "compatibility ideograph": ("\uf900", "\u8c48"),
    "ligature": ("ﬁnanzen", "finanzen"),
    "Latin digraph": ("Œuvre", "oeuvre"),
    "soft hyphen": ("Donau\u00addampf\u00adschiff", "Donaudampfschiff"),
    "zero-width space": ("pass\u200bword", "password"),
    "zero-width joiner": ("na\u200dme", "name"),
    "byte order mark": ("\ufeffhello", "hello"),
    "text direction": ("\u200fשלום\u200f", "שלום"),
    "variation selector": ("❤\ufe0f", "❤"),
    "Persian without its joints": ("می\u200cخواهم", "میخواهم"),
    "yo": ("ёлка", "елка"),
    "stress": ("за́мок", "замок"),
    "Ukrainian apostrophes": ("п’ять", "пʼять"),
    "Greek accents": ("Νίκος", "ΝΙΚΟΣ"),
    "Greek final sigma": ("ΟΔΟΣ", "οδος"),
    "Greek dialytika": ("Μαΐου", "ΜΑΙΟΥ"),
    "Arabic harakat": ("كِتَابٌ", "كتاب"),
    "Arabic tatweel": ("كتـــاب", "كتاب"),
    "Arabic alef": ("أحمد", "احمد"),
    "Arabic teh marbuta": ("مدرسة", "مدرسه"),
    "Arabic alef maksura": ("مستشفى", "مستشفي"),
    "Arabic presentation forms": ("ﻛﺘﺎﺏ", "كتاب"),
    "Persian and Arabic kaf": ("کتاب", "كتاب"),
    "Hebrew points": ("שָׁלוֹם", "שלום"),
    "Turkish dotted capital": ("İSTANBUL", "istanbul"),
    "Turkish dotless": ("ısparta", "ISPARTA"),
    "German sharp s": ("Straße", "STRASSE"),
    "German capital sharp s": ("STRAẞE", "strasse"),
    "Danish": ("Ærø", "aero"),
    "Polish": ("Łódź", "lodz"),
    "Icelandic": ("Þór", "thor"),
    "Devanagari nukta": ("क़लम", "कलम"),
    "Devanagari composed nukta": ("\u0958लम", "क\u093cलम"),
    "Devanagari chandrabindu": ("हँसी", "हंसी"),
    "Arabic-Indic digits": ("٢٠٢٤", "2024"),
    "Persian digits": ("۲۰۲۴", "2024"),
    "Devanagari digits": ("२०२४", "2024"),
    "Thai digits": ("๒๕๖๗", "2567"),
    "subscript": ("H₂O", "H2O"),
    "superscript": ("m²", "m2"),
    "Roman numeral": ("Ⅳ", "IV"),
    "ligature in a name": ("Þorﬁnnur", "thorfinnur"),
    "trade mark": ("Lego™", "lego"),
    "fraction": ("2½", "2 1/2"),
    "typographic apostrophe": ("don’t", "don't"),
    "dash": ("e–mail", "e-mail"),
    "Lao digraph": ("ໂຮງໝໍ", "ໂຮງຫມໍ"),
    "Thai sara am": ("น้ำ", "น\u0e49\u0e4d\u0e32"),
    "emoji with a tone": ("👍🏽", "👍"),
}

DIFFERENT = [
    ("война", "воина"),  # war, warrior's
    ("かき", "かぎ"),  # oyster, key
    ("ハハ", "パパ"),  # mother, papa
    ("ปลา", "ปล่า"),
    ("कल", "काल"),  # tomorrow, time
]

INSIDE = {
    "Chinese": ("我养了一只猫，它很喜欢睡觉", "猫 养 喜欢 睡觉 一只"),
    "Chinese organisations": ("它们在北京大学学习", "北京 北京大学 大学 学习"),
    "Japanese": ("昨日、車が壊れました。鍵は引き出しの中です", "車 鍵 引き出し 昨日 中"),
    "Japanese katakana": ("妹はピアノを弾くのが好き", "ピアノ 妹 好き"),
    "Korean": ("오빠는 서울의 병원에서 물을 마셔요", "오빠 서울 병원 물"),
    "Thai": ("พี่ชายทำงานที่โรงพยาบาลในเชียงใหม่และเลี้ยงแมว", "พี่ชาย โรงพยาบาล เชียงใหม่ แมว ทำงาน"),
    "Lao": ("ອ້າຍເຮັດວຽກຢູ່ໂຮງໝໍໃນວຽງຈັນ", "ອ້າຍ ເຮັດວຽກ ໂຮງໝໍ ວຽງຈັນ"),
    "Khmer": ("បងប្រុសធ្វើការនៅមន្ទីរពេទ្យជាមួយឆ្មា", "បងប្រុស ធ្វើការ មន្ទីរពេទ្យ ឆ្មា"),
    "Burmese": ("အစ်ကိုကဆေးရုံမှာအလုပ်လုပ်တယ်", "အစ်ကို ဆေးရုံ အလုပ်"),
    "Khmer with word breaks": ("ខ្ញុំ\u200bមាន\u200bឆ្មា", "ឆ្មា មាន"),
    "mixed": ("I met 田中さん at 東京駅 with Ольга", "田中 東京 駅 ольги"),
}

FORMS = {
    "German": ("Wir haben in der Stadt zwei Häuser gekauft", "Haus"),
    "German plural": ("Das Kind ist mit der Katze im Garten", "Katzen"),
    "French": ("Nous avons mangé des pommes dans le jardin", "pomme"),
    "Spanish": ("Mi hermana tiene muchas canciones de los ochenta", "canción"),
    "Portuguese": ("Ela comprou os livros para a filha", "livro"),
    "Italian": ("I gatti sono nella casa di mia nonna", "gatto"),
    "Dutch": ("Wij hebben twee katten en een hond in het huis", "kat"),
    "Swedish": ("Vi har tre hundar och en katt i vårt hus", "hund"),
    "Russian": ("Купили новые книги", "книга"),
    "Greek": ("Αγόρασε δύο σπίτια", "σπίτι"),
    "Arabic": ("قرأت الكتاب", "كتاب"),
    "Hindi": ("किताबें मेज पर हैं", "किताब"),
    "English": ("two dogs were walking home", "dog walk"),
}


class WordContract:
    """``Lexical``: what counts as the same word."""

    @pytest.mark.parametrize(("text", "query"), SAME.values(), ids=SAME)
    def test_two_spellings_of_a_word_find_each_other(self, database, text, query):
        ids = put(
            database,
            make_draft("a", f"before {text} after"),
            make_draft("b", f"before {query} after"),
            *(make_draft(f"c{number}", other) for number, other in enumerate(OTHERS)),
        )
        assert find_words(database, text) == find_words(database, query) == ids[:2]

    @pytest.mark.parametrize("letters", ["0123456789abcdef", "абвгдежзиклмнопр"])
    @pytest.mark.parametrize("count", [600, 1_300, 1_301, 2_600, 2_601, 8_000])
    def test_a_word_of_any_length_is_found_and_another_of_its_beginning_is_not(self, database, letters, count):
        digits = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(125))[:count]
        word = digits.translate(str.maketrans("0123456789abcdef", letters))
        ids = put(database, make_draft("a", f"key {word} end"), make_draft("b", f"{word}x"), make_draft("c", "tea"))
        assert find_words(database, word) == find_words(database, "key") == [ids[0]]

    @pytest.mark.parametrize(("text", "query"), DIFFERENT)
    def test_letters_that_tell_words_apart_are_kept(self, database, text, query):
        ids = put(database, make_draft("a", text), make_draft("b", query))
        with database.read() as tx:
            for word, entry_id in ((text, ids[0]), (query, ids[1])):
                found = tx.lexical.search(tx.lexical.parse(word), limit=2)
                assert next(iter(found)) == entry_id
                assert len(set(found.values())) == len(found)

    @pytest.mark.parametrize(("text", "words"), INSIDE.values(), ids=INSIDE)
    def test_every_word_is_found_inside_a_sentence_without_spaces(self, database, text, words):
        ids = put(database, make_draft("a", text), *(make_draft(f"c{n}", other) for n, other in enumerate(OTHERS)))
        assert [word for word in words.split() if find_words(database, word) != ids[:1]] == []

    @pytest.mark.parametrize(("text", "query"), FORMS.values(), ids=FORMS)
    def test_another_form_of_a_word_is_found_in_its_language(self, database, text, query):
        ids = put(database, make_draft("a", text), *(make_draft(f"c{n}", other) for n, other in enumerate(OTHERS)))
        assert find_words(database, query) == ids[:1]

    @pytest.mark.parametrize(
        "text",
        [
            "Das Meeting mit Herrn Müller ist in der Schweiz",
            "Müller a rencontré les amis de la famille dans un meeting",
            "Müller said there is a meeting",
            "Müller ja meeting on ja ei ole",
            "会议 meeting 和 Müller 在一起",
        ],
    )
    @pytest.mark.parametrize(
        "query", ["When is the meeting?", "Wo ist das Meeting?", "meeting", "Müller", "Who is Müller?"]
    )
    def test_a_word_is_found_in_texts_of_other_languages_than_the_query(self, database, text, query):
        ids = put(database, make_draft("a", text), *(make_draft(f"c{n}", other) for n, other in enumerate(OTHERS)))
        assert ids[0] in find_words(database, query)

    def test_a_few_texts_of_another_language_do_not_outweigh_the_rest(self, database):
        texts = [f"The houses are number {number} of the street" for number in range(20)]
        texts[7] = "The houses have gardens in the street"
        ids = put(
            database,
            make_draft("fr", "Les houses et les gardens sont dans la ville avec nous, et puis on parle de tout"),
            *(make_draft(f"e{number}", text) for number, text in enumerate(texts)),
        )
        with database.read() as tx:
            found = tx.lexical.search(tx.lexical.parse("which houses have gardens"), limit=3)
        assert next(iter(found)) == ids[8]

    @pytest.mark.parametrize(
        ("text", "query", "matched"),
        [
            ("它们在北京大学学习", "北京大学好吗", ["北京大学"]),
            ("我养了一只猫", "你的猫叫什么", ["猫"]),
            ("ฉันเลี้ยงแมวหนึ่งตัวชื่อมะลิ", "แมวทำอะไร", ["แมว"]),
            ("Der Zug nach Köln", "Ko\u0308ln!", ["ko\u0308ln"]),
            ("Wir haben in der Stadt zwei Häuser", "Wo ist das Haus?", ["haus"]),
            ("she said 'never again' twice", 'who meant "never again"', ["never again", "never", "again"]),
        ],
    )
    def test_what_matched_is_told_in_words_that_a_person_recognises(self, database, text, query, matched):
        ids = put(database, make_draft("a", text), *(make_draft(f"c{n}", other) for n, other in enumerate(OTHERS)))
        with database.read() as tx:
            told = tx.lexical.find_matched(tx.lexical.parse(query), ids[0])
        assert set(told) == set(matched)

    def test_a_removed_text_of_any_script_leaves_no_term(self, database):
        texts = [
            *(text for text, _ in INSIDE.values()),
            *(text for text, _ in FORMS.values()),
            *(a for a, _ in SAME.values()),
        ]
        ids = put(database, *(make_draft(f"k{number}", text) for number, text in enumerate(texts)))
        with database.write() as tx:
            tx.drafts.remove(ids)
        with database.read() as tx:
            assert tx.lexical.find_faults() == []
            assert all(not tx.lexical.search(tx.lexical.parse(text), limit=1) for text in texts)

    def test_a_long_text_without_a_space_is_a_query_too(self, database):
        ids = put(database, make_draft("a", "猫" * 3_000 + "犬"), make_draft("b", "other"))
        assert find_words(database, "猫犬" * 2_000) == ids[:1]
        assert find_words(database, "b" * 9_000) == []
