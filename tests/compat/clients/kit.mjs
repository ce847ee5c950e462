// What the Node clients' scripts share, as kit.py for Python's: they make the calls, this judges and prints one JSON line per case.
//
// A face is a function of a key that gives an object with a function per case, and `notFound`, `unauthorized`: predicates of an
// error. After the line of an abort it waits for a line on stdin: only a client that is still there has closed its connection by itself.

import { isDeepStrictEqual } from 'node:util';
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';

export const URL = process.env.COMPAT_URL;
export const EXPECTED = JSON.parse(readFileSync(new globalThis.URL('expected.json', import.meta.url)));
const VALUE = { place: EXPECTED.string, days: EXPECTED.integer };

/** A function's parameters and a value's form, as JSON schemas. */
export const CITY = {
  type: 'object',
  properties: { city: { type: 'string' } },
  required: ['city'],
  additionalProperties: false,
};
export const STAY = {
  type: 'object',
  properties: { place: { type: 'string' }, days: { type: 'integer' } },
  required: ['place', 'days'],
  additionalProperties: false,
};

function same(what, got, wanted) {
  if (!isDeepStrictEqual(got, wanted)) throw new Error(`${what}: got ${JSON.stringify(got)}, wanted ${JSON.stringify(wanted)}`);
}

/** `usage` is left out where the client does not show it. */
function sameUsage({ usage }) {
  if (usage) same('usage', usage, [EXPECTED.input_tokens, EXPECTED.output_tokens]);
}

/** Each gets a face, a model and a prompt, throws where something is wrong, and gives back what it saw. */
const cases = {
  async plain(face, model, prompt) {
    const answer = await face.plain(model, prompt);
    same('text', answer.text, EXPECTED.sentence);
    sameUsage(answer);
    return answer;
  },

  async stream(face, model, prompt) {
    const stream = await face.stream(model, prompt);
    same('text', stream.pieces.join(''), EXPECTED.sentence);
    if (stream.pieces.filter(Boolean).length < 2) throw new Error(`came in one piece: ${stream.pieces}`);
    sameUsage(stream);
    return stream;
  },

  async tools(face, model, prompt) {
    const tools = await face.tools(model, prompt);
    same('tool', tools.name, EXPECTED.tool);
    same('arguments', tools.arguments, { city: EXPECTED.string });
    if (!tools.answer.includes(EXPECTED.tool_result)) throw new Error(`answer: ${tools.answer}`);
    return tools;
  },

  async schema(face, model, prompt) {
    const values = await face.schema(model, prompt);
    for (const value of values) same('value', value, VALUE);
    return values;
  },

  /** A model the provider does not know, one the gateway does not know, a key nobody has. */
  async error(face, model, prompt, makeFace) {
    const calls = [
      [face, `${model.split('-')[0]}-missing`, 'notFound'],
      [face, EXPECTED.unknown_model, 'notFound'],
      [makeFace(EXPECTED.wrong_key), model, 'unauthorized'],
    ];
    const seen = [];
    for (const [caller, name, kind] of calls) {
      const error = await caller.plain(name, prompt).then(() => undefined, (error) => error);
      if (!error) throw new Error(`no error for ${name}`);
      if (!caller[kind](error)) throw new Error(`${name}: got ${error.constructor.name}: ${error.message}, wanted ${kind}`);
      seen.push(`${error.constructor.name}: ${error.message}`);
    }
    return seen;
  },

  /** A stream whose provider breaks off: its client says so, and gives no answer. */
  async broken(face, model, prompt) {
    const { stream, error } = await face.stream(model, prompt).then((stream) => ({ stream }), (error) => ({ error }));
    if (!error) throw new Error(`no error, but ${stream.pieces}`);
    if (!`${error.message}`.includes(EXPECTED.broken)) throw error;
    return `${error.constructor.name}: ${error.message}`;
  },

  async abort(face, model, prompt) {
    const nonce = randomBytes(6).toString('hex');
    const piece = await face.abort(model, prompt.replace('{nonce}', nonce));
    if (!piece || !EXPECTED.sentence.startsWith(piece)) throw new Error(`first piece: ${piece}`);
    return { nonce, piece };
  },
};

async function outcomeOf(face, model, name, makeFace) {
  const started = performance.now();
  const { ok, saw } = await cases[name](face, model, EXPECTED.prompts[name], makeFace).then(
    (saw) => ({ ok: true, saw }),
    (error) => ({ ok: false, saw: `${error?.constructor?.name}: ${error?.message} ${error?.stack?.split('\n')[1]?.trim() ?? ''}` }),
  );
  return { case: name, ok, saw, seconds: Math.round(performance.now() - started) / 1000 };
}

/** Run every case of the endpoint named on the command line, against every model. */
export async function main(faces) {
  const makeFace = faces[process.argv[2]];
  const face = makeFace(process.env.COMPAT_KEY);
  const input = createInterface({ input: process.stdin });
  const lines = input[Symbol.asyncIterator]();
  for (const [format, model] of Object.entries(JSON.parse(process.env.COMPAT_MODELS))) {
    for (const name of process.env.COMPAT_CASES.split(' ')) {
      const outcome = await outcomeOf(face, model, name, makeFace);
      process.stdout.write(`${JSON.stringify({ format, model, ...outcome })}\n`);
      if (name === 'abort' && outcome.ok) await lines.next();
    }
  }
  process.exit(); // some clients keep their connections, and Node with them
}
