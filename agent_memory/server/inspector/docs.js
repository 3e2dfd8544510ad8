// The description of the routes, drawn from /openapi.json.
import { h, problem, show, table } from "./ui.js";

document.documentElement.dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
const name = (schema) => !schema ? "" : schema.$ref ? schema.$ref.split("/").pop() : schema.anyOf || schema.oneOf ? (schema.anyOf || schema.oneOf).map(name).filter((one) => one !== "null").join(" or ") : schema.type === "array" ? "list of " + (name(schema.items) || "any") : schema.type || "any";
const shown = (schema) => h("p", {}, name(schema).split(" or ").map((one, at) => [at ? " or " : "", /^[A-Z]/.test(one) ? h("a", { href: "#" + one }, one) : one]));

function route(path, method, found) {
  const body = Object.entries(found.requestBody?.content || {})[0], parameters = (found.parameters || []).map((one) => [h("span", { class: "mono" }, one.name), one.in, name(one.schema), one.description || ""]);
  const answers = Object.entries(found.responses).map(([status, one]) => [status, one.description, status < 400 ? shown(Object.values(one.content || {})[0]?.schema) : ""]);
  return h("details", { class: "card" }, h("summary", {}, h("span", { class: "method" }, method.toUpperCase()), h("span", { class: "mono" }, path)), h("p", {}, found.description || found.summary), parameters.length ? [h("h3", {}, "Parameters"), table(["name", "in", "type", "what"], parameters, "Parameters")] : null, body ? [h("h3", {}, "Body: " + body[0]), shown(body[1].schema)] : null, h("h3", {}, "Answers"), table(["status", "meaning", "body"], answers, "Answers"));
}
try {
  const found = await (await fetch("/openapi.json")).json(), groups = new Map();
  for (const [path, operations] of Object.entries(found.paths)) for (const [method, one] of Object.entries(operations)) { const tag = one.tags?.[0] || "others"; groups.set(tag, [...groups.get(tag) || [], route(path, method, one)]); }
  const schemas = Object.entries(found.components.schemas).filter(([, one]) => one.properties).map(([title, one]) => h("div", { class: "card", id: title }, h("h3", {}, title), h("p", {}, one.description || ""), table(["name", "type", "what"], Object.entries(one.properties).map(([key, value]) => [h("span", { class: "mono" }, key + (one.required?.includes(key) ? " *" : "")), name(value), value.description || ""]), title)));
  show(document.getElementById("view"), h("h1", {}, `API ${found.info.version}`), h("p", {}, found.info.description), [...groups].map(([tag, routes]) => h("section", { "aria-label": tag }, h("h2", {}, tag[0].toUpperCase() + tag.slice(1)), routes)), h("h2", {}, "Records"), schemas);
} catch (error) { show(document.getElementById("view"), problem(error)); }
