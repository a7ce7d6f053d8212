/** The service on the wire: calls, what their errors mean to a person, and a job's events. */

const ADVICE = {
  0: "Check your connection, then try again. A job that was accepted goes on.",
  400: "Change what it names and send again.",
  401: "Paste another key; who runs this service makes one.",
  404: "It may have been deleted, or belong to another team.",
  406: "Ask for fewer variations, fewer steps or 0.25 megapixels, or ask who runs this service for credit.",
  413: "Choose a smaller picture.",
  415: "Save the picture as PNG, JPEG or WebP and choose that.",
};
const SILENCE = 40; // seconds; the server says something every 15

/** What went wrong, in plain words; `status` 0 means that no answer came. */
export class Problem extends Error {
  constructor(message, { status = 400, advice = ADVICE[status], later = 0 } = {}) {
    super(message);
    Object.assign(this, { status, later, advice: advice ?? `Try again in ${later || "some"} seconds.` });
  }

  /** Whether trying again by itself may help. */
  get passing() { return this.status === 0 || this.status === 429 || this.status >= 500; }
}

export const key = {
  get: () => sessionStorage.getItem("key") ?? "",
  set: (value) => sessionStorage.setItem("key", value),
  forget: () => sessionStorage.removeItem("key"),
};

async function answered(path, { headers, ...options } = {}) {
  const answer = await fetch(path, { cache: "no-store", ...options, headers: { "API-KEY": key.get(), ...headers } })
    .catch((error) => {
      throw error.name === "AbortError" ? error : new Problem("The service cannot be reached", { status: 0 });
    });
  if (answer.ok) return answer;
  const { message } = await answer.json().catch(() => ({ message: `The service answered ${answer.status}` }));
  throw new Problem(message, { status: answer.status, later: Number(answer.headers.get("Retry-After")) });
}

/** @returns {Promise<any>} the answer to a call, from JSON */
export const call = async (path, options) => (await answered(path, options)).json();

export const post = (path, body, headers) => call(path, { method: "POST", body, headers });

/** @returns {Promise<any>} the aiRecord of a job, after so many seconds or at its end */
export async function read(uuid, seconds = 0, signal = undefined) {
  const { aiRecord } = await call(`api/results/${encodeURIComponent(uuid)}?wait=${seconds}`, { signal });
  if (!aiRecord) throw new Problem("Your team has no such job", { status: 404 });
  return aiRecord;
}

/** Events of a stream; EventSource would do but cannot send the key. */
async function* events(uuid, last, signal) {
  const headers = { Accept: "text/event-stream", "Last-Event-ID": last };
  const { body } = await answered(`api/results/${encodeURIComponent(uuid)}/events`, { headers, signal });
  const reader = body?.pipeThrough(new TextDecoderStream()).getReader();
  for (let text = ""; reader;) {
    const silent = setTimeout(() => reader.cancel(), SILENCE * 1000);
    const { value, done } = await reader.read().finally(() => clearTimeout(silent));
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: ?(.*)/s)));
      if (fields.data) yield { id: fields.id, name: fields.event, data: JSON.parse(fields.data) };
    }
  }
}

/** A record's news in the shape of an event's. */
const news = (record) => ({ record, ...record.additionalData, ...record.additionalData.progress });

/**
 * Tell where a job is until it ends: by events, resumed after the last one, and by polling where none come.
 * @yields {{record?: any, queuePosition?: number, step?: number, steps?: number, estimatedSeconds?: number,
 *   problem?: Problem}} what is new; with `record` when it has been read, with `problem` while there is no connection
 */
export async function* watch(uuid, signal) {
  let last = "";
  for (let pause = 1; !signal.aborted; pause = Math.min(2 * pause, 15)) {
    let heard = false;
    try {
      for await (const { id, name, data } of events(uuid, last, signal)) {
        [last, heard, pause] = [id, true, 1];
        yield name === "finished" ? news(data.aiRecord) : data;
        if (name === "finished") return;
      }
    } catch (problem) { unlessPassing(problem, signal); }
    if (heard) continue;
    try {
      const record = await read(uuid, 20, signal);
      yield news(record);
      if (record.status !== "PROCESSING") return;
    } catch (problem) {
      unlessPassing(problem, signal);
      yield { problem };
      await new Promise((resume) => { setTimeout(resume, 1000 * (problem.later || pause)); });
    }
  }
}

/** A connection that breaks in the middle of a stream is a TypeError of the browser's. */
function unlessPassing(problem, signal) {
  if (signal.aborted || !(problem.passing || problem instanceof TypeError)) throw problem;
}
