/** One picture large, or wiped over by its source, or beside it. */

import { $ } from "./dom.js";

const viewer = $("#viewer");
const modes = viewer.querySelectorAll("[data-mode]");
const pressed = (button) => button.getAttribute("aria-pressed") === "true";

/** Show a picture; `source` is what it may be compared with. */
export function view(picture, { source = "", comparing = false } = {}) {
  Object.assign($("#after"), { src: picture.src, alt: picture.alt });
  $("#before").src = source || picture.src;
  for (const button of modes) button.hidden = !source;
  $("#frame").style.setProperty("--ratio", picture.naturalWidth / picture.naturalHeight);
  $("#wipe").value = 50;
  wipe();
  compare(comparing ? "over" : "");
  enlarge(false);
  viewer.showModal();
  if (comparing) $("#wipe").focus();
}

function wipe() {
  $("#frame").style.setProperty("--shown", `${$("#wipe").value}%`);
}

/** Show the source `over` the picture, as far as it is wiped, or `beside` it, or not. */
function compare(mode) {
  for (const button of modes) button.setAttribute("aria-pressed", button.dataset.mode === mode);
  $("#frame").dataset.mode = mode;
  $("#before").hidden = !mode;
  $("#wipe").hidden = mode !== "over";
}

function enlarge(on) {
  $("#actual").setAttribute("aria-pressed", on);
  viewer.classList.toggle("actual", on);
}

$("#wipe").addEventListener("input", wipe);
for (const button of modes) button.addEventListener("click", () => compare(pressed(button) ? "" : button.dataset.mode));
$("#actual").addEventListener("click", ({ target }) => enlarge(!pressed(target)));
viewer.addEventListener("click", ({ target }) => { if (target === viewer) viewer.close(); });
