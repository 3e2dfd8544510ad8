"""The languages whose words of time are known; their tables hold data alone."""

from __future__ import annotations

from agent_memory.timewords.languages.east_asian import CHINESE, JAPANESE
from agent_memory.timewords.languages.english import ENGLISH
from agent_memory.timewords.languages.french import FRENCH, ITALIAN
from agent_memory.timewords.languages.german import DUTCH, GERMAN
from agent_memory.timewords.languages.spanish import PORTUGUESE, SPANISH

SPACED = (ENGLISH, GERMAN, FRENCH, SPANISH, PORTUGUESE, ITALIAN, DUTCH)
UNSPACED = (JAPANESE, CHINESE)
