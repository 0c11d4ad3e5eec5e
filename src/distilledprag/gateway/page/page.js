// Documents and questions. Answers are kept in this browser only (localStorage); the key until the tab is closed.
"use strict";

const HISTORY = "distilledprag.answers", KEY = "distilledprag.key", MOST_KEPT = 30, PAGE = 50;
const find = (id) => document.getElementById(id);
const MODES = { parametric: "documents as an adapter", closed_book: "without documents", rag: "documents in plain text" };
let settings = {}, shown = 0, asking = null;

async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  const key = sessionStorage.getItem(KEY);
  if (key) headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The gateway does not answer. Is it still running?");
  }
  if (response.ok) return response;
  if (response.status === 401) {
    sessionStorage.removeItem(KEY);
    find("key-form").hidden = false;
  }
  let message = `The gateway answered with status ${response.status}.`;
  try { message = (await response.json()).error.message; } catch { /* not ours; keep the status */ }
  throw new Error(message);
}

// ---- state

async function showState() {
  const state = find("state");
  try {
    settings = await (await fetch("/health")).json();
    state.textContent = settings.engine === "ready" ? "engine ready" : "the engine cannot be reached; check that it runs";
    state.classList.toggle("bad", settings.engine !== "ready");
  } catch {
    state.textContent = "the gateway does not answer";
    state.classList.add("bad");
  }
  if (settings.allow_plaintext && !find("mode").querySelector("[value=rag]")) {
    const option = element("option", `${MODES.rag} (sent as they are)`);
    option.value = "rag";
    find("mode").append(option);
  }
  find("key-form").hidden = !settings.key_required || Boolean(sessionStorage.getItem(KEY));
}

// ---- documents

async function showDocuments(more = false) {
  const list = find("documents");
  if (!more) shown = 0;
  let answer;
  try {
    answer = await (await call(`/v1/documents?limit=${PAGE}&offset=${shown}`)).json();
  } catch (error) {
    find("count").textContent = "";
    list.replaceChildren(element("li", error.message, "error"));
    return;
  }
  if (!more) list.replaceChildren();
  for (const item of answer.data) list.append(documentRow(item));
  shown += answer.data.length;
  find("count").textContent = `(${answer.total})`;
  find("documents-empty").hidden = answer.total > 0;
  find("more").hidden = shown >= answer.total;
}

function documentRow(item) {
  const row = element("li");
  const name = element("span", item.name);
  if (item.copies?.length) name.append(element("small", ` also sent as ${item.copies.join(", ")}`));
  if (item.nearly_repeats) name.append(element("small", ` nearly repeats ${item.nearly_repeats.name}`));
  name.title = `${item.passages} passages, ${bytes(item.bytes)}, collection ${item.collection}`;
  const remove = element("button", "Delete", "plain");
  remove.type = "button";
  remove.setAttribute("aria-label", `Delete ${item.name}`);
  remove.addEventListener("click", async () => {
    remove.disabled = true;
    try {
      await call(`/v1/documents/${item.id}`, { method: "DELETE" });
      await showDocuments();
    } catch (error) {
      remove.disabled = false;
      name.textContent = `${item.name}: ${error.message}`;
    }
  });
  row.append(name, remove);
  if (item.notes.length) name.append(element("br"), element("small", item.notes.join("; ")));
  return row;
}

async function upload(files) {
  for (const file of files) {
    const line = element("li", `${file.name}: reading …`);
    find("uploads").append(line);
    const form = new FormData();
    form.append("file", file);
    try {
      const stored = await (await call("/v1/documents", { method: "POST", body: form })).json();
      line.remove();
      for (const note of stored.notes) find("uploads").append(element("li", `Stored, but: ${note}`, "bad"));
    } catch (error) {
      line.textContent = error.message.includes(file.name) ? error.message : `${file.name}: ${error.message}`;
      line.className = "bad";
    }
  }
  await showDocuments();
}

// ---- answers

function answerView(question, mode) {
  const view = find("answer-template").content.cloneNode(true).firstElementChild;
  view.querySelector("h3").textContent = question;
  view.querySelector(".mode").textContent = MODES[mode] || mode;
  const again = view.querySelector(".again");
  for (const other of Object.keys(MODES)) {
    if (other === mode || (other === "rag" && !settings.allow_plaintext)) continue;
    const button = element("button", `Ask the same ${other === "rag" ? "as plain RAG" : MODES[other]}`, "plain");
    button.type = "button";
    button.addEventListener("click", () => ask(question, other));
    again.append(button);
  }
  find("answers").prepend(view);
  find("answers-empty").hidden = true;
  find("clear").hidden = false;
  return view;
}

function showDetails(view, details) {
  view.querySelector(".mode").textContent = MODES[details.mode];
  view.querySelector(".warnings").replaceChildren(...details.warnings.map((warning) => element("li", warning)));
  view.querySelector(".passages").hidden = details.passages.length === 0;
  view.querySelector(".passages summary").textContent =
    details.mode === "rag" ? "Passages that were sent in plain text" : "Passages that stayed here";
  view.querySelector(".passages ol").replaceChildren(...details.passages.map((passage) => {
    const item = element("li", passage.text);
    item.append(element("br"), element("small", `${passage.source}, score ${passage.score.toFixed(2)}`));
    return item;
  }));
  drawWire(view.querySelector(".wire"), details.sent, details.mode);
  const steps = Object.entries(details.seconds).map(([name, value]) => `${name.replace("_", " ")} ${value.toFixed(2)} s`);
  view.querySelector(".timings").textContent = steps.join(" · ");
}

// Server-sent events of a response, parsed; ends at [DONE].
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The answer ended in the middle. Ask again.");
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const event = JSON.parse(data);
      if (event.error) throw new Error(event.error.message);
      yield event;
    }
  }
}

async function ask(question, mode) {
  if (asking) return;
  asking = new AbortController();
  find("ask").disabled = true;
  find("stop").hidden = false;
  const view = answerView(question, mode);
  const text = view.querySelector(".text");
  view.querySelector(".passages").hidden = true;
  view.querySelector(".wire").hidden = true;
  text.classList.add("waiting");
  const body = {
    model: "distilledprag", stream: true, messages: [{ role: "user", content: question }],
    distilledprag: { mode, top_k: Number(find("top-k").value) || 3 },
  };
  let details = null;
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: asking.signal,
    });
    for await (const event of events(response)) {
      if (event.distilledprag) {
        details = event.distilledprag;
        view.querySelector(".wire").hidden = false;
        showDetails(view, details);
      }
      text.textContent += event.choices[0]?.delta.content ?? "";
    }
    if (!text.textContent.trim()) text.textContent = "(The model gave an empty answer.)";
    keep({ question, mode, text: text.textContent, details });
  } catch (error) {
    const place = view.querySelector(".error");
    place.textContent = error.name === "AbortError" ? "Stopped." : error.message;
    place.hidden = false;
  } finally {
    text.classList.remove("waiting");
    asking = null;
    find("ask").disabled = false;
    find("stop").hidden = true;
  }
}

// ---- history

function kept() {
  try { return JSON.parse(localStorage.getItem(HISTORY)) || []; } catch { return []; }
}

function keep(entry) {
  const entries = [...kept(), entry].slice(-MOST_KEPT);
  while (entries.length) {
    try { return localStorage.setItem(HISTORY, JSON.stringify(entries)); } catch { entries.shift(); }
  }
}

function showHistory() {
  for (const entry of kept()) {
    const view = answerView(entry.question, entry.mode);
    view.querySelector(".text").textContent = entry.text;
    if (entry.details) showDetails(view, entry.details);
  }
}

// ---- wiring

find("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = find("question").value.trim();
  if (question) ask(question, find("mode").value);
});
find("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("ask-form").requestSubmit();
  }
});
find("stop").addEventListener("click", () => asking?.abort());
find("clear").addEventListener("click", () => {
  localStorage.removeItem(HISTORY);
  find("answers").replaceChildren();
  find("answers-empty").hidden = false;
  find("clear").hidden = true;
  find("question").focus();
});
find("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, find("key").value);
  find("key").value = "";
  showState();
  showDocuments();
});
find("more").addEventListener("click", () => showDocuments(true));
find("files").addEventListener("change", (event) => {
  upload([...event.target.files]);
  event.target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    event.preventDefault();
    find("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") upload([...event.dataTransfer.files]);
  });
}
showState().then(showHistory);
showDocuments();
setInterval(showState, 15000);
