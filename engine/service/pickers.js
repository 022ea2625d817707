"use strict";
/* The places for pictures on the page of the service, filled by dropping, pasting, choosing, or from the gallery. */

const SLOTS = {
  query: ["Query", "Drop, paste or choose a picture"],
  reference: ["Reference", "Drop, paste or choose a picture"],
  rival: ["Rather than", "Drop, paste or choose a picture"],
};
const pickers = {};
let current = "query";

class Picker {
  constructor(slot, parent) {
    this.slot = slot;
    this.root = copyOf("picker");
    this.input = this.root.querySelector("input");
    this.image = this.root.querySelector("img");
    this.clear = this.root.querySelector(".clear");
    [this.root.querySelector("b").textContent, this.root.querySelector("small").textContent] = SLOTS[slot];
    this.clear.setAttribute("aria-label", `Remove ${SLOTS[slot][0].toLowerCase()}`);
    this.image.addEventListener("error", () => { // a format that this browser cannot show
      this.image.hidden = true;
      this.root.classList.remove("filled");
      this.root.querySelector("small").textContent = this.file ? this.file.name : SLOTS[slot][1];
    });
    this.input.addEventListener("change", () => { if (this.input.files.length) this.take(this.input.files[0]); });
    this.input.addEventListener("focus", () => choose(slot));
    this.clear.addEventListener("click", () => { this.take(null); this.input.focus(); });
    for (const kind of ["dragenter", "dragover"]) this.root.addEventListener(kind, event => { event.preventDefault(); this.root.classList.add("over"); });
    for (const kind of ["dragleave", "drop"]) this.root.addEventListener(kind, () => this.root.classList.remove("over"));
    this.root.addEventListener("drop", event => {
      event.preventDefault();
      if (event.dataTransfer.files.length) this.take(event.dataTransfer.files[0]);
    });
    parent.append(this.root);
  }

  take(file, then = true) {
    if (this.address) URL.revokeObjectURL(this.address);
    this.file = file;
    this.address = file ? URL.createObjectURL(file) : null;
    this.root.querySelector("small").textContent = SLOTS[this.slot][1];
    this.image.hidden = !file;
    this.image.alt = file ? `the ${SLOTS[this.slot][0].toLowerCase()} that was chosen` : "";
    if (file) this.image.src = this.address; else this.image.removeAttribute("src");
    this.root.classList.toggle("filled", Boolean(file));
    this.clear.hidden = !file;
    this.input.value = "";
    const order = at("more").open ? ["query", "reference", "rival"] : ["query", "reference"];
    choose(order.find(slot => !pickers[slot].file) || (file ? current : this.slot));
    if (this.slot === "query") forgetMatches();
    if (then) explain();
  }
}

function choose(slot) {
  current = slot;
  for (const one of Object.values(pickers)) one.root.classList.toggle("current", one.slot === slot);
}

function fillGallery(names) {
  at("gallery").hidden = !names.length;
  at("thumbs").replaceChildren(...names.map(name => {
    const button = made("button"), image = made("img");
    button.type = "button";
    image.src = `/page/pictures/${name}`;
    image.alt = name.replace(/\.png$/, "").replace("-", ", ");
    button.append(image);
    button.addEventListener("click", async () => {
      const reply = await fetch(image.src), content = await reply.blob();
      pickers[current].take(new File([content], name, { type: content.type }));
    });
    return button;
  }));
}

document.addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(one => one.type.startsWith("image/"));
  if (file) { event.preventDefault(); pickers[current].take(file); }
});
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, event => event.preventDefault());
