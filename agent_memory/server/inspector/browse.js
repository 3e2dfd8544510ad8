import { get, post } from "./api.js";
import { confirmWith, field, h, link, origin, preview, problem, receipt, say, scope, show, state } from "./ui.js";

const ROW = 58, PAGE = 100, TALLEST = 8e6;
const OPERATORS = [["$eq", "is"], ["$ne", "is not"], ["$gt", ">"], ["$gte", "≥"], ["$lt", "<"], ["$lte", "≤"], ["$in", "is one of"], ["$exists", "is there"]];

function read(text) { try { return JSON.parse(text); } catch { return text; } }

// The filter on metadata, built by clicking and as JSON; the JSON is what counts.
export function makeWhere(changed) {
  const [nameLabel, name] = field("Field", { placeholder: "topic" });
  const [opLabel, op] = field("Condition", { value: "$eq" }, OPERATORS);
  const [valueLabel, value] = field("Value", { placeholder: "health" });
  const [jsonLabel, json] = field("Metadata filter as JSON", { rows: 2, spellcheck: "false", oninput: () => draw() });
  const chips = h("div", { class: "chips" }), wrong = h("div", {});
  const parts = () => { const found = json.value.trim() ? JSON.parse(json.value) : {}; return found.$and || Object.entries(found).map(([key, one]) => ({ [key]: one })); };
  function write(list) { json.value = list.length ? JSON.stringify(list.length === 1 ? list[0] : { $and: list }) : ""; draw(); changed(); }
  function draw() {
    try {
      const list = parts();
      show(wrong);
      show(chips, list.map((one, at) => h("button", { type: "button", class: "chip", "aria-label": "Remove " + JSON.stringify(one), onclick: () => write(list.filter((_, i) => i !== at)) }, JSON.stringify(one).slice(1, -1), " ×")));
    } catch (error) { show(wrong, problem(new Error("not JSON: " + error.message))); }
  }
  function add() {
    if (!name.value.trim()) return name.focus();
    const given = op.value === "$in" ? value.value.split(",").map((one) => read(one.trim())) : op.value === "$exists" ? true : read(value.value);
    try { write([...parts(), { [name.value.trim()]: op.value === "$eq" ? given : { [op.value]: given } }]); name.value = value.value = ""; } catch { draw(); }
  }
  json.addEventListener("change", changed);
  const node = h("details", {}, h("summary", {}, "Metadata"), h("div", { class: "fields" }, nameLabel, opLabel, valueLabel, h("button", { type: "button", onclick: add }, "Add condition")), chips, jsonLabel, wrong);
  return { node, value: () => json.value.trim() ? JSON.parse(json.value) : null };
}

export async function browse(me) {
  const [sessions, spaces] = await Promise.all([get("/v1/sessions"), get("/v1/namespaces")]);
  const [sessionLabel, session] = field("Session", { value: "" }, [["", "any"], ...[...new Set(sessions.items.map((one) => one.name))].map((name) => [name, name])]);
  const [spaceLabel, space] = field("Namespace", { value: "" }, [["", scope(me.namespace) + " and below"], ...spaces.items.filter((one) => one.length > me.namespace.length).map((one) => [JSON.stringify(one), scope(one)])]);
  const [speakerLabel, speaker] = field("Speaker", { placeholder: "any" });
  const [sinceLabel, since] = field("Since", { type: "date" });
  const [untilLabel, until] = field("Until", { type: "date" });
  const [orderLabel, order] = field("Order", { value: "new" }, [["new", "newest first"], ["old", "oldest first"]]);
  const where = makeWhere(() => refresh());
  const list = h("div", { class: "list", role: "list", "aria-label": "Entries", tabindex: 0 }), spacer = h("div", { class: "spacer", role: "presentation" });
  const counted = h("p", { class: "note" }), fault = h("div", {});
  let total = 0, pages = new Map(), turn = 0;

  function filters() {
    const given = new URLSearchParams();
    for (const [name, value] of [["session", session.value], ["speaker", speaker.value.trim()], ["since", since.value], ["until", until.value]]) if (value) given.set(name, value);
    const wanted = where.value();
    if (wanted) given.set("where", JSON.stringify(wanted));
    if (space.value) for (const name of JSON.parse(space.value)) given.append("namespace", name);
    return given;
  }
  async function page(at) {
    if (!pages.has(at)) {
      const given = filters(), mine = turn;
      const start = order.value === "old" ? at * PAGE : Math.max(0, total - (at + 1) * PAGE);
      const most = order.value === "old" ? PAGE : Math.min(PAGE, total - at * PAGE);
      given.set("offset", start); given.set("limit", Math.max(1, most));
      pages.set(at, get("/v1/memories?" + given).then((found) => order.value === "old" ? found.items : found.items.reverse()).catch((error) => { if (mine === turn) show(fault, problem(error)); return []; }));
    }
    return pages.get(at);
  }
  const height = () => Math.min(total * ROW, TALLEST);
  // Beyond what browsers can scroll, a pixel stands for more than a pixel.
  const first = () => total * ROW <= TALLEST ? Math.floor(list.scrollTop / ROW) : Math.floor(list.scrollTop / Math.max(1, height() - list.clientHeight) * Math.max(0, total - Math.floor(list.clientHeight / ROW)));
  let pending = false;
  async function draw() {
    pending = false;
    const mine = turn, top = first(), base = total * ROW <= TALLEST ? top * ROW : list.scrollTop;
    const seen = Math.ceil(list.clientHeight / ROW) + 3, from = Math.max(0, top - 3), to = Math.min(total, top + seen);
    const rows = [];
    for (let i = from; i < to; i++) {
      const found = (await page(Math.floor(i / PAGE)))[i % PAGE];
      if (mine !== turn) return;
      if (!found) continue;
      const row = h("a", { class: "row", href: link(found), "data-at": i }, h("span", { class: "one" }, found.text), origin(found));
      const item = h("div", { class: "item", role: "listitem", "aria-posinset": i + 1, "aria-setsize": total }, row);
      item.style.top = base + (i - top) * ROW + "px";
      rows.push(item);
    }
    const focused = document.activeElement?.dataset?.at;
    spacer.replaceChildren(...rows);
    if (focused !== undefined) spacer.querySelector(`[data-at="${focused}"]`)?.focus({ preventScroll: true });
  }
  function later() { if (!pending) { pending = true; requestAnimationFrame(draw); } }
  async function refresh(keep = false) {
    const mine = ++turn;
    show(fault);
    try {
      const given = filters();
      given.set("count", "true"); given.set("limit", "1");
      const found = await get("/v1/memories?" + given);
      if (mine !== turn) return;
      total = found.total; pages = new Map();
      spacer.style.height = height() + "px";
      if (!keep) list.scrollTop = 0;
      if (!total) show(list, state(given.size > 2 ? "No entry matches. Remove a filter." : "Nothing is remembered yet. Add an entry above, or call add from your agent.")); else if (!spacer.isConnected) show(list, spacer);
      await draw();
      if (mine !== turn) return;
      counted.textContent = total === 1 ? "1 entry" : `${total.toLocaleString("en")} entries`;  // once they are there
      say(counted.textContent);
    } catch (error) { show(fault, problem(error)); }
  }
  list.addEventListener("scroll", later);
  list.addEventListener("keydown", (event) => {
    const at = Number(document.activeElement.dataset.at ?? -1), step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const next = at < 0 ? first() : Math.min(total - 1, Math.max(0, at + step));
    const focus = () => spacer.querySelector(`[data-at="${next}"]`)?.focus({ preventScroll: true });
    if (total * ROW <= TALLEST) { const y = next * ROW; if (y < list.scrollTop) list.scrollTop = y; else if (y + ROW > list.scrollTop + list.clientHeight) list.scrollTop = y + ROW - list.clientHeight; }
    draw().then(focus);
  });
  for (const one of [session, space, speaker, since, until, order]) one.addEventListener("change", () => refresh());
  async function add() {
    const [textLabel, text] = field("Text", { rows: 4, class: "text" }), [whoLabel, who] = field("Speaker"), [whereLabel, whereIn] = field("Session");
    if (!await confirmWith("Add an entry", [h("p", { class: "note" }, "Namespace: " + scope(space.value ? JSON.parse(space.value) : me.namespace)), textLabel, h("div", { class: "fields" }, whoLabel, whereLabel)], "Remember")) return;
    try { await post("/v1/memories", { text: text.value, speaker: who.value || null, session: whereIn.value || null, ...(space.value ? { namespace: JSON.parse(space.value) } : {}) }); await refresh(); } catch (error) { show(fault, problem(error)); }
  }
  async function forget() {
    const given = { where: where.value(), session: session.value || null, ...(space.value ? { namespace: JSON.parse(space.value) } : {}) };
    try {
      if (speaker.value || since.value || until.value) throw new Error("Forgetting goes by session and metadata: clear speaker, since and until first.");
      const seen = await post("/v1/memories/forget", { ...given, dry_run: true });
      if (await confirmWith(`Forget ${seen.would_forget} ${seen.would_forget === 1 ? "entry" : "entries"} for good?`, preview(seen), seen.would_forget ? "Forget them" : null)) {
        await confirmWith("Receipt", receipt(await post("/v1/memories/forget", given)));
        await refresh();
      }
    } catch (error) { show(fault, problem(error)); }
  }
  const changed = () => refresh(true);
  addEventListener("memory-changed", changed);
  queueMicrotask(() => refresh());
  const writes = me.role !== "reader";
  return {
    leave: () => removeEventListener("memory-changed", changed),
    parts: [h("h1", {}, "Browse"), h("div", { class: "split" },
      h("section", { class: "card", "aria-label": "Filters" }, h("h2", {}, "Filters"), h("div", { class: "fields" }, spaceLabel, sessionLabel, speakerLabel, sinceLabel, untilLabel, orderLabel), where.node),
      h("section", { class: "card", "aria-label": "Entries" }, h("div", { class: "actions" }, h("div", { class: "grow" }, counted), writes && h("button", { type: "button", class: "primary", onclick: add }, "Add"), writes && h("button", { type: "button", class: "danger", onclick: forget }, "Forget these…")), fault, h("p", {}), list))],
  };
}
