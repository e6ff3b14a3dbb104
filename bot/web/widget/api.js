// The website's API. On our own page the visitor is known by a cookie that scripts cannot read; on another site
// browsers refuse cookies of ours, so the signed token is kept in that site's local storage and sent as a header.
const PENDING = "npllm-chat-pending";
const VISITOR = "npllm-chat-visitor";

export class ApiError extends Error {
  constructor(message, status, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
    this.stored = false; // what was said is on our side, and its answer will be in the history
  }
}

// Local storage may be forbidden: then the conversation lasts as long as the page.
const kept = new Map();
const store = {
  get(name) { try { return localStorage.getItem(name); } catch { return kept.get(name) ?? null; } },
  set(name, value) { try { localStorage.setItem(name, value); } catch { kept.set(name, value); } },
  drop(name) { try { localStorage.removeItem(name); } catch { kept.delete(name); } },
};

export class Api {
  constructor(base) {
    this.base = base;
    this.abroad = base !== location.origin;
  }

  async history(after) {
    const answer = await this.#call(`/api/history${after ? `?after=${encodeURIComponent(after)}` : ""}`);
    const found = await answer.json();
    this.#remember(found.visitor);
    return found;
  }

  // Yields {name, data}: piece, message, done. The same question with the same key is never asked twice.
  async *say(message, key) {
    store.set(PENDING, JSON.stringify({ message, key, at: Date.now() }));
    let [stored, ended] = [false, false];
    try {
      const answer = await this.#call("/api/chat", { message }, { accept: "text/event-stream", "idempotency-key": key });
      for await (const { name, data } of serverEvents(answer)) {
        if (name === "visitor") {
          this.#remember(data.visitor);
          stored = true;
        } else if (name === "error") throw new ApiError(data.error, 503);
        else yield { name, data };
        ended ||= name === "done";
      }
      if (!ended) throw new ApiError("The connection was cut.", 0);
    } catch (error) {
      // Cut off, overloaded, or too slow: it may be there, and is worth asking for again. Refused: it never will be.
      if (error.status >= 400 && error.status < 500) store.drop(PENDING);
      error.stored = stored;
      throw error;
    }
    store.drop(PENDING);
  }

  // What was being asked when the page was left, within the last quarter of an hour.
  pending() {
    try {
      const found = JSON.parse(store.get(PENDING));
      return found && Date.now() - found.at < 900_000 ? found : null;
    } catch { return null; }
  }

  async rate(message_id, given) {
    await this.#call("/api/feedback", { message_id, ...given });
  }

  forget() {
    store.drop(VISITOR);
    store.drop(PENDING);
    return this.#call("/api/forget", {});
  }

  #remember(visitor) {
    if (this.abroad && visitor) store.set(VISITOR, visitor);
  }

  async #call(path, body, headers = {}) {
    const visitor = this.abroad ? store.get(VISITOR) : null;
    const answer = await fetch(this.base + path, {
      method: body ? "POST" : "GET",
      headers: { ...(body && { "content-type": "application/json" }), ...(visitor && { "x-visitor-token": visitor }), ...headers },
      body: body && JSON.stringify(body),
      credentials: this.abroad ? "omit" : "same-origin",
    }).catch(() => { throw new ApiError("offline", 0); });
    if (answer.ok) return answer;
    const problem = await answer.json().catch(() => ({}));
    throw new ApiError(problem.error ?? answer.statusText, answer.status, Number(answer.headers.get("retry-after")) || null);
  }
}

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read().catch(() => { throw new ApiError("offline", 0); });
    if (done) return;
    held += value;
    for (let end; (end = held.indexOf("\n\n")) >= 0; held = held.slice(end + 2)) {
      const block = held.slice(0, end);
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}
