/** What every room needs of the page. */

/** @returns {HTMLElement} the one element that a selector names */
export const $ = (selector, root = document) => root.querySelector(selector);

/** @returns {HTMLElement} a new element made after a template */
export const made = (template) => $(`#${template}`).content.firstElementChild.cloneNode(true);

/** Say something to those who listen to the page. */
export const say = (text) => { $("#said").textContent = text; };

/** Show what went wrong and what to do; with no problem, take the last one away. */
export function warn(problem) {
  $("#alert").replaceChildren();
  if (!problem) return;
  const [what, advice] = [document.createElement("strong"), document.createElement("p")];
  what.textContent = problem.message;
  advice.textContent = problem.advice ?? "Reload the page; if it happens again, tell who runs this service.";
  $("#alert").append(what, advice);
  if (problem.status === 401) document.dispatchEvent(new Event("unauthorized"));
}

/** @returns {Function} an event handler that shows what goes wrong in `action` */
export const warning = (action) => async (event) => {
  event?.preventDefault();
  try { await action(event); } catch (problem) { if (problem.name !== "AbortError") warn(problem); }
};

/** Copy an element's text, without https in the old way; if a browser forbids both, the text is at least selected. */
export async function copy(element, what) {
  getSelection().selectAllChildren(element);
  try { await navigator.clipboard.writeText(element.textContent); } catch { document.execCommand("copy"); }
  say(`${what} copied`);
}

/** @returns {string} a number as people write it */
export const counted = (number) => number.toLocaleString("en");
