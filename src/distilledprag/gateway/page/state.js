// What the gateway says of itself: whether its engine answers, what it allows, which files it reads.
import { element, find } from "./elements.js";
import { key } from "./requests.js";

export const MODES = { parametric: "documents as an adapter", closed_book: "without documents", rag: "documents in plain text" };
export const settings = { allow_plaintext: false, key_required: false, formats: [] };

export async function showState() {
  let said = "the gateway does not answer", well = false;
  try {
    Object.assign(settings, await (await fetch("/health")).json());
    well = settings.engine === "ready";
    said = well ? "engine ready" : "the engine cannot be reached; check that it runs";
  } catch { /* said above */ }
  const state = find("state");
  if (state.textContent !== said) state.textContent = said; // an unchanged one is not to be read out again
  state.classList.toggle("bad", !well);
  if (settings.allow_plaintext && !find("mode").querySelector("[value=rag]")) {
    const option = element("option", `${MODES.rag} (sent as they are)`);
    option.value = "rag";
    find("mode").append(option);
  }
  if (settings.formats.length) {
    find("files").accept = settings.formats.join(",");
    find("formats").textContent = settings.formats.map((suffix) => suffix.slice(1)).join(", ");
  }
  find("key-form").hidden = !settings.key_required || Boolean(key.get());
}
