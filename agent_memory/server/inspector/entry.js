import { ask, get, place, send } from "./api.js";
import { confirmWith, facts, field, h, link, moment, preview, problem, receipt, scope, show } from "./ui.js";

// The words of two texts, with what was taken out and put in between: longest common subsequence.
export function diff(before, after) {
  const a = before.split(/(\s+)/), b = after.split(/(\s+)/);
  if (a.length * b.length > 4e6) return [h("del", {}, before), " ", h("ins", {}, after)];
  const far = Array.from({ length: a.length + 1 }, () => new Uint16Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) for (let j = b.length - 1; j >= 0; j--) far[i][j] = a[i] === b[j] ? far[i + 1][j + 1] + 1 : Math.max(far[i + 1][j], far[i][j + 1]);
  const out = [];
  for (let i = 0, j = 0; i < a.length || j < b.length;) {
    if (i < a.length && j < b.length && a[i] === b[j]) { out.push(a[i]); i++; j++; }
    else if (j >= b.length || (i < a.length && far[i + 1][j] >= far[i][j + 1])) out.push(h("del", {}, a[i++]));
    else out.push(h("ins", {}, b[j++]));
  }
  return out;
}

export async function entry(me, query) {
  const key = query.get("key"), namespace = query.getAll("namespace"), path = place(key, namespace);
  const history = (await get(path.replace(/(\?|$)/, "/history$1"))).items;
  const known = history.findLast((one) => one.key === key);
  const answer = known.superseded_at ? null : await send("GET", path).catch((error) => { if (error.status === 404) return null; throw error; });
  const etag = answer?.headers.get("etag"), found = answer ? await answer.json() : known;
  const spans = answer ? (await get(path.replace(/(\?|$)/, "/passages$1"))).items : [], letters = [...found.text];
  const fault = h("div", {}), writes = me.role !== "reader" && answer;
  const again = () => dispatchEvent(new HashChangeEvent("hashchange"));

  async function edit() {
    const [textLabel, text] = field("Text", { rows: 6, class: "text", value: found.text }), [speakerLabel, speaker] = field("Speaker", { value: found.speaker || "" });
    const [importanceLabel, importance] = field("Importance, 0 to 1", { type: "number", min: 0, max: 1, step: 0.05, value: found.importance ?? "" });
    const [metaLabel, meta] = field("Metadata, as JSON", { rows: 4, value: JSON.stringify(found.metadata, null, 1) });
    if (!await confirmWith("Edit entry", [textLabel, h("div", { class: "fields" }, speakerLabel, importanceLabel), metaLabel], "Save")) return;
    try {
      const given = { speaker: speaker.value || null, importance: importance.value === "" ? null : Number(importance.value), metadata: JSON.parse(meta.value || "{}") };
      if (text.value !== found.text) given.text = text.value;
      await ask("PATCH", path, given, { "if-match": etag });
      again();
    } catch (error) { show(fault, problem(error.status === 412 ? new Error("Somebody else has changed this entry meanwhile; reload it.") : error)); }
  }
  async function forget() {
    try {
      const seen = await ask("DELETE", path + (path.includes("?") ? "&" : "?") + "dry_run=true");
      if (!await confirmWith("Forget this entry?", [preview(seen), found.session && h("p", {}, `Session “${found.session}” will remember nothing of it.`)], "Forget it")) return;
      await confirmWith("Receipt", receipt(await ask("DELETE", path)));
      location.hash = "#/browse";
    } catch (error) { show(fault, problem(error)); }
  }
  const ahead = new URLSearchParams({ key }); for (const name of namespace) ahead.append("namespace", name);
  const its = new URLSearchParams({ name: found.session }); for (const name of found.namespace) its.append("namespace", name);
  const versions = history.map((one, at) => h("li", { class: "hit" }, h("div", { class: "meta" }, h("span", {}, moment(one.updated_at)), h("span", { class: "mono" }, one.key), one.superseded_at ? h("span", {}, "until " + moment(one.superseded_at)) : h("b", {}, "current")), h("p", { class: "text" }, at ? diff(history[at - 1].text, one.text) : one.text)));
  const own = history.findLastIndex((one) => one.key === key), others = (from, to) => [...new Map(history.slice(from, to).filter((one) => one.key !== key).map((one) => [one.key, one])).values()];
  const linked = (words, entries) => entries.length ? h("p", {}, words, entries.map((one) => [h("a", { href: link(one), class: "mono" }, one.key), " "])) : null;
  return { parts: [h("p", {}, h("a", { href: "#/browse" }, "← Browse")), h("h1", { class: "mono" }, key), fault, h("div", { class: "halves" },
    h("section", { class: "card", "aria-label": "Text" }, h("h2", {}, "Text"), h("p", { class: "text" }, found.text),
      spans.length > 1 && h("details", {}, h("summary", {}, `${spans.length} passages, each with a vector of its own`), h("ol", { "aria-label": "Passages" }, spans.map(([from, to]) => h("li", { class: "text" }, letters.slice(from, to).join(""), h("span", { class: "note" }, ` ${from} to ${to}`))))),
      h("div", { class: "actions" }, writes && h("button", { type: "button", onclick: edit }, "Edit"), writes && h("button", { type: "button", class: "danger", onclick: forget }, "Forget…"), h("a", { class: "button", href: "#/recall?" + ahead }, "Why (not) recalled?"), found.session && h("a", { class: "button", href: "#/session?" + its }, "Its session"))),
    h("section", { class: "card", "aria-label": "Facts" }, h("h2", {}, "Facts"), facts({ namespace: scope(found.namespace), session: found.session, speaker: found.speaker, happened: moment(found.event_time), added: moment(found.created_at), changed: moment(found.updated_at), expires: moment(found.expires_at), importance: found.importance, superseded: moment(found.superseded_at), ...Object.fromEntries(Object.entries(found.metadata).map(([name, value]) => ["metadata · " + name, value])) }))),
  h("section", { class: "card", "aria-label": "History" }, h("h2", {}, `History: ${history.length} ${history.length === 1 ? "version" : "versions"}`), linked("It took the place of ", others(0, own)), linked("Its place was taken by ", others(own)), h("ol", {}, versions))] };
}
