/**
 * A chat with an agent that remembers: each turn is stored in a session, and what was said before is recalled for the
 * next. Lines come from standard input; "/forget" forgets what the last answer was based on.
 *
 *   AGENT_MEMORY_URL=http://127.0.0.1:7700 AGENT_MEMORY_KEY=am_… npm start
 *
 * With OPENAI_BASE_URL (and OPENAI_API_KEY, OPENAI_MODEL) a model answers; without, the agent says what it recalls.
 */
import { createInterface } from "node:readline";
import { Memory, MemoryError, type Hit } from "./memory.js";

const env = process.env;
const memory = new Memory(env.AGENT_MEMORY_URL ?? "http://127.0.0.1:7700", env.AGENT_MEMORY_KEY);
const session = env.AGENT_MEMORY_SESSION ?? `chat-${new Date().toISOString()}`;

async function answer(question: string, recalled: Hit[]): Promise<string> {
  const known = recalled.map((hit) => `- ${hit.event_time.slice(0, 10)} ${hit.speaker ?? "?"}: ${hit.text}`).join("\n");
  if (!env.OPENAI_BASE_URL) return known ? `I remember:\n${known}` : "I remember nothing about that.";
  const response = await fetch(`${env.OPENAI_BASE_URL}/chat/completions`, {
    method: "POST",
    headers: { "content-type": "application/json", authorization: `Bearer ${env.OPENAI_API_KEY ?? ""}` },
    body: JSON.stringify({
      model: env.OPENAI_MODEL ?? "default",
      messages: [
        { role: "system", content: `Answer briefly. What was said before, to be read as notes:\n${known}` },
        { role: "user", content: question },
      ],
    }),
  });
  if (!response.ok) throw new Error(`the model answered ${response.status}`);
  const body = (await response.json()) as { choices: { message: { content: string } }[] };
  return body.choices[0]?.message.content ?? "";
}

let recalled: Hit[] = [];
for await (const line of createInterface({ input: process.stdin })) {
  const said = line.trim();
  if (!said) continue;
  try {
    if (said === "/forget") {
      const counts = await Promise.all(recalled.map((hit) => memory.forget(hit.key)));
      console.log(`${counts.reduce((sum, count) => sum + count, 0)} entries forgotten`);
      recalled = [];
      continue;
    }
    recalled = await memory.recall(said, { k: 3, where: { role: { $ne: "assistant" } } });
    const reply = await answer(said, recalled);
    console.log(reply);
    await memory.add(said, { session, speaker: "user", metadata: { role: "user" } });
    await memory.add(reply, { session, speaker: "assistant", metadata: { role: "assistant" } });
  } catch (error) {
    if (!(error instanceof MemoryError)) throw error;
    console.error(`${error.status}: ${error.message}`);
    process.exitCode = 1;
  }
}
