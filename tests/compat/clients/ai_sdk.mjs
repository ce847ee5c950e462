// Vercel's AI SDK: Responses through @ai-sdk/openai, chat completions through @ai-sdk/openai-compatible, and the providers of the
// other two formats.

import { createAnthropic } from '@ai-sdk/anthropic';
import { createGoogleGenerativeAI } from '@ai-sdk/google';
import { createOpenAI } from '@ai-sdk/openai';
import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';
import { EXPECTED, URL, main } from './kit.mjs';

const Stay = z.object({ place: z.string(), days: z.int() });
const usageOf = ({ inputTokens, outputTokens }) => (inputTokens === undefined ? undefined : [inputTokens, outputTokens]);

/** A streamed run, and `told`: a promise's value, or the error the provider's answer ended in, which the SDK keeps to itself otherwise. */
function streamed(request) {
  let failure;
  const run = streamText({ ...request, onError: ({ error }) => (failure ??= error) });
  const told = (promise) => promise.then((value) => failure ? Promise.reject(failure) : value, (error) => Promise.reject(failure ?? error));
  return { run, told };
}

/** What is the same for every provider, for that is what the SDK is for. `forSchemas` is the one that takes schemas. */
function face(provider, forSchemas = provider) {
  return {
    notFound: (error) => APICallError.isInstance(error) && error.statusCode === 404,
    unauthorized: (error) => APICallError.isInstance(error) && error.statusCode === 401,

    async plain(model, prompt) {
      const done = await generateText({ model: provider(model), prompt });
      return { text: done.text, usage: usageOf(done.usage) };
    },

    async stream(model, prompt) {
      const { run, told } = streamed({ model: provider(model), prompt });
      const pieces = [];
      for await (const piece of run.textStream) pieces.push(piece);
      return { pieces, usage: usageOf(await told(run.usage)) };
    },

    /** The SDK calls the tool and sends its result by itself; both steps are streamed. */
    async tools(model, prompt) {
      const called = [];
      const weather = tool({
        description: 'The weather in a city',
        inputSchema: z.object({ city: z.string() }),
        execute: async (input) => {
          called.push(input);
          return EXPECTED.tool_result;
        },
      });
      const request = { model: provider(model), system: 'Be brief.', prompt, tools: { weather }, stopWhen: stepCountIs(2) };
      const { run, told } = streamed(request);
      const answer = await told(run.text);
      const [call] = (await run.steps).flatMap((step) => step.toolCalls);
      return { name: call.toolName, arguments: called[0], answer };
    },

    async schema(model, prompt) {
      const done = await generateText({ model: forSchemas(model), prompt, output: Output.object({ schema: Stay }) });
      return [done.output];
    },

    async abort(model, prompt) {
      const abort = new AbortController();
      const { run, told } = streamed({ model: provider(model), prompt, abortSignal: abort.signal });
      for await (const piece of run.textStream) {
        if (piece) {
          abort.abort();
          return piece;
        }
      }
      return told(run.text);
    },
  };
}

function compatible(apiKey) {
  const settings = { name: 'muxx', baseURL: `${URL}/v1`, apiKey };
  return face(createOpenAICompatible(settings), createOpenAICompatible({ ...settings, supportsStructuredOutputs: true }));
}

await main({
  responses: (apiKey) => face(createOpenAI({ baseURL: `${URL}/v1`, apiKey })),
  chat: compatible,
  messages: (apiKey) => face(createAnthropic({ baseURL: `${URL}/v1`, apiKey })),
  generate_content: (apiKey) => face(createGoogleGenerativeAI({ baseURL: `${URL}/v1beta`, apiKey })),
});
