/** The page: its key, its address, and where pictures come from. */

import { call, key } from "./api.js";
import "./code.js";
import { $, say, warn, warning } from "./dom.js";
import { choose, dollars, prepare, refresh, submit } from "./form.js";
import { refreshHistory } from "./history.js";
import { close, leave, open } from "./job.js";

/** Show whose key it is and what is left. */
async function greet() {
  const { user } = await call("users");
  const { team } = user.teams[0];
  $("#team").textContent = `${team.name}, ${dollars(team.credit)} left`;
  $("#forget").hidden = false;
  $("#access").hidden = true;
  await refreshHistory();
}

function ask() {
  $("#access").hidden = false;
  $("#forget").hidden = $("#history").hidden = true;
  $("#team").textContent = "";
  $("#key").focus();
}

async function follow() {
  const uuid = new URLSearchParams(location.hash.slice(1)).get("job");
  if (!uuid) close();
  else if (key.get()) await open(uuid);
}

async function send() {
  warn(null);
  if (!key.get()) return ask();
  if ($("#submit").ariaBusy) return null;
  $("#submit").ariaBusy = "true";
  leave("Sending");
  $("#stage").scrollIntoView();
  try {
    location.hash = `job=${await submit()}`;
  } catch (problem) {
    close();
    throw problem;
  } finally { $("#submit").ariaBusy = null; }
  return refreshHistory();
}

$("#access").addEventListener("submit", warning(async () => {
  key.set($("#key").value.trim());
  $("#key").value = "";
  await greet();
  warn(null);
  say("The key is good");
  await follow();
}));
$("#forget").addEventListener("click", () => { key.forget(); location.hash = ""; ask(); });
document.addEventListener("unauthorized", () => { key.forget(); ask(); });
document.addEventListener("ended", warning(greet));
addEventListener("hashchange", warning(follow));

$("#settings").addEventListener("input", refresh);
$("#settings").addEventListener("submit", warning(send));

const chosen = warning(async ({ target, dataTransfer, clipboardData }) => {
  const [file] = (dataTransfer ?? clipboardData ?? target).files;
  if (!file) return;
  await choose(file);
  leave();
});
$("#file").addEventListener("change", chosen);
$("#file").addEventListener("click", ({ target }) => { target.value = ""; }); // so that the same file may come again
addEventListener("drop", chosen);
addEventListener("paste", (event) => { if (event.clipboardData.files.length) chosen(event); });
addEventListener("dragover", (event) => event.preventDefault());
for (const name of ["dragover", "dragleave", "drop"]) {
  addEventListener(name, () => $("#source").classList.toggle("over", name === "dragover"));
}

await warning(async () => {
  await prepare();
  if (!key.get()) return ask();
  await greet();
  await follow();
})();
