"""A LangGraph agent that remembers across conversations: python examples/langgraph_agent.py [folder]."""

from __future__ import annotations

import sys
import tempfile

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from scripted_model import ScriptedModel

from agent_memory import Memory
from agent_memory.integrations.langchain import AgentMemoryMiddleware, memory_tools
from agent_memory.integrations.langgraph import AgentMemoryStore


def answer_from_memory(messages: list[BaseMessage]) -> AIMessage:
    """Replace a language model that reads what was recalled."""
    return AIMessage("Berlin." if "moved to Berlin" in str(messages[0].content) else "I do not know.")


def main(folder: str) -> None:
    """Say something in one conversation, and ask about it in another."""
    model = ScriptedModel(replies=[AIMessage("Noted."), answer_from_memory])
    with Memory(folder) as memory:
        agent = create_agent(
            model,
            tools=memory_tools(memory),  # the agent can recall and remember by itself
            middleware=[AgentMemoryMiddleware(memory)],  # this does both before and after each run
            store=AgentMemoryStore(memory),  # keeps what tools put into the graph's store
            checkpointer=InMemorySaver(),
        )
        for thread, text in (("monday", "Alice moved to Berlin."), ("friday", "Where does Alice live?")):
            config = {"configurable": {"thread_id": thread}}
            state = agent.invoke({"messages": [HumanMessage(text)]}, config)
            print(f"{thread}: {text} -> {state['messages'][-1].text}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(sys.argv[1] if len(sys.argv) > 1 else scratch)
