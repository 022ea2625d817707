"use strict";
/* Draws explanations from data that engine/render/view.py makes; in reports, notebooks and the page of the service.
   Styles are set as properties, never as attributes, which the policy of these pages forbids. */

const WHERE = [20, 90, 255]; // where an attribute is seen, as tiles light up
const copyOf = id => document.getElementById(id).content.firstElementChild.cloneNode(true);
const made = (tag, className, text) => {
  const found = document.createElement(tag);
  if (className) found.className = className;
  if (text !== undefined) found.textContent = text;
  return found;
};

/* One of the pictures: its map, its tiles, and where an attribute is seen. */
class Side {
  constructor(name) {
    this.name = name;
    this.root = copyOf("side");
    for (const part of ["frame", "picture", "seen", "layer", "where", "tiles"]) this[part] = this.root.querySelector(`.${part}`);
    this.picture.alt = name;
    this.picture.draggable = false;
    this.root.querySelector("b").textContent = name;
  }

  /* data: of a side; original: the address of the picture as it was chosen, if it is at hand */
  update(data, original) {
    const own = original && data.original && original !== this.unshowable ? original : null;
    this.box = own ? data.original : data.seen;
    this.linksOn = own ? "seen" : "picture";
    this.seenPicture = data.picture || this.seenPicture; // as the network saw it; only the first of a series has it
    const source = own || this.seenPicture;
    if (source !== this.source) this.picture.src = this.source = source;
    this.picture.onerror = () => { // a format that this browser cannot show
      if (!own) return;
      this.unshowable = own;
      this.update(data);
    };
    const [left, top, right, bottom] = this.box;
    this.seen.style.inset = `${100 * top}% ${100 * (1 - right)}% ${100 * (1 - bottom)}% ${100 * left}%`;
    const over = own ? this.seen : this.frame; // a map covers what it was drawn for
    if (this.layer.parentNode !== over) over.prepend(this.layer), own || over.insertBefore(this.layer, this.seen);
    this.layer.hidden = !data.map;
    this.map = data.map;
    this.frame.classList.toggle("cropped", Boolean(own) && (left > 0 || top > 0 || right < 1 || bottom < 1));
    const of = data.map && data.map.of !== `what matters in the ${this.name}` ? data.map.of : ""; // the picture says that much
    const words = data.map ? [of, data.map.trust].filter(Boolean).join(": ") : "";
    this.root.querySelector("figcaption span").textContent = words;
  }

  /* shared: whether its colours stand for the same values as those of the other map */
  colour(shared) {
    const drawn = this.map && (!shared && this.map.alone && this.map.alone.layer ? this.map.alone : this.map);
    if (drawn && this.layer.src !== drawn.layer) this.layer.src = drawn.layer;
  }

  /* A box in shares of the picture that it was measured on -> shares of what is shown. */
  place([left, top, right, bottom]) {
    if (this.linksOn === "picture") return [left, top, right, bottom];
    const [x, y, x2, y2] = this.box, clip = value => Math.min(Math.max(value, 0), 1);
    return [x + left * (x2 - x), y + top * (y2 - y), x + right * (x2 - x), y + bottom * (y2 - y)].map(clip);
  }

  showWhere(map) {
    const context = this.where.getContext("2d");
    context.clearRect(0, 0, this.where.width, this.where.height);
    if (!map) return;
    const most = Math.max(...map.flat());
    this.where.height = map.length;
    this.where.width = map[0].length;
    const pixels = context.createImageData(this.where.width, this.where.height);
    map.flat().forEach((value, i) => pixels.data.set([...WHERE, most > 0 ? 200 * Math.max(value, 0) / most : 0], 4 * i));
    context.putImageData(pixels, 0, 0);
  }
}

/* The tiles over query and reference: one that is pointed at, tapped or focused lights up those that match it. */
class Tiles {
  constructor(sides, told) {
    this.sides = sides;
    this.told = told;
    this.grids = [[], []];
    sides.forEach((side, i) => this.listen(side.tiles, i));
  }

  update(matrix) {
    this.matrix = matrix;
    const counts = matrix ? [matrix.length, matrix[0].length] : [0, 0];
    this.sides.forEach((side, i) => {
      side.tiles.hidden = !matrix;
      if (this.grids[i].length === counts[i]) return;
      this.grids[i] = Array.from({ length: counts[i] }, (_, n) => {
        const tile = made("button");
        tile.type = "button";
        tile.tabIndex = n ? -1 : 0;
        return tile;
      });
      const length = Math.sqrt(counts[i]);
      side.tiles.replaceChildren(...this.grids[i]);
      side.tiles.style.setProperty("--side", length);
      side.tiles.setAttribute("aria-label", `${side.name} in ${length} by ${length} tiles: arrow keys move between them`);
    });
    this.grids.forEach((tiles, i) => tiles.forEach((tile, n) => tile.setAttribute("aria-label", this.textOf(i, n))));
    const focused = this.grids.findIndex(tiles => tiles.includes(document.activeElement));
    if (focused >= 0) this.light(focused, this.grids[focused].indexOf(document.activeElement));
  }

  valuesOf(side, n) { return side ? this.matrix.map(row => row[n]) : this.matrix[n]; }

  textOf(side, n) {
    const values = this.valuesOf(side, n), best = values.indexOf(Math.max(...values)), other = this.sides[1 - side].name;
    const place = (count, tile) => `row ${Math.floor(tile / Math.sqrt(count)) + 1} column ${tile % Math.sqrt(count) + 1}`;
    const match = values[best] > 0 ? `best match in ${other} ${place(values.length, best)}` : `no match in ${other}`;
    return `${this.sides[side].name} ${place(this.grids[side].length, n)}: ${match}`;
  }

  light(side, n) {
    this.grids.forEach((tiles, i) => tiles.forEach((tile, m) => {
      tile.classList.toggle("here", i === side && m === n);
      tile.style.setProperty("--match", 0);
    }));
    this.told(side === undefined ? null : this.textOf(side, n));
    if (side === undefined) return;
    const values = this.valuesOf(side, n), most = Math.max(...values);
    if (most > 0) this.grids[1 - side].forEach((tile, m) => tile.style.setProperty("--match", Math.max(values[m], 0) / most));
  }

  listen(root, side) {
    const at = node => this.grids[side].indexOf(node);
    const lit = node => { if (at(node) >= 0) this.light(side, at(node)); };
    root.addEventListener("pointerover", event => { if (event.pointerType === "mouse") lit(event.target); });
    root.addEventListener("pointerleave", event => {
      if (event.pointerType !== "mouse") return;
      this.light();
      lit(document.activeElement);
    });
    root.addEventListener("click", event => { if (at(event.target) >= 0) event.target.focus(), lit(event.target); });
    root.addEventListener("focusout", () => this.light());
    root.addEventListener("focusin", event => {
      if (at(event.target) < 0) return;
      for (const tile of this.grids[side]) tile.tabIndex = tile === event.target ? 0 : -1; // tab comes back to this tile
      lit(event.target);
    });
    root.addEventListener("keydown", event => this.move(event, side, at(event.target)));
  }

  move(event, side, n) {
    if (n < 0) return;
    if (event.key === "Escape") event.target.blur();
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const length = Math.sqrt(this.grids[side].length), row = Math.floor(n / length) + step[0], column = n % length + step[1];
    if (Math.min(row, column) >= 0 && Math.max(row, column) < length) this.grids[side][row * length + column].focus();
  }
}

/* An explanation; `update` shows another one in its place, and leaves controls and focus as they are. */
class Explanation {
  constructor(root) {
    this.root = copyOf("explanation");
    root.append(this.root);
    this.parts = Object.fromEntries([...this.root.querySelectorAll("[data-part]")].map(part => [part.dataset.part, part]));
    this.sides = [];
    for (const name of ["maps", "opacity", "lines", "shared"]) this.parts[name].addEventListener("input", () => this.restyle());
    new ResizeObserver(() => this.drawLinks()).observe(this.parts.pair);
  }

  /* view: what engine/render/view.py makes; title: its heading; originals: addresses of the pictures, by side */
  update(view, { title = view.title, originals = {} } = {}) {
    this.view = view;
    this.updateSides(view, originals);
    if (this.tiles) this.tiles.update(view.tiles && view.tiles.matrix);
    this.set("title", title);
    const plain = view.sides.map(side => side.map && side.map.plain && [side.map.of, side.map.plain]).filter(Boolean);
    const same = new Set(plain.map(pair => pair[1])).size === 1;
    this.set("verdict", same ? plain[0][1] : plain.map(([of, text]) => `${of[0].toUpperCase()}${of.slice(1)}: ${text}`).join(" "));
    this.parts.hints.hidden = !view.tiles;
    this.parts.hint.textContent = view.tiles ? view.tiles.text : "";
    this.set("links-text", view.links ? view.links.text : "");
    this.parts.linked.hidden = !(view.links && view.links.drawn.length);
    this.parts.bar.src = view.scale.bar;
    this.parts.scaled.hidden = !view.sides.some(side => side.map && side.map.alone);
    this.updateGroups(view.groups);
    this.parts.notes.replaceChildren(...view.notes.map(note => made("p", "by", note)));
    this.set("made", view.made);
    this.parts.numbers.replaceChildren(...view.numbers.flatMap(([name, value]) => [made("dt", "", name), made("dd", "", value)]));
    this.restyle();
    this.drawLinks();
  }

  set(part, text) {
    this.parts[part].textContent = text;
    this.parts[part].hidden = !text;
  }

  updateSides(view, originals) {
    const names = view.sides.map(side => side.name), pair = this.parts.pair;
    if (names.join() !== this.sides.map(side => side.name).join()) {
      for (const side of this.sides) side.root.remove();
      this.sides = names.map(name => new Side(name));
      for (const side of this.sides) pair.insertBefore(side.root, this.parts.links);
      pair.style.setProperty("--columns", Math.max(names.length, 2));
      this.tiles = names[1] === "reference" ? new Tiles(this.sides.slice(0, 2), text => this.point(text)) : null;
      for (const side of this.sides) side.picture.addEventListener("load", () => this.drawLinks());
    }
    this.sides.forEach((side, i) => side.update(view.sides[i], originals[side.name]));
  }

  point(text) {
    this.parts.pair.classList.toggle("pointing", text !== null);
    this.parts.hint.classList.toggle("kept", text !== null); // it keeps its place
    this.parts.here.textContent = text === null ? "" : `${text[0].toUpperCase()}${text.slice(1)}.`;
  }

  restyle() {
    const { maps, opacity, lines, links } = this.parts, strength = maps.checked ? opacity.value / 100 : 0;
    opacity.disabled = !maps.checked;
    for (const side of this.sides) side.frame.style.setProperty("--strength", side.layer.hidden ? 0 : strength);
    links.toggleAttribute("hidden", !lines.checked);
    this.rescale();
  }

  rescale() {
    if (!this.view) return;
    const { shared, scaled, ticks } = this.parts, one = shared.checked || scaled.hidden, { scale, sides } = this.view;
    for (const side of this.sides) side.colour(one);
    ticks.replaceChildren(...(one ? scale.ticks : scale.own_ticks).map(tick => made("span", "", tick)));
    const most = sides.filter(side => side.map && side.map.alone).map(side => `${side.name} ${side.map.alone.most}`);
    this.set("scale-text", one ? scale.text : `${scale.text}; the most: ${most.join(", ")}`);
  }

  drawLinks() {
    const svg = this.parts.links, links = this.view && this.view.links;
    svg.replaceChildren();
    if (!links || this.sides.length < 2) return;
    const origin = this.parts.pair.getBoundingClientRect();
    const boxes = link => link.boxes.map((box, i) => {
      const frame = this.sides[i].frame.getBoundingClientRect(), [left, top, right, bottom] = this.sides[i].place(box);
      return {
        x: frame.x - origin.x + left * frame.width, y: frame.y - origin.y + top * frame.height,
        width: Math.max((right - left) * frame.width, 6), height: Math.max((bottom - top) * frame.height, 6),
      };
    });
    const add = (tag, attributes, text) => {
      const drawn = document.createElementNS(svg.namespaceURI, tag);
      for (const [name, value] of Object.entries(attributes)) drawn.setAttribute(name, value);
      if (text !== undefined) drawn.textContent = text;
      svg.append(drawn);
    };
    const weakestFirst = [...links.drawn].reverse();
    const zoom = Math.min(Math.max(this.sides[0].frame.clientWidth / 300, .6), 1);
    for (const link of weakestFirst) {
      const [a, b] = boxes(link), line = { x1: a.x + a.width, y1: a.y + a.height / 2, x2: b.x, y2: b.y + b.height / 2 };
      add("line", { ...line, stroke: "#fff", "stroke-width": link.width * zoom + 3 });
      add("line", { ...line, stroke: link.colour, "stroke-width": link.width * zoom });
    }
    for (const link of weakestFirst) for (const box of boxes(link)) {
      add("rect", { ...box, rx: 2, fill: "none", stroke: "#fff", "stroke-width": 5 });
      add("rect", { ...box, rx: 2, fill: "none", stroke: link.colour, "stroke-width": 2 });
      const side = 18 * zoom, y = box.y >= side ? box.y - side : box.y + box.height;
      add("rect", { x: box.x, y, width: side, height: side, rx: 3, fill: link.colour, stroke: "#fff", "stroke-width": 1 });
      add("text", { x: box.x + side / 2, y: y + side / 2, fill: link.ink, "font-size": 13 * zoom }, link.number);
    }
  }

  updateGroups(groups) {
    for (const side of this.sides) side.showWhere(null); // a button that is removed tells nobody that it was left
    this.parts.pair.classList.remove("pointing");
    const focused = this.parts.groups.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    this.parts.groups.replaceChildren(...groups.map(group => this.group(group)));
    const again = [...this.parts.groups.querySelectorAll("[data-key]")].find(one => one.dataset.key === focused);
    if (again) again.focus();
  }

  group(group) {
    const root = made("div", group.main ? "group" : "group apart"), list = made("ul");
    list.append(...group.attributes.map(attribute => this.attribute(group, attribute)));
    root.append(made("h3", "", group.title), list);
    return root;
  }

  attribute(group, attribute) {
    const row = made("li"), shown = made(attribute.map ? "button" : "div", "attribute");
    const track = made("span", "track"), share = made("i"), side = this.sides.find(one => one.name === group.over);
    share.style.setProperty("--share", `${100 * Math.min(Math.max(attribute.score, 0), 1)}%`);
    track.append(share);
    shown.append(made("span", "name", attribute.name), made("span", "score", attribute.score.toFixed(2)), track, made("span", "parts", attribute.parts));
    row.append(shown);
    if (!attribute.map || !side) return row;
    shown.type = "button";
    shown.dataset.key = `${group.title}: ${attribute.name}`;
    const show = on => {
      this.parts.pair.classList.toggle("pointing", on);
      side.showWhere(on ? attribute.map : null);
    };
    shown.addEventListener("pointerenter", () => show(true));
    shown.addEventListener("pointerleave", () => show(document.activeElement === shown));
    shown.addEventListener("focus", () => show(true));
    shown.addEventListener("blur", () => show(false));
    shown.addEventListener("click", () => { shown.focus(); show(true); });
    shown.addEventListener("keydown", event => { if (event.key === "Escape") shown.blur(); });
    return row;
  }
}

const views = document.getElementById("views"); // of a report
if (views) {
  document.body.classList.toggle("framed", window !== window.top); // in a notebook
  const all = JSON.parse(views.textContent);
  all.forEach((view, i) => {
    const title = all.length > 1 ? `Reference ${i + 1} of ${all.length}: ${view.title}` : view.title;
    new Explanation(document.getElementById("explanations")).update(view, { title });
  });
}
