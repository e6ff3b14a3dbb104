// The chat page: sends a message, shows the answer as it comes, and lets it be rated.
const log = document.getElementById("log");
const form = document.getElementById("say");
const input = document.getElementById("text");

function show(kind, text) {
  const line = document.createElement("p");
  line.className = `said ${kind}`;
  line.textContent = text;
  log.append(line);
  line.scrollIntoView({ block: "end" });
  return line;
}

function offerRating(line, id) {
  const buttons = document.getElementById("rate").content.cloneNode(true);
  for (const button of buttons.querySelectorAll("button")) {
    button.addEventListener("click", async () => {
      const chosen = button.getAttribute("aria-pressed") === "true";
      const body = chosen ? { message_id: id, remove: true } : { message_id: id, verdict: button.dataset.verdict };
      const answer = await fetch("/api/feedback", {
        method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
      });
      if (!answer.ok) return;
      for (const other of line.querySelectorAll("button")) other.setAttribute("aria-pressed", "false");
      button.setAttribute("aria-pressed", String(!chosen));
    });
  }
  line.append(buttons);
}

async function* serverEvents(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    let end;
    while ((end = held.indexOf("\n\n")) >= 0) {
      const block = held.slice(0, end);
      held = held.slice(end + 2);
      const name = /^event: (.*)$/m.exec(block)?.[1];
      const data = /^data: (.*)$/m.exec(block)?.[1];
      if (name && data) yield { name, data: JSON.parse(data) };
    }
  }
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = input.value.trim();
  if (!text) return;
  input.value = "";
  show("customer", text);
  let line = show("bot waiting", "…");
  let first = true;
  try {
    const response = await fetch("/api/chat", {
      method: "POST",
      headers: { "content-type": "application/json", accept: "text/event-stream" },
      body: JSON.stringify({ message: text }),
    });
    if (!response.ok) throw new Error((await response.json()).error);
    for await (const { name, data } of serverEvents(response)) {
      if (name === "piece") {
        if (first) { line.textContent = ""; line.className = "said bot"; first = false; }
        line.textContent += data.text;
      } else if (name === "message") {
        if (!line) line = show("bot", "");
        line.className = "said bot";
        line.textContent = data.text;
        if (data.id) offerRating(line, data.id);
        line = null;
      } else if (name === "error") throw new Error(data.error);
    }
  } catch (error) {
    (line ?? show("bot", "")).textContent = `Não deu certo agora: ${error.message}`;
  }
});
