// Search in the documents of a collection. The gateway answers alone; nothing goes to the engine.
import { counted, element, find, inARow, marked, say, wordsOf } from "./elements.js";
import { call } from "./requests.js";
import { linkTo } from "./viewer.js";

const MOST = 20;

export async function search(words, collection) {
  const status = find("search-status"), list = find("found");
  find("search-results").hidden = false;
  list.replaceChildren();
  status.textContent = "searching …";
  status.className = "quiet";
  try {
    const query = new URLSearchParams({ q: words, collection, limit: MOST });
    const found = (await (await call(`/v1/search?${query}`)).json()).data;
    const patterns = wordsOf(words).map((word) => inARow([word]));
    list.append(...found.map((passage) => {
      const item = element("li"), text = element("p");
      text.append(marked(passage.text, patterns));
      item.append(linkTo(passage), text);
      return item;
    }));
    const most = found.length === MOST ? "the best " : "";
    status.textContent = found.length ? `${most}${counted(found.length, "passage")} with these words` : "no passage has one of these words";
  } catch (error) {
    status.textContent = error.message;
    status.className = "error";
  }
  say(status.textContent);
}

export function endSearch() {
  find("search-results").hidden = true;
  find("found").replaceChildren();
}
