"use strict";
/* What the page of the service asks of it: calls, the key that they may need, and server-sent events. */

const at = id => document.getElementById(id);
let key = sessionStorage.getItem("key");

/* Returns the reply of a call, after asking for a key if one is needed; throws an Error with the service's sentence. */
async function call(path, options = {}) {
  for (;;) {
    const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
    const reply = await fetch(path, { ...options, headers });
    if (reply.ok) return reply;
    if (reply.status !== 401) throw new Error(await sentenceOf(reply));
    await askForKey(Boolean(key));
  }
}

async function sentenceOf(reply) {
  const found = await reply.json().catch(() => ({}));
  return found.error || `The service answers with status ${reply.status}.`;
}

let asking = null;
function askForKey(wrong) {
  if (asking) return asking;
  at("key-wrong").hidden = !wrong;
  at("key-wrong").textContent = wrong ? "This key does not open the service." : "";
  at("lock").showModal();
  asking = new Promise(done => {
    at("key-form").onsubmit = event => {
      event.preventDefault();
      key = at("key").value.trim().replace(/[^\x20-\x7e]/g, "?"); // other characters cannot be sent in a header
      sessionStorage.setItem("key", key);
      at("lock").close();
      asking = null;
      done();
    };
  });
  return asking;
}
at("lock").addEventListener("cancel", event => event.preventDefault());

/* Yields [kind, data] of server-sent events. */
async function* eventsOf(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; ;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
      const fields = Object.fromEntries(text.slice(0, end).split("\n").map(line => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 2)]));
      yield [fields.event, JSON.parse(fields.data)];
    }
  }
}
