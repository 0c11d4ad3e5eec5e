// The same question as a command (curl) and as a program (Python, the openai package), to copy.
import { button, element, say } from "./elements.js";
import { settings } from "./state.js";

const VARIABLE = "DPRAG_GATEWAY_KEY"; // the key itself is never written into what is copied

const fieldsOf = ({ mode, collection, top_k }) => ({ mode, collection, top_k });
const messagesOf = (asked) => [{ role: "user", content: asked.question }];

export function asCurl(asked) {
  const body = JSON.stringify({ model: "distilledprag", messages: messagesOf(asked), distilledprag: fieldsOf(asked) });
  const lines = [`curl ${location.origin}/v1/chat/completions`, `-H 'Content-Type: application/json'`];
  if (settings.key_required) lines.push(`-H "Authorization: Bearer $${VARIABLE}"`);
  lines.push(`-d '${body.replaceAll("'", "'\\''")}'`);
  return lines.join(" \\\n  ");
}

// Strings, numbers, lists and objects are written in JSON as they are in Python.
export function asPython(asked) {
  const needsKey = settings.key_required;
  return `${needsKey ? "import os\n\n" : ""}from openai import OpenAI

client = OpenAI(base_url="${location.origin}/v1", api_key=${needsKey ? `os.environ["${VARIABLE}"]` : '"none"'})
answer = client.chat.completions.create(
    model="distilledprag",
    messages=${JSON.stringify(messagesOf(asked))},
    extra_body={"distilledprag": ${JSON.stringify(fieldsOf(asked))}},
)
print(answer.choices[0].message.content)
`;
}

// Buttons that copy, and show what was copied; where the browser forbids copying it is selected instead.
export function drawCopying(place, asked) {
  const shown = element("pre", "", "code");
  shown.hidden = true;
  const copy = (name, text) => button(`Copy as ${name}`, async () => {
    shown.textContent = text(asked);
    shown.hidden = false;
    try {
      await navigator.clipboard.writeText(shown.textContent);
      say(`copied as ${name}`);
    } catch {
      getSelection().selectAllChildren(shown);
      say(`selected as ${name}; copy it with your keyboard`);
    }
  });
  const row = element("div", undefined, "row");
  row.append(copy("curl", asCurl), copy("Python", asPython));
  place.replaceChildren(row, shown);
}
