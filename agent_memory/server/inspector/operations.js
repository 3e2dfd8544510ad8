import { ask, download, get, operate, post } from "./api.js";
import { bytes, confirmWith, facts, field, h, load, moment, number, problem, scope, show, state, table } from "./ui.js";

const figure = (text, value) => h("div", { class: "figure" }, h("b", {}, value), h("span", {}, text));
const section = (title, ...parts) => h("section", { class: "card", "aria-label": title }, h("h2", {}, title), parts);

export async function operations(me) {
  const whole = !me.namespace.length, admin = me.role === "admin", health = h("div", {}), jobs = h("div", {}), spaces = h("div", {}), keys = h("div", {}), audit = h("div", {}), work = h("div", {}), done = h("div", { role: "status" });
  let timer = null;
  // Shows the progress of something long, then what it came to.
  async function run(node, path, body, tell) {
    show(node, h("label", {}, "Working… ", h("progress", {})));
    try { show(node, await operate(path, body, (at) => { if (at.total) show(node, h("label", {}, `${at.done} of ${at.total} `, h("progress", { max: at.total, value: at.done }))); }).then(tell)); }
    catch (error) { show(node, problem(error)); }
    refresh();
    refreshAccess();
  }
  async function refresh() {
    await load(health, async () => {
      const found = await get("/v1/stats");
      return h("div", {}, h("div", { class: "figures" }, figure("entries", found.entries.toLocaleString("en")), figure("sessions", found.sessions), figure("namespaces", found.namespaces), figure("expired", found.expired), figure("duplicates", found.duplicates), whole && figure("database", bytes(found.database_bytes)), whole && figure("index on disk", bytes(found.snapshot_bytes))),
        h("details", {}, h("summary", {}, "Encoder and index"), facts({ encoder: found.encoder, "session encoder": found.session_encoder, tiers: found.tiers.join(" → "), database: found.database, ...found.index })));
    });
    if (!whole) return;
    await load(jobs, async () => {
      const [found, running] = await Promise.all([get("/v1/jobs?limit=20"), get("/v1/operations")]);
      const act = (id, verb) => h("button", { type: "button", onclick: () => post(`/v1/jobs/${id}/${verb}`).then(refresh, (error) => show(done, problem(error))) }, verb);
      const open = (job) => admin && job.state === "running" ? [act(job.id, "pause"), " ", act(job.id, "cancel")] : admin && job.state === "paused" ? [act(job.id, "resume"), " ", act(job.id, "cancel")] : "";
      return found.items.length + running.items.length ? table(["what", "state", "progress or result", "began", ""], [...found.items.map((job) => [job.kind, job.state, h("span", { class: "mono" }, job.error || JSON.stringify(job.progress).slice(0, 120)), moment(job.created_at), open(job)]),
        ...running.items.slice(0, 20).map((one) => [one.kind, one.state, one.error ? one.error.detail : one.total ? `${one.done} of ${one.total}` : "–", moment(one.created_at), ""])], "Jobs") : state("No jobs yet.");
    });
    await load(spaces, async () => table(["generation", "state", "encoder", "tiers", "vectors", "made"], (await get("/v1/generations")).items.map((one) => [one.id, one.state, one.encoder, one.tiers.join(" → "), one.vectors, moment(one.created_at)]), "Generations"));
  }
  async function refreshAccess() {
    if (!admin) return;
    await load(keys, async () => {
      const found = (await get("/v1/keys")).items;
      const gone = (key) => confirmWith(`Revoke ${key.name || key.id}?`, [h("p", {}, "It stops working at once.")], "Revoke").then((yes) => yes && ask("DELETE", "/v1/keys/" + key.id).then(refreshAccess));
      return found.length ? table(["name", "scope", "role", "state", ""], found.map((key) => [key.name || h("span", { class: "mono" }, key.id), scope(key.namespace), key.role, key.revoked_at ? "revoked " + moment(key.revoked_at) : key.expires_at ? "expires " + moment(key.expires_at) : "works", key.revoked_at ? "" : h("button", { type: "button", class: "danger", "aria-label": "Revoke " + (key.name || key.id), onclick: () => gone(key) }, "Revoke")]), "Keys") : state("No keys: only this machine reaches the server.");
    });
    await load(audit, async () => { const found = (await get("/v1/audit?limit=50")).items; return found.length ? table(["when", "key", "what", "where", "entries", "status"], found.map((one) => [moment(one.at), one.key_id || "–", one.action, scope(one.namespace), one.count ?? "–", one.status]), "Audit log") : state("Nothing was written through this server yet."); });
  }
  async function makeKey() {
    const [nameLabel, name] = field("What is it for?"), [spaceLabel, space] = field("Namespace, parts separated by /", { placeholder: "acme/user-42" }), [roleLabel, role] = field("Role", { value: "reader" }, [["reader", "reader"], ["writer", "writer"], ["admin", "admin"]]), [endLabel, end] = field("Expires", { type: "date" });
    if (!await confirmWith("Make a key", [h("div", { class: "fields" }, nameLabel, spaceLabel, roleLabel, endLabel), h("p", { class: "note" }, "From the first key on, every request needs one.")], "Make key")) return;
    try {
      const made = await post("/v1/keys", { name: name.value.trim(), role: role.value, namespace: space.value.trim() ? space.value.trim().split("/") : me.namespace, ...(end.value ? { expires_at: end.value } : {}) });
      await confirmWith("The new key", [h("p", {}, "It is shown once: copy it now."), h("p", { class: "mono" }, made.text)]);
      await refreshAccess();
    } catch (error) { show(keys, problem(error)); }
  }
  const [tiersLabel, tiers] = field("Tiers", { placeholder: "64, 256, 768" }), [encoderLabel, encoder] = field("Encoder", { placeholder: "keep the present one" }), [rotateLabel, rotate] = field("Rotate the space", { type: "checkbox" });
  const plan = (dry_run) => ({ dry_run, ...(tiers.value.trim() ? { tiers: tiers.value.split(",").map(Number) } : {}), ...(encoder.value.trim() ? { encoder: encoder.value.trim() } : {}), ...(rotate.checked ? { rotation: "fit" } : {}) });
  const forecast = (found) => [h("div", { class: "figures" }, figure(found.state === "planned" ? "expected seconds" : "seconds", number(found.seconds)), figure("texts to encode", found.encoded), figure("growth until collected", bytes(found.added_bytes)), found.replay && figure("recall@10 now", number(found.replay.recall_before)), found.replay && figure("recall@10 then", number(found.replay.recall_after)), found.agreement !== null && figure("same hits", number(found.agreement))),
    found.replay && h("p", { class: "note" }, `Tried on ${found.replay.queries} queries (${found.replay.source}) over ${found.replay.entries} entries.`), found.state !== "planned" && h("p", {}, `Generation ${found.generation} is live.`)];
  async function reindex() { if (await confirmWith("Re-index the store?", [h("p", {}, "It stays in use meanwhile, and the former generation is kept for a rollback.")], "Re-index")) run(work, "/v1/reindex", plan(false), forecast); }
  async function rollback() { if (await confirmWith("Roll back?", [h("p", {}, "The generation before the last re-index becomes live again.")], "Roll back")) run(work, "/v1/rollback", {}, forecast); }
  const needed = (found) => found.actions.length ? table(["action", "why", "seconds", "result"], found.actions.map((one) => [one.name, one.reason, number(one.seconds), one.result || "–"]), "Maintenance") : h("p", {}, "Nothing to do.");
  const save = (path, name) => download(path, name).catch((error) => show(done, problem(error)));
  queueMicrotask(() => { refresh(); refreshAccess(); });
  timer = setInterval(() => { if (jobs.textContent.includes("running")) refresh(); }, 2000);
  return { leave: () => clearInterval(timer), parts: [h("h1", {}, "Operations"), section("Health", health),
    whole ? h("div", { class: "halves" }, section("Re-index", admin && [h("div", { class: "fields" }, tiersLabel, encoderLabel, rotateLabel), h("p", { class: "actions" }, h("button", { type: "button", class: "primary", onclick: () => run(work, "/v1/reindex", plan(true), forecast) }, "Predict"), h("button", { type: "button", onclick: reindex }, "Re-index…"), h("button", { type: "button", onclick: rollback }, "Roll back…"))], work, h("h3", {}, "Generations"), spaces),
      section("Upkeep", h("p", { class: "actions" }, admin && h("button", { type: "button", onclick: () => run(done, "/v1/check", {}, (found) => found.problems.length ? h("ul", {}, found.problems.map((one) => h("li", {}, one))) : h("p", {}, `${found.entries} entries checked: no damage.`)) }, "Check"), admin && h("button", { type: "button", onclick: () => run(done, "/v1/maintenance", { dry_run: true }, needed) }, "What is needed?"), admin && h("button", { type: "button", onclick: () => run(done, "/v1/maintenance", {}, needed) }, "Do it"), admin && h("button", { type: "button", onclick: () => save("/v1/backup", "memory.db") }, "Download a backup"), h("button", { type: "button", onclick: () => save("/v1/export", "memory.jsonl") }, "Export")), done, h("h3", {}, "Jobs"), jobs))
      : section("The whole store", h("p", { class: "note" }, "Jobs, re-indexes and backups concern the whole store. Your key sees only a part of it.")),
    admin && h("div", { class: "halves" }, section("Keys", h("p", { class: "actions" }, h("button", { type: "button", onclick: makeKey }, "Make a key…")), keys), section("Audit log", audit))] };
}
