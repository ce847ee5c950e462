// One call of the OpenAI SDK per line of stdin, its outcome as one line of stdout. It judges nothing: the tests do.

import { createInterface } from 'node:readline';
import OpenAI from 'openai';

const clients = new Map();
let begun; // the stream `begin` has opened and `goOn` reads to its end

/** One client per gateway and set of options, kept as an application keeps it. */
function clientOf(options) {
  const name = JSON.stringify(options);
  if (!clients.has(name)) clients.set(name, new OpenAI(options));
  return clients.get(name);
}

async function textsOf(stream) {
  let text = '';
  for await (const chunk of stream) text += chunk.choices.map((choice) => choice.delta.content ?? '').join('');
  return text;
}

/** `seen` is reported even when the call fails: what an application had been handed by then. */
const operations = {
  async create(client, { body, options }) {
    const { data, response, request_id } = await client.chat.completions.create(body, options).withResponse();
    return { data, request_id, _request_id: data._request_id, headers: Object.fromEntries(response.headers) };
  },

  async stream(client, { body, options, leaveAfter }, seen) {
    const call = client.chat.completions.create({ ...body, stream: true }, options);
    const { data, request_id } = await call.withResponse();
    Object.assign(seen, { request_id, chunks: [] });
    for await (const chunk of data) if (seen.chunks.push(chunk) === leaveAfter) break;
  },

  async begin(client, { body }, seen) {
    begun = (await client.chat.completions.create({ ...body, stream: true }))[Symbol.asyncIterator]();
    seen.chunks = [(await begun.next()).value];
  },

  async goOn(client, given, seen) {
    seen.chunks = [];
    for await (const chunk of begun) seen.chunks.push(chunk);
  },

  async helper(client, { body }, seen) {
    seen.text = '';
    const runner = client.chat.completions.stream(body).on('content', (delta) => (seen.text += delta));
    return await runner.finalChatCompletion();
  },

  async parallel(client, { bodies }) {
    return await Promise.all(
      bodies.map(async (body) => {
        const answer = await client.chat.completions.create(body);
        return body.stream ? await textsOf(answer) : answer.choices[0].message.content;
      }),
    );
  },

  async refusals(client, { bodies }) {
    return await Promise.all(bodies.map((body) => client.chat.completions.create(body).then(() => null, describe)));
  },

  async models(client) {
    const models = [];
    for await (const model of client.models.list()) models.push(model);
    return models;
  },

  async model(client, { id }) {
    return await client.models.retrieve(id);
  },
};

function describe(error) {
  return {
    exception: error.constructor.name,
    isAPIError: error instanceof OpenAI.APIError,
    status: error.status ?? null,
    code: error.code ?? null,
    param: error.param ?? null,
    type: error.type ?? null,
    message: error.message,
    request_id: error.requestID ?? null,
    headers: error.headers ? Object.fromEntries(error.headers) : {},
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { operation, client, ...given } = JSON.parse(line);
  const seen = {};
  const outcome = await operations[operation](clientOf(client), given, seen).then(
    (value) => ({ value }),
    (error) => ({ error: describe(error) }),
  );
  process.stdout.write(`${JSON.stringify({ ...outcome, seen })}\n`);
}
