// OpenAI's SDK for Node: chat completions and Responses.

import OpenAI from 'openai';
import { zodResponseFormat, zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';
import { CITY, EXPECTED, URL, main } from './kit.mjs';

const Stay = z.object({ place: z.string(), days: z.int() });
const WEATHER = { name: 'weather', description: 'The weather in a city', parameters: CITY };

const errors = {
  notFound: (error) => error instanceof OpenAI.NotFoundError,
  unauthorized: (error) => error instanceof OpenAI.AuthenticationError,
};

function chat(apiKey) {
  const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey });
  const usageOf = ({ prompt_tokens, completion_tokens }) => [prompt_tokens, completion_tokens];
  return {
    ...errors,

    async plain(model, content) {
      const done = await client.chat.completions.create({ model, messages: [{ role: 'user', content }] });
      return { text: done.choices[0].message.content, usage: usageOf(done.usage) };
    },

    async stream(model, content) {
      const messages = [{ role: 'user', content }];
      const options = { stream: true, stream_options: { include_usage: true } };
      const pieces = [];
      let usage;
      for await (const chunk of await client.chat.completions.create({ model, messages, ...options })) {
        pieces.push(...chunk.choices.map((choice) => choice.delta.content ?? ''));
        usage = chunk.usage ?? usage;
      }
      return { pieces, usage: usageOf(usage) };
    },

    /** The call comes streamed, the answer plain. */
    async tools(model, content) {
      const messages = [{ role: 'system', content: 'Be brief.' }, { role: 'user', content }];
      const tools = [{ type: 'function', function: WEATHER }];
      const { message } = (await client.chat.completions.stream({ model, messages, tools }).finalChatCompletion()).choices[0];
      const [call] = message.tool_calls;
      messages.push(message, { role: 'tool', tool_call_id: call.id, content: EXPECTED.tool_result });
      const answered = await client.chat.completions.create({ model, messages, tools });
      const { name, arguments: given } = call.function;
      return { name, arguments: JSON.parse(given), answer: answered.choices[0].message.content };
    },

    async schema(model, content) {
      const form = { response_format: zodResponseFormat(Stay, 'stay') };
      const done = await client.chat.completions.parse({ model, messages: [{ role: 'user', content }], ...form });
      return [done.choices[0].message.parsed];
    },

    async abort(model, content) {
      const messages = [{ role: 'user', content }];
      for await (const chunk of await client.chat.completions.create({ model, messages, stream: true })) {
        if (chunk.choices[0]?.delta.content) return chunk.choices[0].delta.content;
      }
    },
  };
}

function responses(apiKey) {
  const client = new OpenAI({ baseURL: `${URL}/v1`, apiKey });
  const usageOf = ({ input_tokens, output_tokens }) => [input_tokens, output_tokens];
  return {
    ...errors,

    async plain(model, input) {
      const done = await client.responses.create({ model, input });
      return { text: done.output_text, usage: usageOf(done.usage) };
    },

    async stream(model, input) {
      const pieces = [];
      const stream = client.responses.stream({ model, input });
      for await (const event of stream) if (event.type === 'response.output_text.delta') pieces.push(event.delta);
      return { pieces, usage: usageOf((await stream.finalResponse()).usage) };
    },

    /** The call comes streamed, the answer plain. */
    async tools(model, content) {
      const input = [{ role: 'user', content }];
      const tools = [{ type: 'function', strict: true, ...WEATHER }];
      const { output } = await client.responses.stream({ model, input, tools, instructions: 'Be brief.' }).finalResponse();
      const call = output.find((item) => item.type === 'function_call');
      input.push(...output, { type: 'function_call_output', call_id: call.call_id, output: EXPECTED.tool_result });
      const answered = await client.responses.create({ model, input, tools });
      return { name: call.name, arguments: JSON.parse(call.arguments), answer: answered.output_text };
    },

    async schema(model, input) {
      const done = await client.responses.parse({ model, input, text: { format: zodTextFormat(Stay, 'stay') } });
      return [done.output_parsed];
    },

    async abort(model, input) {
      for await (const event of await client.responses.create({ model, input, stream: true })) {
        if (event.type === 'response.output_text.delta') return event.delta;
      }
    },
  };
}

await main({ chat, responses });
