/** The page: its key, its address, and where pictures come from. */

import { call, key } from "./api.js";
import "./code.js";
import { $, say, warn, warning } from "./dom.js";
import { choose, disown, dollars, prepare, refresh, source, submit } from "./form.js";
import { refreshHistory } from "./history.js";
import { close, leave, open } from "./job.js";

let owner = ""; // the team whose pictures the page has

/** Show whose key it is and what is left. */
async function greet() {
  const { user } = await call("users");
  const { team } = user.teams[0];
  if (owner && owner !== team.uuid) {
    close();
    disown();
  }
  owner = team.uuid;
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
  const chosen = source;
  try {
    const uuid = await submit();
    if (source === chosen) location.hash = `job=${uuid}`;
    else say("The job was accepted; your team's jobs have it");
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
