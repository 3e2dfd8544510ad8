import { get, post } from "./api.js";
import { field, h, link, moment, number, problem, s, say, scope, show, state, table } from "./ui.js";

// One turn's likeness to the question as the session goes on: evolved as a line, static as a dashed one.
function curve(found, turn) {
  const wide = 560, high = 180, points = found.evolved.map((row, at) => [found.after[at], row[turn]]).filter(([, value]) => value !== null);
  const values = [...points.map(([, value]) => value), found.static[turn]], low = Math.min(...values) - 0.05, top = Math.max(...values) + 0.05;
  const x = (n) => 44 + (n - 1) / Math.max(1, found.turns.length - 1) * (wide - 60), y = (value) => 10 + (top - value) / (top - low) * (high - 40);
  const ticks = [low, (low + top) / 2, top];
  return s("svg", { class: "chart", viewBox: `0 0 ${wide} ${high}`, role: "img", "aria-label": `Likeness of turn ${turn + 1} to the question: static ${number(found.static[turn])}; evolved from ${number(points[0]?.[1])} to ${number(points.at(-1)?.[1])}` },
    ticks.map((value) => [s("line", { x1: 44, x2: wide - 16, y1: y(value), y2: y(value), class: "s-line" }), s("text", { x: 38, y: y(value) + 4, "text-anchor": "end", class: "f-soft" }, number(value))]),
    s("line", { x1: x(turn + 1), x2: wide - 16, y1: y(found.static[turn]), y2: y(found.static[turn]), class: "s-words" }),
    points.length ? s("polyline", { points: points.map(([n, value]) => `${x(n)},${y(value)}`).join(" "), class: "s-accent" }) : null,
    points.map(([n, value]) => s("circle", { cx: x(n), cy: y(value), r: 3.5, class: "f-accent" })),
    s("text", { x: 44, y: high - 6, class: "f-soft" }, "turn 1"), s("text", { x: wide - 16, y: high - 6, "text-anchor": "end", class: "f-soft" }, `turn ${found.turns.length}`));
}
function map(found, chosen) {
  const cell = 20, side = 34, wide = side + found.after.length * cell + 60, flat = found.evolved.flat().filter((value) => value !== null), low = Math.min(...flat), top = Math.max(...flat);
  const shade = (value) => Math.max(0.06, (value - low) / Math.max(1e-6, top - low));
  return h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Likeness of every turn at every step" }, s("svg", { viewBox: `0 0 ${wide} ${found.turns.length * cell + 22}`, width: wide, role: "img", "aria-label": "Each row is a turn, each column a moment of the session; darker is more alike. The last column is the static vector." },
    found.turns.map((_, turn) => [s("text", { x: side - 6, y: turn * cell + 14, "text-anchor": "end", class: turn === chosen ? "f-ink" : "f-soft" }, turn + 1),
      found.evolved.map((row, at) => row[turn] === null ? null : s("rect", { x: side + at * cell + 1, y: turn * cell + 1, width: cell - 2, height: cell - 2, rx: 3, class: "f-accent", opacity: shade(row[turn]) })),
      s("rect", { x: side + found.after.length * cell + 14, y: turn * cell + 1, width: cell - 2, height: cell - 2, rx: 3, class: "f-words", opacity: shade(Math.min(top, Math.max(low, found.static[turn]))) })]),
    s("text", { x: side, y: found.turns.length * cell + 16, class: "f-soft" }, "evolved, as the session goes on"), s("text", { x: side + found.after.length * cell + 14, y: found.turns.length * cell + 16, class: "f-soft" }, "static")));
}

export async function session(me, query) {
  const all = (await get("/v1/sessions")).items;
  if (!all.length) return { parts: [h("h1", {}, "Session"), h("div", { class: "card" }, state("No sessions yet. Add entries with a session to see how its memory evolves."))] };
  const id = (one) => JSON.stringify([one.name, one.namespace]), named = all.filter((one) => one.name === query.get("name"));
  const wanted = named.find((one) => JSON.stringify(one.namespace) === JSON.stringify(query.getAll("namespace"))) || named[0] || all[0];
  const [pickLabel, pick] = field("Session", { value: id(wanted), onchange: () => open() }, all.map((one) => [id(one), `${one.name} (${one.entries})${one.namespace.length > me.namespace.length ? " · " + scope(one.namespace) : ""}`]));
  const [askLabel, ask] = field("Question", { type: "search", placeholder: "What would Ben like?", required: true });
  const turns = h("ol", { class: "plain turns", tabindex: 0, "aria-label": "Turns, in order" }), chart = h("div", {});
  const place = () => { const [name, namespace] = JSON.parse(pick.value); return { name, namespace }; };
  async function open() {
    show(turns, state("Loading…")); show(chart);
    try {
      const { name, namespace } = place(), given = new URLSearchParams({ session: name, limit: 500 });
      for (const part of namespace) given.append("namespace", part);
      const found = (await get("/v1/memories?" + given)).items.filter((one) => JSON.stringify(one.namespace) === JSON.stringify(namespace));
      show(turns, found.map((one) => h("li", { class: "hit" }, h("div", { class: "meta" }, h("b", {}, one.speaker || "–"), h("span", {}, moment(one.event_time))), h("a", { class: "text", href: link(one) }, one.text))));
      say(`${found.length} turns`);
    } catch (error) { show(turns, problem(error)); }
  }
  async function compare(event) {
    event.preventDefault();
    show(chart, state("Replaying the session…"));
    try {
      const { name, namespace } = place(), found = await post(`/v1/sessions/${encodeURIComponent(name)}/likeness`, { query: ask.value, namespace, steps: 16 });
      const last = found.evolved.at(-1) || found.static, best = last.indexOf(Math.max(...last));
      if (!found.evolved.length) return show(chart, h("p", { class: "note" }, "This store has no session encoder: its vectors do not evolve."), table(["turn", "static"], found.turns.map((one, at) => [one.text.slice(0, 90), number(found.static[at])]), "Likeness by turn"));
      const drawn = h("div", {}), [turnLabel, turn] = field("Turn", { value: String(best), onchange: draw }, found.turns.map((one, at) => [String(at), `${at + 1}. ${one.text.slice(0, 60)}`]));
      function draw() { show(drawn, curve(found, Number(turn.value)), h("p", { class: "note" }, "Line: evolved, at each step of the session. Dashed: static, by the text alone."), map(found, Number(turn.value))); }
      draw();
      show(chart, turnLabel, drawn, h("details", {}, h("summary", {}, "As a table"), table(["turn", "static", "evolved, first", "evolved, now"], found.turns.map((one, at) => [one.text.slice(0, 80), number(found.static[at]), number(found.evolved.find((row) => row[at] !== null)?.[at]), number(last[at])]), "Likeness by turn")));
    } catch (error) { show(chart, problem(error)); }
  }
  await open();
  return { parts: [h("h1", {}, "Session"), h("div", { class: "card fields" }, pickLabel), h("div", { class: "halves" },
    h("section", { class: "card", "aria-label": "Turns" }, h("h2", {}, "Turns"), turns),
    h("section", { class: "card", "aria-label": "Likeness" }, h("h2", {}, "How likeness moves"), h("form", { onsubmit: compare }, askLabel, h("p", { class: "actions" }, h("button", { class: "primary" }, "Compare"))), chart))] };
}
