// What left this machine for an answer, drawn: masked prompt, adapter, requests. Knows nothing of how answers are asked for.
import { bytes, element } from "./elements.js";

const MASK = "<|doc_mask|>";

// The prompt exactly as sent, with each run of masks drawn as one and its length.
function drawPrompt(place, prompt) {
  place.replaceChildren();
  const parts = prompt.split(MASK);
  let run = 0;
  parts.forEach((part, index) => {
    if (index > 0) run += 1;
    if (part.trim() === "" && index > 0 && index < parts.length - 1) return;
    if (run) place.append(element("span", `${MASK} × ${run}`, "mask"));
    run = 0;
    place.append(part);
  });
}

// The adapter's form. Its rows are as many as the masks above.
function drawAdapter(figure, adapter) {
  figure.hidden = !adapter;
  if (!adapter) return;
  figure.querySelector("figcaption").textContent = `The adapter: ${adapter.rows} rows of ${adapter.width} numbers, one row for each mask, ` +
    `written after layer ${adapter.layer}; ${bytes(adapter.bytes)}.`;
}

export function drawWire(wire, sent, mode) {
  const size = bytes(sent.bytes_total);
  const adapter = !sent.adapter_bytes ? "no adapter" :
    sent.adapter_uploaded ? `with an adapter of ${bytes(sent.adapter_bytes)}` :
    `the adapter of ${bytes(sent.adapter_bytes)} was there already`;
  const documents = mode === "rag" ? "documents in plain text" : `${sent.masked_tokens} of them masks`;
  wire.querySelector(".sizes").textContent = `${size} in all; ${adapter}; ${sent.prompt_tokens} tokens of prompt, ${documents}.`;
  drawPrompt(wire.querySelector(".prompt"), sent.prompt);
  drawAdapter(wire.querySelector("figure"), sent.adapter);
  wire.querySelector("tbody").replaceChildren(...sent.requests.map((request) => {
    const row = element("tr");
    row.append(element("td", `${request.method} ${request.path}`), element("td", bytes(request.bytes)));
    return row;
  }));
}
