// Making elements, and the few forms of output that all views share.
const SVG = "http://www.w3.org/2000/svg";

function fill(node, given, parts) {
  for (const [name, value] of Object.entries(given || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...parts.flat(9).filter((part) => part !== null && part !== undefined && part !== false));
  return node;
}
export const h = (tag, given, ...parts) => fill(document.createElement(tag), given, parts);
export const s = (tag, given, ...parts) => fill(document.createElementNS(SVG, tag), given, parts);

export function say(text) { document.getElementById("live").textContent = text; }
export function show(node, ...parts) { node.replaceChildren(...parts.flat(9).filter(Boolean)); return node; }
export const state = (text) => h("p", { class: "state" }, text);
export const problem = (error) => h("p", { class: "error", role: "alert" }, error.status === 403 ? "Your key may not see this: " : "", error.message);

// Runs what fills a place: loading, then the parts it returns, or the problem.
export async function load(node, make) {
  show(node, state("Loading…"));
  try { show(node, [await make()]); } catch (error) { show(node, problem(error)); }
}
export const moment = (text) => text ? new Date(text).toISOString().replace("T", " ").slice(0, 16) : "–";
export const number = (value) => value === null || value === undefined ? "–" : Math.round(value * 1000) / 1000 + "";
export const bytes = (n) => n > 1e9 ? (n / 1e9).toFixed(1) + " GB" : n > 1e6 ? (n / 1e6).toFixed(1) + " MB" : Math.ceil(n / 1e3) + " kB";
export const scope = (names) => names && names.length ? names.join(" / ") : "(root)";

export function field(label, given = {}, options = null) {
  const made = options ? h("select", given, options.map(([value, text]) => h("option", { value, selected: value === given.value }, text)))
    : h(given.rows ? "textarea" : "input", { type: given.rows ? null : "text", autocomplete: "off", ...given });
  return [h("label", given.type === "checkbox" ? { class: "check" } : {}, given.type === "checkbox" ? [made, label] : [label, made]), made];
}
export function table(heads, rows, caption) {
  return h("div", { class: "wide", tabindex: 0, role: "region", "aria-label": caption }, h("table", {}, h("caption", { class: "hidden" }, caption),
    h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))));
}
export function facts(given) {
  return h("table", {}, h("tbody", {}, Object.entries(given).map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row" }, name), h("td", {}, value instanceof Node || Array.isArray(value) ? value : typeof value === "object" && value ? h("span", { class: "mono" }, JSON.stringify(value)) : String(value ?? "–"))))));
}
export function link(entry) {
  const given = new URLSearchParams({ key: entry.key });
  for (const name of entry.namespace || []) given.append("namespace", name);
  return "#/entry?" + given;
}
export const origin = (entry) => h("span", { class: "meta" }, [moment(entry.event_time), entry.speaker, entry.session, entry.namespace.length ? scope(entry.namespace) : null].filter(Boolean).map((part) => h("span", {}, part)));

const count = (n, one, many) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;
const list = (title, lines) => lines?.length ? [h("h3", {}, title), h("ul", {}, lines.map((one) => h("li", {}, one)))] : null;
const copies = (found) => [list("Backups that still hold them", found.backups), list("Exports that may hold them", found.exports)];
// What forgetting would take, and what it took: the receipt that the server gives.
export const preview = (found) => [
  h("p", {}, `${count(found.would_forget, "entry", "entries")}: ${count(found.rows, "row", "rows")} with all versions, superseded and expired ones included.`),
  h("ul", {}, found.sample.map((one) => h("li", {}, one.text.slice(0, 120), one.superseded_at && " (former)"))),
  found.rows > found.sample.length && h("p", { class: "note" }, `and ${count(found.rows - found.sample.length, "more row", "more rows")}`), copies(found)];
export const receipt = (gone) => [
  h("p", {}, gone.forgotten === 1 ? "1 entry is gone" : `${gone.forgotten.toLocaleString("en")} entries are gone`, `: ${moment(gone.made_at)} UTC.`),
  h("p", {}, [count(gone.rows, "row", "rows"), count(gone.vectors, "vector", "vectors"), count(gone.latents, "latent", "latents"), count(gone.queries, "logged query", "logged queries")].join(", ") + " deleted; " + count(gone.replayed, "vector", "vectors") + " evolved again without them."),
  list("Verified", gone.verified), list("Still pending", gone.pending), copies(gone), gone.token && h("p", { class: "note mono" }, "Receipt " + gone.token)];

// Asks in a dialog; resolves to true if the person agrees.
export function confirmWith(title, parts, action) {
  return new Promise((resolve) => {
    const dialog = h("dialog", { "aria-label": title }, h("h2", {}, title), parts,
      h("p", { class: "actions" }, h("button", { type: "button", onclick: () => { dialog.returnValue = ""; dialog.close(); } }, "Cancel"),
        action && h("button", { type: "button", class: "primary", onclick: () => { dialog.returnValue = "yes"; dialog.close(); } }, action)));
    dialog.addEventListener("close", () => { dialog.remove(); resolve(dialog.returnValue === "yes"); });
    document.body.append(dialog);
    dialog.showModal();
  });
}
