/** A client of an agent-memory server, typed by its OpenAPI description. */
import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./api.js";

export type Entry = components["schemas"]["Entry"];
export type Hit = components["schemas"]["Hit"];
export type SearchOptions = Omit<components["schemas"]["Search"], "query" | "queries">;
export type NewEntry = components["schemas"]["NewEntry"];

/** What the server refused, and why: both values are in the message. */
export class MemoryError extends Error {
  constructor(readonly status: number, readonly problem: components["schemas"]["ProblemDetails"] | undefined) {
    super(problem?.detail ?? `the server answered ${status}`);
    this.name = "MemoryError";
  }
}

export class Memory {
  readonly #client: Client<paths>;

  constructor(url: string, key?: string) {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    this.#client = createClient<paths>({ baseUrl: url, headers });
  }

  /** Remember a text. When this resolves, it is on disk. */
  async add(text: string, options: Omit<NewEntry, "text"> = {}): Promise<Entry> {
    // The same request with the same key is carried out once, so it may be sent again when a connection breaks.
    const headers = { "Idempotency-Key": crypto.randomUUID() };
    const body = { ...options, text };
    const send = () => this.#client.POST("/v1/memories", { body, params: { header: headers } });
    const { data, error, response } = await send().catch(send);
    if (data === undefined || !("key" in data)) throw new MemoryError(response.status, error);
    return data;
  }

  /** Find the entries that answer a question, best first. */
  async recall(query: string, options: SearchOptions = {}): Promise<Hit[]> {
    const { data, error, response } = await this.#client.POST("/v1/search", { body: { ...options, query } });
    if (data === undefined || !("hits" in data)) throw new MemoryError(response.status, error);
    return data.hits;
  }

  /** Forget an entry for good; resolves to the number of entries that went. */
  async forget(key: string): Promise<number> {
    const params = { path: { key } };
    const { data, error, response } = await this.#client.DELETE("/v1/memories/{key}", { params });
    if (data === undefined) throw new MemoryError(response.status, error);
    return data.forgotten;
  }
}
