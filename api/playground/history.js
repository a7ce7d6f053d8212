/** The team's jobs, newest first; each leads to its address. */

import { call } from "./api.js";
import { $, made, warning } from "./dom.js";

const WORDS = { PROCESSING: "in progress", SUCCESS: "succeeded", FAILURE: "failed" };
let next = "";

async function load(cursor = "") {
  const asked = new URLSearchParams({ limit: 12 });
  if ($("#status").value) asked.set("status", $("#status").value);
  if (cursor) asked.set("cursor", cursor);
  const { aiRecords, nextCursor } = await call(`api/results?${asked}`);
  const entries = aiRecords.map(entry);
  if (cursor) $("#entries").append(...entries);
  else $("#entries").replaceChildren(...entries);
  next = nextCursor;
  $("#more").hidden = !next;
  $("#history").hidden = false;
}

function entry({ uuid, status, createdAt, temporaryUrl, aiRecordDetail: { resultObject }, additionalData: { parameters } }) {
  const item = made("entry");
  const [link, picture, state, time] = [$("a", item), $("img", item), $("span", item), $("time", item)];
  link.href = `#job=${uuid}`;
  if (temporaryUrl) picture.src = temporaryUrl;
  else picture.remove();
  $("b", item).textContent = `${parameters.num_outputs} × ${parameters.aspect_ratio}`;
  Object.assign(state, { textContent: resultObject.code === "CANCELED" ? "canceled" : WORDS[status], className: status });
  Object.assign(time, { dateTime: createdAt, textContent: new Date(createdAt).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) });
  return item;
}

/** Show the newest jobs. */
export const refreshHistory = warning(() => load());

$("#status").addEventListener("change", refreshHistory);
$("#more").addEventListener("click", warning(() => load(next)));
