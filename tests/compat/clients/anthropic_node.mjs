// Anthropic's SDK for Node: Messages.

import Anthropic from '@anthropic-ai/sdk';
import { zodOutputFormat } from '@anthropic-ai/sdk/helpers/zod';
import { z } from 'zod';
import { CITY, EXPECTED, URL, main } from './kit.mjs';

const Stay = z.object({ place: z.string(), days: z.int() });
const WEATHER = { name: 'weather', description: 'The weather in a city', input_schema: CITY };
const usageOf = ({ input_tokens, output_tokens }) => [input_tokens, output_tokens];

function messages(apiKey) {
  const client = new Anthropic({ baseURL: URL, apiKey });
  const about = (model, content) => ({ model, max_tokens: 1000, messages: [{ role: 'user', content }] });
  return {
    notFound: (error) => error instanceof Anthropic.NotFoundError,
    unauthorized: (error) => error instanceof Anthropic.AuthenticationError,

    async plain(model, content) {
      const done = await client.messages.create(about(model, content));
      return { text: done.content[0].text, usage: usageOf(done.usage) };
    },

    async stream(model, content) {
      const pieces = [];
      const stream = client.messages.stream(about(model, content)).on('text', (piece) => pieces.push(piece));
      return { pieces, usage: usageOf((await stream.finalMessage()).usage) };
    },

    /** The call comes streamed, the answer plain. */
    async tools(model, content) {
      const request = { ...about(model, content), system: 'Be brief.', tools: [WEATHER] };
      const message = await client.messages.stream(request).finalMessage();
      const call = message.content.find((block) => block.type === 'tool_use');
      const result = { type: 'tool_result', tool_use_id: call.id, content: EXPECTED.tool_result };
      request.messages.push({ role: 'assistant', content: message.content }, { role: 'user', content: [result] });
      const answered = await client.messages.create(request);
      return { name: call.name, arguments: call.input, answer: answered.content[0].text };
    },

    async schema(model, content) {
      const form = { output_config: { format: zodOutputFormat(Stay) } };
      return [(await client.messages.parse({ ...about(model, content), ...form })).parsed_output];
    },

    async abort(model, content) {
      for await (const event of await client.messages.create({ ...about(model, content), stream: true })) {
        if (event.type === 'content_block_delta') return event.delta.text;
      }
    },
  };
}

await main({ messages });
