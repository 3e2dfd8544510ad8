// Written by `agent-memory agent install opencode`; `agent-memory agent uninstall opencode` deletes it.
import { spawn } from "node:child_process"

const COMMAND = ["agent-memory"]
const LIMIT_MS = 8000

// Runs one hook. Whatever happens to it, OpenCode goes on.
const run = (event, facts) =>
  new Promise((resolve) => {
    let printed = ""
    const end = () => {
      try {
        resolve(JSON.parse(printed || "{}"))
      } catch {
        resolve({})
      }
    }
    try {
      const [program, ...args] = COMMAND
      const child = spawn(program, [...args, "hook", event, "--agent", "opencode"], {
        stdio: ["pipe", "pipe", "ignore"],
      })
      const timer = setTimeout(() => child.kill(), LIMIT_MS)
      child.on("error", () => (clearTimeout(timer), end()))
      child.on("close", () => (clearTimeout(timer), end()))
      child.stdout.on("data", (part) => (printed += part))
      child.stdin.on("error", () => {})
      child.stdin.end(JSON.stringify(facts))
    } catch {
      end()
    }
  })

const said = (parts) =>
  (parts ?? [])
    .filter((part) => part.type === "text" && !part.synthetic && !part.ignored)
    .map((part) => part.text)
    .join("\n")

export const AgentMemory = async ({ client, directory }) => ({
  "chat.message": async (input, output) => {
    const facts = { session_id: input.sessionID, cwd: directory, prompt: said(output.parts) }
    const { context } = await run("UserPromptSubmit", facts)
    if (!context) return
    output.parts.push({
      id: `prt_${Date.now().toString(16)}${Math.random().toString(16).slice(2)}`,
      sessionID: input.sessionID,
      messageID: output.message.id,
      type: "text",
      text: context,
      synthetic: true,
    })
  },
  event: async ({ event }) => {
    if (event.type !== "session.idle") return
    try {
      const id = event.properties.sessionID
      const session = await client.session.get({ path: { id } })
      if (session.data?.parentID) return // a sub-agent
      const messages = (await client.session.messages({ path: { id } })).data ?? []
      const last = messages.filter((message) => message.info.role === "assistant").at(-1)
      await run("Stop", { session_id: id, cwd: directory, last_assistant_message: said(last?.parts) })
    } catch {
      // no answer to keep
    }
  },
})
