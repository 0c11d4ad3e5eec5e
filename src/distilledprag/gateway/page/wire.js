// What left this machine for an answer, drawn: masked prompt, adapter, requests. Knows nothing of how answers are asked for.
"use strict";

const MASK = "<|doc_mask|>";
const SVG = "http://www.w3.org/2000/svg";

function bytes(count) {
  return count < 10000 ? `${count} bytes` : count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(2)} MB`;
}

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

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

// How strongly the adapter changes each module (rows) of each layer (columns).
function drawAdapter(figure, adapter) {
  figure.hidden = !adapter;
  if (!adapter) return;
  const left = 70, top = 14, width = 300, high = 16;
  const cell = width / adapter.layers.length;
  const largest = Math.max(...adapter.values.flat(), 1e-12);
  const svg = figure.querySelector("svg");
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${left + width} ${top + high * adapter.modules.length}`);
  svg.setAttribute("aria-label", "Heat map of the adapter");
  const add = (name, attributes, text) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    if (text !== undefined) made.textContent = text;
    svg.append(made);
    return made;
  };
  adapter.modules.forEach((module, row) => {
    add("text", { x: 0, y: top + high * row + 12 }, module);
    adapter.values[row].forEach((value, column) => {
      const place = { x: left + cell * column, y: top + high * row, width: cell - 1, height: high - 1 };
      const drawn = add("rect", { ...place, "fill-opacity": (0.06 + 0.94 * (value / largest)).toFixed(3) });
      const title = document.createElementNS(SVG, "title");
      title.textContent = `layer ${adapter.layers[column]}, ${module}: ${value.toPrecision(3)}`;
      drawn.append(title);
    });
  });
  const step = Math.ceil(adapter.layers.length / 12);
  adapter.layers.forEach((layer, column) => {
    if (column % step === 0) add("text", { x: left + cell * (column + 0.3), y: 10 }, layer);
  });
  figure.querySelector("figcaption").textContent =
    `The adapter (rank ${adapter.rank}): how much it changes each layer's modules, 0 to ${largest.toPrecision(2)}.`;
}

function drawWire(wire, sent, mode) {
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
