// What opencode does with its configuration, in small: the package that a provider names makes the provider of its options, and a
// streamed run calls a tool and answers. The file, the provider and the model are arguments; the outcome is one line of JSON.

import { readFileSync } from 'node:fs';
import { stepCountIs, streamText, tool } from 'ai';
import { z } from 'zod';

const [file, providerId, modelId] = process.argv.slice(2);
const config = JSON.parse(readFileSync(file, 'utf8').replace(/\{env:(\w+)\}/g, (_, name) => process.env[name] ?? ''));
const { npm, options } = config.provider[providerId];
const made = Object.entries(await import(npm)).find(([name]) => name.startsWith('create'));
const asked = npm.endsWith('openai-compatible') ? { includeUsage: true } : {}; // opencode's own default
const model = made[1]({ name: providerId, ...asked, ...options }).languageModel(modelId);

const called = [];
const read = tool({
  description: 'Read a file',
  inputSchema: z.object({ path: z.string() }),
  execute: async (input) => {
    called.push(input);
    return 'print("hello")';
  },
});
const ephemeral = { type: 'ephemeral' };
const marked = { anthropic: { cacheControl: ephemeral }, openaiCompatible: { cache_control: ephemeral } };
let failure;
const run = streamText({
  model,
  messages: [
    { role: 'system', content: 'You are opencode.', providerOptions: marked },
    { role: 'user', content: 'What does main.py do?' },
  ],
  allowSystemInMessages: true,
  tools: { read },
  stopWhen: stepCountIs(3),
  maxRetries: 0,
  onError: ({ error }) => (failure ??= error),
});
try {
  const reasoning = (await run.steps).map((step) => step.reasoningText ?? '').join('');
  console.log(JSON.stringify({ text: await run.text, reasoning, called, usage: await run.totalUsage }));
} catch (error) {
  const { statusCode, message } = failure ?? error;
  console.log(JSON.stringify({ error: { statusCode, message } }));
}
