// Requests to the gateway, with its key; their failures as sentences.
import { find } from "./elements.js";

const KEY = "distilledprag.key"; // kept until the tab is closed
const SILENT = "The gateway does not answer. Is it still running?";

export const key = {
  get: () => sessionStorage.getItem(KEY),
  set: (value) => sessionStorage.setItem(KEY, value),
};

export async function call(path, options = {}) {
  const headers = new Headers(options.headers);
  if (key.get()) headers.set("Authorization", `Bearer ${key.get()}`);
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error(SILENT);
  }
  if (response.ok) return response;
  throw refusal(response.status, await response.text());
}

// Send a form and tell how much of it has left: `onSent(share)`, 1 when all has. fetch cannot tell, XMLHttpRequest can.
export function sendForm(path, form, onSent, signal) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    if (key.get()) request.setRequestHeader("Authorization", `Bearer ${key.get()}`);
    request.upload.addEventListener("progress", (event) => onSent(event.total ? event.loaded / event.total : 0));
    request.upload.addEventListener("load", () => onSent(1));
    request.addEventListener("load", () => {
      if (request.status >= 200 && request.status < 300) resolve(JSON.parse(request.responseText));
      else reject(refusal(request.status, request.responseText));
    });
    request.addEventListener("error", () => reject(new Error(SILENT)));
    request.addEventListener("abort", () => reject(new DOMException("stopped", "AbortError")));
    signal.addEventListener("abort", () => request.abort());
    request.send(form);
  });
}

function refusal(status, body) {
  if (status === 401) {
    sessionStorage.removeItem(KEY);
    find("key-form").hidden = false;
  }
  try {
    return new Error(JSON.parse(body).error.message);
  } catch { // not ours
    return new Error(`The gateway answered with status ${status}.`);
  }
}

// Server-sent events of a response, parsed; ends at [DONE].
export async function* events(response) {
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
