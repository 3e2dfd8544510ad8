import { follow, get } from "./api.js";
import { browse } from "./browse.js";
import { entry } from "./entry.js";
import { operations } from "./operations.js";
import { recall } from "./recall.js";
import { session } from "./session.js";
import { problem, scope, show, state } from "./ui.js";

const views = { browse, entry, recall, session, operations };
const view = document.getElementById("view");
let leave = null;

async function go() {
  const [, name, query] = /^#\/(\w+)\??(.*)$/.exec(location.hash) || [null, "browse", ""];
  const chosen = views[name] || browse;
  if (leave) leave();
  leave = null;
  for (const a of document.querySelectorAll("nav a")) {
    if (a.getAttribute("href") === "#/" + (name === "entry" ? "browse" : name)) a.setAttribute("aria-current", "page");
    else a.removeAttribute("aria-current");
  }
  show(view, state("Loading…"));
  try {
    const me = await get("/v1/me");
    document.getElementById("who").textContent = `${scope(me.namespace)} · ${me.role}${me.key ? " · " + (me.key.name || me.key.id) : ""}`;
    const hash = location.hash;
    const made = await chosen(me, new URLSearchParams(query));
    if (hash !== location.hash) return;
    show(view, made.parts);
    leave = made.leave || null;
    document.title = `${view.querySelector("h1")?.textContent || "agent-memory"} · agent-memory`;
    view.focus({ preventScroll: true });
  } catch (error) { show(view, problem(error)); }
}

const button = document.getElementById("theme");
function dress(theme) {
  document.documentElement.dataset.theme = theme;
  button.textContent = theme === "dark" ? "Light" : "Dark";
  button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
}
const dark = matchMedia("(prefers-color-scheme: dark)");
dress(dark.matches ? "dark" : "light");
dark.addEventListener("change", () => dress(dark.matches ? "dark" : "light"));
button.addEventListener("click", () => dress(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
document.querySelector(".skip").addEventListener("click", (event) => { event.preventDefault(); view.focus(); });
addEventListener("hashchange", go);
go().then(() => follow(() => dispatchEvent(new Event("memory-changed"))));
