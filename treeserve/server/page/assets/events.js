// Server-sent events by fetch, which can show a key where EventSource cannot.

export class Refused extends Error {
  constructor(status, text, retrySeconds) {
    super(text.trim() || `status ${status}`);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

export async function ask(url, key, signal) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  const reply = await fetch(url, { headers, signal, cache: "no-store", credentials: "omit" });
  if (reply.ok) return reply;
  throw new Refused(reply.status, await reply.text(), Number(reply.headers.get("Retry-After")) || 0);
}

// Calls tell(kind, data) for every event until the stream ends.
export async function follow(url, key, signal, tell) {
  const reply = await ask(url, key, signal);
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let waiting = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    waiting += value;
    const blocks = waiting.split("\n\n");
    waiting = blocks.pop();
    for (const block of blocks) {
      let kind = "", data = "";
      for (const line of block.split("\n")) {
        if (line.startsWith("event: ")) kind = line.slice(7);
        else if (line.startsWith("data: ")) data += line.slice(6);
      }
      if (kind) tell(kind, JSON.parse(data));
    }
  }
}
