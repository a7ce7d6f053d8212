/** The request that a person puts together: a source, the settings, and what they cost. */

import { call, post, Problem } from "./api.js";
import { $, counted, made, say, warn } from "./dom.js";

const form = $("#settings");
const RATIOS = {
  "1:1": "Square format: social media posts, profile pictures",
  "16:9": "Widescreen: landscape photography, banners",
  "21:9": "Ultra-wide: cinematic content, panoramic views",
  "3:2": "Standard photo: traditional photography",
  "2:3": "Portrait photo: vertical content, mobile screens",
  "4:5": "Portrait social: Instagram posts, social media",
  "5:4": "Landscape photo: print photography",
  "3:4": "Portrait format: artistic portraits",
  "4:3": "Standard format: general purpose, presentations",
  "9:16": "Vertical video: stories, mobile content",
  "9:21": "Ultra-tall: mobile banners, vertical designs",
};
const FORMATS = {
  webp: "Best for web optimization, smaller file sizes",
  jpg: "Best for general use, compatibility",
  png: "Best for high quality, transparency support",
};

/** What the server says of its model: sizes, price, limits. */
let model;
/** @type {{file?: File, key?: string, url?: string, name: string} | null} what is varied */
export let source = null;
let choices = 0; // so that what was chosen last stays, whatever comes later of what was chosen before

/** Ask what the server allows and draw the shapes. */
export async function prepare() {
  [model] = (await call("models")).models;
  const { limits, sizes } = model;
  for (const { aspect_ratio: ratio, width, height } of sizes.filter((each) => each.megapixels === "1")) {
    const shape = made("shape");
    Object.assign($("input", shape), { value: ratio, defaultChecked: ratio === "4:3" });
    const longest = Math.max(width, height);
    $("i", shape).style.width = `${(100 * width) / longest}%`;
    $("i", shape).style.height = `${(100 * height) / longest}%`;
    $("b", shape).textContent = ratio;
    $(".unseen", shape).textContent = `, ${RATIOS[ratio]}`;
    $("#ratios").append(shape);
  }
  $("#file").accept = limits.contentTypes.join(",");
  $("#limits").textContent = `${kinds()}, at most ${counted(limits.maxUploadBytes / 1e6)} MB and `
    + `${counted(limits.maxPixels / 1e6)} megapixels`;
  $("#safety").hidden = !limits.allowUnchecked;
  refresh();
}

const kinds = () => new Intl.ListFormat("en", { type: "disjunction" })
  .format(model.limits.contentTypes.map((type) => type.replace("image/", "").toUpperCase()));

/** @returns {Record<string, any>} the promptObject, but for imageUrl */
export function parameters() {
  const { safety_checker: checked, seed, ...chosen } = Object.fromEntries(new FormData(form));
  for (const name of ["num_outputs", "num_inference_steps", "output_quality"]) {
    if (name in chosen) chosen[name] = Number(chosen[name]);
  }
  return { ...chosen, ...(seed && { seed: Number(seed) }), disable_safety_checker: !checked };
}

/** @returns {object} the body of the request for variations of a stored picture, exactly */
export const request = (imageUrl) => ({
  type: "IMAGE_VARIATOR", model: model.modelId, async: true, promptObject: { imageUrl, ...parameters() },
});

/** @returns {{width: number, height: number}} of a variation, in pixels */
export const sizeOf = ({ aspect_ratio: ratio, megapixels }) => model.sizes.find(
  (size) => size.aspect_ratio === ratio && size.megapixels === megapixels,
);

/** @returns {bigint} whole credits, exact and rounded up as the server's are */
function price(chosen) {
  const { usd, pixels, steps, creditsPerUsd } = model.creditMetadata.IMAGE_VARIATOR;
  const { width, height } = sizeOf(chosen);
  const nano = BigInt(Math.round(usd * 1e9)) * BigInt(chosen.num_outputs * chosen.num_inference_steps * width * height);
  const over = BigInt(pixels * steps) * 10n ** 9n;
  return (nano * BigInt(creditsPerUsd) + over - 1n) / over;
}

/** @returns {string} credits in dollars, to so many digits */
export const dollars = (credits, digits = 2) => (
  `$${(Number(credits) / model.creditMetadata.IMAGE_VARIATOR.creditsPerUsd).toFixed(digits)}`
);

/** @returns {string} credits, in both currencies */
export const cost = (credits) => `${dollars(credits, 4)} (${counted(credits)} credits)`;

/** Make hints, outputs and the price agree with the settings. */
export function refresh() {
  const chosen = parameters();
  const { width, height } = sizeOf(chosen);
  $("#ratio-hint").textContent = `${RATIOS[chosen.aspect_ratio]}. ${width}\u00a0×\u00a0${height} pixels`;
  $("#format-hint").textContent = FORMATS[chosen.format];
  $("#quality").disabled = chosen.format === "png";
  $("#quality-hint").textContent = chosen.format === "png" ? "PNG loses nothing, so it has no quality" : "80 to 90 for most uses, 100 for print";
  for (const output of form.querySelectorAll(".field output")) output.value = $(`#${output.htmlFor}`).value;
  $("#price").textContent = cost(price(chosen));
  document.dispatchEvent(new Event("request"));
}

/** Vary a file, once it is seen to be a picture that the server takes. */
export async function choose(file) {
  const { contentTypes, maxPixels, maxUploadBytes } = model.limits;
  const advice = `Choose a picture that is ${kinds()}.`;
  if (!contentTypes.includes(file.type)) throw new Problem(`${file.name} is ${file.type || "of an unknown type"}`, { advice });
  if (file.size > maxUploadBytes) throw new Problem(`${file.name} has ${counted(file.size)} bytes; at most ${counted(maxUploadBytes)} are allowed`, { status: 413 });
  const picture = new Image();
  picture.src = URL.createObjectURL(file);
  await picture.decode().catch(() => { throw new Problem(`${file.name} is damaged or no picture`, { advice }); });
  const { naturalWidth: width, naturalHeight: height } = picture;
  if (width * height > maxPixels) throw new Problem(`${file.name} has ${width} × ${height} pixels; at most ${counted(maxPixels)} are allowed`, { status: 413 });
  vary({ file, name: file.name, url: picture.src, about: `${width} × ${height} pixels, ${counted(Math.ceil(file.size / 1000))} kB` });
}

/** Make something the source, or nothing, and show it. */
export function vary(chosen) {
  choices += 1;
  source = chosen;
  const { url, name, about = "" } = chosen ?? { name: "Drop a picture here", about: "or paste it, or" };
  $("#source-zoom").hidden = !url;
  if (url) $("#source-zoom img").src = url;
  $("#drop-title").textContent = name;
  $("#source-about").textContent = about;
  $("#source").classList.toggle("chosen", Boolean(url));
  warn(null);
  if (chosen) say(`The source is ${name}`);
  refresh();
}

/** Let go of what another team has stored; a file stays, to be uploaded again. */
export function disown() {
  if (source) vary(source.file ? { ...source, key: undefined } : null);
}

/** Vary a stored picture, a source of earlier or a variation, unless something else is chosen meanwhile. */
export async function varyStored(stored) {
  const mine = choices += 1;
  const { asset } = await call(`api/assets/${stored}`);
  if (mine !== choices) return;
  vary({ key: stored, name: stored.replace(/^.*\/(\d+_){7}/, ""), url: asset.temporaryUrl, about: `${counted(Math.ceil(asset.size / 1000))} kB` });
}

/** Take over the settings of a job; a seed that was drawn is not one of them. */
export function adopt({ additionalData: { parameters: used }, aiRecordDetail: { promptObject: asked } }) {
  form.reset();
  for (const { name } of [...form.elements]) if (name in used) form.elements[name].value = used[name];
  form.elements.seed.value = asked.seed ?? "";
  form.elements.safety_checker.checked = !used.disable_safety_checker;
  refresh();
}

/** The last request that was sent and its Idempotency-Key, so that sending it again after an error pays once. */
let sent = {};

/** @returns {Promise<string>} the id of the new job, made as it was asked for now, whatever is chosen meanwhile */
export async function submit() {
  if (!source) throw new Problem("There is no picture yet", { advice: "Drop, paste or choose one first." });
  const [chosen, asked] = [source, request("")];
  try {
    if (!chosen.key) {
      const body = new FormData();
      body.append("asset", chosen.file);
      chosen.key = (await post("api/assets", body)).asset.key;
    }
    asked.promptObject.imageUrl = chosen.key;
    const body = JSON.stringify(asked);
    if (sent.body !== body) sent = { body, token: crypto.getRandomValues(new Uint32Array(4)).join("-") };
    const headers = { "Content-Type": "application/json", "Idempotency-Key": sent.token };
    const { aiRecord } = await post("api/features", body, headers);
    sent = {};
    return aiRecord.uuid;
  } catch (problem) {
    if (chosen.file && problem.status === 400) chosen.key = undefined; // it may have been deleted
    throw problem;
  }
}
