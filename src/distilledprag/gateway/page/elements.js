// Small tools to find, build and mark parts of the page.

export const find = (id) => document.getElementById(id);

export function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

export function button(text, onClick, className = "plain") {
  const made = element("button", text, className);
  made.type = "button";
  made.addEventListener("click", onClick);
  return made;
}

export function link(text, href) {
  const made = element("a", text);
  made.href = href;
  return made;
}

export function bytes(count) {
  return count < 10000 ? `${count} bytes` : count < 1e6 ? `${(count / 1e3).toFixed(1)} kB` : `${(count / 1e6).toFixed(2)} MB`;
}

export const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

// What a screen reader shall say. One place for the whole page, so that no two things are said at once.
export function say(text) {
  find("said").textContent = text;
}

const WORD = /[\p{L}\p{M}\p{N}]+/gu;
const UNSPACED = /[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}]/u;

export const wordsOf = (text) => text.normalize("NFC").match(WORD) || [];

// A pattern for these words in a row, whatever stands between them; null when there are none.
export function inARow(words) {
  if (!words.length) return null;
  const [begin, end] = UNSPACED.test(words.join("")) ? ["", ""] : ["(?<![\\p{L}\\p{M}\\p{N}])", "(?![\\p{L}\\p{M}\\p{N}])"];
  return new RegExp(begin + words.join("[^\\p{L}\\p{M}\\p{N}]+") + end, "giu");
}

// The text with what one of the patterns matches as <mark>.
export function marked(text, patterns) {
  const place = document.createDocumentFragment();
  const spans = patterns.flatMap((pattern) => [...text.matchAll(pattern)].map((match) => [match.index, match.index + match[0].length]));
  let end = 0;
  for (const [from, to] of spans.sort((one, other) => one[0] - other[0] || other[1] - one[1])) {
    if (from < end) continue;
    place.append(text.slice(end, from), element("mark", text.slice(from, to)));
    end = to;
  }
  place.append(text.slice(end));
  return place;
}
