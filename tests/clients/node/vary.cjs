// One images.createVariation() of npm's openai.
// What to do comes as JSON on stdin, what came of it goes to stdout.
const fs = require("node:fs");
const { OpenAI, toFile } = require("openai");

const images = {
  stream: (path) => fs.createReadStream(path),
  blob: (path) => fs.openAsBlob(path),
  file: (path) => toFile(fs.createReadStream(path)),
  bytes: (path) => toFile(fs.readFileSync(path), "upload.bin"),
};

async function main() {
  const { path, as, parameters, ...options } = JSON.parse(fs.readFileSync(0, "utf8"));
  const client = new OpenAI({ maxRetries: 0, ...options });
  const body = { ...parameters };
  if ("image" in body) body.image = await images[as](path); // keeps its place among the parameters
  try {
    const answer = await client.images.createVariation(body);
    return { answer, requestId: answer._request_id };
  } catch (error) {
    const { status, code, param, type, message, requestID } = error;
    return { error: { kind: error.constructor.name, status, code, param, type, message, requestID } };
  }
}

main().then((result) => console.log(JSON.stringify(result)));
