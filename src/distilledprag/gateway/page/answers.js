// Questions and their answers, each beside its passages and what left for it.
// Answers are kept in this browser only (localStorage).
import { button, element, find, inARow, marked, say, wordsOf } from "./elements.js";
import { drawCopying } from "./code.js";
import { call, events } from "./requests.js";
import { MODES, settings } from "./state.js";
import { linkTo } from "./viewer.js";
import { drawWire } from "./wire.js";

const HISTORY = "distilledprag.answers", MOST_KEPT = 30, LONGEST_QUOTE = 60; // words
let asking = null;

// ---- one answer

// asked: {question, mode, collection, top_k}
function answerView(asked) {
  const view = find("answer-template").content.cloneNode(true).firstElementChild;
  view.querySelector("h3").textContent = asked.question;
  showMode(view, asked, asked.mode);
  for (const other of Object.keys(MODES)) {
    if (other === asked.mode || (other === "rag" && !settings.allow_plaintext)) continue;
    const text = `Ask the same ${other === "rag" ? "as plain RAG" : MODES[other]}`;
    view.querySelector(".again").append(button(text, () => ask({ ...asked, mode: other })));
  }
  drawCopying(view.querySelector(".copy"), asked);
  find("answers").prepend(view);
  find("answers-empty").hidden = true;
  find("clear").hidden = false;
  return view;
}

function showMode(view, asked, mode) {
  const where = mode === "closed_book" ? "" : `, collection ${asked.collection}`;
  view.querySelector(".mode").textContent = MODES[mode] + where;
}

function showDetails(view, asked, details) {
  showMode(view, asked, details.mode);
  view.querySelector(".warnings").replaceChildren(...details.warnings.map((warning) => element("li", warning)));
  view.querySelector(".passages summary").textContent =
    details.mode === "rag" ? "Passages that were sent in plain text" : "Passages that stayed here";
  showPassages(view, details.passages, null);
  view.querySelector(".wire").hidden = false;
  drawWire(view.querySelector(".wire"), details.sent, details.mode);
  const steps = Object.entries(details.seconds).map(([name, value]) => `${name.replace("_", " ")} ${value.toFixed(2)} s`);
  view.querySelector(".timings").textContent = steps.join(" · ");
}

function showPassages(view, passages, quote) {
  view.querySelector(".passages").hidden = passages.length === 0;
  view.querySelector(".passages ol").replaceChildren(...passages.map((passage) => {
    const item = element("li"), text = element("p"), place = element("p", undefined, "quiet");
    text.append(marked(passage.text, quote ? [quote] : []));
    place.append(linkTo(passage), passage.title ? ` (${passage.title})` : "", `, score ${passage.score.toFixed(2)}`);
    item.append(text, place);
    return item;
  }));
}

// Say which passages hold the answer word for word, and mark it there.
function cite(view, text, passages) {
  const words = wordsOf(text), place = view.querySelector(".cited-in");
  if (!passages.length || !words.length || words.length > LONGEST_QUOTE) return;
  const quote = inARow(words);
  showPassages(view, passages, quote);
  const holding = passages.map((passage, number) => [passage, number + 1]).filter(([passage]) => passage.text.search(quote) >= 0);
  if (holding.length) {
    place.append("Word for word in ");
    holding.forEach(([passage, number], index) => place.append(index ? ", " : "", `[${number}] `, linkTo(passage)));
  } else {
    place.append("Not word for word in any of the passages; check it there.");
  }
  place.hidden = false;
}

// ---- asking

export async function ask(asked) {
  if (asking) return;
  asking = new AbortController();
  find("ask").disabled = true;
  find("stop").hidden = false;
  const view = answerView(asked);
  const text = view.querySelector(".text");
  for (const part of [".passages", ".wire", ".again"]) view.querySelector(part).hidden = true;
  text.classList.add("waiting");
  say("asking");
  const { question, ...fields } = asked;
  const body = { model: "distilledprag", stream: true, messages: [{ role: "user", content: question }], distilledprag: fields };
  let details = null;
  try {
    const response = await call("/v1/chat/completions", {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal: asking.signal,
    });
    for await (const event of events(response)) {
      if (event.distilledprag) {
        details = event.distilledprag;
        showDetails(view, asked, details);
      }
      text.textContent += event.choices[0]?.delta.content ?? "";
    }
    if (!text.textContent.trim()) text.textContent = "(The model gave an empty answer.)";
    else if (details) cite(view, text.textContent, details.passages);
    keep({ asked, text: text.textContent, details });
    say(`answer: ${text.textContent}`);
  } catch (error) {
    showError(view, asked, error.name === "AbortError" ? "Stopped." : error.message);
  } finally {
    text.classList.remove("waiting");
    view.querySelector(".again").hidden = false;
    asking = null;
    find("ask").disabled = false;
    find("stop").hidden = true;
  }
}

function showError(view, asked, message) {
  const place = view.querySelector(".error");
  place.textContent = message;
  place.hidden = false;
  view.querySelector(".again").prepend(button("Ask again", () => ask(asked)));
  say(message);
}

export const stop = () => asking?.abort();

// ---- history

function kept() {
  try { return JSON.parse(localStorage.getItem(HISTORY)).filter((entry) => entry.asked); } catch { return []; }
}

function keep(entry) {
  const entries = [...kept(), entry].slice(-MOST_KEPT);
  while (entries.length) {
    try { return localStorage.setItem(HISTORY, JSON.stringify(entries)); } catch { entries.shift(); }
  }
}

export function showHistory() {
  for (const { asked, text, details } of kept()) {
    const view = answerView(asked);
    view.querySelector(".text").textContent = text;
    if (!details) continue;
    showDetails(view, asked, details);
    cite(view, text, details.passages);
  }
}

export function forgetHistory() {
  localStorage.removeItem(HISTORY);
  find("answers").replaceChildren();
  find("answers-empty").hidden = false;
  find("clear").hidden = true;
}
