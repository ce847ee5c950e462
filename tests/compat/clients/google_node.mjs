// Google's SDK for Node: generateContent.

import { ApiError, GoogleGenAI, Type } from '@google/genai';
import { EXPECTED, STAY, URL, main } from './kit.mjs';

const parameters = { type: Type.OBJECT, properties: { city: { type: Type.STRING } }, required: ['city'] };
const WEATHER = { name: 'weather', description: 'The weather in a city', parameters };
const PLACE = { type: Type.OBJECT, properties: { place: { type: Type.STRING }, days: { type: Type.INTEGER } } };
const usageOf = ({ promptTokenCount, candidatesTokenCount }) => [promptTokenCount, candidatesTokenCount];

function generateContent(apiKey) {
  const { models } = new GoogleGenAI({ apiKey, httpOptions: { baseUrl: URL } });
  return {
    notFound: (error) => error instanceof ApiError && error.status === 404,
    unauthorized: (error) => error instanceof ApiError && error.status === 401,

    async plain(model, contents) {
      const done = await models.generateContent({ model, contents });
      return { text: done.text, usage: usageOf(done.usageMetadata) };
    },

    async stream(model, contents) {
      const pieces = [];
      let usage;
      for await (const chunk of await models.generateContentStream({ model, contents })) {
        pieces.push(chunk.text ?? '');
        usage = chunk.usageMetadata ?? usage;
      }
      return { pieces, usage: usageOf(usage) };
    },

    /** The call comes streamed, the answer plain. */
    async tools(model, text) {
      const config = { systemInstruction: 'Be brief.', tools: [{ functionDeclarations: [WEATHER] }] };
      const contents = [{ role: 'user', parts: [{ text }] }];
      const parts = [];
      for await (const chunk of await models.generateContentStream({ model, contents, config })) {
        parts.push(...(chunk.candidates?.[0]?.content?.parts ?? []));
      }
      const call = parts.find((part) => part.functionCall).functionCall;
      const functionResponse = { id: call.id, name: call.name, response: { output: EXPECTED.tool_result } };
      contents.push({ role: 'model', parts }, { role: 'user', parts: [{ functionResponse }] });
      const answered = await models.generateContent({ model, contents, config });
      return { name: call.name, arguments: call.args, answer: answered.text };
    },

    /** By Google's own schema, and by JSON Schema. */
    async schema(model, contents) {
      const values = [];
      for (const form of [{ responseSchema: PLACE }, { responseJsonSchema: STAY }]) {
        const config = { responseMimeType: 'application/json', ...form };
        values.push(JSON.parse((await models.generateContent({ model, contents, config })).text));
      }
      return values;
    },

    async abort(model, contents) {
      const abort = new AbortController();
      const config = { abortSignal: abort.signal };
      for await (const chunk of await models.generateContentStream({ model, contents, config })) {
        if (chunk.text) {
          abort.abort();
          return chunk.text;
        }
      }
    },
  };
}

await main({ generate_content: generateContent });
