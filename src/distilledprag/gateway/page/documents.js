// The collections and the documents of the chosen one: list, choose, begin a new one, delete.
import { button, bytes, counted, element, find, link, say } from "./elements.js";
import { call } from "./requests.js";
import { addressOf } from "./viewer.js";

const CHOSEN = "distilledprag.collection", FIRST = "default", PAGE = 50;
let chosen = localStorage.getItem(CHOSEN) || FIRST;

export const collection = () => chosen;

export function choose(name) {
  chosen = name;
  localStorage.setItem(CHOSEN, name);
  return refresh();
}

export const refresh = () => Promise.all([showCollections(), showDocuments()]);

async function showCollections() {
  let known = [];
  try {
    known = (await (await call("/v1/collections")).json()).data;
  } catch { /* the list of documents says why */ }
  const counts = new Map([[FIRST, 0], [chosen, 0], ...known.map((one) => [one.name, one.documents])]);
  find("collection").replaceChildren(...[...counts].map(([name, count]) => {
    const option = element("option", `${name} (${counted(count, "document")})`);
    option.value = name;
    return option;
  }));
  find("collection").value = chosen;
}

export async function showDocuments(more = false) {
  const list = find("documents");
  let answer;
  try {
    const query = new URLSearchParams({ collection: chosen, limit: PAGE, offset: more ? list.childElementCount : 0 });
    answer = await (await call(`/v1/documents?${query}`)).json();
  } catch (error) {
    find("count").textContent = "";
    list.replaceChildren(element("li", error.message, "error"));
    find("more").hidden = true;
    return;
  }
  if (!more) list.replaceChildren();
  list.append(...answer.data.map(documentRow));
  find("count").textContent = `(${answer.total})`;
  find("documents-empty").hidden = answer.total > 0;
  find("more").hidden = list.childElementCount >= answer.total;
}

function documentRow(item) {
  const row = element("li"), about = element("div");
  about.append(link(item.name, addressOf(item.id)), element("small", `${counted(item.passages, "passage")}, ${bytes(item.bytes)}`));
  about.append(...item.notes.map((note) => element("small", note, "warn")));
  if (item.copies?.length) about.append(element("small", `also sent as ${item.copies.join(", ")}`));
  if (item.nearly_repeats) {
    const like = element("small", "nearly repeats ");
    like.append(link(item.nearly_repeats.name, addressOf(item.nearly_repeats.id)));
    about.append(like);
  }
  const remove = button("Delete", async () => {
    remove.disabled = true;
    try {
      await call(`/v1/documents/${item.id}`, { method: "DELETE" });
      await refresh();
      say(`${item.name} is deleted`);
      find("documents-title").focus();
    } catch (error) {
      remove.disabled = false;
      about.append(element("small", error.message, "error"));
      say(error.message);
    }
  });
  remove.setAttribute("aria-label", `Delete ${item.name}`);
  row.append(about, remove);
  return row;
}
