/** The job that the address names: its progress, its variations, its end. */

import { call, post, read, watch } from "./api.js";
import { view } from "./compare.js";
import { $, copy, made, say, warn, warning } from "./dom.js";
import { adopt, cost, sizeOf, source, vary, varyStored } from "./form.js";

const ADVICE = {
  CONTENT_FLAGGED: "Try another seed or another picture.",
  DEADLINE_EXCEEDED: "Ask for fewer steps or variations, or try again when there is less to do.",
  SOURCE_UNUSABLE: "Choose the picture again, so that it is uploaded anew; if that fails too, save it as PNG first.",
};

let shown = "";
let watching = new AbortController();

/** Show a job and follow it to its end. */
export async function open(uuid) {
  watching.abort();
  if (uuid !== shown) close("Reading the job");
  const { signal } = watching = new AbortController();
  shown = uuid;
  const record = await read(uuid, 0, signal);
  adopt(record);
  await showSource(record.additionalData.source, signal);
  if (signal.aborted) return;
  show(record);
  if (record.status !== "PROCESSING") return;
  let lost = false;
  for await (const news of watch(uuid, signal)) {
    if (news.problem || lost) warn(news.problem);
    lost = Boolean(news.problem);
    if (news.record && news.record.status !== "PROCESSING") {
      show(news.record);
      document.dispatchEvent(new Event("ended"));
    } else if (!news.problem) tell(news);
  }
}

/** Leave the job and its address. */
export function leave(instead) {
  history.pushState(null, "", "#");
  close(instead);
}

/** Leave the job on the server and the page empty, but for what is going on instead. */
export function close(instead = "") {
  watching.abort();
  $("#job").hidden = !instead;
  $("#told").textContent = instead;
  $("#progress").hidden = false;
  $("#progress").removeAttribute("value");
  $("#cancel").hidden = true;
  $("#variations").replaceChildren();
}

async function showSource(key, signal) {
  if (source?.key === key) return;
  await varyStored(key).catch((problem) => {
    if (problem.status !== 404) throw problem;
    if (!signal.aborted) vary({ key, name: "The source was deleted" });
  });
}

function show(record) {
  const { additionalData: told, aiRecordDetail: detail } = record;
  const going = record.status === "PROCESSING";
  $("#job").hidden = false;
  $("#progress").hidden = $("#cancel").hidden = !going;
  $("#job").dataset.status = record.status;
  const { width, height } = sizeOf(told.parameters);
  $("#variations").style.setProperty("--shape", `${width} / ${height}`);
  const left = told.temporaryUrls.map((url, n) => ({ url, key: detail.resultObject[n] }));
  $("#variations").replaceChildren(...told.seeds.flatMap((seed) => {
    const flagged = told.flagged.find((each) => each.seed === seed);
    if (flagged) return note("withheld", `Seed ${seed} is withheld: the safety checker found it unsafe (${flagged.score.toFixed(2)})`);
    if (going) return note("waiting", "Waiting");
    const kept = left.shift();
    return kept ? variation(seed, kept) : [];
  }));
  if (going) tell({ ...told, ...told.progress });
  else end(record);
}

function tell({ queuePosition, step, steps, each = [], estimatedSeconds }) {
  const time = estimatedSeconds ? `, about ${Math.ceil(estimatedSeconds)} s left` : "";
  const running = steps !== undefined;
  const waits = queuePosition ? `Number ${queuePosition} in the queue` : "Loading the picture";
  const what = running ? `Step ${step} of ${steps}` : waits;
  const reached = (made) => (!made ? "Waiting" : made < steps ? `Step ${made} of ${steps}` : "Ready, the others follow");
  for (const [n, item] of document.querySelectorAll("#variations .waiting").entries()) item.textContent = reached(each[n] ?? step);
  $("#told").textContent = what + time;
  if (running) $("#progress").value = step / steps;
  else $("#progress").removeAttribute("value");
  if (!running || step === 0) say(running ? "Running" : what);
}

function failed({ code, message }) {
  if (code === "CANCELED") return "Canceled; nothing was charged";
  const advice = ADVICE[code] ?? "Try again; if it happens again, tell who runs this service the job's address.";
  return `Failed: ${message.replace(/\.?$/, ".")} ${advice}`;
}

function end({ status, additionalData: told, aiRecordDetail: { resultObject } }) {
  const n = told.temporaryUrls.length;
  const done = `${n} variation${n === 1 ? "" : "s"} in ${(told.timings.runSeconds ?? 0).toFixed(1)} s for `
    + cost(told.price.charged ?? 0);
  const text = told.deletedAt ? "The variations of this job were deleted" : status === "SUCCESS" ? done : failed(resultObject);
  $("#told").textContent = text;
  say(text);
}

function note(kind, text) {
  const item = document.createElement("li");
  item.className = kind;
  item.textContent = text;
  return item;
}

function variation(seed, { url, key }) {
  const item = made("variation");
  const picture = $("img", item);
  Object.assign(picture, { src: url, alt: `Variation with seed ${seed}` });
  $("code", item).textContent = seed;
  $(".picture", item).setAttribute("aria-label", `Zoom into the variation with seed ${seed}`);
  const against = { source: source?.url };
  const acts = {
    zoom: () => view(picture, against),
    compare: () => view(picture, { ...against, comparing: true }),
    copy: () => copy($("code", item), "Seed"),
    download: async () => location.assign((await call(`api/assets/${key}`)).asset.downloadUrl),
    again: async () => { await varyStored(key); leave(); $("#settings").scrollIntoView(); },
  };
  for (const button of item.querySelectorAll("button")) button.addEventListener("click", warning(acts[button.dataset.act]));
  return item;
}

$("#cancel").addEventListener("click", warning(() => post(`api/results/${shown}/cancel`)));
$("#source-zoom").addEventListener("click", () => view($("#source-zoom img")));
