// One document's text in a dialog, at the passage that was cited. Its address is the page's #document/ID/PLACE, so links lead here.
import { bytes, counted, element, find, link } from "./elements.js";
import { call } from "./requests.js";

const ADDRESS = /^#document\/([^/]+)(?:\/(\d+))?$/;

export const addressOf = (id, place) => `#document/${encodeURIComponent(id)}` + (place === undefined ? "" : `/${place}`);

// A link to a passage as answers and searches give it.
export const linkTo = (passage) => link(`${passage.source}, passage ${passage.place + 1}`, addressOf(passage.document, passage.place));

// Open what the page's address names.
export async function showAddressed() {
  const [, id, place] = location.hash.match(ADDRESS) || [];
  const viewer = find("viewer");
  if (!id) return viewer.close();
  find("viewer-title").textContent = "Document";
  find("viewer-about").textContent = "opening …";
  find("viewer-about").className = "quiet";
  find("viewer-text").replaceChildren();
  if (!viewer.open) viewer.showModal();
  try {
    const found = await (await call(`/v1/documents/${id}`)).json();
    if (location.hash.match(ADDRESS)?.[1] === id) draw(found, place === undefined ? null : Number(place));
  } catch (error) {
    find("viewer-about").textContent = error.message;
    find("viewer-about").className = "error";
  }
}

function draw(found, place) {
  find("viewer-title").textContent = found.name;
  const about = [counted(found.passages, "passage"), bytes(found.bytes), `collection ${found.collection}`, ...found.notes];
  find("viewer-about").textContent = about.join(" · ");
  let title = "";
  for (const [number, passage] of found.text.entries()) {
    if (passage.title !== title) find("viewer-text").append(element("h3", passage.title));
    title = passage.title;
    const text = element("p", passage.text);
    if (number === place) {
      text.className = "cited";
      text.tabIndex = -1;
      text.prepend(element("span", `Passage ${number + 1}, which was cited: `, "unseen"));
    }
    find("viewer-text").append(text);
  }
  const cited = find("viewer-text").querySelector(".cited");
  cited?.focus({ preventScroll: true });
  cited?.scrollIntoView({ block: "center" });
}

// When the dialog closes, the address names no document any more. Focus goes back to the link by itself.
export function forgetAddress() {
  if (ADDRESS.test(location.hash)) history.replaceState(null, "", location.pathname);
}
