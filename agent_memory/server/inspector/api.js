// Requests to the server. The key is kept here, in memory, and nowhere else.
let key = null;

export class Refused extends Error {
  constructor(status, problem) { super(problem.detail || "the server answered " + status); this.status = status; this.problem = problem; }
}
function askKey(why) {
  const dialog = document.getElementById("ask-key"), input = document.getElementById("key");
  document.getElementById("ask-key-why").textContent = why;
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => { key = input.value.trim() || null; input.value = ""; resolve(); }, { once: true });
    if (!dialog.open) dialog.showModal();
  });
}
// Not crypto.randomUUID, which browsers have only where the page came by TLS or from this machine.
const makeName = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
let asking = null;
export async function send(method, path, body, headers = {}) {
  for (;;) {
    const shown = key;
    const given = { accept: "application/json", ...headers };
    if (shown) given.authorization = "Bearer " + shown;
    if (body !== undefined) given["content-type"] = "application/json";
    if (method !== "GET" && path !== "/v1/keys") given["idempotency-key"] = makeName();
    let answer;
    try { answer = await fetch(path, { method, headers: given, body: body === undefined ? undefined : JSON.stringify(body) }); }
    catch { throw new Refused(0, { detail: "The server cannot be reached." }); }
    if (answer.status === 401) {
      if (shown === key) {
        const why = shown ? "That key does not work: it is unknown, was revoked or has expired." : "It is kept in this page's memory only, and gone when the page is closed.";
        asking ||= askKey(why).finally(() => { asking = null; });
        await asking;
        if (!key) throw new Refused(401, { detail: "A key is needed." });
      }
      continue;
    }
    if (!answer.ok) throw new Refused(answer.status, await answer.json().catch(() => ({})));
    return answer;
  }
}
export async function ask(method, path, body, headers) {
  const answer = await send(method, path, body, headers);
  return answer.status === 204 ? null : answer.json();
}
export const get = (path) => ask("GET", path);
export const post = (path, body = {}, headers) => ask("POST", path, body, headers);
export function place(key, namespace) {
  const given = new URLSearchParams();
  for (const name of namespace || []) given.append("namespace", name);
  return "/v1/memories/" + encodeURIComponent(key) + (given.size ? "?" + given : "");
}
// Starts something long, and reports on it until it has ended.
export async function operate(path, body, report = () => {}) {
  let found = await post(path, body, { prefer: "respond-async" });
  while (found.state === "running" && "total" in found) {
    report(found);
    await new Promise((resolve) => setTimeout(resolve, 400));
    found = await get("/v1/operations/" + found.id);
  }
  if (found.error) throw new Refused(found.error.status, found.error);
  return "result" in found ? found.result : found;
}
export async function download(path, name) {
  const answer = await send("GET", path, undefined, { accept: "*/*" });
  const url = URL.createObjectURL(await answer.blob()), a = document.createElement("a");
  a.href = url; a.download = name; a.click();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}
// Calls back for each change, as long as the page is open.
export async function follow(tell) {
  let last = null;
  for (;;) {
    try {
      const answer = await send("GET", "/v1/events", undefined, { accept: "text/event-stream", ...(last ? { "last-event-id": last } : {}) });
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      for (let rest = ""; ;) {
        const { value, done } = await reader.read();
        if (done) break;
        const parts = (rest + value).split("\n\n");
        rest = parts.pop();
        for (const part of parts) {
          const id = /^id: (.*)$/m.exec(part);
          if (id) { last = id[1]; tell(part); }
        }
      }
    } catch { /* the server restarts: try again */ }
    await new Promise((resolve) => setTimeout(resolve, 3000));
  }
}
