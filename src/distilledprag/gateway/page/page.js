// Which control does what.
import { ask, forgetHistory, showHistory, stop } from "./answers.js";
import { choose, collection, refresh, showDocuments } from "./documents.js";
import { find } from "./elements.js";
import { key } from "./requests.js";
import { endSearch, search } from "./search.js";
import { showState } from "./state.js";
import { dropped, hideFinished, upload } from "./uploads.js";
import { forgetAddress, showAddressed } from "./viewer.js";

// What happens when a form is sent, instead of the browser's own way.
function onSubmit(form, act) {
  find(form).addEventListener("submit", (event) => {
    event.preventDefault();
    act();
  });
}

// ---- documents

find("collection").addEventListener("change", () => {
  endSearch();
  choose(find("collection").value);
});
onSubmit("new-collection-form", () => {
  const name = find("new-collection").value;
  find("new-collection").value = "";
  find("new-collection-form").closest("details").open = false;
  endSearch();
  choose(name);
  find("collection").focus();
});
find("files").addEventListener("change", (event) => {
  upload([...event.target.files], collection(), refresh);
  event.target.value = "";
});
for (const name of ["dragover", "dragleave", "drop"]) {
  document.addEventListener(name, (event) => {
    if (!event.dataTransfer.types.includes("Files")) return;
    event.preventDefault();
    find("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") upload(dropped(event.dataTransfer), collection(), refresh);
  });
}
find("hide-uploads").addEventListener("click", () => {
  hideFinished();
  find("documents-title").focus();
});
find("more").addEventListener("click", () => showDocuments(true));
onSubmit("search-form", () => {
  const words = find("search").value.trim();
  if (words) search(words, collection());
  else endSearch();
});
find("end-search").addEventListener("click", () => {
  endSearch();
  find("search").value = "";
  find("search").focus();
});

// ---- the document that the address names

window.addEventListener("hashchange", showAddressed);
find("viewer").addEventListener("close", forgetAddress);
find("viewer-close").addEventListener("click", () => find("viewer").close());

// ---- questions

onSubmit("ask-form", () => {
  const question = find("question").value.trim();
  if (question) ask({ question, mode: find("mode").value, collection: collection(), top_k: Number(find("top-k").value) || 3 });
});
find("question").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    find("ask-form").requestSubmit();
  }
});
find("stop").addEventListener("click", stop);
find("clear").addEventListener("click", () => {
  forgetHistory();
  find("question").focus();
});
onSubmit("key-form", () => {
  key.set(find("key").value);
  find("key").value = "";
  begin();
});

function begin() {
  refresh();
  showAddressed();
  return showState();
}

begin().then(showHistory);
setInterval(showState, 15000);
