"""One question, asked before and after a correction: python examples/evolving_session.py [folder].

Nothing is scripted but the conversation: the hits come from the embedded encoders. Without the session the
question says nothing of what it is about; in the session, it does.
"""

from __future__ import annotations
