// Files on their way into a collection, one after the other: waiting, sent, being read, read. Each says what could not be read.
import { button, bytes, counted, element, find, say } from "./elements.js";
import { sendForm } from "./requests.js";

let queue = Promise.resolve();

// onDone: called after each file, read or not.
export function upload(files, collection, onDone) {
  for (const line of files.map(uploadLine)) queue = queue.then(() => send(line, collection)).then(onDone);
}

// The files that were dropped; folders among them are refused, since a browser sends nothing of them.
export function dropped(transfer) {
  const files = [...transfer.files];
  const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
  return files.filter((file, place) => {
    if (!entries[place]?.isDirectory) return true;
    end(uploadLine(file), "bad", ["this is a folder; drop the files in it"]);
    return false;
  });
}

function uploadLine(file) {
  const line = { file, row: element("li"), state: element("span", "waiting", "quiet"), bar: element("progress"), abort: new AbortController(), begun: false };
  line.bar.max = 1;
  line.bar.value = 0;
  line.bar.setAttribute("aria-label", `${file.name}: progress`);
  line.stop = button("Stop", () => {
    line.abort.abort();
    if (!line.begun) end(line, "bad", ["stopped"]);
  });
  line.stop.setAttribute("aria-label", `Stop ${file.name}`);
  line.row.append(element("span", file.name, "name"), line.state, line.bar, line.stop);
  find("uploads").append(line.row);
  find("hide-uploads").hidden = false;
  return line;
}

async function send(line, collection) {
  const { file, abort } = line;
  if (abort.signal.aborted) return; // stopped while it waited
  line.begun = true;
  const form = new FormData();
  form.append("collection", collection); // before the file, so that the gateway knows it first
  form.append("file", file);
  try {
    const answer = await sendForm("/v1/documents", form, (share) => showProgress(line, share), abort.signal);
    const notes = answer.notes.map((note) => withoutName(note, file.name));
    end(line, notes.length ? "warn" : "well", [`read: ${counted(answer.passages, "passage")}`, ...notes]);
  } catch (error) {
    end(line, "bad", [error.name === "AbortError" ? "stopped" : withoutName(error.message, file.name)]);
  }
}

function showProgress(line, share) {
  if (share < 1) {
    line.bar.value = share;
    line.state.textContent = `sent ${bytes(Math.round(share * line.file.size))} of ${bytes(line.file.size)}`;
  } else {
    line.bar.removeAttribute("value"); // nobody knows how long reading takes
    line.state.textContent = "reading …";
  }
}

function end(line, className, sentences) {
  line.bar.remove();
  line.stop.remove();
  line.row.className = `done ${className}`;
  line.state.className = "";
  line.state.textContent = sentences[0];
  line.row.append(...sentences.slice(1).map((sentence) => element("span", sentence, "note")));
  say(`${line.file.name}: ${sentences.join("; ")}`);
}

// "report.pdf: page 2 holds no text" beside the file's name needs no name.
function withoutName(sentence, name) {
  return sentence.startsWith(`${name}: `) ? sentence.slice(name.length + 2) : sentence;
}

export function hideFinished() {
  for (const row of find("uploads").querySelectorAll(".done")) row.remove();
  find("hide-uploads").hidden = !find("uploads").childElementCount;
}
