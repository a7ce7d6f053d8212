/** One picture large, or wiped over by its source. */

import { $ } from "./dom.js";

const viewer = $("#viewer");
const pressed = (button) => button.getAttribute("aria-pressed") === "true";

/** Show a picture; `source` is what it may be compared with. */
export function view(picture, { source = "", comparing = false } = {}) {
  Object.assign($("#after"), { src: picture.src, alt: picture.alt });
  $("#before").src = source || picture.src;
  $("#comparing").hidden = !source;
  $("#frame").style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  $("#wipe").value = 50;
  wipe();
  compare(comparing);
  enlarge(false);
  viewer.showModal();
  if (comparing) $("#wipe").focus();
}

function wipe() {
  $("#frame").style.setProperty("--shown", `${$("#wipe").value}%`);
}

function compare(on) {
  $("#comparing").setAttribute("aria-pressed", on);
  for (const part of ["#before", "#wipe"]) $(part).hidden = !on;
}

function enlarge(on) {
  $("#actual").setAttribute("aria-pressed", on);
  viewer.classList.toggle("actual", on);
}

$("#wipe").addEventListener("input", wipe);
$("#comparing").addEventListener("click", ({ target }) => compare(!pressed(target)));
$("#actual").addEventListener("click", ({ target }) => enlarge(!pressed(target)));
viewer.addEventListener("click", ({ target }) => { if (target === viewer) viewer.close(); });
