import { get, place, post } from "./api.js";
import { makeWhere } from "./browse.js";
import { field, h, link, moment, number, origin, problem, s, say, scope, show, state, table } from "./ui.js";

const TERMS = [
  ["dense", "meaning", (t) => t.dense * t.trust], ["words", "words", (t) => t.lexical.adds + t.nearby.adds], ["neighbour", "neighbours", (t) => t.neighbour.adds],
  ["time", "time", (t) => t.time.adds], ["importance", "importance", (t) => t.importance], ["recency", "recency", (t) => t.recency + t.newer], ["read", "reading both", (t) => t.read ?? 0], ["speaker", "who said it", (t) => t.speaker],
];
const swatch = (name) => s("svg", { viewBox: "0 0 10 10", "aria-hidden": "true" }, s("rect", { width: 10, height: 10, rx: 2, class: "f-" + name }));
const legend = () => h("div", { class: "legend" }, TERMS.map(([name, text]) => h("span", {}, swatch(name), text)));

// The terms of a score as a stacked bar; the longest score of the answer fills it. What is taken off is told in words.
function bar(trace, most) {
  const parts = TERMS.map(([name, text, read]) => [name, text, read(trace) || 0]).filter(([, , value]) => value);
  const told = parts.map(([, text, value]) => `${text} ${number(value)}`).join(", ");
  let x = 0;
  const rects = parts.filter(([, , value]) => value > 0).map(([name, , value]) => { const width = value / most * 100; x += width; return s("rect", { x: x - width, width, height: 10, class: "f-" + name }); });
  return [s("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", role: "img", "aria-label": told }, s("rect", { width: 100, height: 10, class: "f-line" }), rects), h("div", { class: "note" }, told)];
}

// The tiers as a funnel: how many candidates each had and handed on, and where one entry stood.
export function funnel(tiers) {
  if (!tiers || !tiers.length) return h("p", { class: "note" }, "No tier was searched.");
  const most = Math.max(...tiers.map((tier) => Math.log(1 + tier.candidates))), step = 34, wide = 520;
  const rows = tiers.map((tier, at) => {
    const width = (n) => Math.max(4, Math.log(1 + n) / most * wide), all = width(tier.candidates), kept = width(tier.kept), y = at * step;
    const mark = tier.rank === null ? null : s("circle", { cx: (wide - all) / 2 + Math.min(1, Math.log(1 + tier.rank) / Math.log(1 + tier.candidates)) * all, cy: y + 13, r: 6, class: tier.rank > tier.kept && at < tiers.length - 1 ? "f-bad" : "f-ink" });
    return s("g", {}, s("rect", { x: (wide - all) / 2, y, width: all, height: 26, rx: 4, class: "f-line" }), s("rect", { x: (wide - kept) / 2, y, width: kept, height: 26, rx: 4, class: "f-tint" }), mark);
  });
  const lines = tiers.map((tier) => h("li", {}, `${tier.dimension} dimensions: ${tier.candidates} candidates, ${tier.kept} kept; this entry is ${tier.rank ?? "not among them"}`));
  return h("div", {}, s("svg", { class: "chart", viewBox: `0 0 ${wide} ${tiers.length * step}`, role: "img", "aria-label": tiers.map((tier) => `Tier ${tier.dimension}: ${tier.candidates} candidates, ${tier.kept} kept, rank of this entry ${tier.rank ?? "none"}`).join(". ") }, rows), h("ol", { class: "note" }, lines));
}

const parts = (trace) => table(["part", "value"], [
  ["cosine", number(trace.dense)], ["trust in it", number(trace.trust)], ["words found", (trace.lexical.words || []).join(", ") || "–"], ["words add", number(trace.lexical.adds)],
  ["words nearby add", number(trace.nearby.adds) + (trace.nearby.key ? ` (from ${trace.nearby.key})` : "")],
  ["neighbour adds", number(trace.neighbour.adds) + (trace.neighbour.key ? ` (from ${trace.neighbour.key})` : "")], ["time adds", number(trace.time.adds)], ["importance", number(trace.importance)], ["being said by the agent adds", number(trace.speaker)], ["recency", number(trace.recency)], ["updating an earlier entry adds", number(trace.newer)], ["reading both together adds", number(trace.read ?? 0)], ["score", number(trace.score)]], "Parts of the score");

function makeSettings(title, sessions, scopes, given = {}) {
  const [modeLabel, mode] = field("Mode", { value: given.mode || "hybrid" }, [["hybrid", "hybrid"], ["dense", "meaning"], ["lexical", "words"]]);
  const [kLabel, k] = field("Hits", { type: "number", min: 1, max: 100, value: 5 });
  const [spaceLabel, space] = field("Namespace", { value: "" }, scopes);
  const [sessionLabel, session] = field("Session", { value: "" }, [["", "none"], ...sessions.map((name) => [name, name])]);
  const [speakerLabel, speaker] = field("Speaker", { placeholder: "any" });
  const [sinceLabel, since] = field("Since", { type: "date" }), [untilLabel, until] = field("Until", { type: "date" });
  const [halfLabel, half] = field("Half-life, days", { type: "number", min: 0.01, step: "any", placeholder: "none" });
  const [diverseLabel, diverse] = field("Diversity", { type: "number", min: 0, max: 1, step: 0.1, value: 0 });
  const [exactLabel, exact] = field("Exact search", { type: "checkbox" }), [collapseLabel, collapse] = field("Collapse twins", { type: "checkbox" });
  const where = makeWhere(() => {});
  const node = h("fieldset", { class: "card" }, h("legend", { class: "note" }, title), h("div", { class: "fields" }, modeLabel, kLabel, spaceLabel, sessionLabel, speakerLabel, sinceLabel, untilLabel, halfLabel, diverseLabel, exactLabel, collapseLabel), where.node);
  return { node, read() {
    const options = { mode: mode.value, k: Number(k.value), explain: true, exact: exact.checked, collapse: collapse.checked, diversity: Number(diverse.value) };
    for (const [name, value] of [["session", session.value], ["speaker", speaker.value.trim()], ["since", since.value], ["until", until.value && until.value + "T23:59:59"], ["where", where.value()]]) if (value) options[name] = value;
    if (space.value) options.namespace = JSON.parse(space.value);
    if (half.value) options.half_life = Number(half.value) * 86400;
    return options;
  } };
}

export async function recall(me, query) {
  const [found, spaces] = await Promise.all([get("/v1/sessions"), get("/v1/namespaces")]);
  const sessions = [...new Set(found.items.map((one) => one.name))], ahead = query.getAll("namespace");
  const scopes = [["", scope(me.namespace) + " and below"], ...spaces.items.filter((one) => one.length > me.namespace.length).map((one) => [JSON.stringify(one), scope(one)])];
  // Keys are told apart by the namespace that holds them.
  const places = new Map([me.namespace, ...spaces.items, ...(ahead.length ? [ahead] : [])].map((one) => [JSON.stringify(one), scope(one)]));
  const oldest = (await get("/v1/memories?limit=1")).items[0], start = oldest ? Date.parse(oldest.created_at) : Date.now();
  const [askLabel, ask] = field("Question", { type: "search", placeholder: "Where does Alice live?", required: true, value: query.get("q") || "" });
  const one = makeSettings("Settings", sessions, scopes), two = makeSettings("Other settings", sessions, scopes, { mode: "dense" });
  two.node.hidden = true;
  const [compareLabel, compare] = field("Compare two settings", { type: "checkbox", onchange: () => { two.node.hidden = !compare.checked; run(); } });
  const [sliderLabel, slider] = field("As of", { type: "range", min: 0, max: 100, value: 100, "aria-valuetext": "now" });
  const asOfText = h("output", { class: "note" }, "now");
  const answer = h("div", { "aria-live": "off" }), why = h("div", {}), scanned = h("div", {});
  const [whyLabel, whyKey] = field("Key of an entry", { list: "recent-keys", value: query.get("key") || "", required: true });
  const [holdsLabel, holds] = field("Namespace that holds it", { value: JSON.stringify(ahead.length ? ahead : me.namespace), onchange: () => offer() }, [...places]);
  const recent = h("datalist", { id: "recent-keys" });
  const isHere = (entry) => JSON.stringify(entry.namespace) === holds.value;
  async function offer() {
    const given = new URLSearchParams({ limit: 200 });
    for (const name of JSON.parse(holds.value)) given.append("namespace", name);
    const found = await get("/v1/memories?" + given).catch(() => ({ items: [] }));
    show(recent, found.items.filter(isHere).map((each) => h("option", { value: each.key, label: each.text.slice(0, 80) })));
  }
  offer();
  const asOf = (at = Number(slider.value)) => at >= 100 ? null : new Date(start + (Date.now() - start) * at / 100 + 1).toISOString();
  let shown = [];

  function list(found, former = []) {
    const most = Math.max(0.01, ...found.hits.map((hit) => hit.score)), before = new Set(former.map(link)), now = new Set(found.hits.map(link));
    const rows = found.hits.map((hit) => h("li", { class: "hit" + (former.length && !before.has(link(hit)) ? " new" : "") }, h("div", { class: "head" }, h("span", { class: "rank" }, hit.rank), h("a", { class: "text", href: link(hit) }, hit.passage ? `… ${[...hit.text].slice(...hit.passage).join("")} …` : hit.text.slice(0, 400)), h("span", { class: "score" }, number(hit.score))), origin(hit), bar(hit.trace, most),
      h("details", {}, h("summary", {}, "Tiers and parts"), funnel(hit.trace.tiers), parts(hit.trace))));
    const gone = former.filter((hit) => !now.has(link(hit))).map((hit) => h("li", { class: "hit gone" }, hit.text.slice(0, 160)));
    return rows.length || gone.length ? [h("p", { class: "note" }, `${found.hits.length} hits in ${found.ms} ms · ranked at ${found.tier_reached ?? "no"} dimensions`), h("ol", { class: "plain" }, rows, gone)] : state("No hits: nothing matches the filters.");
  }
  async function search(options, at) {
    const began = performance.now();
    const found = await post("/v1/search", { query: ask.value, ...options, ...(asOf(at) ? { as_of: asOf(at) } : {}) });
    return { ...found, ms: Math.round(performance.now() - began) };
  }
  let turn = 0;
  async function run(event) {
    event?.preventDefault();
    if (!ask.value.trim()) return;
    const mine = ++turn;
    if (!shown.length) show(answer, state("Looking …"));
    try {
      const both = await Promise.all([search(one.read()), ...(compare.checked ? [search(two.read())] : [])]);
      if (mine !== turn) return;
      const [first, second] = both;
      show(answer, legend(), second ? h("div", { class: "halves" }, h("section", { "aria-label": "Hits with these settings" }, h("h3", {}, "These settings"), list(first)), h("section", { "aria-label": "Hits with other settings" }, h("h3", {}, "Other settings"), list(second, first.hits))) : list(first, shown));
      shown = first.hits;
      say(`${first.hits.length} hits`);
      if (whyKey.value) explain();
    } catch (error) { show(answer, problem(error)); }
  }
  async function explain(event) {
    event?.preventDefault();
    if (!ask.value.trim()) return show(why, state("Ask a question first."));
    if (!whyKey.value.trim()) return;
    try {
      const found = await post(place(whyKey.value.trim()) + "/why", { query: ask.value, ...one.read(), entry_namespace: JSON.parse(holds.value), ...(asOf() ? { as_of: asOf() } : {}) });
      show(why, h("p", {}, h("b", {}, found.returned ? `Returned, rank ${found.rank}. ` : `Not returned: ${found.stage}. `), found.reason, found.margin ? ` It missed by ${number(found.margin)}.` : ""), found.detail.tiers && [funnel(found.detail.tiers), parts(found.detail)]);
    } catch (error) { show(why, problem(error)); }
  }
  // The same question at twelve moments: which entries were hits when.
  async function scan() {
    if (!ask.value.trim()) return ask.focus();
    show(scanned, state("Asking at twelve moments…"));
    try {
      const points = Array.from({ length: 12 }, (_, i) => Math.round(100 * (i + 1) / 12)), columns = [];
      for (const at of points) columns.push((await search({ ...one.read(), explain: false }, at)).hits);
      const texts = new Map(columns.flat().map((hit) => [link(hit), hit.text])), keys = [...texts.keys()].slice(0, 30), cell = 24, side = 300;
      show(scanned, keys.length ? h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Hits through time" }, s("svg", { viewBox: `0 0 ${side + points.length * cell} ${keys.length * cell + 24}`, width: side + points.length * cell, role: "img", "aria-label": keys.map((key) => `${texts.get(key).slice(0, 60)}: a hit at ${columns.filter((hits) => hits.some((hit) => link(hit) === key)).length} of 12 moments`).join(". ") },
        keys.map((key, row) => [s("text", { x: 0, y: row * cell + 16, class: "f-ink" }, texts.get(key).slice(0, 44)), columns.map((hits, at) => { const hit = hits.find((each) => link(each) === key); return s("rect", { x: side + at * cell + 2, y: row * cell + 2, width: cell - 4, height: cell - 4, rx: 4, class: hit ? "f-accent" : "f-line", opacity: hit ? 1 / Math.sqrt(hit.rank) : 0.5 }); })]),
        s("text", { x: side, y: keys.length * cell + 16, class: "f-soft" }, moment(start).slice(0, 10)), s("text", { x: side + points.length * cell, y: keys.length * cell + 16, "text-anchor": "end", class: "f-soft" }, "now"))) : state("No hits at any moment."));
    } catch (error) { show(scanned, problem(error)); }
  }
  let timer;
  slider.addEventListener("input", () => { const at = asOf(); asOfText.textContent = at ? moment(at) + " UTC" : "now"; slider.setAttribute("aria-valuetext", asOfText.textContent); clearTimeout(timer); timer = setTimeout(run, 200); });
  show(answer, state("Ask a question to see what is recalled, and why."));
  queueMicrotask(() => ask.value && run());
  return { leave: () => clearTimeout(timer), parts: [h("h1", {}, "Recall"),
    h("form", { onsubmit: run }, h("div", { class: "card" }, askLabel, h("div", { class: "actions" }, h("button", { class: "primary" }, "Recall"), compareLabel), sliderLabel, asOfText), h("div", { class: "halves" }, one.node, two.node)),
    h("section", { class: "card", "aria-label": "Hits" }, h("h2", {}, "Hits"), answer),
    h("div", { class: "halves" }, h("section", { class: "card", "aria-label": "Why not" }, h("h2", {}, "Why, or why not?"), h("form", { onsubmit: explain }, whyLabel, holdsLabel, recent, h("p", { class: "actions" }, h("button", {}, "Explain"))), why),
      h("section", { class: "card", "aria-label": "Through time" }, h("h2", {}, "Through time"), h("p", { class: "note" }, "The same question at twelve moments since the first entry."), h("button", { type: "button", onclick: scan }, "Scan through time"), scanned))] };
}
