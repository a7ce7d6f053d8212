/** The request as it stands, as lines to paste into a terminal or a Python file. */

import { $, copy } from "./dom.js";
import { parameters, request, source } from "./form.js";

/** @returns {string} text as one word of a shell */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

function curl(base, key, name) {
  const body = quoted(JSON.stringify(request(key ?? "<key>"), null, 2));
  const begin = 'curl -sS -H "API-KEY: $REDUXQ_API_KEY" \\\n  ';
  const call = `${begin}-H 'Content-Type: application/json' ${base}/api/features -d `;
  if (key) return call + body;
  const file = quoted(`asset=@"${name.replace(/["\\]/g, "\\$&")}"`);
  const upload = `IMAGE=$(${begin}-F ${file} ${base}/api/assets |\n  grep -o '"key":"[^"]*' | cut -d'"' -f4)`;
  return `${upload}\n${call}${body.replace("<key>", "'\"$IMAGE\"'")}`;
}

function python(base, image) {
  const told = { image, ...parameters() };
  const lines = Object.entries(told).map(([name, value]) => {
    const written = typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
    return `        ${name}=${written},\n`;
  });
  return `from reduxq import Client\n\nwith Client("${base}") as client:\n`
    + `    job = client.variations.create(\n${lines.join("")}    )\n    job.wait()\n    job.download("variations")`;
}

function show() {
  const base = new URL(".", document.baseURI).href.replace(/\/$/, "");
  const name = source?.name ?? "cat.png";
  $("#curl").textContent = curl(base, source?.file ? undefined : source?.key, name);
  $("#python").textContent = python(base, source?.file ? name : source?.key ?? name);
}

document.addEventListener("request", show);
for (const button of document.querySelectorAll("[data-copies]")) {
  const what = button.dataset.copies;
  button.addEventListener("click", async () => {
    await copy($(`#${what}`), button.textContent.replace("Copy ", ""));
    button.classList.add("done");
    setTimeout(() => button.classList.remove("done"), 1500);
  });
}
