"""How sure a router may be: the best score beside what texts get that are for no route at all.

A cosine says little by itself: it depends on the encoder, and among many routes one is close by chance. So each router
asks its own routes a few everyday remarks and questions that hardly any route is for, and counts in their spread.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from agent_memory.types import FloatArray

EVERYDAY = (
    "Hi, how are you?",
    "Thanks a lot!",
    "Sorry, I did not understand that.",
    "Yes, that is right.",
    "Let me think about it.",
    "Who are you?",
    "I am tired of all this.",
    "What a lovely evening it was.",
    "When was Shakespeare born?",
    "What is the population of Canada?",
    "Why is water wet?",
    "Who discovered penicillin?",
    "What is the tallest mountain on earth?",
    "How many legs has a spider?",
    "What does this proverb mean?",
    "Tell me a story about a dragon.",
    "Do you believe in fate?",
    "My brother plays the guitar.",
    "We moved here ten years ago.",
    "I never liked spinach.",
    "What should I do with my life?",
    "Is it wrong to lie?",
    "Which language is the hardest to learn?",
    "How do birds fly?",
    "Build me a house.",
    "Fix my marriage.",
    "Walk the dog.",
    "Guess what I am thinking.",
    "That was not very funny.",
    "She said that she would come later.",
    "Which team is the best of all time?",
    "What happened to the Roman empire?",
)

# Logistic regression on 3 to 100 tools of half A of tests/data/routes.tsv: `python benchmarks/routing.py --fit`.
_HEIGHT, _LEAD, _OFFSET = 0.410, 0.389, -2.965
_LEAST_SPREAD = 0.01
_SPREAD_OF_MEDIAN = 1.4826  # standard deviations of a normal distribution in one median deviation


@dataclass(frozen=True, slots=True)
class Scale:
    """What texts get that are for no route.

    Attributes:
        middle: The median of their best scores.
        spread: A robust standard deviation of them.
    """

    middle: float
    spread: float

    @classmethod
    def of(cls, best: FloatArray) -> Scale:
        """Return the scale of the best scores, float32 (n,), of everyday texts."""
        middle = float(np.median(best))
        return cls(middle, max(_LEAST_SPREAD, _SPREAD_OF_MEDIAN * float(np.median(np.abs(best - middle)))))

    def measure(self, score: float, rival: float | None) -> tuple[float, float]:
        """Return how far a score is above the everyday ones, and above its best rival, in spreads.

        A rival that does worse than everyday texts is none: a lead over it would make anything sure among few routes.
        """
        beside = self.middle if rival is None else max(rival, self.middle) if rival <= score else rival
        return (score - self.middle) / self.spread, (score - beside) / self.spread

    def rate(self, score: float, rival: float | None) -> float:
        """Return the chance that a route is the right one.

        Args:
            score: Its cosine.
            rival: The best cosine of another route; None if there is no other.
        """
        height, lead = self.measure(score, rival)
        odds = _HEIGHT * height + _LEAD * lead + _OFFSET
        return 1 / (1 + math.exp(-max(-30.0, min(30.0, odds))))
