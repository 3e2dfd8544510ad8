"""A person asks an agent about what was said: who said it counts, and a wish for work is not a question of words."""

from __future__ import annotations

import pytest
from support import WordEncoder

from agent_memory.recall.asking import AGENTS, asks_for_the_agent, asks_for_work
from agent_memory.recall.ranking import AGENT_WEIGHT, FOR_WORK, IN_SESSION


@pytest.fixture
def memory(open_memory):
    """A session in which both say nearly the same."""
    memory = open_memory(encoder=WordEncoder())
    memory.add("The harbour tour costs forty euros", key="agent", speaker="assistant", session="s")
    memory.add("forty euros the harbour tour costs", key="person", speaker="user", session="s")
    return memory


@pytest.mark.parametrize("options", [{}, {"session": "s"}], ids=["everywhere", "in the session"])
def test_what_the_person_said_comes_before_the_same_from_the_agent(memory, options):
    assert [hit.entry.key for hit in memory.recall("What did the harbour tour cost?", **options)] == ["person", "agent"]


@pytest.mark.parametrize("options", [{}, {"session": "s"}], ids=["everywhere", "in the session"])
def test_what_the_agent_said_comes_first_where_that_is_asked_for(memory, options):
    hits = memory.recall("What did you say the harbour tour costs?", **options)
    assert [hit.entry.key for hit in hits] == ["agent", "person"]


@pytest.mark.parametrize("speaker", [*AGENTS, "Assistant", "AI"])
def test_every_name_that_formats_give_the_agent_is_known(open_memory, speaker):
    memory = open_memory(encoder=WordEncoder())
    memory.add("The harbour tour costs forty euros", speaker=speaker)
    asked = memory.recall("How much is the harbour tour?", explain=True)[0]
    wanted = memory.recall("How much did you say the harbour tour is?", explain=True)[0]
    assert (asked.trace["speaker"], wanted.trace["speaker"]) == (-AGENT_WEIGHT, AGENT_WEIGHT)


@pytest.mark.parametrize("speaker", [None, "user", "agent smith", "Aida", "Bo", "system", "agent"])
def test_nobody_else_is_taken_for_the_agent(open_memory, speaker):
    memory = open_memory(encoder=WordEncoder())
    memory.add("The harbour tour costs forty euros", speaker=speaker)
    for question in ("How much is the harbour tour?", "How much did you say the harbour tour is?"):
        assert memory.recall(question, explain=True)[0].trace["speaker"] == 0


@pytest.mark.parametrize("mode", ["dense", "lexical"])
def test_meaning_alone_and_words_alone_do_not_look_at_who_said_it(memory, mode):
    hits = memory.recall("What did the harbour tour cost?", mode=mode, explain=True)
    assert {hit.trace["speaker"] for hit in hits} == {0}


def test_the_same_hits_come_with_and_without_an_explanation(memory):
    for at in range(30):
        memory.add(
            f"The harbour tour number {at} costs {at} euros", speaker="assistant" if at % 2 else "user", session="s"
        )
    for question in ("What did the harbour tour cost?", "What did you say the harbour tour costs?"):
        for k in (1, 3, 10):
            plain = memory.recall(question, session="s", k=k)
            told = memory.recall(question, session="s", k=k, explain=True)
            assert [(hit.entry.key, hit.score) for hit in plain] == [(hit.entry.key, hit.score) for hit in told]


@pytest.mark.parametrize(
    "question",
    [
        "What did you suggest for the garden?",
        "Which hotel had you recommended?",
        "What was the price you gave me?",
        "What you just told me about the harbour",
        "What was your advice on the loan?",
        "What did the assistant say about tea?",
        "Was hast du mir zum Garten empfohlen?",
        "Das Hotel, das du mir gestern genannt hast",
        "Was war dein Vorschlag?",
        "Qu'est-ce que tu m'as conseillé ?",
        "Quel hôtel avez-vous proposé ?",
        "¿Qué hotel me recomendaste?",
        "¿Cuál fue tu consejo?",
        "Que hotel você recomendou?",
        "Qual foi a sua sugestão?",
        "Quale albergo mi hai consigliato?",
        "Wat heb je mij aangeraden?",
        "Wat was je advies?",
        "どのホテルを勧めてくれた？",
        "你之前推荐的酒店是哪家？",
        "你给我介绍的那本书",
    ],
)
def test_a_question_for_the_agents_words_is_told(question):
    assert asks_for_the_agent(question)


@pytest.mark.parametrize(
    "question",
    [
        "What did I say about the garden?",
        "Where does Alice live?",
        "Could you recommend a hotel?",
        "Can you tell me where I parked?",
        "Do you remember my sister's name?",
        "Thank you!",
        "What would you do?",
        "Your house or mine?",
        "Kannst du mir sagen, wo ich wohne?",
        "Wo wohnt deine Schwester?",
        "Peux-tu me dire où j'habite ?",
        "¿Puedes decirme dónde vivo?",
        "Você pode me dizer onde moro?",
        "Puoi dirmi dove abito?",
        "Kun je zeggen waar ik woon?",
        "私の家はどこ？",
        "我住在哪里？",
        "",
    ],
)
def test_other_questions_are_not_taken_for_one(question):
    assert not asks_for_the_agent(question)


@pytest.mark.parametrize(
    "message",
    [
        "Can you help me plan a trip to Lisbon?",
        "How should I structure the backend?",
        "I'm trying to write a cover letter.",
        "I’m working on a quiz. What steps would come first?",
        "How would you suggest handling the errors? Help me decide.",
    ],
)
def test_a_wish_for_work_is_told(message):
    assert asks_for_work(message)


@pytest.mark.parametrize(
    "message",
    [
        "What did Caroline study?",
        "Can you remind me where I parked?",
        "Could you summarize our talks?",
        "Can you list the order in which I brought up the topics?",
        "How did I describe my garden?",
        "When can we say he came?",
        "I'm tired.",
        "Can you help me? " + "There is more to tell about it. " * 6,
        "",
    ],
)
def test_questions_about_the_past_and_long_messages_are_no_wish_for_work(message):
    assert not asks_for_work(message)


def test_words_count_half_for_a_wish_for_work_in_a_session(memory):
    message = "Can you help me plan the harbour tour?"
    [inside, *_] = memory.recall(message, session="s", explain=True)
    words = inside.trace["lexical"]
    assert words["adds"] == FOR_WORK.lexical * words["share"] == IN_SESSION.lexical * words["share"] / 2
    assert inside.trace["nearby"]["adds"] == FOR_WORK.nearby * inside.trace["nearby"]["share"]
    [asked, *_] = memory.recall("How much was the harbour tour?", session="s", explain=True)
    assert asked.trace["lexical"]["adds"] == IN_SESSION.lexical * asked.trace["lexical"]["share"]
