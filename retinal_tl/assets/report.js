"use strict";
const find = id => document.getElementById(id);
const items = [...document.querySelectorAll("#list li")], links = items.map(item => item.querySelector("a"));
const off = new Set(); // lesions that are switched off
let current = -1; // index of the photograph that is shown

// A new element inside another one.
function add(parent, name, attributes, text) {
  const svg = ["image", "path", "g"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const key in attributes) made.setAttribute(key, attributes[key]);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
}

function switchLayers() {
  for (const path of document.querySelectorAll("#picture g path"))
    path.style.display = off.has(path.dataset.lesion) ? "none" : "";
  const grid = document.querySelector("#picture .grid"); // around the fovea, where that is known
  if (grid) grid.style.display = find("grid").checked ? "" : "none";
}

function setOpacity() {
  const layers = document.querySelector("#picture g");
  if (layers) layers.style.opacity = find("opacity").value / 100;
  find("opacity-value").textContent = find("opacity").value + " %";
}

function setZoom() {
  const zoom = Number(find("zoom").value);
  find("picture").style.width = zoom * 100 + "%";
  find("picture").classList.toggle("zoomed", zoom > 1);
}

// Put a photograph with its layers, warnings and numbers into the page.
function show(index) {
  if (!items[index]) return;
  current = index;
  const eye = JSON.parse(find("data-" + items[index].dataset.number).textContent);
  links.forEach(link => link.removeAttribute("aria-current"));
  links[index].setAttribute("aria-current", "true");
  links[index].scrollIntoView({ block: "nearest", inline: "nearest" });
  find("name").textContent = eye.name;
  const picture = find("picture");
  picture.replaceChildren();
  picture.setAttribute("viewBox", `0 0 ${eye.width} ${eye.height}`);
  picture.setAttribute("aria-label", eye.name + ", with the lesions that are switched on");
  if (eye.picture) add(picture, "image", { href: eye.picture, width: eye.width, height: eye.height });
  const layers = add(picture, "g", {});
  for (const [lesion, path] of Object.entries(eye.layers))
    add(layers, "path", { d: path, "data-lesion": lesion, fill: colors[lesion], stroke: colors[lesion] });
  if (eye.grid) add(picture, "path", { d: eye.grid, class: "grid" });
  find("warnings").replaceChildren();
  for (const sentence of eye.warnings) add(find("warnings"), "p", { class: "warning" }, sentence);
  const body = find("numbers");
  body.replaceChildren();
  for (const row of eye.rows) {
    const line = add(body, "tr", {});
    for (const [text, value, number] of row)
      add(line, "td", { "data-value": value, class: number ? "number" : "" }, text);
  }
  const visible = items.map((item, i) => i).filter(i => !items[i].hidden);
  find("previous").disabled = !visible.some(i => i < index);
  find("next").disabled = !visible.some(i => i > index);
  switchLayers(); setOpacity(); setZoom();
}

// Go to the next photograph that is listed, or with -1 to the one before.
function step(by) {
  for (let i = current + by; i >= 0 && i < items.length; i += by)
    if (!items[i].hidden) { location.hash = items[i].dataset.number; return; }
}

// List only the photographs that the search and the filter ask for.
function select() {
  const text = find("search").value.toLowerCase(), which = find("which").value;
  let count = 0;
  for (const item of items) {
    const wanted = which === "all" || item.dataset[which] === "yes";
    item.hidden = !(wanted && item.textContent.toLowerCase().includes(text));
    count += !item.hidden;
  }
  find("shown").textContent = count + " of " + items.length + " shown";
}

// Show the photograph whose number stands in the address.
function follow() {
  const number = location.hash.slice(1), index = items.findIndex(item => item.dataset.number === number);
  show(index < 0 ? Math.max(current, 0) : index);
}

const colors = JSON.parse(find("colors").textContent);
if (items.length) {
  for (const box of document.querySelectorAll("#layers input"))
    box.addEventListener("change", () => { box.checked ? off.delete(box.value) : off.add(box.value); switchLayers(); });
  if (find("grid")) find("grid").addEventListener("change", switchLayers);
  find("opacity").addEventListener("input", setOpacity);
  find("zoom").addEventListener("change", setZoom);
  find("search").addEventListener("input", select);
  find("which").addEventListener("change", select);
  find("previous").addEventListener("click", () => step(-1));
  find("next").addEventListener("click", () => step(1));
  addEventListener("hashchange", follow);
  addEventListener("keydown", event => {
    if (/INPUT|SELECT|TEXTAREA/.test(event.target.tagName) || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  select();
  follow();
}
